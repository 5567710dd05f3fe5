//! Documents: small JSON objects, changed only by conditional writes.
//!
//! A conditional write has three outcomes: won, lost, and unknown. Whatever a store answers, only reading
//! back settles an attempt that was not plainly acknowledged: an answer may be lost after the write took
//! effect, and even "already exists" may be the echo of our own write. Therefore every body carries a `seq`
//! and a fresh random `mark`: our own mark means won, another's means lost for ever, and the state we
//! started from means that the request may still land.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::names::{self, Document};
use super::{Bucket, Failure, within};

/// No document is larger, in bytes.
const BODY_LIMIT: u64 = 1 << 20;
/// The highest `format` of a document that this program understands. One that names none is of the first.
const FORMAT: u64 = 1;

/// One state of a document; what a replace names as its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    update: UpdateVersion,
    mark: Option<String>,
}

impl Version {
    /// Whether both are, or could be, the same state. A store that spells one tag in two ways must not
    /// make us believe that a state has gone.
    fn may_be(&self, other: &Version) -> bool {
        let same_tag = self.update.e_tag.is_some() && self.update.e_tag == other.update.e_tag;
        let same_mark = self.mark.is_some() && self.mark == other.mark;
        same_tag || same_mark
    }
}

/// A document as it was read.
#[derive(Clone, Debug)]
pub struct Versioned {
    /// The state it was in.
    pub version: Version,
    /// Its JSON.
    pub body: Bytes,
}

impl Versioned {
    fn new(update: UpdateVersion, body: Bytes) -> Versioned {
        Versioned {
            version: Version {
                update,
                mark: mark_of(&body),
            },
            body,
        }
    }

    /// The random mark of whoever wrote it, `None` if it carries none.
    #[must_use]
    pub fn mark(&self) -> Option<&str> {
        self.version.mark.as_deref()
    }
}

/// How a conditional write ended.
#[derive(Debug)]
pub enum Swapped {
    /// Ours is the document now, or was until somebody replaced it knowingly.
    Won(Version),
    /// It never took effect and never will. What is there instead; `None`: nothing any more.
    Lost(Option<Versioned>),
    /// Not settled: the state is still the one we started from, or cannot be read. The request may land
    /// later. Send the same again, byte for byte, and keep shut what it guards.
    Unknown(Failure),
}

/// A fresh random mark: 128 bits in hexadecimal.
#[must_use]
pub fn fresh_mark() -> String {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(
        filled,
        Ok(bytes.len()),
        "the kernel gives 16 random bytes whole, or there is none"
    );
    format!("{:032x}", u128::from_be_bytes(bytes))
}

