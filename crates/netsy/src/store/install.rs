//! Installing a Snapshot: its Records gather in a table of their own, and take the log's place at once.
//!
//! Gathering is many small transactions, the exchange one, whatever the size. A crash before it leaves the
//! log as it was. The promise survives, and so do Records above the Snapshot that belong behind it.

use std::sync::Arc;

use rules::record::Kind;
use rules::revision::{Epoch, Revision};
use rusqlite::{Connection, params};

use super::batch::{Tail, add_epoch};
use super::failure::{Attempt, Failure};
use super::{Inner, Meta};
use crate::datafile::Encoded;

const INSTALLING: &str = "installing a Snapshot";

/// A Snapshot on its way into the store: `push` batches, then `finish`. Dropped, it changes nothing.
pub struct Install {
    inner: Arc<Inner>,
    last: Revision,
    epochs: Vec<(Epoch, Revision)>,
}

impl Install {
    /// Makes room for the Snapshot, and throws away what an unfinished install left.
    pub(super) fn begin(inner: Arc<Inner>) -> Result<Install, Failure> {
        inner.write(INSTALLING, 0, |connection, _| {
            connection
                .execute_batch(
                    "DROP TABLE IF EXISTS incoming;
                     CREATE TABLE incoming(revision INTEGER PRIMARY KEY, record BLOB NOT NULL);",
                )
                .attempt(INSTALLING)
        })?;
        Ok(Install {
            inner,
            last: Revision::ZERO,
            epochs: Vec::new(),
        })
    }

    /// Takes in the next Records, as a Snapshot's decoder yields them. Waits for the disk.
    ///
    /// # Errors
    /// The store's failure; the install is then over.
    ///
    /// # Panics
    /// If Revisions do not ascend.
    pub fn push(&mut self, records: &[Encoded]) -> Result<(), Failure> {
        for Encoded { record, .. } in records {
            assert!(record.revision > self.last, "a Snapshot's Revisions ascend");
            self.last = record.revision;
            if record.kind == Kind::Epoch {
                self.epochs.push((record.epoch, record.revision));
            }
        }
        let weight = records.iter().map(|record| record.bytes.len() as u64).sum();
        self.inner.write(INSTALLING, weight, |connection, _| {
            gather(connection, records).attempt(INSTALLING)
        })?;
        Ok(())
    }

    /// Replaces everything at or below the last Record pushed, which is then committed and durable.
    /// Records above stay only if the Node's epoch table gives that Revision the epoch that the Snapshot
    /// does. Waits until everything submitted before is on disk, and `submit` waits
    /// meanwhile. Returns what the store now holds.
    ///
    /// # Errors
    /// `Corrupt` if that would forget a committed Record; otherwise the store's failure.
    ///
    /// # Panics
    /// If nothing was pushed.
    pub fn finish(self) -> Result<Meta, Failure> {
        assert!(self.last > Revision::ZERO, "a Snapshot holds a Record");
        let inner = &self.inner;
        let mut queue = inner.quiet();
        if let Some(failure) = queue.failed.clone() {
            return Err(failure);
        }
        self.judge(&inner.meta())?;
        let exchanged = inner.transact_alone(INSTALLING, |connection, meta| {
            self.exchange(connection, meta).attempt(INSTALLING)
        });
        match exchanged {
            Ok(meta) => {
                queue.tail = Tail::of(&meta);
                Ok(meta)
            }
            Err(failure) => {
                queue.failed = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// A Snapshot that contradicts committed Records is not installed over them.
    fn judge(&self, meta: &Meta) -> Result<(), Failure> {
        if self.keeps_tail(meta) || meta.committed <= self.last {
            return Ok(());
        }
        let why = format!(
            "the Snapshot at {} is of another epoch than the Records up to {} that are committed here",
            self.last, meta.committed
        );
        Err(Failure::Corrupt {
            revision: Some(self.last),
            why,
        })
    }

    fn keeps_tail(&self, meta: &Meta) -> bool {
        meta.last > self.last
            && epoch_at(&meta.epochs, self.last) == epoch_at(&self.epochs, self.last)
    }

    fn exchange(&self, connection: &Connection, meta: &mut Meta) -> rusqlite::Result<()> {
        let last = self.last.wire();
        let mut epochs = self.epochs.clone();
        if self.keeps_tail(meta) {
            connection.execute(
                "INSERT INTO incoming SELECT revision, record FROM records WHERE revision > ?1",
                [last],
            )?;
            epochs.extend(meta.epochs.iter().filter(|(_, first)| *first > self.last));
        } else {
            meta.last = self.last;
        }
        connection.execute_batch(
            "DROP TABLE records; ALTER TABLE incoming RENAME TO records; DELETE FROM epochs;",
        )?;
        for (epoch, first) in &epochs {
            add_epoch(connection, *epoch, *first)?;
            meta.promised = meta.promised.max(*epoch);
        }
        meta.epochs = epochs;
        meta.committed = meta.committed.max(self.last);
        meta.durable = meta.durable.max(self.last);
        meta.pruned = meta.pruned.max(self.last);
        Ok(())
    }
}

impl std::fmt::Debug for Install {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Install(up to Record {})", self.last)
    }
}

fn gather(connection: &Connection, records: &[Encoded]) -> rusqlite::Result<()> {
    let mut insert =
        connection.prepare_cached("INSERT INTO incoming(revision, record) VALUES (?1, ?2)")?;
    for Encoded { record, bytes } in records {
        insert.execute(params![record.revision.wire(), &bytes[..]])?;
    }
    Ok(())
}

/// The epoch an epoch table gives to a Revision; 0 below its first line.
fn epoch_at(epochs: &[(Epoch, Revision)], revision: Revision) -> Epoch {
    let line = epochs.iter().rev().find(|(_, first)| *first <= revision);
    line.map_or(Epoch::ZERO, |(epoch, _)| *epoch)
}
