//! What stands around the Records of a file: the header, which is never compressed, and the footer.
//!
//! Only here are the two messages turned into bytes and back. What the numbers in them must be is
//! for the reader to judge.

use bytes::Bytes;
use prost::Message;
use rules::revision::{Epoch, Revision};

use super::proto;
pub(super) use super::proto::{FileCompression as Compression, FileKind as Kind};
use super::{Malformed, Origin, SCHEMA_VERSION, wire};

const HEADER_CRC: u64 = 1;
const FOOTER_CRC: u64 = 8;

/// The opening of a file.
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) compressed: bool,
    pub(super) count: u64,
    /// 0 in the ancestor's files.
    pub(super) first: Revision,
    pub(super) origin: Origin,
}

impl Header {
    /// The header with its length frame.
    pub(super) fn encode(&self) -> Vec<u8> {
        let compression = if self.compressed {
            Compression::CompressionZstd
        } else {
            Compression::CompressionNone
        };
        let mut header = proto::FileHeader {
            crc: 0,
            schema_version: SCHEMA_VERSION,
            kind: self.kind.into(),
            compression: compression.into(),
            records_count: self.count as i64,
            leader_id: self.origin.node_id.clone(),
            created_at: (self.origin.created_at != 0).then(|| prost_types::Timestamp {
                seconds: self.origin.created_at.div_euclid(1_000_000_000),
                nanos: self.origin.created_at.rem_euclid(1_000_000_000) as i32,
            }),
            cluster_id: self.origin.cluster_id.clone(),
            epoch: self.origin.epoch.0,
            first_revision: self.first.wire(),
        };
        header.crc = wire::crc(&header.encode_to_vec());
        header.encode_length_delimited_to_vec()
    }

    /// Checks and reads a header that stands without its frame.
    pub(super) fn decode(bytes: &Bytes) -> Result<Header, Malformed> {
        wire::check(bytes, HEADER_CRC)?;
        let header = proto::FileHeader::decode(bytes.clone())
            .map_err(|error| Malformed::new(format!("the header cannot be read: {error}")))?;
        if header.schema_version > SCHEMA_VERSION {
            return Err(Malformed::new(format!(
                "it was written in schema version {}, and this version reads up to \
                 {SCHEMA_VERSION}; upgrade this Node",
                header.schema_version
            )));
        }
        let compressed = match header.compression() {
            Compression::CompressionNone => false,
            Compression::CompressionZstd => true,
            Compression::CompressionUnknown => {
                return Err(Malformed::new(format!(
                    "its compression is {}",
                    header.compression
                )));
            }
        };
        let created_at = header.created_at.unwrap_or_default();
        Ok(Header {
            kind: header.kind(),
            compressed,
            count: natural(header.records_count, "records_count")?,
            first: Revision(natural(header.first_revision, "first_revision")?),
            origin: Origin {
                cluster_id: header.cluster_id,
                node_id: header.leader_id,
                epoch: Epoch(header.epoch),
                created_at: wire::nanoseconds(created_at.seconds, i64::from(created_at.nanos)),
            },
        })
    }
}

/// The close of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// Running crc over every Record without its own crc.
    pub(super) records_crc: u64,
    pub(super) first: Revision,
    pub(super) last: Revision,
}

impl Footer {
    /// The footer with its length frame.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut footer = proto::FileFooter {
            records_crc: self.records_crc,
            first_revision: self.first.wire(),
            last_revision: self.last.wire(),
            crc: 0,
        };
        footer.crc = wire::crc(&footer.encode_to_vec());
        footer.encode_length_delimited_to_vec()
    }

    /// Checks and reads a footer that stands without its frame.
    pub(super) fn decode(bytes: &Bytes) -> Result<Footer, Malformed> {
        wire::check(bytes, FOOTER_CRC)?;
        let footer = proto::FileFooter::decode(bytes.clone())
            .map_err(|error| Malformed::new(format!("the footer cannot be read: {error}")))?;
        Ok(Footer {
            records_crc: footer.records_crc,
            first: Revision(natural(footer.first_revision, "first_revision")?),
            last: Revision(natural(footer.last_revision, "last_revision")?),
        })
    }
}

fn natural(value: i64, name: &str) -> Result<u64, Malformed> {
    u64::try_from(value).map_err(|_| Malformed::new(format!("`{name}` is negative")))
}
