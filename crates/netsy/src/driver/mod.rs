//! The driver: the one loop. Inputs in, `Node::step`, Effects out; the only room that sees all others.
//!
//! It runs on a thread of its own. Each turn drains everything that waits into one batch: Inputs are
//! stepped, Txns are decided against the newest state and given Revisions, then the whole batch goes to the
//! disk as one transaction and to the bucket as one Chunk, side by side. A reply leaves when everything it
//! has seen is committed. Slow work (bucket, disk) runs elsewhere and comes back as an Input.

mod effects;
mod progress;
mod reads;
mod registration;
mod restore;
mod snapshots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rules::node::{Input, Node};
use rules::primary::Tenure;
use rules::refusal::Refusal;
use rules::register::Register;
use rules::revision::Revision;
use rules::txn::Txn;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use registration::{Members, Registered, Registration, check_cluster, register};
pub use restore::{RestoreFailure, Restored, restore};
pub use snapshots::SnapshotPolicy;

use reads::Unconfirmed;

use crate::bucket::Bucket;
use crate::datafile::{Encoded, Origin, record};
use crate::standing::{
    Board, HealthState, Member, Outcome, PrimaryState, Request, Standing, now,
};
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
    /// The Elector's list of members.
    Members(Vec<Member>),
    /// What the register says, for reads that asked.
    Confirmed(Option<Register>),
    /// The disk refused a batch, or a read.
    DiskLost(String),
    /// The disk works again.
    DiskBack,
    /// The disk does not work yet.
    DiskStillLost(String),
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
    /// When to make Snapshots.
    pub snapshots: SnapshotPolicy,
    /// How long a bucket may stay silent before the Node calls itself Degraded.
    pub silence_max: Duration,
    /// The seconds an Elector is given before another takes over; only for the sentence to the operator.
    pub elector_timeout: Duration,
}

/// Why the loop ended.
#[derive(Debug)]
pub enum Ended {
    /// Everything acknowledged is in the bucket and the documents are closed.
    Closed,
    /// It was time to leave before everything could be closed.
    Abandoned,
    /// This process must not run.
    Refused(String),
}

struct Waiting {
    upto: Revision,
    outcome: Outcome,
    reply: oneshot::Sender<Result<Outcome, Refusal>>,
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
    elector_timeout: Duration,
    snapshots: snapshots::Snapshots,
    runtime: tokio::runtime::Handle,
    events: mpsc::UnboundedSender<Event>,
    /// Records beyond the chain, ascending: what the next Chunks are made of.
    unsent: VecDeque<Encoded>,
    /// What this turn asks of the disk.
    batch: Batch,
    /// Whether the batch must be sent now, not with the next one.
    batch_urgent: bool,
    /// Raised when the log is cut: what was appended before does not count any more.
    generation: u64,
    waiting: VecDeque<Waiting>,
    upload: Option<CancellationToken>,
    upload_since: u64,
    versions: effects::Versions,
    reads: reads::Reads,
    members: Vec<Member>,
    members_at: u64,
    disk_failed: bool,
    recovering: bool,
    disk_at: u64,
    ended: Option<Ended>,
}

