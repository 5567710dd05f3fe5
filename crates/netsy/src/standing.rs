//! Standing: what a Node knows of its own place in the cluster, and the questions the doors may ask it.
//!
//! The driver replaces the Standing as a whole whenever something changes; everybody else only reads it.
//! Txns and reads that need the Primary's word go to the driver as [`Request`]s. A request that is dropped
//! unanswered was ambiguous: it answers `leader changed`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rules::refusal::Refusal;
use rules::revision::{Epoch, Revision};
use rules::txn::{Decision, Txn};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::view::View;

/// Whether a Node can do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Restoring; serves nothing yet.
    Loading,
    /// At work.
    Healthy,
    /// Something it needs is missing; the Standing says what.
    Degraded,
}

/// What a Node is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryState {
    /// Accepts no writes.
    Replica,
    /// Named, and reading the chain.
    Starting,
    /// Accepts writes.
    Active,
    /// Closing: accepts no more writes, makes what it assigned durable.
    Draining,
}

/// One Node as etcd clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Stable id from `members.json`.
    pub member_id: u64,
    /// node_id; never empty.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Where Nodes reach it.
    pub peer_urls: Vec<String>,
}

/// A Node's place in the cluster, at one moment.
#[derive(Clone, Debug)]
pub struct Standing {
    /// This Node's name.
    pub node_id: String,
    /// The cluster's name.
    pub cluster_id: String,
    /// This Node's etcd id, 0 until `members.json` names it.
    pub member_id: u64,
    /// Health State.
    pub health: HealthState,
    /// Why the Node is not Healthy, or not writable; a sentence for an operator.
    pub reason: Option<String>,
    /// Primary State.
    pub primary_state: PrimaryState,
    /// The epoch this Node knows to be current.
    pub epoch: Epoch,
    /// The Primary's member_id, 0 if none is known.
    pub leader: u64,
    /// The Primary's node_id, if one is known.
    pub leader_name: Option<String>,
    /// Whether this Node is the Elector.
    pub elector: bool,
    /// The members as an Elector last told them; empty before.
    pub members: Vec<Member>,
}

impl Standing {
    /// The etcd cluster id: FNV-1a of the cluster's name, as the ancestor has it. Never 0.
    #[must_use]
    pub fn cluster_number(&self) -> u64 {
        let hash = self
            .cluster_id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        hash.max(1)
    }

    /// Refuses while the Node is Loading: it has nothing to show yet, and must not show Revision 0.
    ///
    /// # Errors
    /// `Unavailable`, with what the Node waits for.
    pub fn loaded(&self) -> Result<(), Refusal> {
        if self.health != HealthState::Loading {
            return Ok(());
        }
        let reason = self.reason.as_deref();
        Err(Refusal::Unavailable(format!(
            "netsy: node `{}` is loading: {}",
            self.node_id,
            reason.unwrap_or("its log is being restored"),
        )))
    }
}

/// What the doors ask of the driver.
#[derive(Debug)]
pub enum Request {
    /// Decide and, if it writes, commit. Answered when everything it saw is committed.
    Txn {
        /// Already checked.
        txn: Txn,
        /// The same as an etcdserverpb.TxnRequest, for the Primary if that is another Node; `None` keeps it here.
        wire: Option<Bytes>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Outcome, Refusal>>,
    },
    /// A Revision such that a local read at or above it is linearizable.
    ReadIndex {
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Revision, Refusal>>,
        /// Whether another Node asks: then only the Primary answers.
        passed_on: bool,
    },
    /// The members as the Elector knows them. Asked where the Elector is another Node.
    Members {
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Vec<Member>, Refusal>>,
    },
}

/// A decided and committed Txn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether every compare held.
    pub succeeded: bool,
    /// Its reads before the mutation are as of here.
    pub base: Revision,
    /// The place of the mutation in the branch taken, if there is one that changes something.
    pub place: Option<usize>,
    /// The Revision given to its mutation, if it had one. Reads after the mutation are as of here.
    pub assigned: Option<Revision>,
}

