//! Keys and key ranges: etcd's law of `key` and `range_end`, as one type.
//!
//! Keys are arbitrary bytes in memcmp order and are never normalised.

use bytes::Bytes;

/// The keys an operation speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRange {
    /// The first key of the range. Empty only for a watch or range of everything (`\0` on the wire).
    pub start: Bytes,
    /// Where the range ends.
    pub end: RangeEnd,
}

/// The three forms of `range_end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RangeEnd {
    /// No `range_end`: exactly the key `start`.
    Single,
    /// Half-open: every key `>= start` and `< end`. May be empty (`end <= start`).
    Before(Bytes),
    /// `range_end = "\0"`: every key `>= start`.
    Unbounded,
}

impl KeyRange {
    /// Exactly one key.
    #[must_use]
    pub fn single(key: Bytes) -> KeyRange {
        KeyRange {
            start: key,
            end: RangeEnd::Single,
        }
    }

    /// From etcd's two fields. `range_end` empty is one key, `\0` is everything from `key`.
    #[must_use]
    pub fn from_wire(key: Bytes, range_end: Bytes) -> KeyRange {
        let end = match &range_end[..] {
            b"" => RangeEnd::Single,
            b"\0" => RangeEnd::Unbounded,
            _ => RangeEnd::Before(range_end),
        };
        KeyRange { start: key, end }
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Single => key == &self.start[..],
            RangeEnd::Before(end) => key >= &self.start[..] && key < &end[..],
            RangeEnd::Unbounded => key >= &self.start[..],
        }
    }

    /// Whether no key can lie in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, RangeEnd::Before(end) if end <= &self.start)
    }

    /// Whether the range is the one key `start`.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.end == RangeEnd::Single
    }
}
