//! The bucket: object storage as the cluster's one permanent store.
//!
//! Small documents are changed by conditional writes whose outcome is always settled by reading back
//! ([`document`]); Chunks and Snapshots are created once and never changed ([`chunks`], [`snapshots`]).
//! Any store that `object_store` speaks to will do if it passes the [`selftest`]; local files are one
//! ([`local`]). The library never retries: files are read again here, everything else by whoever asked.

pub mod chunks;
pub mod document;
pub mod faults;
mod folder;
pub mod local;
pub mod names;
pub mod open;
pub mod selftest;
pub mod snapshots;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt};
use rules::revision::Revision;

use crate::datafile::Damaged;

pub use chunks::{Onward, Slot};
pub use document::{Swapped, Version, Versioned, fresh_mark};
pub use names::Document;
pub use open::{AccessKey, BucketConfig, install_crypto, open};

/// How often a read is tried before its failure is told.
const READ_ATTEMPTS: u32 = 3;
/// Pause before a read is tried again; doubles each time.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// Longest text of a store's own error that is passed on, in bytes.
const WHY_LIMIT: usize = 300;

/// One cluster's place in object storage. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    /// For people: a URL without secrets.
    name: Arc<str>,
    cluster_id: Arc<str>,
    /// Short limits: what waits for a document cannot wait for long.
    documents: Arc<dyn ObjectStore>,
    /// Long limits: Snapshots, lists.
    files: Arc<dyn ObjectStore>,
    /// Limits that grow with the size: Chunks.
    chunks: Arc<dyn ObjectStore>,
    timeouts: Timeouts,
}

/// How long one request to the store may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect.
    pub connect: Duration,
    /// To read or write a document, from beginning to end.
    pub document: Duration,
    /// To create a Chunk, and a second more for each MiB: the fence of a new Primary may be large. Commits wait for
    /// it, and sending it again is safe.
    pub chunk: Duration,
    /// To read a Chunk, and a second more for each MiB; to read or write a part of a Snapshot, or for one page of a list.
    pub file: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(2),
            document: Duration::from_secs(5),
            chunk: Duration::from_secs(15),
            file: Duration::from_secs(60),
        }
    }
}

/// Why the bucket did not do what was attempted; a variant for each thing a caller may do about it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The store did not answer, or not usefully. Try again, later and later; it may have been done.
    #[error("{attempted} `{object}` in `{bucket}` failed: {why}")]
    TryAgain {
        /// What was attempted, as in "reading".
        attempted: &'static str,
        /// The object's name below the prefix.
        object: String,
        /// The bucket.
        bucket: String,
        /// Why, in the store's words.
        why: String,
    },
    /// The store refuses our credentials or permissions. Tell the operator; try again after a while.
    #[error(
        "{attempted} `{object}` in `{bucket}` is not allowed: {why}; check credentials and policy"
    )]
    Denied {
        /// What was attempted.
        attempted: &'static str,
        /// The object's name below the prefix.
        object: String,
        /// The bucket.
        bucket: String,
        /// Why, in the store's words.
        why: String,
    },
    /// A Chunk or Snapshot that cannot be believed. Go no further; raise CORRUPT.
    #[error("in `{bucket}`, {damaged}")]
    Damaged {
        /// The bucket.
        bucket: String,
        /// Which object, where, and what is wrong.
        damaged: Damaged,
    },
    /// A document that cannot be read. Go no further until an operator has looked at it.
    #[error("`{object}` in `{bucket}` is not a valid document: {why}")]
    Unreadable {
        /// The document's name below the prefix.
        object: String,
        /// The bucket.
        bucket: String,
        /// What is wrong with it.
        why: String,
    },
    /// A Chunk is missing in the middle of the chain. Go no further; raise CORRUPT.
    #[error("`{bucket}` has no chunk that starts at revision {missing}, but one at {found}")]
    Gap {
        /// The bucket.
        bucket: String,
        /// The slot that should be taken.
        missing: Revision,
        /// The first Chunk after it.
        found: Revision,
    },
    /// This configuration or store will never do. Refuse to start.
    #[error("{0}")]
    Unfit(String),
}

impl Bucket {
    /// A bucket over one store (a memory store, a simulated one), with the default limits. `name` is what
    /// errors call it.
    #[must_use]
    pub fn over(store: Arc<dyn ObjectStore>, name: &str, cluster_id: &str) -> Bucket {
        Bucket {
            name: name.into(),
            cluster_id: cluster_id.into(),
            documents: Arc::clone(&store),
            files: Arc::clone(&store),
            chunks: store,
            timeouts: Timeouts::default(),
        }
    }

