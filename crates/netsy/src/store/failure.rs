//! Failures of the store, named by what the caller must do about them.
//!
//! SQLite's codes and the file system's errors are translated here and nowhere else.

use std::path::PathBuf;

use rules::revision::Revision;
use rusqlite::ErrorCode;
use rusqlite::ffi;
use thiserror::Error;

/// Why the store did not do what was asked.
///
/// After `Full` or `Broken` from a write, the store acknowledges nothing more until
/// [`Store::recover`](super::Store::recover) has succeeded; what was submitted meanwhile may or may not
/// be on disk, and only the [`Meta`](super::Meta) that `recover` returns says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// Stop the other process, or give this one another directory.
    #[error("data directory `{}` is in use by another process{}; it serves one Node", .dir.display(), holder(.pid))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other process, if its id could be read.
        pid: Option<u32>,
    },
    /// Give the Node its own directory.
    #[error(
        "data directory `{}` belongs to Node `{node_id}` of cluster `{cluster_id}`, and this is \
         {asked}; correct the configuration or use another directory",
        .dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The cluster it belongs to.
        cluster_id: String,
        /// The Node it belongs to.
        node_id: String,
        /// Who asked, in words.
        asked: String,
    },
    /// Upgrade the Node.
    #[error(
        "data directory `{}` was written in schema version {found}, and this version reads up to \
         {ours}; upgrade this Node",
        .dir.display()
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The version found.
        found: i64,
        /// The version this code writes.
        ours: i64,
    },
    /// Free space, then recover.
    #[error("{attempted}: no space is left: {why}")]
    Full {
        /// What was attempted.
        attempted: &'static str,
        /// The system's words.
        why: String,
    },
    /// Recover; if that fails, set the directory aside and rebuild from the bucket.
    #[error("{attempted}: {why}")]
    Broken {
        /// What was attempted.
        attempted: &'static str,
        /// The system's words.
        why: String,
    },
    /// Set the directory aside and rebuild from the bucket.
    #[error("the local database is corrupt{}: {why}", place(.revision))]
    Corrupt {
        /// The Record that is wrong, if it is one.
        revision: Option<Revision>,
        /// What is wrong, without any content.
        why: String,
    },
    /// Ask no more: the store is closed.
    #[error("the store is closed")]
    Closed,
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn place(revision: &Option<Revision>) -> String {
    revision
        .map(|revision| format!(" at Record {revision}"))
        .unwrap_or_default()
}

impl Failure {
    /// What SQLite's error means to the caller of `attempted`.
    pub(super) fn of(attempted: &'static str, error: &rusqlite::Error) -> Failure {
        let why = error.to_string();
        let Some(code) = error.sqlite_error() else {
            return Failure::Broken { attempted, why };
        };
        match (code.code, code.extended_code) {
            (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => {
                Failure::Full { attempted, why }
            }
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Failure::Corrupt {
                revision: None,
                why,
            },
            _ => Failure::Broken { attempted, why },
        }
    }

    /// What an error of the file system means to the caller of `attempted`.
    pub(super) fn of_file(
        attempted: &'static str,
        path: &std::path::Path,
        error: &std::io::Error,
    ) -> Failure {
        let why = format!("`{}`: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Failure::Full { attempted, why }
            }
            _ => Failure::Broken { attempted, why },
        }
    }
}

/// Names what was attempted on the way from SQLite's result to ours.
pub(super) trait Attempt<T> {
    fn attempt(self, attempted: &'static str) -> Result<T, Failure>;
}

impl<T> Attempt<T> for rusqlite::Result<T> {
    fn attempt(self, attempted: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::of(attempted, &error))
    }
}
