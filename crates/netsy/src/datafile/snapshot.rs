//! A Snapshot: everything a fresh Node needs as of one Revision, streamed both ways in bounded memory.
//!
//! Revisions ascend and may have gaps: what compaction deleted is not there. Always zstd.

use std::fmt;

use bytes::Bytes;
use rules::revision::Revision;

use super::envelope::{Header, Kind};
use super::reader::Reader;
use super::writer::Writer;
use super::{Damaged, Encoded, Malformed, Origin};

/// A batch of decoded Records ends when it weighs this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Writes a Snapshot: `push` Records, `take` what is ready now and then, `finish`.
pub struct Encoder {
    writer: Writer,
    count: u64,
}

impl Encoder {
    /// Opens a Snapshot of exactly `count` Records whose first is `first` (0 if there are none).
    #[must_use]
    pub fn new(origin: Origin, count: u64, first: Revision) -> Encoder {
        let header = Header { kind: Kind::KindSnapshot, compressed: true, count, first, origin };
        Encoder { writer: Writer::new(&header), count }
    }

    /// Adds one Record.
    ///
    /// # Panics
    /// If its Revision is not above the last one's.
    pub fn push(&mut self, record: &Encoded) {
        self.writer.push(record);
    }

    /// The bytes that are ready, perhaps none. Nothing else bounds what they grow to.
    pub fn take(&mut self) -> Bytes {
        self.writer.take()
    }

    /// The last bytes of the object.
    ///
    /// # Errors
    /// If another number of Records came than was announced: the object must not be completed.
    pub fn finish(self) -> Result<Bytes, Malformed> {
        if self.writer.count != self.count {
            return Err(Malformed::new(format!(
                "{} Records were announced and {} came",
                self.count, self.writer.count
            )));
        }
        Ok(self.writer.finish())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({} of {} Records)", self.writer.count, self.count)
    }
}

/// Reads a Snapshot: `push` bytes as they come, `take` batches until there is none, `finish`.
pub struct Decoder {
    reader: Reader,
}

/// What a Snapshot held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Who wrote it.
    pub origin: Origin,
    /// How many Records.
    pub count: u64,
    /// The first one's Revision, 0 if there is none.
    pub first: Revision,
    /// The last one's Revision: the Revision that the Snapshot reaches.
    pub last: Revision,
}

impl Decoder {
    /// A decoder of the object named, which must belong to the cluster named if it says so. A name
    /// that is a Revision must be that of the last Record; any other (`bootstrap.netsy`) says nothing.
    #[must_use]
    pub fn new(object: &str, cluster_id: &str) -> Decoder {
        Decoder { reader: Reader::new(object, cluster_id, Kind::KindSnapshot) }
    }

    /// Takes in the next bytes of the object; a few hundred KiB at a time keep memory small.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// The next Records, about 1 MiB of them; `None` when more bytes are needed or it is over.
    /// Nothing may be believed before [`Decoder::finish`] has said so.
    ///
    /// # Errors
    /// [`Damaged`], for good.
    pub fn take(&mut self) -> Result<Option<Vec<Encoded>>, Damaged> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let Some(record) = self.reader.record()? else {
                break;
            };
            bytes += record.bytes.len() + size_of::<Encoded>();
            batch.push(record);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Says what it held, when every byte was pushed and every batch taken.
    ///
    /// # Errors
    /// [`Damaged`] if it is cut off, or its footer does not match.
    ///
    /// # Panics
    /// If a batch was not taken.
    pub fn finish(self) -> Result<Summary, Damaged> {
        let (origin, count, first, last) = self.reader.finish()?;
        Ok(Summary { origin, count, first, last })
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}
