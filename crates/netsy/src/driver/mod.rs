//! The driver: the one loop. Inputs in, `Node::step`, Effects out; the only room that sees all others.
//!
//! It runs on a thread of its own. Each turn drains everything that waits into one batch: Inputs are
//! stepped, Txns are decided against the newest state and given Revisions, then the whole batch goes to the
//! disk as one transaction and to the bucket as one Chunk, side by side. A reply leaves when everything it
//! has seen is committed. Slow work (bucket, disk) runs elsewhere and comes back as an Input.

mod asked;
mod compaction;
mod effects;
mod expiry;
mod housekeeping;
mod members;
mod peers;
mod progress;
mod publish;
mod reads;
mod recent;
mod registration;
mod restore;
mod snapshots;
mod tasks;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rules::node::Node;
use rules::refusal::Refusal;
use rules::register::Register;
use rules::revision::Revision;
use rules::step::Input;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use compaction::CompactionPolicy;
pub use registration::{JoinFailure, Members, Registered, Registration, check_cluster, register};
pub use restore::{RestoreFailure, Restored, restore};
pub use snapshots::SnapshotPolicy;

use crate::bucket::Bucket;
use crate::datafile::{Encoded, Origin, record};
use crate::peer::{Inbound, Peers};
use crate::standing::{Board, Member, Outcome, Request, now};
use crate::store::{Batch, Store};
use crate::telemetry::Metrics;
use crate::view::View;

/// How often time itself is an Input.
const TICK: Duration = Duration::from_millis(50);
/// The most Requests taken into one batch.
const BATCH_MAX: usize = 4096;

/// What comes back to the loop from work done elsewhere.
#[derive(Debug)]
pub(crate) enum Event {
    /// An Input for the Node.
    Input(Input),
    /// The disk holds every Record up to here; ignored when the log was cut since.
    Appended(u64, Revision),
    /// Who is registered, as the Elector finds it in the bucket.
    Registered(registration::Listing),
    /// The member ids, as anybody finds them there.
    Ids(BTreeMap<String, u64>),
    /// What the register says, for reads that asked.
    Confirmed(Option<Register>),
    /// What the Primary says is committed, for reads that asked.
    Index(Result<Revision, Refusal>),
    /// Everything below this floor was deleted, or could not be.
    Pruned(Result<Revision, crate::store::Failure>),
    /// The disk refused a batch, or a read.
    DiskLost(String),
    /// The disk works again.
    DiskBack,
    /// The disk does not work yet.
    DiskStillLost(String),
    /// A task of ours panicked.
    Fault,
}

/// What the driver needs to run.
pub struct Parts {
    /// The Node, its log restored.
    pub node: Node,
    /// What readers see; holds the same log.
    pub view: Arc<View>,
    /// The own disk.
    pub store: Store,
    /// The bucket.
    pub bucket: Bucket,
    /// What the doors read.
    pub board: Arc<Board>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The Records of the log beyond the chain, ascending.
    pub tail: Vec<Encoded>,
    /// Who this Node says it is.
    pub registration: Registration,
    /// The cluster's name.
    pub cluster_id: String,
    /// Caps of a Chunk.
    pub chunk_bytes_max: usize,
    /// Caps of a Chunk.
    pub chunk_records_max: usize,
    /// Bytes beyond the chain at which nothing more is assigned.
    pub unflushed_bytes: u64,
    /// When to make Snapshots.
    pub snapshots: SnapshotPolicy,
    /// When to compact.
    pub compaction: CompactionPolicy,
    /// Bytes in use in the own database beyond which nothing more may be put; `None` is no quota.
    pub quota: Option<u64>,
    /// Whether keys are deleted when their lease has run out.
    pub expires: bool,
    /// How long a bucket may stay silent before the Node calls itself Degraded.
    pub silence_max: Duration,
    /// Whether a Degraded Replica answers linearizable reads from what it has.
    pub answers_stale: bool,
    /// The other Nodes, and what they say; `None` if this Node is alone.
    pub peers: Option<(Peers, mpsc::UnboundedReceiver<Inbound>)>,
    /// The seconds an Elector is given before another takes over; only for the sentence to the operator.
    pub elector_timeout: Duration,
}

