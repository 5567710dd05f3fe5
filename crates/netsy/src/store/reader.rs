//! Reads, from any thread and beside the writer: a few connections that are handed around.
//!
//! Every row is decoded, so every read checks a crc. Scans read page by page and hold no snapshot between
//! pages, since an open reader keeps the write-ahead log from being reused. In memory there is one
//! connection for all.

use std::ops::ControlFlow;

use bytes::Bytes;
use parking_lot::Mutex;
use rules::revision::Revision;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::failure::{Attempt, Failure};
use super::{Inner, schema};
use crate::datafile::Encoded;
use crate::standing::Sizes;

/// A scan reads about this many bytes at a time.
const PAGE_BYTES: usize = 1024 * 1024;
/// Idle connections kept.
const KEPT: usize = 8;
const READING: &str = "reading Records";

/// Idle reading connections, and how often they were all thrown away.
#[derive(Default)]
pub(super) struct Readers(Mutex<(u64, Vec<Connection>)>);

impl Readers {
    /// Throws every connection away, those at work when they come back.
    pub(super) fn clear(&self) {
        let mut pool = self.0.lock();
        pool.0 += 1;
        pool.1.clear();
    }
}

impl Inner {
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let Some(home) = &self.home else {
            return work(&self.disk.lock());
        };
        let (generation, idle) = {
            let mut pool = self.readers.0.lock();
            (pool.0, pool.1.pop())
        };
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_file(home, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let result = work(&connection);
        let mut pool = self.readers.0.lock();
        if pool.0 == generation && pool.1.len() < KEPT {
            pool.1.push(connection);
        }
        result
    }

    pub(super) fn get_many(&self, revisions: &[Revision]) -> Result<Vec<Encoded>, Failure> {
        self.read(|connection| {
            let mut select = connection
                .prepare_cached("SELECT revision, record FROM records WHERE revision = ?1")
                .attempt(READING)?;
            let mut found = Vec::with_capacity(revisions.len());
            for revision in revisions {
                let row = select
                    .query_row([revision.wire()], raw)
                    .optional()
                    .attempt(READING)?;
                if let Some(row) = row {
                    found.push(decode(row)?);
                }
            }
            Ok(found)
        })
    }

    pub(super) fn scan(
        &self,
        after: Revision,
        upto: Revision,
        visit: &mut dyn FnMut(Encoded) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let upto = upto.min(self.meta.lock().last);
        let mut at = after;
        while at < upto {
            let page = self.page(at, upto)?;
            if page.is_empty() {
                return if self.is_lost(upto)? {
                    Err(lost(upto))
                } else {
                    Ok(())
                };
            }
            for record in page {
                // It stands right behind the one before, unless compaction took what was between.
                let found = record.record.revision;
                if found != at.next() && self.is_lost(found.prev())? {
                    return Err(lost(found.prev()));
                }
                at = found;
                if visit(record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn page(&self, after: Revision, upto: Revision) -> Result<Vec<Encoded>, Failure> {
        self.read(|connection| {
            let mut select = connection
                .prepare_cached(
                    "SELECT revision, record FROM records WHERE revision > ?1 AND revision <= ?2
                     ORDER BY revision",
                )
                .attempt(READING)?;
            let mut rows = select
                .query(params![after.wire(), upto.wire()])
                .attempt(READING)?;
            let (mut page, mut bytes) = (Vec::new(), 0);
            while bytes < PAGE_BYTES {
                let Some(row) = rows.next().attempt(READING)? else {
                    break;
                };
                let record = decode(raw(row).attempt(READING)?)?;
                bytes += record.bytes.len();
                page.push(record);
            }
            Ok(page)
        })
    }

    /// Whether a Record that a scan did not see should be there: it is neither compacted nor truncated.
    fn is_lost(&self, revision: Revision) -> Result<bool, Failure> {
        // What was pruned once never comes back.
        if revision <= self.meta.lock().pruned {
            return Ok(false);
        }
        // While the disk is held, `meta` and the tables agree.
        let disk = self.disk.lock();
        let meta = self.meta();
        if revision <= meta.pruned || revision > meta.last {
            return Ok(false);
        }
        let look = |connection: &Connection| {
            connection
                .query_row(
                    "SELECT 1 FROM records WHERE revision = ?1",
                    [revision.wire()],
                    |_| Ok(()),
                )
                .optional()
                .attempt(READING)
        };
        // A failed store may have no writing connection; its file can still be read.
        let row = if self.home.is_some() {
            self.read(look)?
        } else {
            look(&disk)?
        };
        Ok(row.is_none())
    }

    pub(super) fn sizes(&self) -> Result<Sizes, Failure> {
        self.read(|connection| {
            let pragma = |name| {
                connection
                    .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                    .map(|value| u64::try_from(value).unwrap_or(0))
                    .attempt("measuring the database")
            };
            let page = pragma("page_size")?;
            let (total, free) = (pragma("page_count")?, pragma("freelist_count")?);
            Ok(Sizes {
                total: total * page,
                in_use: total.saturating_sub(free) * page,
            })
        })
    }
}

fn raw(row: &Row<'_>) -> rusqlite::Result<(Revision, Bytes)> {
    let revision = Revision(row.get::<_, i64>(0)? as u64);
    Ok((
        revision,
        Bytes::copy_from_slice(row.get_ref(1)?.as_bytes()?),
    ))
}

fn decode((revision, bytes): (Revision, Bytes)) -> Result<Encoded, Failure> {
    let corrupt = |why| Failure::Corrupt {
        revision: Some(revision),
        why,
    };
    let record = Encoded::read(bytes).map_err(|error| corrupt(error.why))?;
    if record.record.revision != revision {
        return Err(corrupt(format!(
            "its row holds Record {}",
            record.record.revision
        )));
    }
    Ok(record)
}

fn lost(revision: Revision) -> Failure {
    Failure::Corrupt {
        revision: Some(revision),
        why: "it is missing".to_owned(),
    }
}
