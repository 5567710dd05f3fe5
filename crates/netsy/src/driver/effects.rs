//! A table from Effect to call: what the Node asks to be made true, and how its answer comes back.
//!
//! Nothing here decides. Bucket work runs as tasks; an upload is settled here, sending the same bytes until
//! the slot is ours or somebody else's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;
use parking_lot::Mutex;
use rules::chain::{Found, first_difference};
use rules::primary::Tenure;
use rules::record::Record;
use rules::register::{Held, Register, Swapped, Version};
use rules::revision::{Epoch, Revision};
use rules::step::{Effect, Input};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use super::restore::{is_damage, may_be_late};
use super::{Answer, Driver, Ended, Event};
use crate::bucket::{Bucket, Document, Onward, Slot, Swapped as Settled, Versioned};
use crate::datafile::{Encoded, chunk, record};
use crate::log::Seldom;
use crate::standing::{Outcome, now};
use crate::store::Store;
use rules::refusal::Refusal;

/// How long to wait before a Chunk of unknown fate is sent again.
const SETTLE_AGAIN: Duration = Duration::from_millis(100);
/// The longest of those waits.
const SETTLE_AGAIN_MAX: Duration = Duration::from_secs(2);

/// While the bucket is away every read fails, and no write has an outcome.
static UNREAD: Seldom = Seldom::new();
static UNKNOWN: Seldom = Seldom::new();

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ReadLock => self.read_document(Document::Elector, Input::LockRead),
            Effect::ReadRegister => self.read_document(Document::Primary, Input::RegisterRead),
            Effect::SwapLock { expected, lock } => {
                let mark = lock.mark.clone();
                self.swap_document(Document::Elector, expected, &lock, mark, Input::LockSwapped);
            }
            Effect::SwapRegister { expected, register } => self.swap_register(expected, &register),
            Effect::Promise(epoch) => {
                self.batch.promised = Some(epoch);
                self.batch_urgent = true;
            }
            Effect::ReadSlot { slot, confirm } => self.read_slot(slot, confirm),
            Effect::Upload {
                first,
                last,
                opening,
            } => self.upload(first, last, opening),
            Effect::AbandonUpload => self.upload = None,
            Effect::Append(records) => records.into_iter().for_each(|record| self.take(record)),
            Effect::Truncate(last) => self.truncate(last),
            Effect::Durable(upto) => self.durable(upto),
            Effect::Release(committed) => self.release(committed),
            Effect::Floor(floor) => self.floor_rose(floor),
            Effect::Lease(until) => self.board.set_lease(until),
            Effect::Send(to, message) => self.tell(&to, message),
            Effect::Broadcast(message) => self.broadcast(&message),
            Effect::Replicate { to, head, upto } => self.replicate(&to, head, upto),
            Effect::Distrust(node, why) => self.distrust(&node, &why),
            Effect::FailPending => {
                self.batch_urgent = true;
                for read in self.unconfirmed.give_up() {
                    read.refuse(self.not_primary());
                }
                for (_, reply) in self.held.take() {
                    let _ = reply.send(Err(self.not_primary()));
                }
                for waiting in std::mem::take(&mut self.waiting) {
                    match waiting.answer {
                        Answer::Written(_, reply) => {
                            let _ = reply.send(Err(Refusal::LeaderChanged));
                        }
                        Answer::Read(read) => read.refuse(self.not_primary()),
                        Answer::Expired => {}
                    }
                }
            }
            Effect::Corrupt(reason) => {
                error!(
                    reason,
                    "this node stops serving: its log and the bucket do not agree"
                );
            }
            Effect::Refuse(reason) => self.ended = Some(Ended::Refused(reason)),
            Effect::Closed => {
                let log = self.node.log();
                self.ended = Some(Ended::Closed(log.last.since(log.durable)));
            }
        }
    }

    fn swap_register(&self, expected: Option<Version>, register: &Register) {
        let primary = register.primary.as_ref();
        info!(
            epoch = register.epoch.0,
            phase = ?register.phase,
            primary = primary.map(|primary| primary.node_id.as_str()),
            voters = register.voters.len(),
            "writing the register"
        );
        let mark = register.mark.clone();
        let input = Input::RegisterSwapped;
        self.swap_document(Document::Primary, expected, register, mark, input);
    }

    /// Cuts the log: what waits for the disk goes first, so that the order stays.
    fn truncate(&mut self, last: Revision) {
        self.batch_urgent = true;
        self.send_batch();
        self.generation += 1;
        self.view.truncate(last);
        while self
            .unsent
            .back()
            .is_some_and(|encoded| encoded.record.revision > last)
        {
            self.unsent.pop_back();
        }
        self.recent.truncate(last);
        self.batch.truncate_above = Some(last);
        self.batch_urgent = true;
    }

    /// The chain reaches further. Told to the disk with the next batch: it only saves reading again.
    fn durable(&mut self, upto: Revision) {
        while let Some(encoded) = self.unsent.front()
            && encoded.record.revision <= upto
        {
            self.window.sent(encoded);
            self.unsent.pop_front();
        }
        self.upload.take().map(DropGuard::disarm);
        self.batch.durable = Some(upto);
        self.window.flushed(upto);
        self.snapshots.reached(upto);
    }

    fn release(&mut self, committed: Revision) {
        self.view.release(committed);
        self.board.set_doubt(self.node.reads_wait_from());
        self.batch.committed = Some(committed);
        self.window.committed(committed, now());
        self.metrics.committed_revision.set(committed.wire());
        let mut answers = Vec::new();
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.upto <= committed)
        {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            match waiting.answer {
                Answer::Written(outcome, reply) => answers.push((outcome, reply)),
                Answer::Read(read) => self.confirm(read),
                Answer::Expired => self.expired(),
            }
        }
        self.answer(answers);
    }

    /// Sends the answers of one release from a task: a wake-up from there costs a fraction of one from this
    /// thread, and the next Chunk need not wait for them.
    fn answer(&self, answers: Vec<(Outcome, oneshot::Sender<Result<Outcome, Refusal>>)>) {
        if answers.is_empty() {
            return;
        }
        self.runtime.spawn(async move {
            for (outcome, reply) in answers {
                let _ = reply.send(Ok(outcome));
            }
        });
    }

    fn spawn<F>(&self, work: impl FnOnce(Bucket) -> F)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        let events = self.events.clone();
        let work = work(self.bucket.clone());
        self.runtime.spawn(async move {
            let _ = events.send(Event::Input(work.await));
        });
    }

    fn read_document<T: DeserializeOwned + Send + 'static>(
        &self,
        document: Document,
        input: fn(Result<Option<Held<T>>, ()>) -> Input,
    ) {
        let versions = self.versions.clone();
        let metrics = Arc::clone(&self.metrics);
        self.spawn(|bucket| async move {
            let name = document.location();
            let began = Instant::now();
            let read = bucket.read(&document).await;
            let result = match &read {
                Ok(Some(_)) => "ok",
                Ok(None) => "missing",
                Err(_) => "failed",
            };
            metrics.bucket_read(kind_of(&document), result, began.elapsed());
            match read {
                Ok(found) => match found.map(|found| versions.hold(&name, found)).transpose() {
                    Ok(held) => input(Ok(held)),
                    // It says nothing about the log: whoever mends it need not start this Node again.
                    Err(why) => {
                        error!(document = %name, why, "a document cannot be read; trying again");
                        input(Err(()))
                    }
                },
                Err(failure) => {
                    if let Some(unsaid) = UNREAD.say() {
                        warn!(%failure, unsaid, "could not read a document; trying again");
                    }
                    input(Err(()))
                }
            }
        });
    }

    fn swap_document<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        document: Document,
        expected: Option<Version>,
        content: &T,
        mark: String,
        input: fn(Swapped<T>) -> Input,
    ) {
        let body = serde_json::to_vec_pretty(content).expect("plain structs always serialise");
        let versions = self.versions.clone();
        let metrics = Arc::clone(&self.metrics);
        self.spawn(|bucket| async move {
            let name = document.location();
            let expected = expected.map(|version| versions.find(&name, &version));
            let (began, bytes, body) = (Instant::now(), body.len(), Bytes::from(body));
            let swapped = bucket.swap(&document, expected.as_ref(), body, &mark).await;
            let result = match &swapped {
                Settled::Won(_) => "won",
                Settled::Lost(_) => "lost",
                Settled::Unknown(_) => "unknown",
            };
            metrics.bucket_wrote(kind_of(&document), result, began.elapsed(), bytes);
            match swapped {
                Settled::Won(version) => input(Swapped::Won(versions.note(&name, &mark, version))),
                Settled::Lost(found) => {
                    match found.map(|found| versions.hold(&name, found)).transpose() {
                        Ok(held) => input(Swapped::Lost(held)),
                        Err(why) => {
                            error!(document = %name, why, "a document cannot be read; trying again");
                            input(Swapped::Unknown)
                        }
                    }
                }
                Settled::Unknown(why) => {
                    if let Some(unsaid) = UNKNOWN.say() {
                        warn!(%why, unsaid, "the outcome of a write is not known yet; sending it again");
                    }
                    input(Swapped::Unknown)
                }
            }
        });
    }

    fn read_slot(&self, slot: Revision, confirm: bool) {
        let store = self.store.clone();
        // A Replica need not start again for it: its Primary knows what is true, unless that has compacted
        // what we would need of it, and does not welcome us any more.
        let waits = self.peers.is_some() && self.node.tenure() == Tenure::None;
        let can_wait = waits && !self.compaction.is_left_behind();
        self.spawn(|bucket| async move {
            match bucket.get_chunk(slot).await {
                Ok(Some(chunk)) => match may_be_late(&bucket, slot, &chunk).await {
                    Ok(false) => compare(&store, slot, chunk.records),
                    Ok(true) if !can_wait => Input::FellBehind,
                    Ok(true) | Err(_) => Input::SlotRead(slot, Err(())),
                },
                Ok(None) if confirm => match bucket.look_on(slot).await {
                    Ok(Onward::End) => Input::SlotRead(slot, Ok(None)),
                    Ok(Onward::Gap(_)) if !can_wait => Input::FellBehind,
                    // Created since it was read: it is there to be read.
                    Ok(Onward::GoesOn | Onward::Gap(_)) | Err(_) => Input::SlotRead(slot, Err(())),
                },
                Ok(None) => Input::SlotRead(slot, Ok(None)),
                Err(failure) if is_damage(&failure) => Input::ChainDamaged(failure.to_string()),
                Err(failure) => {
                    if let Some(unsaid) = UNREAD.say() {
                        warn!(%failure, unsaid, "could not read the tail slot; trying again");
                    }
                    Input::SlotRead(slot, Err(()))
                }
            }
        });
    }

    fn upload(&mut self, first: Revision, last: Revision, opening: Option<Record>) {
        let mut records: Vec<Encoded> = Vec::new();
        let mut bytes = 0;
        for encoded in self
            .unsent
            .iter()
            .take_while(|encoded| encoded.record.revision <= last)
        {
            bytes += encoded.bytes.len();
            let full = bytes > self.chunk_bytes_max || records.len() >= self.chunk_records_max;
            // A fence carries everything, however much it is.
            if full && !records.is_empty() && opening.is_none() {
                break;
            }
            records.push(encoded.clone());
        }
        records.extend(opening.map(|record| Encoded {
            bytes: record::encode(&record),
            record,
        }));
        let epoch = records
            .last()
            .map_or(Epoch::ZERO, |encoded| encoded.record.epoch);
        let origin = self.origin(epoch);
        self.metrics.chunk_records.observe(records.len() as f64);
        self.upload_since = now();
        // Before it can land: reads that are answered without asking must know.
        self.board.set_doubt(self.node.reads_wait_from());
        self.batch_urgent |= !self.batch.append.is_empty();
        let abandoned = CancellationToken::new();
        self.upload = Some(abandoned.clone().drop_guard());
        let metrics = Arc::clone(&self.metrics);
        let settle = settle(self.bucket.clone(), first, origin, records, metrics);
        let (events, runtime) = (self.events.clone(), self.runtime.clone());
        // One hand-over there and one back, to a thread that may block: it encodes, and writes local files.
        self.runtime.spawn_blocking(move || {
            let settled = runtime.block_on(abandoned.run_until_cancelled(settle));
            // It may have been abandoned while this thread was blocked.
            if let Some(input) = settled
                && !abandoned.is_cancelled()
            {
                let _ = events.send(Event::Input(input));
            }
        });
    }
}

