//! A log so small that it fits into one number: up to eight Records of one byte each.
//!
//! A Record is its epoch and what it is: 0 is the epoch Record that opens the epoch, 1 and up are client
//! writes, numbered in the order they were asked for, so two clients' values need not be told apart.

use std::fmt;

/// Revisions a log can hold.
pub const ROOM: u8 = 8;

/// One Record: four bits of epoch (never 0), four bits of content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record(u8);

impl Record {
    /// What the epoch Record of a second name in the same epoch holds; only a sabotage writes it.
    const USURPER: u8 = 15;

    /// The epoch Record of `epoch`; `usurper` tells that of a second name in it from that of the first.
    #[must_use]
    pub fn opening(epoch: u8, usurper: bool) -> Record {
        Record(epoch << 4 | if usurper { Record::USURPER } else { 0 })
    }

    /// Client write number `write`, counted from 1, as assigned in `epoch`.
    #[must_use]
    pub fn write(epoch: u8, write: u8) -> Record {
        Record(epoch << 4 | write)
    }

    /// The epoch of the Primary that assigned it.
    #[must_use]
    pub fn epoch(self) -> u8 {
        self.0 >> 4
    }

    /// Whether it opens its epoch.
    #[must_use]
    pub fn opens(self) -> bool {
        matches!(self.0 & 15, 0 | Record::USURPER)
    }

    /// The number of the client write, `None` for an epoch Record.
    #[must_use]
    pub fn written(self) -> Option<u8> {
        (!self.opens()).then_some(self.0 & 15)
    }
}

/// Records at Revisions 1, 2, ...; also the content of a Chunk, counted from its first Record.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Log(u64);

impl Log {
    /// The newest Revision, 0 if there is none.
    #[must_use]
    pub fn len(self) -> u8 {
        ROOM - (self.0.leading_zeros() / 8) as u8
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The Record at `revision`, counted from 1.
    #[must_use]
    pub fn at(self, revision: u8) -> Option<Record> {
        if revision == 0 || revision > ROOM {
            return None;
        }
        let byte = (self.0 >> (8 * (revision - 1))) as u8;
        (byte != 0).then_some(Record(byte))
    }

    /// The epoch of the Record at `revision`, 0 if there is none.
    #[must_use]
    pub fn epoch_at(self, revision: u8) -> u8 {
        self.at(revision).map_or(0, Record::epoch)
    }

    /// The epoch of its newest Record, 0 if there is none.
    #[must_use]
    pub fn last_epoch(self) -> u8 {
        self.epoch_at(self.len())
    }

    /// Takes `record` as the newest one. The plans leave room for all they allow.
    #[must_use]
    pub fn with(self, record: Record) -> Log {
        assert!(self.len() < ROOM, "a plan must leave room in the log");
        Log(self.0 | u64::from(record.0) << (8 * self.len()))
    }

    /// Everything up to `last`.
    #[must_use]
    pub fn upto(self, last: u8) -> Log {
        if last >= ROOM {
            return self;
        }
        Log(self.0 & ((1 << (8 * last)) - 1))
    }

    /// Everything above `after`, counted from its first Record.
    #[must_use]
    pub fn above(self, after: u8) -> Log {
        Log(self.0.checked_shr(8 * u32::from(after)).unwrap_or(0))
    }

    /// `more` behind it.
    #[must_use]
    pub fn and(self, more: Log) -> Log {
        more.records().fold(self, Log::with)
    }

    /// Whether it begins with all of `other`.
    #[must_use]
    pub fn begins_with(self, other: Log) -> bool {
        self.upto(other.len()) == other
    }

    /// Its Records in order.
    pub fn records(self) -> impl Iterator<Item = Record> {
        (1..=self.len()).filter_map(move |revision| self.at(revision))
    }
}

impl fmt::Display for Record {
    /// `E2` opens epoch 2; `b2` is the second write, assigned in epoch 2.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.written() {
            None if self.0 & 15 == 0 => write!(out, "E{}", self.epoch()),
            None => write!(out, "E{}'", self.epoch()),
            Some(write) => write!(out, "{}{}", (b'a' - 1 + write) as char, self.epoch()),
        }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records: Vec<String> = self.records().map(|record| record.to_string()).collect();
        write!(out, "[{}]", records.join(" "))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_joined_and_told() {
        let log = Log::default()
            .with(Record::opening(1, false))
            .with(Record::write(1, 1))
            .with(Record::write(2, 2));
        assert_eq!(log.to_string(), "[E1 a1 b2]");
        assert_eq!((log.len(), log.last_epoch(), log.epoch_at(2)), (3, 2, 1));
        assert_eq!(log.upto(1).and(log.above(1)), log);
        assert!(log.begins_with(log.upto(2)) && !log.upto(2).begins_with(log));
        assert_eq!(log.above(8), Log::default());
        assert_eq!(log.upto(8), log);
    }
}
