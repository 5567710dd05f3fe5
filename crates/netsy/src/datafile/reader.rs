//! Reads a file of either kind as its bytes arrive, and trusts nothing in them.
//!
//! Memory held is what was pushed and not yet read, at most one message (4 MiB), one step of zstd's output
//! and its window (8 MiB, which is what the ancestor writes at most). A file that claims more, or that
//! goes on after its footer, is damaged. Offsets count bytes of the file as it would be uncompressed.

use bytes::{Bytes, BytesMut};
use crc_fast::Digest;
use rules::revision::{Epoch, Revision};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation, OutBuffer};

use super::envelope::{Footer, Header, Kind};
use super::{Damaged, Encoded, Malformed, Origin, record, revision_in_name, wire};

const ZSTD_STEP: usize = 128 * 1024;
const ZSTD_WINDOW_LOG: u32 = 23;

/// A file that is being read.
pub(super) struct Reader {
    object: String,
    cluster_id: String,
    kind: Kind,
    /// Bytes pushed and not yet uncompressed.
    raw: BytesMut,
    /// Bytes not yet parsed.
    plain: BytesMut,
    zstd: Option<Inflate>,
    /// Where `plain` begins.
    offset: u64,
    header: Option<Header>,
    footer: Option<Footer>,
    seen: Seen,
    /// Damage once found stays.
    failed: Option<Damaged>,
}

/// What the Records read so far add up to.
struct Seen {
    count: u64,
    first: Revision,
    last: Revision,
    epoch: Epoch,
    digest: Digest,
}

struct Inflate {
    zstd: Zstd<'static>,
    step: Vec<u8>,
    over: bool,
}

impl Reader {
    /// A reader of the object named, which must be of `kind` and, if it says so, of this cluster.
    pub(super) fn new(object: &str, cluster_id: &str, kind: Kind) -> Reader {
        Reader {
            object: object.to_owned(),
            cluster_id: cluster_id.to_owned(),
            kind,
            raw: BytesMut::new(),
            plain: BytesMut::new(),
            zstd: None,
            offset: 0,
            header: None,
            footer: None,
            seen: Seen {
                count: 0,
                first: Revision::ZERO,
                last: Revision::ZERO,
                epoch: Epoch::ZERO,
                digest: wire::digest(),
            },
            failed: None,
        }
    }

    /// Takes in the next bytes of the file.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }

    /// The next Record; `None` when more bytes are needed or the file is over.
    pub(super) fn record(&mut self) -> Result<Option<Encoded>, Damaged> {
        if let Some(damaged) = &self.failed {
            return Err(damaged.clone());
        }
        self.step().inspect_err(|damaged| self.failed = Some(damaged.clone()))
    }

    fn step(&mut self) -> Result<Option<Encoded>, Damaged> {
        if self.header.is_none() {
            self.read_header()?;
        }
        let Some(count) = self.header.as_ref().map(|header| header.count) else {
            return Ok(None);
        };
        if self.seen.count < count {
            let Some((message, length)) = self.message()? else {
                return Ok(None);
            };
            let record = self.accept(message)?;
            self.offset += length;
            return Ok(Some(record));
        }
        if self.footer.is_none() {
            self.read_footer()?;
        }
        if self.footer.is_some() {
            self.check_over()?;
        }
        Ok(None)
    }

    /// Closes the file when all its bytes were pushed and read: who wrote it, and its bounds.
    pub(super) fn finish(mut self) -> Result<(Origin, u64, Revision, Revision), Damaged> {
        assert!(self.record()?.is_none(), "every Record is taken before the end is asked for");
        if self.footer.is_none() {
            let why = match &self.header {
                None => "it ends inside its header".to_owned(),
                Some(header) if self.seen.count < header.count => {
                    format!("it ends after {} of {} Records", self.seen.count, header.count)
                }
                Some(_) => "it ends inside its footer".to_owned(),
            };
            return Err(self.damaged(Malformed { why }));
        }
        if self.zstd.as_ref().is_some_and(|inflate| !inflate.over) {
            return Err(self.damaged(Malformed::new("its zstd frame is cut off")));
        }
        let Seen { count, first, last, .. } = self.seen;
        let header = self.header.expect("a footer is read after the header");
        Ok((header.origin, count, first, last))
    }

    /// Damage at the message that begins here.
    pub(super) fn damaged(&self, malformed: Malformed) -> Damaged {
        Damaged {
            object: self.object.clone(),
            offset: self.offset,
            record: None,
            why: malformed.why,
        }
    }

    fn read_header(&mut self) -> Result<(), Damaged> {
        let frame = wire::frame(&self.raw).map_err(|error| self.damaged(error))?;
        let Some(frame) = frame else { return Ok(()) };
        let length = frame.end as u64;
        let message = self.raw.split_to(frame.end).freeze().slice(frame);
        let header = Header::decode(&message)
            .and_then(|header| self.judge_header(header))
            .map_err(|error| self.damaged(error))?;
        if header.compressed {
            self.zstd = Some(Inflate::new());
        }
        self.header = Some(header);
        self.offset += length;
        Ok(())
    }

    fn judge_header(&self, header: Header) -> Result<Header, Malformed> {
        if header.kind != self.kind {
            let (found, wanted) = (header.kind.as_str_name(), self.kind.as_str_name());
            return Err(Malformed::new(format!("it is of kind {found}, not {wanted}")));
        }
        let cluster = &header.origin.cluster_id;
        if !cluster.is_empty() && *cluster != self.cluster_id {
            return Err(Malformed::new(format!(
                "it belongs to cluster `{cluster}`, not to `{}`",
                self.cluster_id
            )));
        }
        if header.kind == Kind::KindChunk && header.count == 0 {
            return Err(Malformed::new("it announces no Record"));
        }
        Ok(header)
    }