impl Outcome {
    /// What became of `decision`, whose change was given the Revision `assigned`.
    #[must_use]
    pub fn new(decision: &Decision, assigned: Option<Revision>) -> Outcome {
        Outcome {
            succeeded: decision.succeeded,
            base: decision.base,
            place: decision.change.as_ref().map(|(place, _)| *place),
            assigned,
        }
    }
}

/// Sizes of the local SQLite database, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// File size.
    pub total: u64,
    /// Without free pages.
    pub in_use: u64,
}

/// How far the log is, as measured many times a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The newest Record appended, committed or not.
    pub latest: Revision,
    /// The committed Revision.
    pub committed: Revision,
    /// The end of the chain in the bucket, as this Node knows it.
    pub durable: Revision,
    /// The lowest Revision that can be read.
    pub floor: Revision,
    /// Writes that wait for their commit.
    pub pending: u64,
    /// How writes are committed; `None` unless this Node is the Active Primary.
    pub path: Option<CommitPath>,
    /// Whose Receipts commit, by name.
    pub voters: Vec<String>,
    /// What the bucket lacks.
    pub unflushed: Unflushed,
}

/// How an Active Primary commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitPath {
    /// When enough voters' disks hold it; the bucket follows.
    Quorum,
    /// When the bucket and the own disk hold it.
    Bucket,
}

/// The unflushed window: what is committed by quorum, and not in the bucket yet. The loss of a majority of
/// disks at one moment can cost this, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unflushed {
    /// How many Records.
    pub records: u64,
    /// How many bytes, as they are stored.
    pub bytes: u64,
    /// For how long the oldest of them has been committed, milliseconds.
    pub age: u64,
}

/// State the driver writes and the doors read without asking.
#[derive(Debug)]
pub struct Board {
    standing: ArcSwap<Standing>,
    changed: Notify,
    figures: ArcSwap<Figures>,
    /// Until when (milliseconds of [`now`]) the read lease runs.
    lease_until: AtomicU64,
    /// From when on they have to be asked for all the same: an upload takes long.
    doubt_from: AtomicU64,
    total: AtomicU64,
    in_use: AtomicU64,
}

/// Milliseconds of a clock that never goes back and goes on while the machine is suspended.
#[must_use]
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

impl Board {
    /// A board that shows `standing` and grants no reads.
    #[must_use]
    pub fn new(standing: Standing) -> Arc<Board> {
        Arc::new(Board {
            standing: ArcSwap::from_pointee(standing),
            changed: Notify::new(),
            figures: ArcSwap::default(),
            lease_until: AtomicU64::new(0),
            doubt_from: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(0),
            in_use: AtomicU64::new(0),
        })
    }

    /// What the Node knows of itself now.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Replaces the Standing.
    pub fn set_standing(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
        self.changed.notify_waiters();
    }

    /// Returns when a Primary is known: at once if one is.
    pub async fn has_leader(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.standing().leader != 0 {
                return;
            }
            changed.await;
        }
    }

    /// How far the log is.
    #[must_use]
    pub fn figures(&self) -> Arc<Figures> {
        self.figures.load_full()
    }

    /// Notes fresh Figures.
    pub fn set_figures(&self, figures: Figures) {
        self.figures.store(Arc::new(figures));
    }

    /// Lets linearizable reads be answered locally until `until` (milliseconds of [`now`]); 0 ends it.
    pub fn set_lease(&self, until: u64) {
        self.lease_until.store(until, Ordering::SeqCst);
    }

    /// From `from` on (milliseconds of [`now`]) linearizable reads wait for an upload; `u64::MAX` ends it.
    pub fn set_doubt(&self, from: u64) {
        self.doubt_from.store(from, Ordering::SeqCst);
    }

    /// Whether the read lease runs at this moment.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        now() < self.lease_until.load(Ordering::SeqCst)
    }

    /// Whether a linearizable read may be answered from the committed state at this moment, without asking.
    #[must_use]
    pub fn may_read(&self) -> bool {
        now() < self.doubt_from.load(Ordering::SeqCst) && self.has_lease()
    }

    /// Sizes of the local database as last measured.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            total: self.total.load(Ordering::Relaxed),
            in_use: self.in_use.load(Ordering::Relaxed),
        }
    }

    /// Notes freshly measured sizes.
    pub fn set_sizes(&self, sizes: Sizes) {
        self.total.store(sizes.total, Ordering::Relaxed);
        self.in_use.store(sizes.in_use, Ordering::Relaxed);
    }
}

