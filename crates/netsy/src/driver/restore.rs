//! Cold start: from what the disk and the bucket hold to a log that ends where the chain ends.
//!
//! The newest good Snapshot if the disk is empty or too far behind, then the Chunks of the chain in order,
//! fetched side by side and verified; where the disk and the chain differ, the chain wins. Then one scan of
//! the disk fills the view. A damaged or missing object is named, never skipped: a damaged Snapshot
//! falls back to the one before, a hole in the chain refuses to start.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use rules::chain::{Found, Log, Verdict, first_difference, judge};
use rules::compaction::Compactions;
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::progress::Progress;
use crate::bucket::snapshots::Source as SnapshotSource;
use crate::bucket::{self, Bucket, Onward};
use crate::datafile::Encoded;
use crate::datafile::chunk::Chunk;
use crate::store::{self, Batch, Store};
use crate::view::{Source, View};

/// How far back the Chunk that holds a Revision is looked for before all of them are listed.
const LOOK_BACK: u64 = 100_000;
/// How many Chunks are fetched side by side.
const PARALLEL: usize = 16;

/// Answered when a batch is on disk.
type Submitted = oneshot::Receiver<Result<Revision, store::Failure>>;

/// A Node ready to run.
pub struct Restored {
    /// The log, ending where disk and chain end.
    pub log: Log,
    /// The promise on disk.
    pub promised: Epoch,
    /// Records beyond the chain, ascending.
    pub tail: Vec<Encoded>,
    /// The newest Snapshot in the bucket, 0 if there is none.
    pub snapshot: Revision,
    /// The view, holding the log.
    pub view: Arc<View>,
}

/// Why a Node could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    /// The bucket did not answer: try again.
    #[error("restore from the bucket: {0}")]
    Bucket(String),
    /// The own disk failed.
    #[error("restore: the local database failed: {0}")]
    Disk(#[from] store::Failure),
    /// An object is damaged or missing, or the disk and the chain contradict one another. Names it.
    #[error("restore: {0}")]
    Damaged(String),
}

impl From<bucket::Failure> for RestoreFailure {
    fn from(failure: bucket::Failure) -> RestoreFailure {
        if is_damage(&failure) {
            RestoreFailure::Damaged(failure.to_string())
        } else {
            RestoreFailure::Bucket(failure.to_string())
        }
    }
}

/// Whether an object cannot be believed, so that asking again will not help.
pub(super) fn is_damage(failure: &bucket::Failure) -> bool {
    use bucket::Failure::{Damaged, Gap, Unreadable};
    matches!(failure, Damaged { .. } | Gap { .. } | Unreadable { .. })
}

/// Restores the log into `store` and a fresh view over `source`.
///
/// # Errors
/// See [`RestoreFailure`]. Nothing that was committed is lost by failing.
pub async fn restore(
    bucket: &Bucket,
    store: &Store,
    value_budget: usize,
) -> Result<Restored, RestoreFailure> {
    let mut restore = Restore {
        bucket,
        store,
        progress: Progress::new(),
        snapshot: Revision::ZERO,
        damaged: Vec::new(),
    };
    let meta = store.meta();
    let mut log = Log {
        last: meta.last,
        appended: meta.last,
        durable: meta.durable,
        // What voters committed may not have reached the chain yet: the chain must not contradict it.
        committed: meta.committed.max(meta.durable).min(meta.last),
        epochs: meta.epochs,
        compactions: Compactions::default(),
    };
    restore.find_start(&mut log).await?;
    while !restore.read_chain(&mut log).await? {
        restore.install_newest(&mut log).await?;
    }
    log.committed = log.committed.max(log.durable);
    let (view, tail) = restore.fill_view(&mut log, value_budget)?;
    restore.progress.done(log.last);
    Ok(Restored {
        log,
        // What was imported may have raised it.
        promised: store.meta().promised,
        tail,
        snapshot: restore.snapshot,
        view,
    })
}