/// Why the loop ended.
#[derive(Debug)]
pub enum Ended {
    /// The documents are closed. So many Records of this disk are not known to be in the bucket: none of a Primary's,
    /// and of a Replica's those that its Primary had not brought there yet.
    Closed(u64),
    /// It was time to leave before everything could be closed.
    Abandoned,
    /// This process must not run.
    Refused(String),
}

/// What is answered when everything up to a Revision is committed.
struct Waiting {
    upto: Revision,
    answer: Answer,
}

enum Answer {
    /// A write that was assigned.
    Written(Outcome, oneshot::Sender<Result<Outcome, Refusal>>),
    /// A read, which then has to be confirmed.
    Read(reads::Unconfirmed),
    /// Nobody's: a key's lease has run out.
    Expired,
}

pub(crate) struct Driver {
    node: Node,
    view: Arc<View>,
    store: Store,
    bucket: Bucket,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    registration: Registration,
    cluster_id: String,
    chunk_bytes_max: usize,
    chunk_records_max: usize,
    silence_max: Duration,
    answers_stale: bool,
    stale_told_at: u64,
    elector_timeout: Duration,
    snapshots: snapshots::Snapshots,
    compaction: compaction::Compaction,
    expiry: expiry::Expiry,
    quota: Option<u64>,
    runtime: tasks::Tasks,
    events: mpsc::UnboundedSender<Event>,
    /// Records beyond the chain, ascending: what the next Chunks are made of.
    unsent: window::Unsent,
    /// What this turn asks of the disk.
    batch: Batch,
    /// Whether the batch must be sent now, not with the next one.
    batch_urgent: bool,
    /// Raised when the log is cut: what was appended before does not count any more.
    generation: u64,
    waiting: VecDeque<Waiting>,
    /// Txns that came while the write gate was shut.
    held: asked::Held,
    peers: Option<Peers>,
    recent: recent::Recent,
    /// Which Replicas were sent less than this turn wanted.
    sent_less: Vec<Input>,
    /// The Records of the message that is being stepped, beside their encoding.
    arrived: Vec<Encoded>,
    /// Linearizable reads on a Replica, for the Primary's word.
    indexes: reads::Askers<oneshot::Sender<Result<Revision, Refusal>>>,
    /// When this Node last became the Active Primary.
    active_since: u64,
    /// When the Elector last told who the members are.
    told_at: u64,
    /// The Chunk under way; abandoned when dropped.
    upload: Option<DropGuard>,
    upload_since: u64,
    window: window::Window,
    versions: effects::Versions,
    /// Linearizable reads on a Primary without a lease, for a look at the register.
    unconfirmed: reads::Askers<reads::Unconfirmed>,
    /// Member ids by name, of everybody who ever registered. Never fewer.
    ids: BTreeMap<String, u64>,
    /// Who the members are, as an Elector last said: with addresses, as it alone knows them.
    members: Vec<Member>,
    members_at: u64,
    /// Each registration's mark, and since when it is that; on an Elector.
    seen: BTreeMap<String, (String, u64)>,
    /// Where others are reached, as documents last said.
    noted: BTreeMap<String, String>,
    /// When this Node last looked after its own registration.
    kept_at: u64,
    /// Whether this Node was ever Healthy.
    was_healthy: bool,
    /// Whether the newest register that was noticed names voters.
    had_voters: bool,
    disk_failed: bool,
    recovering: bool,
    disk_at: u64,
    ended: Option<Ended>,
}

