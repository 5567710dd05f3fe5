//! Claim 1: at most one content per Revision is ever visible to any client, on any Node, for ever.

use rules::record::Record;
use rules::revision::Revision;

/// The one content each visible Revision ever had.
#[derive(Debug, Default)]
pub struct Contents {
    /// By Revision, from 1 on. A client that compared may have seen a Record before all below it.
    visible: Vec<Option<Record>>,
}

impl Contents {
    /// Somebody sees this Record.
    ///
    /// # Panics
    /// If its Revision was seen with another content.
    pub fn seen(&mut self, record: &Record) {
        let place = record.revision.prev().0 as usize;
        if self.visible.len() <= place {
            self.visible.resize(place + 1, None);
        }
        let first = self.visible[place].get_or_insert_with(|| record.clone());
        assert!(
            first == record,
            "claim 1: revision {} was shown with two contents, {first:?} `{:?}` and {record:?} `{:?}`",
            record.revision,
            first.value,
            record.value
        );
    }

    /// What was shown at this Revision.
    #[must_use]
    pub fn at(&self, revision: Revision) -> Option<&Record> {
        self.visible.get(revision.prev().0 as usize)?.as_ref()
    }

    /// The newest Revision anybody has seen.
    #[must_use]
    pub fn newest(&self) -> Revision {
        Revision(self.visible.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::revision::Epoch;

    fn record(epoch: u64, revision: u64) -> Record {
        Record::opening(Epoch(epoch), Revision(revision), "one".into(), 0)
    }

    #[test]
    fn one_content_may_be_seen_often() {
        let mut contents = Contents::default();
        contents.seen(&record(1, 2));
        contents.seen(&record(1, 2));
        assert_eq!(contents.newest(), Revision(2));
        assert!(contents.at(Revision(1)).is_none());
    }

    #[test]
    #[should_panic(expected = "two contents")]
    fn another_content_is_noticed() {
        let mut contents = Contents::default();
        contents.seen(&record(1, 2));
        contents.seen(&record(2, 2));
    }
}
