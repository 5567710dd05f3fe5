//! The chain: what a Node's log is, and what a Chunk found in the tail slot means for it.
//!
//! Chunks are named by their first Revision, and every writer contends for one key, the tail slot `D + 1`.
//! Whoever loses reads the winner's Chunk and learns. Where chain and log differ, the chain wins: from the
//! first difference on, what the log holds was never committed. A difference at or below the committed
//! Revision, or an epoch that falls, is never taken for the end of the chain: it is damage.

use alloc::vec::Vec;

use crate::compaction::Compactions;
use crate::record::{Kind, Record};
use crate::revision::{Epoch, Revision};

/// What a Node knows of its own log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The newest Record assigned or imported.
    pub last: Revision,
    /// What the own disk holds, fsync'd. Invariant: `appended <= last`.
    pub appended: Revision,
    /// `D`: what the bucket holds without a gap; always the end of a Chunk.
    pub durable: Revision,
    /// What a client may be told of. Only rises, and never beyond `appended`.
    pub committed: Revision,
    /// (epoch, Revision of its epoch Record), ascending in both. Never taken from a document.
    pub epochs: Vec<(Epoch, Revision)>,
    /// The floor, and what is on its way to raise it.
    pub compactions: Compactions,
}

impl Log {
    /// The epoch of the Record at `revision`.
    #[must_use]
    pub fn epoch_at(&self, revision: Revision) -> Epoch {
        opened(&self.epochs, revision).0
    }

    /// The tail slot: the one key every writer contends for.
    #[must_use]
    pub fn tail_slot(&self) -> Revision {
        self.durable.next()
    }

    /// Takes `record` as the newest one.
    ///
    /// # Panics
    /// If it is not `last + 1`, or its epoch falls: our own bug, and the log must not learn of it.
    pub fn push(&mut self, record: &Record) {
        assert_eq!(record.revision, self.last.next(), "the log is contiguous");
        assert!(
            record.epoch >= self.epoch_at(self.last),
            "epochs never fall along the log"
        );
        if record.kind == Kind::Epoch {
            self.epochs.push((record.epoch, record.revision));
        }
        self.compactions.learn(record);
        self.last = record.revision;
    }

    /// Forgets everything above `last`.
    ///
    /// # Panics
    /// If that would forget a committed Record.
    pub fn truncate(&mut self, last: Revision) {
        assert!(
            last >= self.committed,
            "a committed Record is never truncated"
        );
        self.last = self.last.min(last);
        self.appended = self.appended.min(last);
        self.epochs.retain(|(_, first)| *first <= last);
        self.compactions.truncate(last);
    }
}

/// A Chunk found in the tail slot, beside what the own log holds at the same Revisions.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its Records, contiguous, the first one at the tail slot.
    pub records: Vec<Record>,
    /// The first Revision at which the own log holds another Record; `None` if it holds none that differs.
    pub differs: Option<Revision>,
}

/// What a Chunk in the tail slot asks of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Cut the log above `keep` (if it reaches further), then append the Chunk's Records above `keep`.
    Import {
        /// The newest Revision of the own log that stays, before the import.
        keep: Revision,
    },
    /// The log holds all of it already.
    Known,
    /// The chain, or the own disk, is not what it must be. Says why.
    Damaged(&'static str),
}

/// Judges a Chunk found in the tail slot of `log`.
#[must_use]
pub fn judge(log: &Log, found: &Found) -> Verdict {
    let Some((first, last)) = found.records.first().zip(found.records.last()) else {
        return Verdict::Damaged("the chunk holds no record");
    };
    if first.revision != log.tail_slot() {
        return Verdict::Damaged("the chunk does not begin at its slot");
    }
    let mut epoch = log.epoch_at(log.durable);
    for record in &found.records {
        let opens = record.kind == Kind::Epoch;
        if record.epoch < epoch || (record.epoch > epoch) != opens {
            return Verdict::Damaged("an epoch falls, or changes without an epoch record");
        }
        epoch = record.epoch;
    }
    match found.differs {
        Some(at) if at <= log.committed => {
            Verdict::Damaged("the chain differs from a record that was committed here")
        }
        Some(at) => Verdict::Import { keep: at.prev() },
        None if last.revision <= log.last => Verdict::Known,
        None => Verdict::Import { keep: log.last },
    }
}

/// The first Revision at which `own` holds another Record than `chunk`; both ascending.
#[must_use]
pub fn first_difference(chunk: &[Record], own: &[Record]) -> Option<Revision> {
    let start = chunk.first()?.revision;
    own.iter()
        .filter(|record| record.revision >= start)
        .zip(chunk)
        .find_map(|(own, theirs)| (own != theirs).then_some(theirs.revision.min(own.revision)))
}

/// The highest Revision up to which two logs hold the same Records: both epoch tables name the same epoch
/// there. (epoch, Revision) names one content for ever, and so does everything before it.
#[must_use]
pub fn agreed(
    ours: &[(Epoch, Revision)],
    our_last: Revision,
    theirs: &[(Epoch, Revision)],
    their_last: Revision,
) -> Revision {
    let mut at = our_last.min(their_last);
    loop {
        let (our, our_first) = opened(ours, at);
        let (their, their_first) = opened(theirs, at);
        if our == their {
            return at;
        }
        at = our_first.max(their_first).prev().min(at.prev());
    }
}

/// The epoch at `at`, and where it begins.
fn opened(epochs: &[(Epoch, Revision)], at: Revision) -> (Epoch, Revision) {
    let opened = epochs.partition_point(|(_, first)| *first <= at);
    opened
        .checked_sub(1)
        .map_or((Epoch::ZERO, Revision::ZERO), |index| epochs[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(epochs: &[(u64, u64)]) -> Vec<(Epoch, Revision)> {
        let table = epochs.iter();
        table
            .map(|(epoch, first)| (Epoch(*epoch), Revision(*first)))
            .collect()
    }

    #[test]
    fn logs_agree_to_the_last_common_epoch_and_not_beyond() {
        let agree = |ours: &[(u64, u64)], our_last, theirs: &[(u64, u64)], their_last| {
            agreed(
                &table(ours),
                Revision(our_last),
                &table(theirs),
                Revision(their_last),
            )
            .0
        };
        assert_eq!(agree(&[(1, 1)], 5, &[(1, 1)], 3), 3);
        // H1: an epoch that never became active stands between.
        assert_eq!(agree(&[(1, 1), (2, 2), (3, 3)], 9, &[(1, 1)], 2), 1);
        assert_eq!(agree(&[(1, 1), (3, 4)], 9, &[(1, 1), (2, 6)], 8), 3);
        assert_eq!(agree(&[(2, 1)], 4, &[(1, 1)], 4), 0);
        assert_eq!(agree(&[(1, 1)], 4, &[], 0), 0);
        assert_eq!(agree(&[(1, 1), (2, 5)], 5, &[(1, 1), (2, 5)], 9), 5);
    }
}