/// Runs the Node until it is closed, on the calling thread.
///
/// `requests` come from the doors, `close` asks for the end; after `grace` the loop leaves in any case.
pub fn run(
    mut parts: Parts,
    runtime: tokio::runtime::Handle,
    mut requests: mpsc::UnboundedReceiver<Request>,
    close: CancellationToken,
    grace: Duration,
) -> Ended {
    let (events, mut inbox) = mpsc::unbounded_channel();
    let (peers, speech) = parts.peers.take().unzip();
    // Nobody ever speaks to a Node that is alone.
    let mut speech = speech.unwrap_or_else(|| mpsc::unbounded_channel().1);
    let mut driver = Driver::new(parts, peers, runtime, events);
    let local = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a timer-only runtime needs nothing that can fail");
    local.block_on(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asked = Vec::with_capacity(BATCH_MAX);
        let mut came = Vec::with_capacity(BATCH_MAX);
        let mut said = Vec::with_capacity(BATCH_MAX);
        let mut has_peers = true;
        let mut leave_at = None;
        let mut has_doors = true;
        loop {
            tokio::select! {
                // Time and the end come first: they are seldom, and whatever is frequent never keeps them waiting.
                biased;
                _ = ticks.tick() => came.push(Event::Input(Input::Tick)),
                () = close.cancelled(), if leave_at.is_none() => {
                    leave_at = Some(now() + u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
                    came.push(Event::Input(Input::Close));
                }
                _ = inbox.recv_many(&mut came, BATCH_MAX) => {}
                taken = speech.recv_many(&mut said, BATCH_MAX), if has_peers => has_peers = taken > 0,
                // None at all means that the doors are gone: time still has to pass.
                taken = requests.recv_many(&mut asked, BATCH_MAX), if has_doors => has_doors = taken > 0,
            }
            while said.len() < BATCH_MAX
                && let Ok(inbound) = speech.try_recv()
            {
                said.push(inbound);
            }
            while let Ok(request) = requests.try_recv() {
                asked.push(request);
                if asked.len() >= BATCH_MAX {
                    break;
                }
            }
            for inbound in said.drain(..) {
                driver.heard(inbound);
            }
            driver.turn(&mut came, &mut asked);
            if let Some(ended) = driver.ended.take() {
                return ended;
            }
            if leave_at.is_some_and(|at| now() >= at) {
                return Ended::Abandoned;
            }
        }
    })
}

impl Driver {
    fn new(
        parts: Parts,
        peers: Option<Peers>,
        runtime: tokio::runtime::Handle,
        events: mpsc::UnboundedSender<Event>,
    ) -> Driver {
        Driver {
            snapshots: snapshots::Snapshots::new(parts.snapshots),
            compaction: compaction::Compaction::new(parts.compaction),
            expiry: expiry::Expiry::new(parts.expires),
            quota: parts.quota,
            node: parts.node,
            view: parts.view,
            store: parts.store,
            bucket: parts.bucket,
            board: parts.board,
            metrics: parts.metrics,
            registration: parts.registration,
            cluster_id: parts.cluster_id,
            chunk_bytes_max: parts.chunk_bytes_max,
            chunk_records_max: parts.chunk_records_max,
            silence_max: parts.silence_max,
            answers_stale: parts.answers_stale,
            stale_told_at: 0,
            elector_timeout: parts.elector_timeout,
            runtime: tasks::Tasks::new(runtime, events.clone()),
            events,
            unsent: parts.tail.into(),
            batch: Batch::default(),
            batch_urgent: false,
            generation: 0,
            waiting: VecDeque::new(),
            held: asked::Held::default(),
            peers,
            recent: recent::Recent::default(),
            sent_less: Vec::new(),
            arrived: Vec::new(),
            indexes: reads::Askers::default(),
            active_since: 0,
            told_at: 0,
            upload: None,
            upload_since: 0,
            window: window::Window::new(parts.unflushed_bytes),
            versions: effects::Versions::default(),
            unconfirmed: reads::Askers::default(),
            ids: BTreeMap::new(),
            members: Vec::new(),
            members_at: 0,
            seen: BTreeMap::new(),
            noted: BTreeMap::new(),
            kept_at: 0,
            was_healthy: false,
            had_voters: false,
            disk_failed: false,
            recovering: false,
            disk_at: 0,
            ended: None,
        }
    }

