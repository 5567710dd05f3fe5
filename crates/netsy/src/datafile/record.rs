//! The one encoding of a Record: protobuf, crc first, fields ascending, defaults left out.
//!
//! Written and read by hand in one pass, because every write of the cluster passes here several times;
//! the tests hold it against prost, byte for byte. The crc stands in front of what it covers, so the
//! body is written behind a gap of the crc's greatest size and the crc is then put right before it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};

use super::wire::{self, Checked, Fields};
use super::{MESSAGE_CAP, Malformed};

/// The tag and a crc of ten bytes.
const CRC_GAP: usize = 11;
/// Upper bound of everything but key, value and leader_id: 14 fields of at most 12 bytes, two times.
const FIXED_ROOM: usize = 14 * 12 + 2 * 24;
/// The most bytes of key, value and leader_id together that one Record may hold.
const CONTENT_CAP: usize = MESSAGE_CAP - FIXED_ROOM;

mod field {
    pub(super) const CRC: u32 = 1;
    pub(super) const REVISION: u32 = 2;
    pub(super) const KEY: u32 = 3;
    pub(super) const CREATED: u32 = 4;
    pub(super) const DELETED: u32 = 5;
    pub(super) const CREATE_REVISION: u32 = 6;
    pub(super) const PREV_REVISION: u32 = 7;
    pub(super) const VERSION: u32 = 8;
    pub(super) const LEASE: u32 = 9;
    pub(super) const DEK: u32 = 10;
    pub(super) const VALUE: u32 = 11;
    pub(super) const CREATED_AT: u32 = 12;
    pub(super) const LEADER_ID: u32 = 14;
    pub(super) const EPOCH: u32 = 16;
    pub(super) const KIND: u32 = 17;
}

/// Encodes a Record: the datafile message, crc first, without a length frame.
///
/// # Panics
/// If key, value and leader_id together exceed what a message may hold (4 MiB): no request of more than 3 MiB is
/// let in.
#[must_use]
pub fn encode(record: &Record) -> Bytes {
    let content = record.key.len() + record.value.len() + record.leader_id.len();
    assert!(
        content <= CONTENT_CAP,
        "a Record of {content} bytes cannot be stored"
    );
    let mut out = Vec::with_capacity(CRC_GAP + FIXED_ROOM + content);
    out.resize(CRC_GAP, 0);
    put_body(&mut out, record);

    let crc = wire::crc(&out[CRC_GAP..]);
    let start = CRC_GAP - wire::number_len(crc);
    wire::write_number(&mut out[start..CRC_GAP], field::CRC, crc);
    Bytes::from(out).slice(start..)
}

fn put_body(out: &mut Vec<u8>, record: &Record) {
    wire::put_number(out, field::REVISION, record.revision.0);
    wire::put_bytes(out, field::KEY, &record.key);
    wire::put_number(out, field::CREATED, u64::from(record.created));
    wire::put_number(out, field::DELETED, u64::from(record.deleted));
    wire::put_number(out, field::CREATE_REVISION, record.create_revision.0);
    wire::put_number(out, field::PREV_REVISION, record.prev_revision.0);
    wire::put_number(out, field::VERSION, record.version);
    wire::put_number(out, field::LEASE, record.lease as u64);
    wire::put_bytes(out, field::VALUE, &record.value);
    put_time(out, field::CREATED_AT, record.created_at);
    wire::put_bytes(out, field::LEADER_ID, record.leader_id.as_bytes());
    wire::put_number(out, field::EPOCH, record.epoch.0);
    let kind = match record.kind {
        Kind::Write => 0,
        Kind::Epoch => 1,
        Kind::Compaction => 2,
    };
    wire::put_number(out, field::KIND, kind);
}

