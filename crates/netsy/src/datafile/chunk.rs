//! A Chunk: Records `first..=last` without a gap, one object, decoded as a whole.
//!
//! The bytes are the same for the same Origin and Records, so that what was sent once for a slot can be
//! sent again. Two Chunks are equal when their Records are, whoever wrote them.

use bytes::Bytes;

use super::envelope::{Header, Kind};
use super::reader::Reader;
use super::writer::Writer;
use super::{Damaged, Encoded, Malformed, Origin};

/// Keys and values of more bytes than this are compressed.
const PLAIN_LIMIT: usize = 4096;

/// The most bytes the Records of one Chunk may take together, uncompressed. A Primary that gathers
/// Records for a Chunk stays far below.
pub const CAP: usize = 1 << 30;

/// A decoded Chunk.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Who wrote it.
    pub origin: Origin,
    /// Its Records: at least one, contiguous, epochs never falling.
    pub records: Vec<Encoded>,
}

/// Encodes `records`, which are contiguous and at least one, as one object.
///
/// # Panics
/// If `records` is empty, has a gap, or exceeds [`CAP`].
#[must_use]
pub fn encode(origin: &Origin, records: &[Encoded]) -> Bytes {
    let first = records.first().expect("a Chunk holds at least one Record").record.revision;
    let size: usize = records.iter().map(|record| record.bytes.len()).sum();
    assert!(size <= CAP, "{size} bytes of Records are too much for one Chunk");
    let content: usize = records.iter().map(|r| r.record.key.len() + r.record.value.len()).sum();
    let mut writer = Writer::new(&Header {
        kind: Kind::KindChunk,
        compressed: content > PLAIN_LIMIT,
        count: records.len() as u64,
        first,
        origin: origin.clone(),
    });
    for (record, place) in records.iter().zip(first.0..) {
        assert_eq!(record.record.revision.0, place, "a Chunk has no gap");
        writer.push(record);
    }
    writer.finish()
}

/// Decodes and checks the object named `object`, all of whose bytes are given, for the cluster named.
///
/// The Records share buffers of the whole Chunk: copy what is kept for long.
///
/// # Errors
/// [`Damaged`] if anything at all is not as a Chunk of this cluster and of this name must be.
pub fn decode(object: &str, bytes: &Bytes, cluster_id: &str) -> Result<Chunk, Damaged> {
    let mut reader = Reader::new(object, cluster_id, Kind::KindChunk);
    reader.push(bytes);
    let (mut records, mut size) = (Vec::new(), 0);
    while let Some(record) = reader.record()? {
        size += record.bytes.len();
        if size > CAP {
            let why = format!("it holds more than {CAP} bytes of Records");
            return Err(reader.damaged(Malformed { why }));
        }
        records.push(record);
    }
    let (origin, ..) = reader.finish()?;
    Ok(Chunk { origin, records })
}