    /// One turn of the loop: everything that waits, decided and sent off as one batch.
    fn turn(&mut self, came: &mut Vec<Event>, asked: &mut Vec<Request>) {
        for event in came.drain(..) {
            match event {
                Event::Input(input) => {
                    let ticks = matches!(input, Input::Tick);
                    self.step(input);
                    if ticks {
                        self.housekeeping();
                    }
                }
                Event::Appended(generation, upto) if generation == self.generation => {
                    self.step(Input::Appended(upto));
                }
                Event::Appended(..) => {}
                Event::Registered(listing) => self.registered(listing),
                Event::Ids(ids) => self.ids.extend(ids),
                Event::Confirmed(register) => self.confirmed(register),
                Event::Index(index) => self.index_known(&index),
                Event::Pruned(outcome) => self.pruned(outcome),
                Event::DiskLost(why) => self.disk_lost(&why),
                Event::DiskBack => self.disk_back(),
                Event::Fault => panic!("a task of the driver panicked; see above"),
                Event::DiskStillLost(why) => {
                    self.recovering = false;
                    tracing::debug!(why, "the local database does not work yet");
                }
            }
        }
        if !self.node.is_gated() {
            for (txn, reply) in self.held.take() {
                self.txn(txn, None, reply);
            }
        }
        for request in asked.drain(..) {
            match request {
                Request::Txn { txn, wire, reply } => self.txn(txn, wire, reply),
                Request::Members { reply } => {
                    let _ = reply.send(self.members_known());
                }
                Request::ReadIndex { reply, passed_on } => self.read_index(reply, passed_on),
            }
        }
        for effect in self.node.flush(now()) {
            self.perform(effect);
        }
        for input in std::mem::take(&mut self.sent_less) {
            self.step(input);
        }
        self.send_batch();
        self.publish();
    }

    fn step(&mut self, input: Input) {
        let effects = self.node.step(now(), wall_clock(), input);
        for effect in effects {
            self.perform(effect);
        }
    }

    /// Takes a new Record of the log: to the view, the disk's batch, and the next Chunk.
    pub(super) fn take(&mut self, record: rules::record::Record) {
        let encoded = self.encoded(record);
        self.view.append(&encoded.record);
        self.expiry.note(&encoded.record);
        self.snapshots.grew(encoded.bytes.len());
        self.unsent.push_back(encoded.clone());
        if self.peers.is_some() {
            self.recent.push(encoded.clone());
        }
        self.batch.append.push(encoded);
        // A write commits when disk and bucket both hold it: the disk's turn comes with the Chunk's, so that
        // one transaction carries as much as one Chunk. Where Receipts commit, the disk does not wait.
        self.batch_urgent |= !self.node.tenure().writes() || !self.node.voters().is_empty();
    }

    /// The Record beside its encoding: as it arrived, if it came from another Node.
    fn encoded(&self, record: rules::record::Record) -> Encoded {
        let first = self.arrived.first().map(|first| first.record.revision);
        let place = first.map(|first| record.revision.since(first) as usize);
        let arrived = place.and_then(|place| self.arrived.get(place));
        match arrived.filter(|arrived| arrived.record == record) {
            Some(arrived) => arrived.clone(),
            None => Encoded {
                bytes: record::encode(&record),
                record,
            },
        }
    }

    /// Sends the turn's batch to the disk's thread.
    fn send_batch(&mut self) {
        if !std::mem::take(&mut self.batch_urgent) {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let events = self.events.clone();
        let generation = self.generation;
        let (promised, truncated) = (batch.promised, batch.truncate_above);
        let (metrics, records) = (Arc::clone(&self.metrics), batch.append.len());
        let began = std::time::Instant::now();
        self.store.submit(
            batch,
            Box::new(move |done| {
                metrics.sqlite_commit_records.observe(records as f64);
                metrics
                    .sqlite_commit_seconds
                    .observe(began.elapsed().as_secs_f64());
                let event = match done {
                    Ok(upto) => Event::Appended(generation, upto),
                    Err(failure) => {
                        let _ = events.send(Event::DiskLost(failure.to_string()));
                        return;
                    }
                };
                let _ = events.send(event);
                if let Some(last) = truncated {
                    let _ = events.send(Event::Input(Input::Truncated(last)));
                }
                if let Some(epoch) = promised {
                    let _ = events.send(Event::Input(Input::Promised(epoch)));
                }
            }),
        );
    }

    fn origin(&self, epoch: rules::revision::Epoch) -> Origin {
        Origin {
            cluster_id: self.cluster_id.clone(),
            node_id: self.registration.node_id.clone(),
            epoch,
            created_at: wall_clock(),
        }
    }
}

/// Wall-clock nanoseconds since 1970. Only ever written into Records and headers, never compared.
fn wall_clock() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
