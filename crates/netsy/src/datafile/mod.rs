//! The .netsy file format: bytes in, bytes out. No I/O, no clock, no task.
//!
//! A file is one header, Records, one footer, each framed by a varint length; everything after the header
//! may be one zstd frame. A [`record`] has exactly one encoding, which SQLite rows, Follow streams, Chunks
//! and Snapshots share. A [`chunk`] is decoded whole, a [`snapshot`] is streamed both ways in bounded memory.
//! Whatever the input, a reader here answers with an error that says where, never panics, and never
//! allocates by a length it has not checked. docs/DATAFILE.md is the contract.

use std::fmt;

use bytes::Bytes;
use rules::record::Record;
use rules::revision::{Epoch, Revision};
use thiserror::Error;

pub mod chunk;
mod envelope;
mod reader;
pub mod record;
pub mod snapshot;
mod wire;
mod writer;

mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("netsy");
}

/// The schema version this code writes. It reads this one and 0, which is the ancestor's.
pub const SCHEMA_VERSION: u32 = 1;

/// The most bytes one message of a file may take. A Record holds at most 1.5 MiB of value.
pub const MESSAGE_CAP: usize = 4 * 1024 * 1024;

/// A Record beside its one encoding (crc first, no length frame).
///
/// Two are equal when their bytes are: the bytes decide everything the Record says.
#[derive(Clone)]
pub struct Encoded {
    /// What it says.
    pub record: Record,
    /// How it is stored and sent.
    pub bytes: Bytes,
}

impl Encoded {
    /// Encodes `record` once, for every store and stream it will go to.
    #[must_use]
    pub fn new(record: Record) -> Encoded {
        let bytes = record::encode(&record);
        Encoded { record, bytes }
    }

    /// Reads and checks one encoding. Key and value share `bytes`.
    ///
    /// # Errors
    /// As [`record::decode`].
    pub fn read(bytes: Bytes) -> Result<Encoded, Malformed> {
        let record = record::decode(&bytes)?;
        Ok(Encoded { record, bytes })
    }
}

impl PartialEq for Encoded {
    fn eq(&self, other: &Encoded) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Encoded {}

/// Keys and values stay out of logs.
impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded")
            .field("revision", &self.record.revision.0)
            .field("epoch", &self.record.epoch.0)
            .field("kind", &self.record.kind)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Who wrote a file, and when. Information for people: never compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The cluster it belongs to; the one field that is checked. Empty in the ancestor's files.
    pub cluster_id: String,
    /// The Node that wrote it.
    pub node_id: String,
    /// The epoch that Node wrote it in.
    pub epoch: Epoch,
    /// The writer's wall clock, nanoseconds since 1970.
    pub created_at: i64,
}

/// One message that cannot be what its writer wrote, or that this version must not guess at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{why}")]
pub struct Malformed {
    /// What is wrong, without any content.
    pub why: String,
}

impl Malformed {
    fn new(why: impl Into<String>) -> Malformed {
        Malformed { why: why.into() }
    }
}

/// A file that cannot be trusted. Nothing of it may be used, and it is never "the end of the chain".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The object's name.
    pub object: String,
    /// Where the message begins that is wrong, in bytes of the file as it would be uncompressed.
    pub offset: u64,
    /// The Record that is wrong, as far as it is known.
    pub record: Option<Revision>,
    /// What is wrong, without any content.
    pub why: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` cannot be trusted: at byte {}", self.object, self.offset)?;
        if let Some(revision) = self.record {
            write!(f, ", Record {revision}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for Damaged {}

/// The Revision in an object's name: its last path segment is `{revision:019}.netsy`.
fn revision_in_name(object: &str) -> Option<Revision> {
    let digits = object.rsplit('/').next()?.strip_suffix(".netsy")?;
    if digits.len() != 19 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Revision)
}

#[cfg(test)]
pub(crate) mod tests;