/// Runs the Node until it is closed, on the calling thread.
///
/// `requests` come from the doors, `close` asks for the end; after `grace` the loop leaves in any case.
pub fn run(
    parts: Parts,
    runtime: tokio::runtime::Handle,
    mut requests: mpsc::UnboundedReceiver<Request>,
    close: CancellationToken,
    grace: Duration,
) -> Ended {
    let (events, mut inbox) = mpsc::unbounded_channel();
    let mut driver = Driver::new(parts, runtime, events);
    let local = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a timer-only runtime needs nothing that can fail");
    local.block_on(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asked = Vec::with_capacity(BATCH_MAX);
        let mut came = Vec::with_capacity(BATCH_MAX);
        let mut leave_at = None;
        loop {
            tokio::select! {
                biased;
                _ = inbox.recv_many(&mut came, BATCH_MAX) => {}
                _ = requests.recv_many(&mut asked, BATCH_MAX) => {}
                _ = ticks.tick() => came.push(Event::Input(Input::Tick)),
                () = close.cancelled(), if leave_at.is_none() => {
                    leave_at = Some(now() + u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
                    came.push(Event::Input(Input::Close));
                }
            }
            while let Ok(request) = requests.try_recv() {
                asked.push(request);
                if asked.len() >= BATCH_MAX {
                    break;
                }
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
        runtime: tokio::runtime::Handle,
        events: mpsc::UnboundedSender<Event>,
    ) -> Driver {
        Driver {
            snapshots: snapshots::Snapshots::new(parts.snapshots),
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
            elector_timeout: parts.elector_timeout,
            runtime,
            events,
            unsent: parts.tail.into(),
            batch: Batch::default(),
            batch_urgent: false,
            generation: 0,
            waiting: VecDeque::new(),
            upload: None,
            upload_since: 0,
            versions: effects::Versions::default(),
            reads: reads::Reads::default(),
            members: Vec::new(),
            members_at: 0,
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
                Event::Members(members) => self.members = members,
                Event::Confirmed(register) => self.confirmed(register),
                Event::DiskLost(why) => self.disk_lost(&why),
                Event::DiskBack => self.disk_back(),
                Event::DiskStillLost(why) => {
                    self.recovering = false;
                    tracing::debug!(why, "the local database does not work yet");
                }
            }
        }
        for request in asked.drain(..) {
            match request {
                Request::Txn { txn, reply } => self.txn(&txn, reply),
                Request::Members { reply } => {
                    let _ = reply.send(self.members_known());
                }
                Request::ReadIndex { reply } => {
                    self.confirm(Unconfirmed::Index(self.node.log().committed, reply));
                }
            }
        }
        if let Some(effect) = self.node.flush() {
            self.perform(effect);
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

    fn txn(&mut self, txn: &Txn, reply: oneshot::Sender<Result<Outcome, Refusal>>) {
        if !matches!(self.node.tenure(), Tenure::Active(_)) {
            let _ = reply.send(Err(self.not_primary()));
            return;
        }
        let decision = match txn.decide(&self.view.newest()) {
            Ok(decision) => decision,
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        let Some((_, change)) = &decision.change else {
            return self.answer_unchanged(decision, reply);
        };
        match self.node.assign(change, wall_clock()) {
            Ok(record) => {
                let revision = record.revision;
                self.take(record);
                let outcome = Outcome { decision, assigned: Some(revision) };
                self.waiting.push_back(Waiting { upto: revision, outcome, reply });
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
        }
    }

    /// A Txn that writes nothing answers when what it saw is committed, and only as a linearizable read.
    fn answer_unchanged(
        &mut self,
        decision: rules::txn::Decision,
        reply: oneshot::Sender<Result<Outcome, Refusal>>,
    ) {
        let upto = decision.base;
        let outcome = Outcome { decision, assigned: None };
        if upto > self.node.log().committed {
            self.waiting.push_back(Waiting { upto, outcome, reply });
        } else {
            self.confirm(Unconfirmed::Txn(outcome, reply));
        }
    }

    /// Takes a new Record of the log: to the view, the disk's batch, and the next Chunk.
    fn take(&mut self, record: rules::record::Record) {
        let bytes = record::encode(&record);
        self.view.append(&record);
        self.snapshots.grew(bytes.len());
        let encoded = Encoded { record, bytes };
        self.unsent.push_back(encoded.clone());
        self.batch.append.push(encoded);
        self.batch_urgent = true;
    }

    /// Sends the turn's batch to the disk's thread.
    fn send_batch(&mut self) {
        if !std::mem::take(&mut self.batch_urgent) {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let events = self.events.clone();
        let generation = self.generation;
        let promised = batch.promised;
        self.store.submit(
            batch,
            Box::new(move |done| {
                let event = match done {
                    Ok(upto) => {
                        if let Some(epoch) = promised {
                            let _ = events.send(Event::Input(Input::Promised(epoch)));
                        }
                        Event::Appended(generation, upto)
                    }
                    Err(failure) => Event::DiskLost(failure.to_string()),
                };
                let _ = events.send(event);
            }),
        );
    }

    /// What time alone brings: Snapshots, the Elector's list of members, gauges, a disk that came back.
    fn housekeeping(&mut self) {
        self.tend_snapshots();
        self.tend_members();
        self.tend_disk();
        let log = self.node.log();
        self.metrics.latest_revision.set(log.last.wire());
        self.metrics.bucket_revision.set(log.durable.wire());
        self.metrics.pending_writes.set(self.waiting.len() as i64);
    }

    /// The Elector's duty: member ids for every registered Node, looked at every few seconds.
    fn tend_members(&mut self) {
        let every = if self.members.is_empty() { 500 } else { 5_000 };
        if !self.node.elector().is_acting(now()) || now() < self.members_at + every {
            return;
        }
        self.members_at = now();
        let (bucket, cluster_id) = (self.bucket.clone(), self.cluster_id.clone());
        let events = self.events.clone();
        self.runtime.spawn(async move {
            match registration::tend_members(&bucket, &cluster_id).await {
                Ok(members) => {
                    let _ = events.send(Event::Members(members));
                }
                Err(why) => warn!(why, "could not look after the members; trying again"),
            }
        });
    }

    fn members_known(&self) -> Result<Vec<Member>, Refusal> {
        if self.node.elector().is_acting(now()) && !self.members.is_empty() {
            return Ok(self.members.clone());
        }
        Err(Refusal::Unavailable(format!(
            "netsy: node `{}` is not the elector, which alone knows the members",
            self.registration.node_id
        )))
    }

    /// Looks whether a disk that failed works again.
    fn tend_disk(&mut self) {
        if now() < self.disk_at + 1_000 {
            return;
        }
        self.disk_at = now();
        if let Ok(sizes) = self.store.sizes() {
            self.board.set_sizes(sizes);
        }
        if !self.disk_failed || self.recovering {
            return;
        }
        self.recovering = true;
        let (store, events) = (self.store.clone(), self.events.clone());
        self.runtime.spawn_blocking(move || {
            let event = match store.recover() {
                Ok(_) => Event::DiskBack,
                Err(failure) => Event::DiskStillLost(failure.to_string()),
            };
            let _ = events.send(event);
        });
    }

    /// The disk works again: what it holds is the log, and Records beyond the chain wait for a Chunk.
    fn disk_back(&mut self) {
        self.recovering = false;
        self.disk_failed = false;
        self.generation += 1;
        let meta = self.store.meta();
        info!(last = meta.last.0, "the local database works again");
        self.step(Input::DiskBack { last: meta.last, durable: meta.durable });
        self.unsent.clear();
        let unsent = &mut self.unsent;
        let read = self.store.scan(meta.durable, meta.last, &mut |encoded| {
            unsent.push_back(encoded);
            std::ops::ControlFlow::Continue(())
        });
        if let Err(failure) = read {
            self.disk_lost(&failure.to_string());
        }
    }

    fn disk_lost(&mut self, why: &str) {
        if !self.disk_failed {
            warn!(why, "the local database failed: this node accepts no writes until it works again");
        }
        self.disk_failed = true;
        self.step(Input::DiskLost(why.to_owned()));
    }

    /// Why this Node does not answer for the log just now.
    fn not_primary(&self) -> Refusal {
        if self.node.tenure() == Tenure::None && self.node.elector().register().is_none() {
            return Refusal::NoLeader;
        }
        Refusal::Unavailable(format!("netsy: {}", self.why_not_writable()))
    }

    /// A sentence for clients and operators.
    fn why_not_writable(&self) -> String {
        if let Some(trouble) = self.node.trouble() {
            return format!("node `{}` is degraded: {trouble}", self.registration.node_id);
        }
        let me = &self.registration.node_id;
        match self.node.tenure() {
            Tenure::Draining(_) | Tenure::Closing(_) => format!("node `{me}` is shutting down"),
            Tenure::Active(_) => {
                format!("node `{me}` cannot renew its read lease: the bucket does not answer in time")
            }
            Tenure::None => {
                let holder = self.node.elector().lock().and_then(|lock| lock.elector.as_ref());
                let primary =
                    self.node.elector().register().and_then(|register| register.primary.as_ref());
                match (primary, holder) {
                    (Some(primary), Some(holder)) if holder.node_id != *me => format!(
                        "node `{me}` does not accept writes: the primary on this bucket is node `{}` \
                         and node `{}` holds the elector lock; this node takes over when that lock has \
                         not been renewed for {}",
                        primary.node_id,
                        holder.node_id,
                        humantime::format_duration(self.elector_timeout),
                    ),
                    _ => format!("node `{me}` does not accept writes: no primary is active yet"),
                }
            }
            _ => format!("node `{me}` is taking over as primary"),
        }
    }

    /// Shows the doors where the Node stands now.
    fn publish(&mut self) {
        let tenure = self.node.tenure();
        let primary_state = match tenure {
            Tenure::None => PrimaryState::Replica,
            Tenure::Active(_) => PrimaryState::Active,
            Tenure::Draining(_) | Tenure::Closing(_) => PrimaryState::Draining,
            _ => PrimaryState::Starting,
        };
        let (health, reason) = self.health();
        let before = self.board.standing();
        let leader_name = self.leader_name();
        let id_of = |name: &str| {
            let found = self.members.iter().find(|member| member.name == name);
            found.map_or(0, |member| member.member_id)
        };
        let leader = leader_name.as_deref().map_or(0, id_of);
        let member_id = match id_of(&self.registration.node_id) {
            0 => before.member_id,
            id => id,
        };
        let elector = self.node.elector().is_acting(now());
        let epoch = tenure.epoch().unwrap_or(self.node.log().epoch_at(self.node.log().last));
        let same = before.health == health
            && before.reason == reason
            && before.primary_state == primary_state
            && before.epoch == epoch
            && before.leader == leader
            && before.member_id == member_id
            && before.elector == elector
            && before.members.len() == self.members.len();
        if same && before.members == self.members {
            return;
        }
        self.announce(&before, health, reason.as_deref(), primary_state);
        self.board.set_standing(Standing {
            node_id: self.registration.node_id.clone(),
            cluster_id: self.cluster_id.clone(),
            member_id,
            health,
            reason,
            primary_state,
            epoch,
            leader,
            leader_name,
            elector,
            members: if elector { self.members.clone() } else { Vec::new() },
        });
    }

    fn announce(
        &self,
        before: &Standing,
        health: HealthState,
        reason: Option<&str>,
        primary_state: PrimaryState,
    ) {
        if before.primary_state != primary_state {
            info!(from = ?before.primary_state, to = ?primary_state, "the primary state of this node changed");
        }
        if before.health != health {
            let reason = reason.unwrap_or("everything it needs is there");
            if health == HealthState::Healthy {
                info!(from = ?before.health, to = ?health, reason, "the health state changed");
            } else {
                warn!(from = ?before.health, to = ?health, reason, "the health state changed");
            }
        }
    }

    /// The Primary this Node may point clients to: only itself, until Nodes speak with one another.
    fn leader_name(&self) -> Option<String> {
        matches!(self.node.tenure(), Tenure::Active(_)).then(|| self.registration.node_id.clone())
    }

    /// Whether another Node holds the Elector lock, so that this one has nothing to do.
    fn is_followed(&self) -> bool {
        let holder = self.node.elector().lock().and_then(|lock| lock.elector.as_ref());
        holder.is_some_and(|holder| holder.node_id != self.registration.node_id)
    }

    fn health(&self) -> (HealthState, Option<String>) {
        if let Some(trouble) = self.node.trouble() {
            return (HealthState::Degraded, Some(trouble.to_owned()));
        }
        let silent = self.upload.is_some()
            && now().saturating_sub(self.upload_since)
                > u64::try_from(self.silence_max.as_millis()).unwrap_or(u64::MAX);
        match self.node.tenure() {
            Tenure::Active(_) if silent => {
                let reason = "the bucket does not take the newest chunk: writes wait".to_owned();
                (HealthState::Degraded, Some(reason))
            }
            Tenure::Active(_) if self.node.settings().lease > 0 && !self.board.has_lease() => {
                (HealthState::Degraded, Some(self.why_not_writable()))
            }
            Tenure::Active(_) if self.members.is_empty() => {
                (HealthState::Loading, Some("members.json is being read".to_owned()))
            }
            Tenure::Active(_) => (HealthState::Healthy, None),
            Tenure::None if self.is_followed() => {
                (HealthState::Degraded, Some(self.why_not_writable()))
            }
            Tenure::None | Tenure::Draining(_) | Tenure::Closing(_) => {
                (HealthState::Loading, Some(self.why_not_writable()))
            }
            _ if !self.node.is_caught_up() => {
                (HealthState::Loading, Some("reading the chain in the bucket".to_owned()))
            }
            _ => (HealthState::Loading, Some(self.why_not_writable())),
        }
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
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