/// A google.protobuf.Timestamp from nanoseconds since 1970.
fn put_time(out: &mut Vec<u8>, number: u32, nanoseconds: i64) {
    let seconds = nanoseconds.div_euclid(1_000_000_000) as u64;
    let nanos = nanoseconds.rem_euclid(1_000_000_000) as u64;
    let length = wire::number_len(seconds) + wire::number_len(nanos);
    if length > 0 {
        wire::put_head(out, number, length);
        wire::put_number(out, 1, seconds);
        wire::put_number(out, 2, nanos);
    }
}

/// Decodes and checks one Record. Its key and value share `bytes`.
///
/// # Errors
/// [`Malformed`] if the crc is wrong, a field is not what it must be, or the value is encrypted or of
/// a kind that this version does not know.
pub fn decode(bytes: &Bytes) -> Result<Record, Malformed> {
    decode_checked(bytes).map(|(record, _)| record)
}

/// As [`decode`], with the bytes that the crc covers.
pub(super) fn decode_checked(bytes: &Bytes) -> Result<(Record, Checked<'_>), Malformed> {
    let mut record = Record {
        revision: Revision::ZERO,
        epoch: Epoch::ZERO,
        kind: Kind::Write,
        key: Bytes::new(),
        value: Bytes::new(),
        created: false,
        deleted: false,
        create_revision: Revision::ZERO,
        prev_revision: Revision::ZERO,
        version: 0,
        lease: 0,
        created_at: 0,
        leader_id: Arc::default(),
    };
    let mut crc: Option<(u64, Range<usize>)> = None;
    for field in Fields::of(bytes) {
        let field = field?;
        match u32::try_from(field.number).unwrap_or(u32::MAX) {
            field::CRC if crc.is_some() => return Err(Malformed::new("it holds two crcs")),
            field::CRC => crc = Some((field.number()?, field.at.clone())),
            field::REVISION => record.revision = Revision(field.natural()?),
            field::KEY => record.key = bytes.slice_ref(field.bytes()?),
            field::CREATED => record.created = field.number()? != 0,
            field::DELETED => record.deleted = field.number()? != 0,
            field::CREATE_REVISION => record.create_revision = Revision(field.natural()?),
            field::PREV_REVISION => record.prev_revision = Revision(field.natural()?),
            field::VERSION => record.version = field.natural()?,
            field::LEASE => record.lease = field.number()? as i64,
            field::DEK => check_plain(field.number()?)?,
            field::VALUE => record.value = bytes.slice_ref(field.bytes()?),
            field::CREATED_AT => record.created_at = time(field.bytes()?)?,
            field::LEADER_ID => record.leader_id = Arc::from(field.text()?),
            field::EPOCH => record.epoch = Epoch(field.number()?),
            field::KIND => record.kind = kind(field.number()?)?,
            // compacted_at and replicated_at of the ancestor, and whatever a later version adds.
            _ => {}
        }
    }
    let (expected, at) = crc.unwrap_or((0, 0..0));
    let checked = wire::check_cut(bytes, expected, at)?;
    if record.revision == Revision::ZERO {
        return Err(Malformed::new("it has no Revision"));
    }
    if record.key.is_empty() {
        return Err(Malformed::new("it has no key"));
    }
    Ok((record, checked))
}

fn check_plain(dek: u64) -> Result<(), Malformed> {
    match dek {
        0 => Ok(()),
        _ => Err(Malformed::new(
            "its value is encrypted, which this version cannot read",
        )),
    }
}

fn kind(number: u64) -> Result<Kind, Malformed> {
    match number {
        0 => Ok(Kind::Write),
        1 => Ok(Kind::Epoch),
        2 => Ok(Kind::Compaction),
        _ => Err(Malformed::new(format!(
            "it is of kind {number}, which this version does not know; upgrade this Node"
        ))),
    }
}

/// Nanoseconds since 1970 from a google.protobuf.Timestamp; beyond what 64 bits hold, the nearest.
fn time(bytes: &[u8]) -> Result<i64, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => seconds = field.number()? as i64,
            2 => nanos = field.number()? as i64,
            _ => {}
        }
    }
    Ok(wire::nanoseconds(seconds, nanos))
}