/// The store's own versions of documents, by the mark of their content: the rules only compare marks.
#[derive(Clone, Default)]
pub(super) struct Versions(Arc<Mutex<HashMap<Path, VecDeque<Noted>>>>);

/// A version of one document.
type Noted = (Arc<str>, crate::bucket::Version);

/// How many versions of one document are remembered; the rules hold the newest, or the one before.
const VERSIONS_MAX: usize = 16;

impl Versions {
    fn note(&self, name: &Path, mark: &str, version: crate::bucket::Version) -> Version {
        let mark: Arc<str> = Arc::from(mark);
        let mut known = self.0.lock();
        let known = known.entry(name.clone()).or_default();
        known.retain(|(noted, _)| *noted != mark);
        known.push_back((Arc::clone(&mark), version));
        if known.len() > VERSIONS_MAX {
            known.pop_front();
        }
        Version(mark)
    }

    /// What was read, as the rules hold it.
    fn hold<T: DeserializeOwned>(&self, name: &Path, found: Versioned) -> Result<Held<T>, String> {
        let document = serde_json::from_slice(&found.body).map_err(|error| error.to_string())?;
        let mark = found.mark().ok_or("it carries no mark")?.to_owned();
        Ok(Held {
            document,
            version: self.note(name, &mark, found.version),
        })
    }

