//! Batch: what is to become durable together, and how it is applied inside a transaction.
//!
//! A Batch is judged when it is submitted, against where the log will end by then; so a gap or a lost
//! committed Record is a fault that shows at the caller, before anything is written.

use rules::record::Kind;
use rules::revision::{Epoch, Revision};
use rusqlite::{Connection, params};

use super::Meta;
use crate::datafile::Encoded;

/// What becomes durable together, in this order: truncate, append, numbers. Numbers only rise.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Forget every Record above; never below committed.
    pub truncate_above: Option<Revision>,
    /// Records to append, contiguous from the last one. A higher epoch among them raises the promise.
    pub append: Vec<Encoded>,
    /// The highest epoch promised.
    pub promised: Option<Epoch>,
    /// The committed Revision; never above the last Record.
    pub committed: Option<Revision>,
    /// The last Revision known to be durable in the bucket without a gap.
    pub durable: Option<Revision>,
    /// The number of this start.
    pub boot_seq: Option<u64>,
}

/// Where the log will end, and what will be committed, when everything submitted is on disk.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    pub(super) last: Revision,
    pub(super) committed: Revision,
}

impl Tail {
    pub(super) fn of(meta: &Meta) -> Tail {
        Tail {
            last: meta.last,
            committed: meta.committed,
        }
    }

    /// Moves on over `batch`; what it may not do is a fault of the caller.
    pub(super) fn pass(&mut self, batch: &Batch) {
        if let Some(last) = batch.truncate_above {
            let committed = self.committed;
            assert!(
                last >= committed,
                "truncating to {last}, and {committed} is committed"
            );
            self.last = self.last.min(last);
        }
        for record in &batch.append {
            let revision = record.record.revision;
            assert!(
                revision == self.last.next(),
                "Record {revision} after Record {}",
                self.last
            );
            self.last = revision;
        }
        if let Some(committed) = batch.committed {
            let last = self.last;
            assert!(
                committed <= last,
                "committing {committed}, and the last Record is {last}"
            );
            self.committed = self.committed.max(committed);
        }
    }
}

impl Batch {
    /// Bytes it brings, roughly.
    pub(super) fn weight(&self) -> u64 {
        self.append
            .iter()
            .map(|record| record.bytes.len() as u64)
            .sum()
    }

    /// Applies it inside an open transaction, and to `meta`. Its numbers are written by the caller.
    pub(super) fn apply(&self, connection: &Connection, meta: &mut Meta) -> rusqlite::Result<()> {
        if let Some(last) = self.truncate_above.filter(|last| *last < meta.last) {
            truncate(connection, meta, last)?;
        }
        append(connection, meta, &self.append)?;
        meta.promised = meta.promised.max(self.promised.unwrap_or_default());
        meta.committed = meta.committed.max(self.committed.unwrap_or_default());
        meta.durable = meta.durable.max(self.durable.unwrap_or_default());
        meta.boot_seq = meta.boot_seq.max(self.boot_seq.unwrap_or_default());
        Ok(())
    }
}

fn truncate(connection: &Connection, meta: &mut Meta, last: Revision) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM records WHERE revision > ?1", [last.wire()])?;
    connection.execute("DELETE FROM epochs WHERE first > ?1", [last.wire()])?;
    meta.epochs.retain(|(_, first)| *first <= last);
    meta.last = last;
    Ok(())
}

fn append(connection: &Connection, meta: &mut Meta, records: &[Encoded]) -> rusqlite::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let mut insert =
        connection.prepare_cached("INSERT INTO records(revision, record) VALUES (?1, ?2)")?;
    for Encoded { record, bytes } in records {
        insert.execute(params![record.revision.wire(), &bytes[..]])?;
        meta.last = record.revision;
        meta.promised = meta.promised.max(record.epoch);
        if record.kind == Kind::Epoch {
            add_epoch(connection, record.epoch, record.revision)?;
            meta.epochs.push((record.epoch, record.revision));
        }
    }
    Ok(())
}

/// Adds one line to the epoch table.
pub(super) fn add_epoch(
    connection: &Connection,
    epoch: Epoch,
    first: Revision,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO epochs(first, epoch) VALUES (?1, ?2)")?
        .execute(params![first.wire(), epoch.0 as i64])?;
    Ok(())
}
