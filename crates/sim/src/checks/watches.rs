//! Claim 6: each watch sees exactly the committed Records, once, in order, from its start, on whatever Nodes it goes on.

use std::collections::BTreeMap;

use rules::record::Record;
use rules::revision::Revision;

/// What each watch has to see next, and what any watch has seen.
#[derive(Debug, Default)]
pub struct Watches {
    next: BTreeMap<u64, Revision>,
    seen: BTreeMap<Revision, Record>,
    delivered: u64,
}

impl Watches {
    /// How many Records were delivered.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// A watch begins with this Revision.
    pub fn begin(&mut self, watch: u64, start: Revision) {
        self.next.insert(watch, start);
    }

    /// A watch sees this Record.
    ///
    /// # Panics
    /// If it is not the one that follows, or another watch saw something else there.
    pub fn saw(&mut self, watch: u64, record: &Record) {
        let next = self.next.entry(watch).or_default();
        assert!(
            record.revision == *next,
            "claim 6: watch {watch} sees {}, {next} comes next",
            record.revision
        );
        *next = next.next();
        self.delivered += 1;
        let first = self.seen.entry(record.revision);
        let first = first.or_insert_with(|| record.clone());
        assert!(
            first == record,
            "claim 6: watches saw {first:?} and {record:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::revision::Epoch;

    fn record(epoch: u64, revision: u64) -> Record {
        Record::opening(Epoch(epoch), Revision(revision), "one".into(), 0)
    }

    fn watching() -> Watches {
        let mut watches = Watches::default();
        watches.begin(1, Revision(2));
        watches.begin(2, Revision(3));
        watches.saw(1, &record(1, 2));
        watches
    }

    #[test]
    fn one_after_the_other_is_fine() {
        let mut watches = watching();
        watches.saw(1, &record(1, 3));
        watches.saw(2, &record(1, 3));
        assert_eq!(watches.delivered(), 3);
    }

    #[test]
    #[should_panic(expected = "watch 1 sees 2, 3 comes next")]
    fn a_record_that_comes_twice_is_noticed() {
        watching().saw(1, &record(1, 2));
    }

    #[test]
    #[should_panic(expected = "watch 1 sees 4, 3 comes next")]
    fn a_record_that_is_left_out_is_noticed() {
        watching().saw(1, &record(1, 4));
    }

    #[test]
    #[should_panic(expected = "watches saw")]
    fn another_record_for_another_watch_is_noticed() {
        let mut watches = watching();
        watches.saw(1, &record(1, 3));
        watches.saw(2, &record(2, 3));
    }
}