/// Whether the Chunk in `slot` may be a fence that landed late, where its slot had been cleaned up: nothing
/// else can win such a slot, and nothing above the older of the two newest Snapshots is ever cleaned up. The
/// list of Snapshots begins after the Chunk was read.
///
/// # Errors
/// The list failed.
pub(super) async fn may_be_late(
    bucket: &Bucket,
    slot: Revision,
    chunk: &Chunk,
) -> Result<bool, bucket::Failure> {
    let mut records = chunk.records.iter();
    if !records.any(|encoded| encoded.record.kind == Kind::Epoch) {
        return Ok(false);
    }
    let snapshots = bucket.list_snapshots().await?;
    let older = snapshots.iter().rev().nth(1);
    Ok(older.is_some_and(|older| *older >= slot))
}

struct Restore<'a> {
    bucket: &'a Bucket,
    store: &'a Store,
    progress: Progress,
    snapshot: Revision,
    /// Why Snapshots were passed over.
    damaged: Vec<String>,
}

impl Restore<'_> {
    /// Makes sure that the chain can be read on from the log: otherwise installs a Snapshot.
    async fn find_start(&mut self, log: &mut Log) -> Result<(), RestoreFailure> {
        let gap = match self.bucket.look_on(log.tail_slot()).await? {
            Onward::End | Onward::GoesOn => None,
            Onward::Gap(found) => Some(found),
        };
        let mut snapshots = self.list_snapshots().await?;
        if !self.holds_what_is_known(log).await? {
            // Clean-up takes a Chunk only when a Snapshot reaches as far.
            snapshots = self.list_snapshots().await?;
            if self.snapshot < log.durable {
                return Err(RestoreFailure::Damaged(format!(
                    "this disk knows the chain to revision {}, and the bucket holds no chunk that reaches it: is it \
                     the right bucket, mounted, and no older copy?",
                    log.durable
                )));
            }
        }
        snapshots.retain(|revision| *revision > log.durable);
        let is_empty = log.last == Revision::ZERO;
        if gap.is_none() && (!is_empty || snapshots.is_empty()) {
            return Ok(());
        }
        if self.install_one_of(&snapshots, log).await? {
            return Ok(());
        }
        let Some(found) = gap else { return Ok(()) };
        Err(RestoreFailure::Damaged(format!(
            "the bucket holds the chunk at revision {found}, but neither the one at {} nor a good snapshot in \
             between ({}): restore the missing objects",
            log.tail_slot(),
            self.passed_over()
        )))
    }

    /// The Revisions of all Snapshots, ascending; remembers the newest.
    async fn list_snapshots(&mut self) -> Result<Vec<Revision>, RestoreFailure> {
        let snapshots = self.bucket.list_snapshots().await?;
        self.snapshot = snapshots.last().copied().unwrap_or_default();
        Ok(snapshots)
    }

    /// Whether the bucket holds the chain as far as this disk knows it. Where it does not, it is another bucket (a
    /// folder that is not mounted) or an older copy, and to go on there would be to write a second chain.
    async fn holds_what_is_known(&self, log: &Log) -> Result<bool, RestoreFailure> {
        let durable = log.durable;
        if durable <= self.snapshot {
            // The Snapshot proves as much, and what lies below it may be a late fence.
            return Ok(true);
        }
        for back in [LOOK_BACK, durable.0] {
            let from = Revision(durable.0.saturating_sub(back).max(1));
            let chunks = self.bucket.list_chunks(from).await?;
            let Some(first) = chunks.into_iter().rfind(|first| *first <= durable) else {
                continue;
            };
            let chunk = match self.bucket.get_chunk(first).await {
                // This disk has what is damaged there.
                Err(failure) if is_damage(&failure) => return Ok(true),
                found => found?,
            };
            let mut records = chunk.iter().flat_map(|chunk| &chunk.records);
            let there = records.find(|encoded| encoded.record.revision == durable);
            let here = self.store.get(durable)?;
            match (there, here) {
                (Some(there), Some(here)) if there.record != here.record => {
                    return Err(RestoreFailure::Damaged(format!(
                        "the chunk at revision {first} differs from what this disk knows to be in the bucket: \
                         another chain was written there, or here"
                    )));
                }
                (Some(_), _) => return Ok(true),
                (None, _) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Installs the newest good Snapshot of `snapshots`, ascending. Whether there was one.
    async fn install_one_of(
        &mut self,
        snapshots: &[Revision],
        log: &mut Log,
    ) -> Result<bool, RestoreFailure> {
        for revision in snapshots.iter().rev() {
            info!(snapshot = revision.0, "restoring the snapshot");
            match self.install(*revision).await {
                Ok(installed) => {
                    *log = installed;
                    return Ok(true);
                }
                Err(RestoreFailure::Damaged(why)) => {
                    warn!(
                        why,
                        "the snapshot is damaged; falling back to the one before"
                    );
                    self.damaged.push(why);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(false)
    }

    /// A fence lies where Snapshots reach: it may have landed late, in a slot that was cleaned up, and is not
    /// to be believed. The Snapshot is.
    async fn install_newest(&mut self, log: &mut Log) -> Result<(), RestoreFailure> {
        let mut snapshots = self.list_snapshots().await?;
        snapshots.retain(|revision| *revision > log.durable);
        if self.install_one_of(&snapshots, log).await? {
            return Ok(());
        }
        Err(RestoreFailure::Damaged(format!(
            "no snapshot after revision {} is good ({}), and the chunk there may be a late one: restore one \
             of the snapshots",
            log.durable,
            self.passed_over()
        )))
    }

    /// Why no Snapshot would do.
    fn passed_over(&self) -> String {
        if self.damaged.is_empty() {
            return "there is none".to_owned();
        }
        self.damaged.join("; ")
    }

    /// Streams a Snapshot onto the disk; it takes the log's place when all of it was good.
    async fn install(&mut self, revision: Revision) -> Result<Log, RestoreFailure> {
        let Some(mut snapshot) = self.bucket.restore(SnapshotSource::At(revision)).await? else {
            return Err(RestoreFailure::Damaged(format!(
                "snapshot {revision} is gone"
            )));
        };
        let mut install = self.store.install()?;
        while let Some(records) = snapshot.next().await? {
            install.push(&records)?;
            if let Some(last) = records.last() {
                self.progress.reached(last.record.revision);
            }
        }
        let summary = snapshot.finish()?;
        if summary.last != revision {
            return Err(RestoreFailure::Damaged(format!(
                "snapshot {revision} ends at revision {}",
                summary.last
            )));
        }
        let meta = install.finish()?;
        Ok(Log {
            last: meta.last,
            appended: meta.last,
            durable: revision,
            // More may be committed, beyond the Snapshot: the chain must not contradict it.
            committed: meta.committed.max(revision),
            epochs: meta.epochs,
            compactions: Compactions::default(),
        })
    }

    /// Reads the chain from the tail slot to its end, Chunks fetched side by side and taken in order. False if
    /// it has to be read on from a Snapshot.
    async fn read_chain(&mut self, log: &mut Log) -> Result<bool, RestoreFailure> {
        let mut chain = self.bucket.fetch_chunks(log.tail_slot(), PARALLEL);
        let mut done = None;
        let whole = self.walk(&mut chain, log, &mut done).await;
        if let Some(done) = done {
            // The writer thread takes batches in order: when the last is done, all are.
            let ended = |_| RestoreFailure::Disk(store::Failure::Closed);
            done.await.map_err(ended)??;
        }
        log.appended = log.last;
        whole
    }

    /// Takes Chunk by Chunk; `done` is told when the disk has the last of them, also where this fails.
    async fn walk(
        &mut self,
        chain: &mut (impl Stream<Item = Result<Chunk, bucket::Failure>> + Unpin),
        log: &mut Log,
        done: &mut Option<Submitted>,
    ) -> Result<bool, RestoreFailure> {
        while let Some(chunk) = chain.next().await {
            let chunk = chunk?;
            if may_be_late(self.bucket, log.tail_slot(), &chunk).await? {
                return Ok(false);
            }
            *done = Some(self.import(log, chunk)?);
            self.progress.reached(log.last);
        }
        Ok(true)
    }

    /// Takes one Chunk of the chain into the log and onto the disk.
    fn import(&self, log: &mut Log, chunk: Chunk) -> Result<Submitted, RestoreFailure> {
        let first = log.tail_slot();
        let records: Vec<Record> = chunk
            .records
            .iter()
            .map(|encoded| encoded.record.clone())
            .collect();
        let last = records.last().map_or(first, |record| record.revision);
        let mut own = Vec::new();
        if log.last >= first {
            self.store
                .scan(first.prev(), last.min(log.last), &mut |encoded| {
                    own.push(encoded.record);
                    ControlFlow::Continue(())
                })?;
        }
        let found = Found {
            differs: first_difference(&records, &own),
            records,
        };
        let mut batch = Batch {
            durable: Some(last),
            ..Batch::default()
        };
        match judge(log, &found) {
            Verdict::Damaged(why) => {
                return Err(RestoreFailure::Damaged(format!("chunk {first}: {why}")));
            }
            Verdict::Known => {}
            Verdict::Import { keep } => {
                if keep < log.last {
                    log.truncate(keep);
                    batch.truncate_above = Some(keep);
                }
                let fresh = chunk.records.into_iter();
                batch.append = fresh
                    .filter(|encoded| encoded.record.revision > keep)
                    .collect();
                for encoded in &batch.append {
                    log.push(&encoded.record);
                }
            }
        }
        log.durable = last;
        let (sender, receiver) = oneshot::channel();
        self.store.submit(
            batch,
            Box::new(move |done| {
                let _ = sender.send(done);
            }),
        );
        Ok(receiver)
    }

    /// One scan of the disk fills the view; what lies beyond the chain is the tail.
    fn fill_view(
        &mut self,
        log: &mut Log,
        value_budget: usize,
    ) -> Result<(Arc<View>, Vec<Encoded>), RestoreFailure> {
        let (last, durable) = (log.last, log.durable);
        let mut compactions = Compactions::default();
        let view = Arc::new(View::new(
            Arc::new(StoreSource(self.store.clone())),
            value_budget,
        ));
        let mut tail = Vec::new();
        self.store.scan(Revision::ZERO, last, &mut |encoded| {
            view.load(&encoded.record);
            compactions.learn(&encoded.record);
            if encoded.record.revision > durable {
                tail.push(encoded);
            }
            ControlFlow::Continue(())
        })?;
        if view.last() != log.last {
            return Err(RestoreFailure::Damaged(format!(
                "the local database ends at revision {}, not at {}",
                view.last(),
                log.last
            )));
        }
        // The rules say it once more when the Node runs; until then nobody reads below it either.
        let floor = compactions.clone().settle(log.committed.min(durable));
        view.set_floor(floor.unwrap_or_default());
        log.compactions = compactions;
        view.release(log.committed);
        Ok((view, tail))
    }
}

/// The own disk as the view's source of what it does not hold in memory.
struct StoreSource(Store);

impl Source for StoreSource {
    fn records(&self, revisions: &[Revision]) -> Result<Vec<Record>, String> {
        let found = self
            .0
            .get_many(revisions)
            .map_err(|failure| failure.to_string())?;
        Ok(found.into_iter().map(|encoded| encoded.record).collect())
    }

    fn history(&self, after: Revision, upto: Revision, max: usize) -> Result<Vec<Record>, String> {
        let mut records = Vec::new();
        let scanned = self.0.scan(after, upto, &mut |encoded| {
            records.push(encoded.record);
            if records.len() >= max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        scanned
            .map(|()| records)
            .map_err(|failure| failure.to_string())
    }
}
