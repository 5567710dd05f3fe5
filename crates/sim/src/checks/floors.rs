//! Section 11: a floor may rise only by a Record that is committed and that the bucket holds.
//!
//! Whoever deletes below it must never find that it was not true.

use rules::record::Record;
use rules::revision::Revision;

use super::chain::Chain;
use crate::housekeeping::raises;

/// The judge of floors.
#[derive(Debug, Default)]
pub struct Floors {
    rose: u64,
}

impl Floors {
    /// How often a floor rose.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.rose
    }

    /// A Node with these committed Records may delete below `floor`.
    ///
    /// # Panics
    /// If no committed Record of the chain says so.
    pub fn rose(&mut self, node: usize, floor: Revision, committed: &[Record], chain: &Chain) {
        self.rose += 1;
        let mut says = committed
            .iter()
            .rev()
            .filter(|record| raises(record, floor));
        let record = says.next().unwrap_or_else(|| {
            panic!("section 11: node {node} raises its floor to {floor}, and no committed record says so")
        });
        assert!(
            floor < record.revision,
            "section 11: a floor above its own record"
        );
        let place = record.revision.prev().0 as usize;
        assert!(
            chain.history().get(place) == Some(record),
            "section 11: node {node} raises its floor to {floor} by a record that is not in the bucket"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::SimBucket;
    use rules::revision::Epoch;

    fn log() -> Vec<Record> {
        let opening = Record::opening(Epoch(1), Revision(1), "one".into(), 0);
        let second = Record::opening(Epoch(1), Revision(2), "one".into(), 0);
        let third = Record::compaction(Revision(2), Revision(3), Epoch(1), "one".into(), 0);
        vec![opening, second, third]
    }

    fn chain(log: &[Record]) -> Chain {
        let mut chain = Chain::default();
        chain.extended(&SimBucket::default(), Revision(1), log);
        chain
    }

    #[test]
    fn a_floor_that_is_settled_may_rise() {
        let mut floors = Floors::default();
        floors.rose(0, Revision(2), &log(), &chain(&log()));
        assert_eq!(floors.count(), 1);
    }

    #[test]
    #[should_panic(expected = "no committed record says so")]
    fn a_floor_that_is_not_committed_is_noticed() {
        Floors::default().rose(0, Revision(2), &log()[..2], &chain(&log()));
    }

    #[test]
    #[should_panic(expected = "that is not in the bucket")]
    fn a_floor_that_the_bucket_does_not_know_is_noticed() {
        Floors::default().rose(0, Revision(2), &log(), &chain(&log()[..2]));
    }
}
