//! The peer port from the start on, and the voter that waits: while disk and bucket are brought together, it
//! promises what Electors ask of it (`rules::waiting`), so that no election waits for a restore, or for a
//! bucket that this Node alone does not reach.
//!
//! A promise is said when the disk holds it. It is said with this Node's registration, which whoever hears it
//! brings to the bucket first: a disk that was started elsewhere since has no vote. Everything else that is
//! said to the port meanwhile is dropped; the rules of whoever says it survive that.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rules::register::Identity;
use rules::revision::{Epoch, Revision};
use rules::waiting::{Held, Reply};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api;
use crate::driver::Registration;
use crate::peer::{self, Caller, Inbound, Outbound, Peers};
use crate::standing::{Handle, now};
use crate::store::{self, Batch, Store};
use crate::tls::Reloading;

/// What the peer port shows of the Node, and wants to be shown.
pub(crate) type PeerTls = Option<Arc<Reloading<peer::identity::Identity>>>;

/// A peer port that is open.
pub(crate) struct PeerPort {
    cluster_id: String,
    url: String,
    tls: PeerTls,
    /// What is said to the Node; with the voter while it waits.
    inbox: Option<Inbox>,
    waiting: Option<(CancellationToken, JoinHandle<Inbox>)>,
    /// Set when the Node runs.
    handle: Arc<OnceLock<Handle>>,
    closing: CancellationToken,
}

type Inbox = mpsc::UnboundedReceiver<Inbound>;

impl PeerPort {
    /// Opens it, until `closing`, where `registration` says that it is.
    pub(crate) fn open(
        listener: TcpListener,
        registration: &Registration,
        cluster_id: &str,
        tls: PeerTls,
        closing: CancellationToken,
    ) -> PeerPort {
        let (sender, inbox) = mpsc::unbounded_channel();
        let handle = Arc::default();
        let answers = peer::Answers {
            cluster_id: cluster_id.to_owned(),
            handle: Arc::clone(&handle),
            read_txn: api::txn::passed_on,
            inbox: sender,
        };
        let acceptor = tls.clone().map(peer::Acceptor::new);
        tokio::spawn(peer::serve(listener, acceptor, answers, closing.clone()));
        PeerPort {
            cluster_id: cluster_id.to_owned(),
            url: registration.peer_urls.first().cloned().unwrap_or_default(),
            tls,
            inbox: Some(inbox),
            waiting: None,
            handle,
            closing,
        }
    }

    /// Answers as the voter that `store` is, on a task of its own, until [`PeerPort::wait_no_more`].
    pub(crate) fn wait(&mut self, store: &Store, me: &Identity, own: &Registration) {
        let Some(inbox) = self.inbox.take() else {
            return;
        };
        let over = self.closing.child_token();
        let body = serde_json::to_vec_pretty(own).expect("plain structs always serialise");
        let voter = Voter {
            store: store.clone(),
            peers: self.peers(me, over.clone()),
            registration: body.into(),
            began: now(),
        };
        let task = tokio::spawn(voter.listen(inbox, over.clone()));
        self.waiting = Some((over, task));
    }

    /// Ends the waiting. What was promised is on disk then, and the store is let go.
    pub(crate) async fn wait_no_more(&mut self) {
        if let Some((over, task)) = self.waiting.take() {
            over.cancel();
            self.inbox = Some(task.await.expect("a voter that waits ends when it is told"));
        }
    }

    /// Hands the port to the Node that runs now: whom it calls, and what is said to it.
    pub(crate) fn hand_over(self, me: &Identity, handle: Handle) -> Option<(Peers, Inbox)> {
        let peers = self.peers(me, self.closing.clone());
        let _ = self.handle.set(handle);
        self.inbox.map(|inbox| (peers, inbox))
    }

    fn peers(&self, me: &Identity, over: CancellationToken) -> Peers {
        let caller = Caller {
            cluster_id: self.cluster_id.clone(),
            identity: me.clone(),
            url: self.url.clone(),
        };
        let connector = self.tls.clone().map(peer::Connector::new);
        Peers::new(caller, connector, tokio::runtime::Handle::current(), over)
    }
}

struct Voter {
    store: Store,
    peers: Peers,
    registration: Bytes,
    began: u64,
}

impl Voter {
    /// Answers what comes, and finishes what it is at before it ends. An empty disk is nobody's voter.
    async fn listen(mut self, mut inbox: Inbox, over: CancellationToken) -> Inbox {
        let votes = self.store.meta().last > Revision::ZERO;
        while let Some(Some(inbound)) = over.run_until_cancelled(inbox.recv()).await {
            if votes {
                self.hear(inbound).await;
            }
        }
        inbox
    }

    async fn hear(&mut self, inbound: Inbound) {
        let Inbound {
            from, url, message, ..
        } = inbound;
        let up = now().saturating_sub(self.began);
        let Some(reply) = held(&self.store).reply(now(), up, &message) else {
            return;
        };
        self.peers.learn(&from.node_id, &url);
        match reply {
            Reply::Say(message) => {
                let nobody = Arc::new([]);
                self.peers
                    .send(&from.node_id, Outbound::Message(message, nobody));
            }
            Reply::Promise(epoch) => self.promise(&from.node_id, epoch, up).await,
        }
    }

    async fn promise(&mut self, to: &str, epoch: Epoch, up: u64) {
        let batch = Batch {
            promised: Some(epoch),
            ..Batch::default()
        };
        if let Err(failure) = make_durable(&self.store, batch).await {
            warn!(%failure, "a promise could not be made durable");
            return;
        }
        if let Some(promise) = held(&self.store).promise(epoch, up) {
            info!(
                epoch = epoch.0,
                to, "promised, while the log is being restored"
            );
            let vote = Outbound::Vote(promise, self.registration.clone());
            self.peers.send(to, vote);
        }
    }
}

/// What the disk holds.
fn held(store: &Store) -> Held {
    let meta = store.meta();
    let epochs = meta.epochs.iter().rev();
    let newest = epochs.map(|(epoch, _)| *epoch).next();
    Held {
        promised: meta.promised,
        newest: (newest.unwrap_or_default(), meta.last),
        committed: meta.committed,
    }
}

/// Waits until `batch`, and whatever was handed to the store before it, is on disk.
pub(crate) async fn make_durable(store: &Store, batch: Batch) -> Result<(), store::Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let done = move |done| {
        let _ = sender.send(done);
    };
    store.submit(batch, Box::new(done));
    receiver
        .await
        .unwrap_or(Err(store::Failure::Closed))
        .map(drop)
}
