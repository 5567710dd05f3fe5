//! Pruning: deletes what compaction left behind, and gives its pages back to the file system.
//!
//! A Record names the one it supersedes, so one walk along the Records up to the floor finds everything that
//! nobody can read any more. It never looks at a key twice and needs nothing but the log. Every step is
//! one short transaction, and the writer's commits go in between.

use std::ops::ControlFlow;

use rules::record::{Kind, Record};
use rules::revision::Revision;
use rusqlite::Connection;

use super::failure::{Attempt, Failure};
use super::{Meta, Store};

/// The most Records one step looks at.
const STEP_RECORDS: usize = 2_000;
/// The most bytes of Records one step looks at; one Record more may be in it.
const STEP_BYTES: usize = 4 << 20;
/// The most pages one step gives back.
const STEP_PAGES: u64 = 256;
/// Free pages that stay, for what is written next: these, and a quarter of those in use.
const SPARE_PAGES: u64 = 64;
const DELETING: &str = "deleting compacted Records";
const SHRINKING: &str = "giving pages back";

/// How far a step of pruning came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pruned {
    /// Go on behind this Revision.
    Upto(Revision),
    /// Nothing is left to delete.
    All,
    /// The disk does not hold yet what the bucket does: ask again.
    NotYet,
}

impl Store {
    /// Deletes what the Records in `(after, floor]` supersede, tombstones and old compactions below `floor`;
    /// one step of it. `durable` is the end of a Chunk of the chain, at or above `floor`: it becomes
    /// durable together with the deletions, so that the chain is never again compared with what is gone.
    /// Epoch Records stay.
    ///
    /// # Errors
    /// The store's failure.
    ///
    /// # Panics
    /// If `floor` is above `durable`.
    pub fn prune(
        &self,
        after: Revision,
        floor: Revision,
        durable: Revision,
    ) -> Result<Pruned, Failure> {
        assert!(floor <= durable, "pruning to {floor}, durable {durable}");
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        if self.meta().last < durable {
            return Ok(Pruned::NotYet);
        }
        let (mut gone, mut looked, mut bytes, mut at) = (Vec::new(), 0, 0, after);
        self.scan(after, floor, &mut |encoded| {
            at = encoded.record.revision;
            looked += 1;
            bytes += encoded.bytes.len();
            gone.extend(superseded(&encoded.record));
            gone.extend(buried(&encoded.record, floor));
            if looked < STEP_RECORDS && bytes < STEP_BYTES {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let all = looked < STEP_RECORDS && bytes < STEP_BYTES;
        self.inner
            .write(DELETING, bytes as u64, |connection, meta| {
                // Nothing was deleted that is not committed, and the next start must know.
                meta.committed = meta.committed.max(floor);
                meta.durable = meta.durable.max(durable);
                delete(connection, meta, &gone)
            })?;
        Ok(if all { Pruned::All } else { Pruned::Upto(at) })
    }

    /// Gives pages that are free, and more than are soon needed, back to the file system; one step of it.
    /// The file is shorter after the next checkpoint. False if nothing is left to give.
    ///
    /// # Errors
    /// The store's failure.
    pub fn shrink(&self) -> Result<bool, Failure> {
        let mut more = false;
        let weight = STEP_PAGES * 4096;
        self.inner.write(SHRINKING, weight, |connection, _| {
            let count = |pragma| {
                connection
                    .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
                    .map(|pages| u64::try_from(pages).unwrap_or(0))
                    .attempt(SHRINKING)
            };
            let (pages, free) = (count("page_count")?, count("freelist_count")?);
            let spare = SPARE_PAGES + pages.saturating_sub(free) / 4;
            let surplus = free.saturating_sub(spare).min(STEP_PAGES);
            if surplus > 0 {
                give_back(connection, surplus).attempt(SHRINKING)?;
                // A file that was made without the means to shrink stays as it is.
                more = count("page_count")? < pages;
            }
            Ok(())
        })?;
        Ok(more)
    }
}

/// What `record` took the place of.
fn superseded(record: &Record) -> Option<Revision> {
    let prev = record.prev_revision;
    let is_one = record.kind == Kind::Write && prev > Revision::ZERO && prev < record.revision;
    is_one.then_some(prev)
}

/// `record` itself, if it says nothing any more below `floor`.
fn buried(record: &Record, floor: Revision) -> Option<Revision> {
    let silent = record.deleted || record.kind == Kind::Compaction;
    (silent && record.revision < floor).then_some(record.revision)
}

/// Deletes Records inside a transaction; epoch Records stay.
pub(super) fn delete(
    connection: &Connection,
    meta: &mut Meta,
    revisions: &[Revision],
) -> Result<(), Failure> {
    let Some(highest) = revisions.iter().max() else {
        return Ok(());
    };
    assert!(
        *highest < meta.committed,
        "deleting {highest}, committed {}",
        meta.committed
    );
    let mut delete = connection
        .prepare_cached(
            "DELETE FROM records WHERE revision = ?1 AND revision NOT IN (SELECT first FROM epochs)",
        )
        .attempt(DELETING)?;
    for revision in revisions {
        delete.execute([revision.wire()]).attempt(DELETING)?;
    }
    meta.pruned = meta.pruned.max(*highest);
    Ok(())
}

/// Every row of the answer is a page that was given back.
fn give_back(connection: &Connection, pages: u64) -> rusqlite::Result<()> {
    let mut give = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = give.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