    /// The same bucket with other limits.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Bucket {
        self.timeouts = timeouts;
        self
    }

    /// The same bucket with a decorator around its stores, such as [`faults::Faults`]. `wrap` is called
    /// once each for the documents, the files and the Chunks.
    #[must_use]
    pub fn wrapped(
        mut self,
        wrap: impl Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Bucket {
        self.documents = wrap(self.documents);
        self.files = wrap(self.files);
        self.chunks = wrap(self.chunks);
        self
    }

    /// What people call it: its URL, without secrets.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster every Chunk and Snapshot in it must belong to.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// When the Chunk in the slot `first` was written, by the store's clock: milliseconds since 1970. `None`:
    /// there is none.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`.
    pub async fn chunk_written_at(&self, first: Revision) -> Result<Option<i64>, Failure> {
        self.written_at(&names::chunk(first)).await
    }

    /// The same of the Snapshot at `revision`.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`.
    pub async fn snapshot_written_at(&self, revision: Revision) -> Result<Option<i64>, Failure> {
        self.written_at(&names::snapshot(revision)).await
    }

    async fn written_at(&self, location: &Path) -> Result<Option<i64>, Failure> {
        let look = || within(self.timeouts.document, self.files.head(location));
        match patiently(look).await {
            Ok(meta) => Ok(Some(meta.last_modified.timestamp_millis())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure("looking at", location, &error)),
        }
    }

    /// Every location in `folder` after `after`, in no particular order.
    async fn list(&self, folder: Path, after: Option<&Path>) -> Result<Vec<Path>, Failure> {
        let attempt = || async {
            let mut found = match after {
                Some(after) => self.files.list_with_offset(Some(&folder), after),
                None => self.files.list(Some(&folder)),
            };
            let mut locations = Vec::new();
            while let Some(meta) = within(self.timeouts.file, next(&mut found)).await? {
                locations.push(meta.location);
            }
            Ok(locations)
        };
        patiently(attempt)
            .await
            .map_err(|error| self.failure("listing", &folder, &error))
    }

    /// Names what was attempted and judges what can be done about `error`.
    fn failure(&self, attempted: &'static str, object: &Path, error: &Error) -> Failure {
        let (object, bucket) = (object.to_string(), self.name.to_string());
        let why = short(&explained(&error.to_string()));
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Failure::Denied {
                attempted,
                object,
                bucket,
                why,
            },
            Error::NotSupported { .. } | Error::NotImplemented { .. } => Failure::Unfit(format!(
                "{attempted} `{object}` in `{bucket}` cannot work: {why}"
            )),
            _ => Failure::TryAgain {
                attempted,
                object,
                bucket,
                why,
            },
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.name)
    }
}

async fn next(
    found: &mut (impl Stream<Item = object_store::Result<ObjectMeta>> + Unpin),
) -> object_store::Result<Option<ObjectMeta>> {
    found.next().await.transpose()
}

/// `limit`, and a second more for each MiB of `bytes`.
fn grown(limit: Duration, bytes: u64) -> Duration {
    limit + Duration::from_secs(bytes >> 20)
}

/// The answer of `operation`, if it comes within `limit`. One that is late may still take effect.
async fn within<T>(
    limit: Duration,
    operation: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    tokio::time::timeout(limit, operation)
        .await
        .unwrap_or_else(|_| {
            let why = format!("no answer within {}", humantime::format_duration(limit));
            Err(Error::Generic {
                store: "bucket",
                source: why.into(),
            })
        })
}

/// Tries a read a few times; not when it is not there, or refused for reasons that time does not heal.
async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut pause = READ_PAUSE;
    for _ in 1..READ_ATTEMPTS {
        match attempt().await {
            Err(Error::Generic { .. } | Error::JoinError { .. }) => {}
            settled => return settled,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    attempt().await
}

/// A store's error. Where it tells of a machine's own credentials it is said that no others were found: they are
/// asked for last.
fn explained(text: &str) -> String {
    let last = ["//169.254.169.254/", "//metadata.google.internal/"];
    if last.iter().any(|place| text.contains(place)) {
        format!("no credentials were found: see docs/OPERATING.md: {text}")
    } else {
        text.to_owned()
    }
}

/// At most [`WHY_LIMIT`] bytes of a store's error, on one line.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = (0..=WHY_LIMIT.min(line.len()))
        .rev()
        .find(|&end| line.is_char_boundary(end));
    line[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_no_credentials_is_told_so_first() {
        let asked =
            "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1s";
        let told = explained(asked);
        assert!(told.starts_with("no credentials were found: see docs/OPERATING.md: Generic"));
        let other = "Error performing PUT http://127.0.0.1:9000/stuff in 1s";
        assert_eq!(explained(other), other);
    }
}
