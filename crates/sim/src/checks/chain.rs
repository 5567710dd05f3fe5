//! Claim 3: the bucket's Chunks always form one gap-free chain from the Snapshots (or 1), epochs never falling.
//!
//! What once was the chain stays it. Of what is deleted enough is left to start from the older of the two newest
//! Snapshots, and each Snapshot is the chain up to the end of one Chunk. Where a slot was cleaned up, only a fence
//! may land, or once more what lay there before: a Chunk that was sent twice.

use std::collections::BTreeSet;

use rules::record::Record;
use rules::revision::{Epoch, Revision};

use crate::bucket::{SimBucket, holds_epoch};

/// The chain as it grew.
#[derive(Debug, Default)]
pub struct Chain {
    history: Vec<Record>,
    epoch: Epoch,
    /// Where Chunks end.
    ends: BTreeSet<Revision>,
    /// How many fences landed where their slot had been cleaned up.
    late_fences: u64,
}

impl Chain {
    /// Everything the chain ever held, from Revision 1 on.
    #[must_use]
    pub fn history(&self) -> &[Record] {
        &self.history
    }

    /// How many fences landed where their slot had been cleaned up.
    #[must_use]
    pub fn late_fences(&self) -> u64 {
        self.late_fences
    }

    fn end(&self) -> Revision {
        Revision(self.history.len() as u64)
    }

    /// A Chunk has won the slot `first`.
    ///
    /// # Panics
    /// If it leaves a gap, lies beside the chain, or lets an epoch fall.
    pub fn extended(&mut self, bucket: &SimBucket, first: Revision, records: &[Record]) {
        if first <= self.end() {
            let covered = bucket.older_snapshot().is_some_and(|older| first <= older);
            let copy = self.history[first.prev().0 as usize..].starts_with(records);
            assert!(
                copy || (covered && holds_epoch(records)),
                "claim 3: a chunk won slot {first} again, the chain ends at {}",
                self.end()
            );
            self.late_fences += u64::from(!copy);
            return;
        }
        assert!(
            first == self.end().next(),
            "claim 3: a gap in the chain before {first}, it ends at {}",
            self.end()
        );
        for record in records {
            assert!(
                record.revision == self.end().next(),
                "claim 3: a gap in the chain at {}",
                record.revision
            );
            assert!(
                record.epoch >= self.epoch,
                "claim 3: an epoch falls at {}",
                record.revision
            );
            self.epoch = record.epoch;
            self.history.push(record.clone());
        }
        self.ends.insert(self.end());
    }

    /// A Snapshot has landed.
    ///
    /// # Panics
    /// If it is not the chain up to the end of a Chunk.
    pub fn snapshot(&self, last: Revision, records: &[Record]) {
        assert!(
            self.ends.contains(&last),
            "claim 3: a snapshot at {last}, where no chunk of the chain ends"
        );
        assert!(
            self.history[..last.0 as usize] == *records,
            "claim 3: the snapshot at {last} is not the chain"
        );
    }

    /// Something was deleted.
    ///
    /// # Panics
    /// If what is left is not enough to start from.
    pub fn cleaned(&self, bucket: &SimBucket) {
        let start = bucket.older_snapshot().unwrap_or(Revision::ZERO);
        let mut slot = start.next();
        while let Some(chunk) = bucket.chunks.get(&slot) {
            slot = chunk.last().map_or(slot, |record| record.revision).next();
        }
        assert!(
            slot == self.end().next(),
            "claim 3: from the snapshot at {start} the chain can be read to {} only, it ends at {}",
            slot.prev(),
            self.end()
        );
    }

    /// The last look.
    ///
    /// # Panics
    /// As `cleaned`.
    pub fn finish(&self, bucket: &SimBucket) {
        self.cleaned(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn records(epoch: u64, first: u64, last: u64) -> Arc<Vec<Record>> {
        let records = (first..=last)
            .map(|revision| Record::opening(Epoch(epoch), Revision(revision), "one".into(), 0));
        Arc::new(records.collect())
    }

    /// A bucket, and its judge, with Chunks of two Records up to `last`.
    fn chain(last: u64) -> (SimBucket, Chain) {
        let (mut bucket, mut chain) = (SimBucket::default(), Chain::default());
        for first in (1..last).step_by(2) {
            let chunk = records(1, first, first + 1);
            assert!(bucket.put_chunk(Revision(first), &chunk));
            chain.extended(&bucket, Revision(first), &chunk);
        }
        (bucket, chain)
    }

    fn snapshot(bucket: &mut SimBucket, last: u64) {
        bucket.snapshots.insert(Revision(last), records(1, 1, last));
    }

    #[test]
    fn what_two_snapshots_cover_may_go_and_a_late_fence_may_land_there() {
        let (mut bucket, mut chain) = chain(8);
        chain.snapshot(Revision(4), &records(1, 1, 4));
        snapshot(&mut bucket, 4);
        snapshot(&mut bucket, 6);
        bucket.chunks.remove(&Revision(1));
        chain.cleaned(&bucket);
        chain.extended(&bucket, Revision(1), &records(1, 1, 2));
        chain.extended(&bucket, Revision(1), &records(2, 1, 1));
        assert_eq!(chain.late_fences(), 1);
    }

    #[test]
    #[should_panic(expected = "a gap in the chain before 4")]
    fn a_gap_is_noticed() {
        let (bucket, mut chain) = chain(2);
        chain.extended(&bucket, Revision(4), &records(1, 4, 4));
    }

    #[test]
    #[should_panic(expected = "an epoch falls at 3")]
    fn an_epoch_that_falls_is_noticed() {
        let (bucket, mut chain) = chain(2);
        chain.extended(&bucket, Revision(3), &records(0, 3, 3));
    }

    #[test]
    #[should_panic(expected = "won slot 1 again")]
    fn a_second_chunk_in_a_slot_that_nothing_covers_is_noticed() {
        let (bucket, mut chain) = chain(4);
        chain.extended(&bucket, Revision(1), &records(2, 1, 1));
    }

    #[test]
    #[should_panic(expected = "where no chunk of the chain ends")]
    fn a_snapshot_in_the_middle_of_a_chunk_is_noticed() {
        chain(4).1.snapshot(Revision(3), &records(1, 1, 3));
    }

    #[test]
    #[should_panic(expected = "is not the chain")]
    fn a_snapshot_of_something_else_is_noticed() {
        chain(4).1.snapshot(Revision(4), &records(2, 1, 4));
    }

    #[test]
    #[should_panic(expected = "can be read to 4 only")]
    fn a_chunk_that_is_still_needed_is_noticed() {
        let (mut bucket, chain) = chain(8);
        snapshot(&mut bucket, 4);
        snapshot(&mut bucket, 6);
        bucket.chunks.remove(&Revision(5));
        chain.cleaned(&bucket);
    }
}
