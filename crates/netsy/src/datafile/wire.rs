//! The protobuf wire format, as little of it as the files need: varints, frames, and a walk over fields.
//!
//! A message's crc is taken over its own bytes with the crc field cut out, so fields that a later version
//! added are covered as well. That needs the raw bytes, which is why this is not left to prost.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, Digest};

use super::{MESSAGE_CAP, Malformed};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// CRC-64/XZ, running.
pub(super) fn digest() -> Digest {
    Digest::new(CrcAlgorithm::Crc64Xz)
}

/// CRC-64/XZ of `bytes`.
pub(super) fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Xz, bytes)
}

/// The varint that `bytes` begin with, and its length. `None`: more bytes are needed.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        if index == 9 && *byte > 1 {
            return Err(Malformed::new("a number is longer than 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    Ok(None)
}

/// Bytes `value` takes as a varint: 1 to 10.
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// A google.protobuf.Timestamp as nanoseconds since 1970; beyond what 64 bits hold, the nearest.
pub(super) fn nanoseconds(seconds: i64, nanos: i64) -> i64 {
    let exact = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let nearest = exact.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(nearest).expect("clamped to what 64 bits hold")
}

/// Appends `value` as a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number field; 0 is left out.
pub(super) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(number) << 3 | VARINT);
        put_varint(out, value);
    }
}

/// Bytes a number field takes whose tag is one byte.
pub(super) fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Fills `place`, which is `number_len(value)` long, with a number field.
pub(super) fn write_number(place: &mut [u8], number: u32, mut value: u64) {
    let Some((last, head)) = place.split_last_mut() else {
        return;
    };
    for (index, byte) in head.iter_mut().enumerate() {
        if index == 0 {
            *byte = (number << 3) as u8;
        } else {
            *byte = value as u8 | 0x80;
            value >>= 7;
        }
    }
    *last = value as u8;
}

/// Appends what stands before `length` bytes of a field.
pub(super) fn put_head(out: &mut Vec<u8>, number: u32, length: usize) {
    put_varint(out, u64::from(number) << 3 | LENGTH);
    put_varint(out, length as u64);
}

/// Appends a field of bytes; none at all are left out.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        put_head(out, number, value.len());
        out.extend_from_slice(value);
    }
}

/// Where the first framed message of `bytes` lies. `None`: more bytes are needed.
pub(super) fn frame(bytes: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
    let Some((length, start)) = varint(bytes)? else {
        return Ok(None);
    };
    if length > MESSAGE_CAP as u64 {
        return Err(Malformed::new(format!(
            "a message claims {length} bytes, more than the {MESSAGE_CAP} one may have"
        )));
    }
    let end = start + length as usize;
    Ok((end <= bytes.len()).then_some(start..end))
}

/// What a field holds.
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A fixed-width number: in none of our fields.
    Fixed,
}

/// One field of a message, and where its bytes lie, tag included.
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) value: Value<'a>,
    pub(super) at: Range<usize>,
}

impl<'a> Field<'a> {
    /// The number it must hold.
    pub(super) fn number(&self) -> Result<u64, Malformed> {
        match self.value {
            Value::Number(value) => Ok(value),
            _ => Err(Malformed::new(format!(
                "field {} is not a number",
                self.number
            ))),
        }
    }

    /// The number it must hold, where a negative one makes no sense.
    pub(super) fn natural(&self) -> Result<u64, Malformed> {
        match self.number()? {
            value if value <= i64::MAX as u64 => Ok(value),
            _ => Err(Malformed::new(format!("field {} is negative", self.number))),
        }
    }

    /// The bytes it must hold.
    pub(super) fn bytes(&self) -> Result<&'a [u8], Malformed> {
        match self.value {
            Value::Bytes(value) => Ok(value),
            _ => Err(Malformed::new(format!(
                "field {} does not hold bytes",
                self.number
            ))),
        }
    }

    /// The text it must hold.
    pub(super) fn text(&self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| Malformed::new(format!("field {} is not UTF-8", self.number)))
    }
}

/// Walks the fields of one message, in the order they stand.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let (value, length) =
            varint(&self.bytes[self.at..])?.ok_or_else(|| Malformed::new("a field is cut off"))?;
        self.at += length;
        Ok(value)
    }

    fn skip(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() as u64 {
            return Err(Malformed::new("a field is cut off"));
        }
        self.at += length as usize;
        Ok(&rest[..length as usize])
    }

    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let start = self.at;
        let tag = self.number()?;
        let value = match tag & 7 {
            VARINT => Value::Number(self.number()?),
            LENGTH => {
                let length = self.number()?;
                Value::Bytes(self.skip(length)?)
            }
            FIXED64 => self.skip(8).map(|_| Value::Fixed)?,
            FIXED32 => self.skip(4).map(|_| Value::Fixed)?,
            other => return Err(Malformed::new(format!("a field has wire type {other}"))),
        };
        match tag >> 3 {
            0 => Err(Malformed::new("a field has the number 0")),
            number => Ok(Field {
                number,
                value,
                at: start..self.at,
            }),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.bytes.len()).then(|| self.field())
    }
}

/// A message whose crc was right, with the crc field cut out: what stood before it and after it.
pub(super) struct Checked<'a>(pub(super) &'a [u8], pub(super) &'a [u8]);

impl Checked<'_> {
    /// Counts the message into the running crc over a file's Records.
    pub(super) fn count_into(&self, digest: &mut Digest) {
        digest.update(self.0);
        digest.update(self.1);
    }
}

/// Checks the crc that field `number` of `message` holds. A field that is absent stands for 0.
pub(super) fn check(message: &[u8], number: u64) -> Result<Checked<'_>, Malformed> {
    let mut found: Option<(u64, Range<usize>)> = None;
    for field in Fields::of(message) {
        let field = field?;
        if field.number == number && found.replace((field.number()?, field.at)).is_some() {
            return Err(Malformed::new("it holds two crcs"));
        }
    }
    let (expected, at) = found.unwrap_or((0, 0..0));
    check_cut(message, expected, at)
}

/// Checks that `message` without the bytes at `at` has the crc `expected`.
pub(super) fn check_cut(
    message: &[u8],
    expected: u64,
    at: Range<usize>,
) -> Result<Checked<'_>, Malformed> {
    let checked = Checked(&message[..at.start], &message[at.end..]);
    let computed = if checked.0.is_empty() {
        crc(checked.1)
    } else {
        let mut digest = digest();
        checked.count_into(&mut digest);
        digest.finalize()
    };
    if computed != expected {
        return Err(Malformed::new(format!(
            "its crc is {expected:#018x}, its bytes have {computed:#018x}"
        )));
    }
    Ok(checked)
}