/// What is told whoever comes, or waits, when the Node closes.
#[must_use]
pub fn closing() -> Refusal {
    Refusal::Unavailable("netsy: the node is closing".into())
}

/// What a door holds of the running Node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The committed state and its watchers.
    pub view: Arc<View>,
    /// What the driver publishes.
    pub board: Arc<Board>,
    /// Cancelled when the Node closes: streams end, no request is accepted any more.
    pub closing: CancellationToken,
    requests: mpsc::UnboundedSender<Request>,
}

impl Handle {
    /// A handle whose requests arrive at the returned receiver.
    #[must_use]
    pub fn new(
        view: Arc<View>,
        board: Arc<Board>,
        closing: CancellationToken,
    ) -> (Handle, mpsc::UnboundedReceiver<Request>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (
            Handle {
                view,
                board,
                closing,
                requests,
            },
            receiver,
        )
    }

    /// Decides `txn` (already checked) and waits until everything it saw or wrote is committed.
    ///
    /// # Errors
    /// The driver's refusal; `LeaderChanged` if the outcome will never be known here.
    pub async fn txn(&self, txn: Txn, wire: Option<Bytes>) -> Result<Outcome, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::Txn { txn, wire, reply })
            .map_err(|_| Refusal::NoLeader)?;
        answer.await.unwrap_or(Err(Refusal::LeaderChanged))
    }

    /// Waits until a read of the committed state is linearizable.
    ///
    /// # Errors
    /// `NoLeader` or `Unavailable` when this Node cannot know the newest committed Revision.
    pub async fn linearize(&self) -> Result<(), Refusal> {
        if self.board.may_read() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::ReadIndex {
                reply,
                passed_on: false,
            })
            .map_err(|_| Refusal::NoLeader)?;
        let revision = answer.await.unwrap_or(Err(Refusal::NoLeader))?;
        self.reached(revision).await
    }

    /// Waits until this Node shows `revision`.
    ///
    /// # Errors
    /// `Unavailable` when the Node closes: it shows nothing new any more.
    pub async fn reached(&self, revision: Revision) -> Result<(), Refusal> {
        let shown = self.view.reached(revision);
        let shown = self.closing.run_until_cancelled(shown).await;
        shown.ok_or_else(closing)
    }

    /// What a Replica asks the Primary: a Revision such that a read at or above it is linearizable. A Node
    /// that is not the Primary refuses; it does not ask further.
    ///
    /// # Errors
    /// `NoLeader` or `Unavailable`.
    pub async fn read_index(&self) -> Result<Revision, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::ReadIndex {
                reply,
                passed_on: true,
            })
            .map_err(|_| Refusal::NoLeader)?;
        answer.await.unwrap_or(Err(Refusal::NoLeader))
    }

    /// The members as the Elector knows them: its own list if this Node is the Elector, else asked for.
    ///
    /// # Errors
    /// `NoLeader` or `Unavailable` when no Elector can be asked.
    pub async fn members(&self) -> Result<Vec<Member>, Refusal> {
        let standing = self.board.standing();
        if standing.elector && !standing.members.is_empty() {
            return Ok(standing.members.clone());
        }
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::Members { reply })
            .map_err(|_| Refusal::NoLeader)?;
        answer.await.unwrap_or(Err(Refusal::NoLeader))
    }
}