    /// The store's version to name as a condition.
    fn find(&self, name: &Path, version: &Version) -> crate::bucket::Version {
        let known = self.0.lock();
        let mut noted = known.get(name).into_iter().flatten();
        let found = noted.find(|(mark, _)| *mark == version.0);
        found
            .expect("every version the rules hold was noted when it was read or won")
            .1
            .clone()
    }
}

/// A document's kind, as metrics call it.
fn kind_of(document: &Document) -> &'static str {
    match document {
        Document::Members => "members",
        Document::Node(_) => "node",
        Document::Elector => "elector",
        Document::Primary => "primary",
        Document::Probe(_) => "probe",
    }
}

/// Sends one Chunk until its slot is settled.
async fn settle(
    bucket: Bucket,
    first: Revision,
    origin: crate::datafile::Origin,
    records: Vec<Encoded>,
    metrics: Arc<crate::telemetry::Metrics>,
) -> Input {
    let last = records
        .last()
        .map_or(first, |encoded| encoded.record.revision);
    let bytes = chunk::encode(&origin, &records);
    let mut pause = SETTLE_AGAIN;
    loop {
        let started = Instant::now();
        let slot = bucket.put_chunk(first, bytes.clone(), &records).await;
        let result = match &slot {
            Slot::Won => "won",
            Slot::Unknown(_) => "unknown",
            Slot::Taken(_) | Slot::Damaged(_) => "lost",
        };
        metrics.bucket_wrote("chunk", result, started.elapsed(), bytes.len());
        match slot {
            Slot::Won => return Input::Uploaded(first, last),
            Slot::Taken(_) => {
                warn!(
                    slot = first.0,
                    "another node has extended the chain: the tail slot is taken"
                );
                return Input::SlotTaken(first);
            }
            Slot::Damaged(damaged) => return Input::ChainDamaged(damaged.to_string()),
            Slot::Unknown(why) => {
                if let Some(unsaid) = UNKNOWN.say() {
                    warn!(slot = first.0, %why, unsaid, "the fate of a chunk is not known yet; sending it again");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SETTLE_AGAIN_MAX);
    }
}

/// A Chunk of the chain beside what the own disk holds at the same Revisions.
fn compare(store: &Store, slot: Revision, chunk: Vec<Encoded>) -> Input {
    let records: Vec<Record> = chunk.into_iter().map(|encoded| encoded.record).collect();
    let last = records.last().map_or(slot, |record| record.revision);
    let mut own = Vec::with_capacity(records.len());
    let read = store.scan(slot.prev(), last, &mut |encoded| {
        own.push(encoded.record);
        std::ops::ControlFlow::Continue(())
    });
    match read {
        Ok(()) => {
            let differs = first_difference(&records, &own);
            Input::SlotRead(slot, Ok(Some(Found { records, differs })))
        }
        Err(failure) => {
            warn!(%failure, "could not read the local database beside the chain");
            Input::SlotRead(slot, Err(()))
        }
    }
}
