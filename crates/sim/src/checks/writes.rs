//! Claim 8: a write that was refused never happened; one whose answer was unclear happened once or never; one
//! that was acknowledged is where its client was told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rules::record::{Kind, Record};
use rules::revision::Revision;

use crate::clients::{Op, Told};

/// What clients were told of their writes.
#[derive(Debug, Default)]
pub struct Writes {
    /// The values of puts: where they are, if that is known; `None` is refused. What is unclear is in neither.
    puts: BTreeMap<Bytes, Option<Revision>>,
    /// Where acknowledged deletes are.
    deletes: BTreeSet<Revision>,
    acknowledged: u64,
    unclear: u64,
}

impl Writes {
    /// How many writes were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How many writes nothing is known of.
    #[must_use]
    pub fn unclear(&self) -> u64 {
        self.unclear
    }

    /// A client was told what became of its write: a put of `value`, or a delete.
    ///
    /// # Panics
    /// If two writes were told to be at one Revision.
    pub fn told(&mut self, op: Op, value: Option<Bytes>, told: &Told) {
        match (value, told) {
            (Some(value), Told::Done(at)) => {
                self.acknowledged += 1;
                self.puts.insert(value, Some(*at));
            }
            (None, Told::Done(at)) => {
                self.acknowledged += 1;
                let first = self.deletes.insert(*at);
                assert!(
                    first,
                    "claim 8: write {op} is told to be at {at}, and so was another"
                );
            }
            (Some(value), Told::Refused) => {
                self.puts.insert(value, None);
            }
            (None, Told::Refused) => {}
            _ => self.unclear += 1,
        }
    }

    /// Compares what clients were told with the log.
    ///
    /// # Panics
    /// If a write is there twice, elsewhere, not at all, or though it was refused.
    pub fn finish(&self, log: &[Record]) {
        let mut found: BTreeMap<&Bytes, Revision> = BTreeMap::new();
        for record in log {
            if record.kind == Kind::Write && !record.deleted {
                let twice = found.insert(&record.value, record.revision);
                assert!(
                    twice.is_none(),
                    "claim 8: the value {:?} was written twice, at {twice:?} and {}",
                    record.value,
                    record.revision
                );
            }
        }
        for (value, told) in &self.puts {
            let there = found.get(value).copied();
            assert!(
                there == *told,
                "claim 8: the value {value:?} is at {there:?}, its client was told {told:?}"
            );
        }
        for at in &self.deletes {
            let record = log.get(at.prev().0 as usize);
            assert!(
                record.is_some_and(|record| record.deleted),
                "claim 8: the delete at {at} is not there"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::revision::Epoch;
    use rules::txn::Change;

    fn record(value: Option<&'static str>, revision: u64) -> Record {
        let change = Change {
            key: Bytes::from_static(b"key"),
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
            lease: 0,
            prev: None,
        };
        Record::write(&change, Revision(revision), Epoch(1), "one".into(), 0)
    }

    fn judge(told: &Told) -> Writes {
        let mut writes = Writes::default();
        writes.told(1, Some(Bytes::from_static(b"a")), told);
        writes
    }

    #[test]
    fn what_is_true_passes() {
        judge(&Told::Done(Revision(1))).finish(&[record(Some("a"), 1)]);
        judge(&Told::Refused).finish(&[record(Some("b"), 1)]);
        judge(&Told::Unclear).finish(&[]);
        judge(&Told::Unclear).finish(&[record(Some("a"), 1)]);
        let mut deletes = Writes::default();
        deletes.told(1, None, &Told::Done(Revision(1)));
        deletes.finish(&[record(None, 1)]);
        assert_eq!((deletes.acknowledged(), deletes.unclear()), (1, 0));
    }

    #[test]
    #[should_panic(expected = "was written twice")]
    fn a_write_that_came_twice_is_noticed() {
        judge(&Told::Unclear).finish(&[record(Some("a"), 1), record(Some("a"), 2)]);
    }

    #[test]
    #[should_panic(expected = "its client was told None")]
    fn a_refused_write_that_happened_is_noticed() {
        judge(&Told::Refused).finish(&[record(Some("a"), 1)]);
    }

    #[test]
    #[should_panic(expected = "is at None")]
    fn an_acknowledged_write_that_is_gone_is_noticed() {
        judge(&Told::Done(Revision(1))).finish(&[record(Some("b"), 1)]);
    }

    #[test]
    #[should_panic(expected = "the delete at 1 is not there")]
    fn an_acknowledged_delete_that_is_gone_is_noticed() {
        let mut deletes = Writes::default();
        deletes.told(1, None, &Told::Done(Revision(1)));
        deletes.finish(&[record(Some("b"), 1)]);
    }

    #[test]
    #[should_panic(expected = "and so was another")]
    fn two_deletes_at_one_revision_are_noticed() {
        let mut deletes = Writes::default();
        deletes.told(1, None, &Told::Done(Revision(1)));
        deletes.told(2, None, &Told::Done(Revision(1)));
    }
}
