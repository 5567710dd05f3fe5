//! Snapshots: when the Primary makes one, and what may be cleaned up after it.
//!
//! A Snapshot is made at the end of a Chunk of the chain, streamed from the disk, read back and verified.
//! Only then may Chunks go: those at or below the older of the two newest verified Snapshots, once they
//! are older than the retention period; never the newest Chunk, one that holds an epoch Record, or the one
//! just before such a one, because these are the slots a sleeping Primary could still hit. Each clean-up reads
//! the register first, and stops if it names another epoch: what it deletes was in the chain before any
//! later Primary looked for the chain's end.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use rules::primary::Tenure;
use rules::register::Register;
use rules::revision::{Epoch, Revision};
use tracing::{info, warn};

use super::Driver;
use crate::bucket::{self, Bucket, Document};
use crate::datafile::{Origin, snapshot};
use crate::standing::now;
use crate::store::Store;

/// When to make Snapshots. The first limit that is reached makes one.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPolicy {
    /// The newest Snapshot there was when the Node started.
    pub newest: Revision,
    /// Records since the last one; 0 is off.
    pub records: u64,
    /// Bytes of Records since the last one; 0 is off.
    pub bytes: u64,
    /// Age of the last one, if anything was written since; zero is off.
    pub age: Duration,
    /// How long what a Snapshot replaces is kept.
    pub retention: Duration,
    /// How often it is looked whether one is due.
    pub check_interval: Duration,
}

