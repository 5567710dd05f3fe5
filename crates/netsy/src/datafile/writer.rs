//! Writes a file of either kind, message by message, into a buffer that the caller empties.
//!
//! Memory held is what was not taken yet, and zstd's window.

use std::cell::Cell;

use bytes::Bytes;
use crc_fast::Digest;
use rules::revision::Revision;
use zstd::stream::raw::{Encoder as Zstd, InBuffer, Operation, OutBuffer};

use super::envelope::{Footer, Header};
use super::{Encoded, wire};

const ZSTD_LEVEL: i32 = 1;
const ZSTD_STEP: usize = 64 * 1024;

thread_local! {
    /// A compressor between two files: it is a megabyte of memory, and a Chunk is a few KiB.
    static IDLE: Cell<Option<Zstd<'static>>> = const { Cell::new(None) };
}

/// A compressor at the start of a frame.
fn compressor() -> Zstd<'static> {
    let used = IDLE
        .take()
        .and_then(|mut zstd| zstd.reinit().is_ok().then_some(zstd));
    used.unwrap_or_else(|| Zstd::new(ZSTD_LEVEL).expect("zstd has level 1"))
}

/// A file that is being written.
pub(super) struct Writer {
    out: Vec<u8>,
    zstd: Option<(Zstd<'static>, Vec<u8>)>,
    digest: Digest,
    pub(super) count: u64,
    first: Revision,
    pub(super) last: Revision,
}

impl Writer {
    /// Opens the file with its header.
    pub(super) fn new(header: &Header) -> Writer {
        let zstd = header
            .compressed
            .then(|| (compressor(), Vec::with_capacity(ZSTD_STEP)));
        Writer {
            out: header.encode(),
            zstd,
            digest: wire::digest(),
            count: 0,
            first: Revision::ZERO,
            last: Revision::ZERO,
        }
    }

    /// Adds one Record. Revisions ascend, or it is a fault.
    pub(super) fn push(&mut self, record: &Encoded) {
        let revision = record.record.revision;
        assert!(
            revision > self.last,
            "Record {revision} follows Record {}",
            self.last
        );
        if self.count == 0 {
            self.first = revision;
        }
        self.count += 1;
        self.last = revision;
        let (before, after) = around_crc(&record.bytes);
        self.digest.update(before);
        self.digest.update(after);
        let mut length = Vec::with_capacity(4);
        wire::put_varint(&mut length, record.bytes.len() as u64);
        self.write(&length);
        self.write(&record.bytes);
    }

    /// What is ready.
    pub(super) fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.out))
    }

    /// Closes the file: what is left of it.
    pub(super) fn finish(mut self) -> Bytes {
        let footer = Footer {
            records_crc: self.digest.finalize(),
            first: self.first,
            last: self.last,
        };
        self.write(&footer.encode());
        if let Some((mut zstd, mut step)) = self.zstd.take() {
            loop {
                let mut output = OutBuffer::around(&mut step);
                let left = zstd.finish(&mut output, true).expect("zstd ends any frame");
                self.out.extend_from_slice(output.as_slice());
                if left == 0 {
                    break;
                }
            }
            IDLE.set(Some(zstd));
        }
        Bytes::from(self.out)
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some((zstd, step)) = &mut self.zstd else {
            self.out.extend_from_slice(bytes);
            return;
        };
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let mut output = OutBuffer::around(step);
            zstd.run(&mut input, &mut output)
                .expect("zstd compresses any bytes");
            self.out.extend_from_slice(output.as_slice());
        }
    }
}

/// A Record's encoding before and after its crc field. Ours stands first, or is not there when it is 0;
/// other writers may have put it anywhere.
fn around_crc(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut fields = wire::Fields::of(bytes).map_while(Result::ok);
    match fields.find(|field| field.number == 1) {
        Some(field) => (&bytes[..field.at.start], &bytes[field.at.end..]),
        None => (bytes, &[]),
    }
}