impl Bucket {
    /// Reads a document. `None`: there is none.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`; `Unreadable` if it is over 1 MiB, or of a format that only newer programs know.
    pub async fn read(&self, document: &Document) -> Result<Option<Versioned>, Failure> {
        let location = document.location();
        let mut found = within(self.timeouts.document, self.read_once(&location)).await;
        if matches!(&found, Ok(Some(found)) if found.mark().is_none()) {
            // What came may be damaged where the document is not: looked at twice, like a Chunk.
            found = within(self.timeouts.document, self.read_once(&location)).await;
        }
        match found {
            Ok(Some(found)) => match format_of(&found.body) {
                Some(format) if format > FORMAT => {
                    let why = format!(
                        "it is of format {format}, and this version reads up to {FORMAT}; upgrade this node"
                    );
                    Err(self.unreadable(document, &why))
                }
                _ => Ok(Some(found)),
            },
            Ok(None) => Err(self.unreadable(document, "it is over 1 MiB")),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure("reading", &location, &error)),
        }
    }

    /// Reads a document's body as a `T`.
    ///
    /// # Errors
    /// As [`Bucket::read`]; `Unreadable` if it is not the JSON of a `T`.
    pub async fn read_as<T: DeserializeOwned>(
        &self,
        document: &Document,
    ) -> Result<Option<(Version, T)>, Failure> {
        let Some(found) = self.read(document).await? else {
            return Ok(None);
        };
        let content = self.parse(document, &found)?;
        Ok(Some((found.version, content)))
    }

    /// What a document that was read says.
    ///
    /// # Errors
    /// `Unreadable` if it is not the JSON of a `T`.
    pub fn parse<T: DeserializeOwned>(
        &self,
        document: &Document,
        found: &Versioned,
    ) -> Result<T, Failure> {
        serde_json::from_slice(&found.body)
            .map_err(|error| self.unreadable(document, &error.to_string()))
    }

    /// ONE attempt to create (`expected` = `None`) or replace a document, settled by reading back. `body`
    /// is JSON with a `seq` one above the one replaced, and the fresh `mark`. One that is too large to be read
    /// again is not sent: `Unknown`, with an `Unreadable` that says so.
    pub async fn swap(
        &self,
        document: &Document,
        expected: Option<&Version>,
        body: Bytes,
        mark: &str,
    ) -> Swapped {
        debug_assert_eq!(
            mark_of(&body).as_deref(),
            Some(mark),
            "the body carries its mark"
        );
        if body.len() as u64 > BODY_LIMIT {
            let why = format!(
                "it would be {} bytes, over 1 MiB, and nobody could read it again; it was not written",
                body.len()
            );
            return Swapped::Unknown(self.unreadable(document, &why));
        }
        let location = document.location();
        let mode = match expected {
            None => PutMode::Create,
            Some(version) => PutMode::Update(version.update.clone()),
        };
        let put = self
            .documents
            .put_opts(&location, PutPayload::from(body), mode.into());
        match within(self.timeouts.document, put).await {
            Ok(done) if done.e_tag.is_some() || done.version.is_some() => {
                let update = UpdateVersion {
                    e_tag: done.e_tag,
                    version: done.version,
                };
                Swapped::Won(Version {
                    update,
                    mark: Some(mark.to_owned()),
                })
            }
            Ok(_) => {
                let silent = Error::Generic {
                    store: "bucket",
                    source: "it gave no etag".into(),
                };
                self.settle(document, expected, mark, &silent).await
            }
            Err(error) => self.settle(document, expected, mark, &error).await,
        }
    }

    /// What became of an attempt that ended in `error`.
    async fn settle(
        &self,
        document: &Document,
        expected: Option<&Version>,
        mark: &str,
        error: &Error,
    ) -> Swapped {
        let unsettled = self.failure("replacing", &document.location(), error);
        tracing::debug!(document = %document.location(), why = %unsettled, "a write needs settling");
        match (self.read(document).await, expected) {
            (Ok(Some(found)), _) if found.mark() == Some(mark) => Swapped::Won(found.version),
            (Ok(Some(found)), Some(start)) if found.version.may_be(start) => {
                Swapped::Unknown(unsettled)
            }
            (Ok(Some(found)), _) => Swapped::Lost(Some(found)),
            (Ok(None), Some(_)) => Swapped::Lost(None),
            (Ok(None), None) => Swapped::Unknown(unsettled),
            (Err(unreadable), _) => Swapped::Unknown(unreadable),
        }
    }

    /// Deletes a document, whatever state it is in. Fine if there is none.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`. It may have been deleted all the same.
    pub async fn remove(&self, document: &Document) -> Result<(), Failure> {
        let location = document.location();
        match within(self.timeouts.document, self.documents.delete(&location)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failure("deleting", &location, &error)),
        }
    }

    /// The node_ids that have a registration, in order.
    ///
    /// # Errors
    /// `TryAgain`, `Denied`.
    pub async fn list_nodes(&self) -> Result<Vec<String>, Failure> {
        let locations = self.list(names::nodes(), None).await?;
        let mut nodes: Vec<String> = locations.iter().filter_map(names::parse_node).collect();
        nodes.sort_unstable();
        Ok(nodes)
    }

    /// `None` if it is too large to be a document.
    async fn read_once(&self, location: &Path) -> object_store::Result<Option<Versioned>> {
        let found = self.documents.get(location).await?;
        if found.meta.size > BODY_LIMIT {
            return Ok(None);
        }
        let size = found.meta.size;
        let update = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let body = found.bytes().await?;
        if body.len() as u64 != size {
            let why = format!("only {} of {size} bytes came", body.len());
            return Err(Error::Generic {
                store: "bucket",
                source: why.into(),
            });
        }
        Ok(Some(Versioned::new(update, body)))
    }

    fn unreadable(&self, document: &Document, why: &str) -> Failure {
        Failure::Unreadable {
            object: document.location().to_string(),
            bucket: self.name.to_string(),
            why: why.to_owned(),
        }
    }
}

/// The mark in a document's body.
fn mark_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Marked {
        mark: String,
    }
    serde_json::from_slice::<Marked>(body)
        .ok()
        .map(|marked| marked.mark)
}

/// The format that a document says it is of.
fn format_of(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Formatted {
        format: u64,
    }
    serde_json::from_slice::<Formatted>(body)
        .ok()
        .map(|formatted| formatted.format)
}