    /// Decodes one Record and judges it against those before.
    fn accept(&mut self, message: Bytes) -> Result<Encoded, Damaged> {
        let (record, checked) =
            record::decode_checked(&message).map_err(|error| self.damaged_record(None, error))?;
        let revision = record.revision;
        self.judge_order(revision, record.epoch)
            .map_err(|error| self.damaged_record(Some(revision), error))?;
        let seen = &mut self.seen;
        if seen.count == 0 {
            seen.first = revision;
        }
        seen.count += 1;
        seen.last = revision;
        seen.epoch = record.epoch;
        checked.count_into(&mut seen.digest);
        Ok(Encoded { record, bytes: message })
    }

    fn judge_order(&self, revision: Revision, epoch: Epoch) -> Result<(), Malformed> {
        let seen = &self.seen;
        if seen.count == 0 {
            return self.judge_first(revision);
        }
        let follows = match self.kind {
            Kind::KindChunk => revision == seen.last.next(),
            _ => revision > seen.last,
        };
        if !follows {
            return Err(Malformed::new(format!("it follows Record {}", seen.last)));
        }
        if epoch < seen.epoch {
            return Err(Malformed::new(format!("epoch {epoch} follows epoch {}", seen.epoch)));
        }
        Ok(())
    }

    fn judge_first(&self, revision: Revision) -> Result<(), Malformed> {
        let announced = self.header.as_ref().map_or(Revision::ZERO, |header| header.first);
        if announced != Revision::ZERO && announced != revision {
            return Err(Malformed::new(format!("the header announces Record {announced} first")));
        }
        if self.kind == Kind::KindChunk && revision_in_name(&self.object) != Some(revision) {
            return Err(Malformed::new("a Chunk is named by its first Record, and this is not it"));
        }
        Ok(())
    }

    fn damaged_record(&self, revision: Option<Revision>, error: Malformed) -> Damaged {
        // A Chunk is contiguous, so the Record that should stand here is known.
        let expected = match self.kind {
            Kind::KindChunk if self.seen.count > 0 => Some(self.seen.last.next()),
            Kind::KindChunk => revision_in_name(&self.object),
            _ => None,
        };
        Damaged { record: revision.or(expected), ..self.damaged(error) }
    }

    fn read_footer(&mut self) -> Result<(), Damaged> {
        let Some((message, length)) = self.message()? else {
            return Ok(());
        };
        let footer = Footer::decode(&message).map_err(|error| self.damaged(error))?;
        let seen = Footer {
            records_crc: self.seen.digest.finalize(),
            first: self.seen.first,
            last: self.seen.last,
        };
        if footer != seen {
            return Err(self.damaged(Malformed::new(format!(
                "its footer says Records {} to {} with crc {:#018x}; there are {} to {} with {:#018x}",
                footer.first, footer.last, footer.records_crc, seen.first, seen.last,
                seen.records_crc
            ))));
        }
        let named = revision_in_name(&self.object);
        if self.kind == Kind::KindSnapshot && named.is_some_and(|named| named != seen.last) {
            return Err(self.damaged(Malformed::new(format!(
                "a Snapshot is named by its last Record, and that is {}",
                seen.last
            ))));
        }
        self.footer = Some(footer);
        self.offset += length;
        Ok(())
    }

    /// Nothing may follow the footer.
    fn check_over(&mut self) -> Result<(), Damaged> {
        while self.plain.is_empty() && self.inflate()? {}
        if self.plain.is_empty() && self.raw.is_empty() {
            return Ok(());
        }
        Err(self.damaged(Malformed::new("bytes follow the footer")))
    }

    /// The next framed message and the bytes it takes, its frame included.
    fn message(&mut self) -> Result<Option<(Bytes, u64)>, Damaged> {
        loop {
            let frame = wire::frame(&self.plain).map_err(|error| self.damaged(error))?;
            if let Some(frame) = frame {
                let length = frame.end as u64;
                let message = self.plain.split_to(frame.end).freeze().slice(frame);
                return Ok(Some((message, length)));
            }
            if !self.inflate()? {
                return Ok(None);
            }
        }
    }

    /// Moves bytes from `raw` to `plain`, one step; false when there was nothing to move.
    fn inflate(&mut self) -> Result<bool, Damaged> {
        let Some(inflate) = &mut self.zstd else {
            if self.raw.is_empty() {
                return Ok(false);
            }
            match self.plain.is_empty() {
                true => std::mem::swap(&mut self.plain, &mut self.raw),
                false => self.plain.extend_from_slice(&self.raw.split()),
            }
            return Ok(true);
        };
        match inflate.run(&mut self.raw, &mut self.plain) {
            Ok(moved) => Ok(moved),
            Err(error) => {
                let why = format!("its zstd stream cannot be read: {error}");
                Err(self.damaged(Malformed { why }))
            }
        }
    }
}

impl Inflate {
    fn new() -> Inflate {
        let mut zstd = Zstd::new().expect("zstd needs only memory");
        zstd.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
            .expect("2^23 is a legal window");
        Inflate { zstd, step: Vec::with_capacity(ZSTD_STEP), over: false }
    }

    fn run(&mut self, raw: &mut BytesMut, plain: &mut BytesMut) -> std::io::Result<bool> {
        if self.over {
            return Ok(false);
        }
        let mut input = InBuffer::around(raw);
        let mut output = OutBuffer::around(&mut self.step);
        self.over = self.zstd.run(&mut input, &mut output)? == 0;
        let (read, written) = (input.pos(), output.pos());
        plain.extend_from_slice(output.as_slice());
        bytes::Buf::advance(raw, read);
        Ok(read > 0 || written > 0)
    }
}