/// What the driver knows of its Snapshots.
pub(super) struct Snapshots {
    policy: SnapshotPolicy,
    /// The end of the newest Chunk of the chain.
    end: Revision,
    /// The Revision of the newest Snapshot asked for in this life.
    last: Revision,
    last_at: u64,
    looked_at: u64,
    bytes: u64,
    running: std::sync::Arc<std::sync::atomic::AtomicBool>,
    /// Whether the log is being read for one: nothing may be deleted from it meanwhile.
    reading: std::sync::Arc<std::sync::atomic::AtomicBool>,
    /// The newest Snapshot that was read back and found good in this life; 0 is none.
    verified: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Snapshots {
    pub(super) fn new(policy: SnapshotPolicy) -> Snapshots {
        Snapshots {
            policy,
            end: Revision::ZERO,
            last: policy.newest,
            last_at: now(),
            looked_at: now(),
            bytes: 0,
            running: std::sync::Arc::default(),
            reading: std::sync::Arc::default(),
            verified: std::sync::Arc::default(),
        }
    }

    /// The chain reaches further.
    pub(super) fn reached(&mut self, end: Revision) {
        self.end = end;
    }

    /// Records went into the log.
    pub(super) fn grew(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Whether the log is being read for one; cleaning up afterwards needs no peace.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Whether it is time for one, and none is at work.
    pub(super) fn may_begin(&self) -> bool {
        self.is_due() && !self.running.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn is_due(&self) -> bool {
        let age = self.policy.age.as_millis() as u64;
        let records = self.end.since(self.last);
        records > 0
            && ((self.policy.records > 0 && records >= self.policy.records)
                || (self.policy.bytes > 0 && self.bytes >= self.policy.bytes)
                || (age > 0 && now().saturating_sub(self.last_at) >= age))
    }
}

impl Driver {
    /// Makes a Snapshot if one is due and this Node may.
    pub(super) fn tend_snapshots(&mut self) {
        let every = self.snapshots.policy.check_interval.as_millis() as u64;
        if now() < self.snapshots.looked_at + every || self.compaction.is_in_the_way() {
            return;
        }
        self.snapshots.looked_at = now();
        let Tenure::Active(epoch) = self.node.tenure() else {
            return;
        };
        // The chain may be ahead of the own disk, which the Snapshot is read from.
        if self.node.log().appended < self.snapshots.end {
            return;
        }
        let running = std::sync::Arc::clone(&self.snapshots.running);
        if !self.snapshots.is_due() || running.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        let revision = self.snapshots.end;
        self.compaction.gave_way();
        let reading = std::sync::Arc::clone(&self.snapshots.reading);
        reading.store(true, std::sync::atomic::Ordering::SeqCst);
        self.snapshots.last = revision;
        self.snapshots.last_at = now();
        self.snapshots.bytes = 0;
        let work = Work {
            bucket: self.bucket.clone(),
            store: self.store.clone(),
            origin: self.origin(epoch),
            retention: self.snapshots.policy.retention,
            verified: std::sync::Arc::clone(&self.snapshots.verified),
        };
        let metrics = std::sync::Arc::clone(&self.metrics);
        self.runtime.spawn(async move {
            let began = std::time::Instant::now();
            let made = work.make(revision, epoch).await;
            reading.store(false, std::sync::atomic::Ordering::SeqCst);
            match made {
                Ok(()) => {
                    metrics.snapshots.ok();
                    metrics
                        .snapshot_seconds
                        .observe(began.elapsed().as_secs_f64());
                    metrics.snapshot_revision.set(revision.wire());
                    info!(revision = revision.0, "made and verified a snapshot");
                    match work.clean_up(revision, epoch).await {
                        Ok(0) => {}
                        Ok(deleted) => info!(deleted, "cleaned up objects behind two snapshots"),
                        Err(why) => warn!(why, "could not clean up; the next snapshot tries again"),
                    }
                }
                Err(why) => {
                    metrics.snapshots.failed();
                    warn!(
                        revision = revision.0,
                        why, "could not make a snapshot; the next one may"
                    );
                }
            }
            running.store(false, std::sync::atomic::Ordering::SeqCst);
        });
    }
}

struct Work {
    bucket: Bucket,
    store: Store,
    origin: Origin,
    retention: Duration,
    verified: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Work {
    /// Makes the Snapshot and verifies it.
    async fn make(&self, revision: Revision, epoch: Epoch) -> Result<(), String> {
        if !self.is_ours(epoch).await? {
            return Err("the register names another epoch".to_owned());
        }
        self.upload(revision).await
    }

    /// The newest good Snapshot below `newest`: a start falls back to it, so it is read back now unless it
    /// was before. One that is damaged is named, and counts for nothing.
    async fn older(&self, newest: Revision) -> Result<Option<Revision>, String> {
        let text = |failure: bucket::Failure| failure.to_string();
        let snapshots = self.bucket.list_snapshots().await.map_err(text)?;
        let verified = Revision(self.verified.load(std::sync::atomic::Ordering::SeqCst));
        for revision in snapshots.into_iter().rev().filter(|one| *one < newest) {
            if revision == verified {
                return Ok(Some(revision));
            }
            let source = bucket::snapshots::Source::At(revision);
            match self.bucket.verify_snapshot(source).await {
                Ok(_) => return Ok(Some(revision)),
                Err(damaged @ bucket::Failure::Damaged { .. }) => {
                    warn!(%damaged, "an older snapshot is damaged: chunks are kept in its place");
                }
                Err(failure) => return Err(text(failure)),
            }
        }
        Ok(None)
    }

    async fn is_ours(&self, epoch: Epoch) -> Result<bool, String> {
        let document = Document::Primary;
        let name = document.location();
        let found = self
            .bucket
            .read(&document)
            .await
            .map_err(|failure| failure.to_string())?;
        let Some(found) = found else { return Ok(false) };
        let register: Register = serde_json::from_slice(&found.body)
            .map_err(|error| format!("read `{name}`: {error}"))?;
        Ok(register.epoch == epoch)
    }

    /// Streams everything up to `revision` from the disk into the bucket, where it is read back.
    async fn upload(&self, revision: Revision) -> Result<(), String> {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let (store, origin) = (self.store.clone(), self.origin.clone());
        let encoding = tokio::task::spawn_blocking(move || {
            if let Err(why) = encode(&store, origin, revision, &sender) {
                let _ = sender.blocking_send(Err(why));
            }
        });
        let pieces = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let put = self.bucket.put_snapshot(revision, pieces).await;
        encoding.await.map_err(|error| error.to_string())?;
        let summary = put.map_err(|failure| failure.to_string())?;
        if summary.last != revision {
            return Err(format!(
                "the snapshot read back ends at revision {}",
                summary.last
            ));
        }
        Ok(())
    }

    /// Deletes what nobody needs who starts from the older of the two newest good Snapshots, `newest` being
    /// just verified, once the retention period has passed. Returns how many objects went.
    async fn clean_up(&self, newest: Revision, epoch: Epoch) -> Result<usize, String> {
        let text = |failure: bucket::Failure| failure.to_string();
        let older = self.older(newest).await?;
        self.verified
            .store(newest.0, std::sync::atomic::Ordering::SeqCst);
        let Some(older) = older else { return Ok(0) };
        let mut snapshots = self.bucket.list_snapshots().await.map_err(text)?;
        snapshots.retain(|revision| *revision < older);
        let chunks = self
            .bucket
            .list_chunks(Revision::ZERO)
            .await
            .map_err(text)?;
        // Read after the lists: whoever is named later reads a chain that reaches beyond all of these.
        if !self.is_ours(epoch).await? {
            return Err("the register names another epoch".to_owned());
        }
        let mut deleted = 0;
        for revision in snapshots {
            if self.is_old_snapshot(revision).await? {
                self.bucket
                    .delete_snapshots(&[revision])
                    .await
                    .map_err(text)?;
                deleted += 1;
            }
        }
        let epochs = self.store.meta().epochs;
        let opens = |from: Revision, before: Revision| {
            epochs
                .iter()
                .any(|(_, opened)| *opened >= from && *opened < before)
        };
        for (index, first) in chunks.iter().enumerate() {
            // A chunk ends just below the next one; the newest chunk has none, and stays.
            let Some(next) = chunks.get(index + 1) else {
                break;
            };
            let after = chunks.get(index + 2).copied().unwrap_or(Revision(u64::MAX));
            let covered = next.prev() <= older && !opens(*first, *next) && !opens(*next, after);
            if covered && self.is_old_chunk(*first).await? {
                self.bucket.delete_chunks(&[*first]).await.map_err(text)?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

impl Work {
    /// Whether the Snapshot at `revision` is older than the retention period.
    async fn is_old_snapshot(&self, revision: Revision) -> Result<bool, String> {
        if let Some(expired) = self.is_expired(revision)? {
            return Ok(expired);
        }
        let written = self.bucket.snapshot_written_at(revision).await;
        self.is_past(written)
    }

    /// Whether the Chunk in the slot `first` is older than the retention period.
    async fn is_old_chunk(&self, first: Revision) -> Result<bool, String> {
        if let Some(expired) = self.is_expired(first)? {
            return Ok(expired);
        }
        let written = self.bucket.chunk_written_at(first).await;
        self.is_past(written)
    }

    /// Whether the Record is older than the retention period; `None` if it was compacted. Its wall clock is
    /// good enough, and so is the bucket's: retention is for people, not for safety.
    fn is_expired(&self, revision: Revision) -> Result<Option<bool>, String> {
        let found = self.store.get(revision);
        let found = found.map_err(|failure| failure.to_string())?;
        Ok(found.map(|encoded| self.is_before(encoded.record.created_at)))
    }

    fn is_past(&self, written: Result<Option<i64>, bucket::Failure>) -> Result<bool, String> {
        let written = written.map_err(|failure| failure.to_string())?;
        Ok(written.is_none_or(|written| self.is_before(written.saturating_mul(1_000_000))))
    }

    /// Whether `moment`, in nanoseconds since 1970, lies before the retention period.
    fn is_before(&self, moment: i64) -> bool {
        let retention = i64::try_from(self.retention.as_nanos()).unwrap_or(i64::MAX);
        super::wall_clock().saturating_sub(moment) >= retention
    }
}

/// Bytes of Records encoded before they are sent on.
const PIECE: usize = 1 << 20;

/// Encodes everything on disk up to `revision`, piece by piece.
fn encode(
    store: &Store,
    origin: Origin,
    revision: Revision,
    pieces: &tokio::sync::mpsc::Sender<Result<Bytes, String>>,
) -> Result<(), String> {
    let text = |failure: crate::store::Failure| failure.to_string();
    let (mut count, mut first) = (0, Revision::ZERO);
    store
        .scan(Revision::ZERO, revision, &mut |encoded| {
            if count == 0 {
                first = encoded.record.revision;
            }
            count += 1;
            ControlFlow::Continue(())
        })
        .map_err(text)?;
    let mut encoder = snapshot::Encoder::new(origin, count, first);
    let (mut gone, mut pushed) = (false, 0);
    store
        .scan(Revision::ZERO, revision, &mut |encoded| {
            encoder.push(&encoded);
            pushed += encoded.bytes.len();
            if pushed < PIECE {
                return ControlFlow::Continue(());
            }
            pushed = 0;
            gone = pieces.blocking_send(Ok(encoder.take())).is_err();
            if gone {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .map_err(text)?;
    if gone {
        return Ok(());
    }
    let rest = encoder
        .finish()
        .map_err(|malformed| malformed.to_string())?;
    let _ = pieces.blocking_send(Ok(rest));
    Ok(())
}
