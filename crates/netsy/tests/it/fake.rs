//! A Node without a cluster: a real view and a real etcd door, and a driver of thirty lines behind them.
//!
//! The driver decides each Txn at once and commits it at once. It can be told to refuse, or to fall
//! silent, as a driver in trouble would.

use std::net::SocketAddr;
use std::sync::Arc;

use netsy::api::{self, Limits, Metrics, Tls};
use netsy::standing::{
    Board, Handle, HealthState, Member, Outcome, PrimaryState, Request, Sizes, Standing,
};
use netsy::view::{Source, View};
use parking_lot::Mutex;
use rules::record::Record;
use rules::refusal::Refusal;
use rules::revision::{Epoch, Revision};
use rules::txn::Txn;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub(crate) const MEMBER: u64 = 0xA11CE;
pub(crate) const EPOCH: Epoch = Epoch(3);

/// How the driver answers.
#[derive(Clone, Debug)]
pub(crate) enum Mood {
    Willing,
    /// Everything is refused.
    Refusing(Refusal),
    /// Nothing is answered, and everything that waits is kept waiting.
    Silent,
    /// Requests are dropped unanswered.
    Gone,
}

/// Every Record, by Revision; what a store would hold.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<Record>>);

impl Source for Log {
    fn records(&self, revisions: &[Revision]) -> Result<Vec<Record>, String> {
        let log = self.0.lock();
        Ok(log
            .iter()
            .filter(|record| revisions.contains(&record.revision))
            .cloned()
            .collect())
    }

    fn history(&self, after: Revision, upto: Revision, max: usize) -> Result<Vec<Record>, String> {
        let log = self.0.lock();
        let wanted = log
            .iter()
            .filter(|record| record.revision > after && record.revision <= upto);
        Ok(wanted.take(max).cloned().collect())
    }
}

/// A served etcd door.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) metrics: Metrics,
    mood: Arc<Mutex<Mood>>,
    server: JoinHandle<()>,
}

impl Node {
    pub(crate) async fn start() -> Node {
        Node::start_with(Limits::default(), None).await
    }

    pub(crate) async fn start_with(limits: Limits, tls: Option<Tls>) -> Node {
        let log = Arc::new(Log::default());
        let view = Arc::new(View::new(Arc::clone(&log) as Arc<dyn Source>, 1 << 30));
        let board = Board::new(standing());
        board.set_sizes(Sizes {
            total: 40_960,
            in_use: 20_480,
        });
        let (handle, requests) = Handle::new(Arc::clone(&view), board, CancellationToken::new());
        let mood = Arc::new(Mutex::new(Mood::Willing));
        let driver = Driver {
            view,
            log,
            mood: Arc::clone(&mood),
            waiting: Vec::new(),
        };
        driver.commit(Record::opening(EPOCH, Revision(1), "fake".into(), 0));
        tokio::spawn(driver.run(requests));

        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::default();
        let server = tokio::spawn(api::serve(
            listener,
            tls,
            handle.clone(),
            limits,
            metrics.clone(),
        ));
        Node {
            address,
            handle,
            metrics,
            mood,
            server,
        }
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// Replaces the Standing with a changed one.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Standing)) {
        let mut standing = (*self.handle.board.standing()).clone();
        change(&mut standing);
        self.handle.board.set_standing(standing);
    }

    pub(crate) async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    /// Closes the Node and waits for its port.
    pub(crate) async fn close(self) {
        self.handle.closing.cancel();
        self.server.await.unwrap();
    }
}

fn standing() -> Standing {
    Standing {
        node_id: "fake".into(),
        cluster_id: "cluster".into(),
        member_id: MEMBER,
        health: HealthState::Healthy,
        reason: None,
        primary_state: PrimaryState::Active,
        epoch: EPOCH,
        leader: MEMBER,
        leader_name: Some("fake".into()),
        elector: true,
        members: vec![member()],
    }
}

pub(crate) fn member() -> Member {
    Member {
        member_id: MEMBER,
        name: "fake".into(),
        client_urls: vec!["http://127.0.0.1:2379".into()],
        peer_urls: vec!["https://127.0.0.1:2380".into()],
    }
}

struct Driver {
    view: Arc<View>,
    log: Arc<Log>,
    mood: Arc<Mutex<Mood>>,
    waiting: Vec<Request>,
}

impl Driver {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        while let Some(request) = requests.recv().await {
            let mood = self.mood.lock().clone();
            match (mood, request) {
                (Mood::Gone, _) => {}
                (Mood::Silent, request) => self.waiting.push(request),
                (Mood::Refusing(refusal), Request::Txn { reply, .. }) => {
                    let _ = reply.send(Err(refusal));
                }
                (Mood::Refusing(refusal), Request::ReadIndex { reply, .. }) => {
                    let _ = reply.send(Err(refusal));
                }
                (Mood::Refusing(refusal), Request::Members { reply }) => {
                    let _ = reply.send(Err(refusal));
                }
                (Mood::Willing, Request::Txn { txn, reply, .. }) => {
                    let _ = reply.send(self.decide(&txn));
                }
                (Mood::Willing, Request::ReadIndex { reply, .. }) => {
                    let _ = reply.send(Ok(self.view.committed()));
                }
                (Mood::Willing, Request::Members { reply }) => {
                    let _ = reply.send(Ok(vec![member()]));
                }
            }
        }
    }

    fn decide(&self, txn: &Txn) -> Result<Outcome, Refusal> {
        let decision = txn.decide(&self.view.newest())?;
        let assigned = decision.change.as_ref().map(|(_, change)| {
            let revision = decision.base.next();
            self.commit(Record::write(change, revision, EPOCH, "fake".into(), 0));
            revision
        });
        Ok(Outcome::new(&decision, assigned))
    }

    fn commit(&self, record: Record) {
        self.view.append(&record);
        self.log.0.lock().push(record.clone());
        self.view.release(record.revision);
    }
}
