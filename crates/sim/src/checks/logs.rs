//! Claim 2: every acknowledged write is in the log of every later Primary.
//!
//! Later is whoever has a higher epoch, not whoever begins later: a Node may sleep between its swap of the register
//! and its first moment as Primary, and others reign meanwhile.

use rules::record::Record;
use rules::revision::{Epoch, Revision};

use super::contents::Contents;

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Logs {
    acknowledged: Revision,
}

impl Logs {
    /// Clients may have been told of everything up to here.
    pub fn acknowledge(&mut self, upto: Revision) {
        self.acknowledged = self.acknowledged.max(upto);
    }

    /// The highest acknowledged Revision.
    #[must_use]
    pub fn acknowledged(&self) -> Revision {
        self.acknowledged
    }

    /// The Primary of `epoch` begins with this log.
    ///
    /// # Panics
    /// If it lacks what was acknowledged before, or holds something else in its place.
    pub fn begins(&self, node: usize, epoch: Epoch, log: &[Record], contents: &Contents) {
        let before = (1..=self.acknowledged.0).rev().find(|revision| {
            let shown = contents.at(Revision(*revision));
            shown.is_some_and(|record| record.epoch < epoch)
        });
        let before = before.unwrap_or(0);
        assert!(
            log.len() as u64 >= before,
            "claim 2: node {node} became primary of epoch {epoch} with a log up to {}, {before} was acknowledged",
            log.len(),
        );
        compare(&log[..before as usize], contents);
    }

    /// At the end chain and Primary hold everything.
    ///
    /// # Panics
    /// If they do not.
    pub fn finish(&self, chain: &[Record], log: &[Record], contents: &Contents) {
        let held = chain.len().max(log.len()) as u64;
        assert!(
            held >= self.acknowledged.0,
            "claim 2: the chain and the primary lack acknowledged writes"
        );
        let acknowledged = self.acknowledged.0 as usize;
        for log in [chain, log] {
            compare(&log[..acknowledged.min(log.len())], contents);
        }
    }
}

fn compare(log: &[Record], contents: &Contents) {
    for record in log {
        if let Some(shown) = contents.at(record.revision) {
            assert!(
                shown == record,
                "claim 2: a log holds {record:?}, {shown:?} was shown"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::revision::Epoch;

    fn log(epochs: &[u64]) -> Vec<Record> {
        let records = epochs.iter().zip(1..);
        records
            .map(|(epoch, revision)| {
                Record::opening(Epoch(*epoch), Revision(revision), "one".into(), 0)
            })
            .collect()
    }

    /// Judges that have seen these Records acknowledged.
    fn judges(epochs: &[u64]) -> (Logs, Contents) {
        let (mut logs, mut contents) = (Logs::default(), Contents::default());
        for record in log(epochs) {
            contents.seen(&record);
            logs.acknowledge(record.revision);
        }
        (logs, contents)
    }

    #[test]
    fn a_longer_log_is_fine() {
        let (logs, contents) = judges(&[1, 1]);
        logs.begins(0, Epoch(2), &log(&[1, 1, 2]), &contents);
        logs.finish(&log(&[1]), &log(&[1, 1, 2]), &contents);
    }

    #[test]
    fn what_later_epochs_acknowledged_need_not_be_there() {
        let (logs, contents) = judges(&[1, 3]);
        logs.begins(0, Epoch(2), &log(&[1]), &contents);
    }

    #[test]
    #[should_panic(expected = "a log up to 1, 2 was acknowledged")]
    fn a_log_that_is_too_short_is_noticed() {
        let (logs, contents) = judges(&[1, 1]);
        logs.begins(0, Epoch(2), &log(&[1]), &contents);
    }

    #[test]
    #[should_panic(expected = "a log holds")]
    fn a_log_that_holds_something_else_is_noticed() {
        let (logs, contents) = judges(&[1, 1]);
        logs.begins(0, Epoch(2), &log(&[1, 2, 2]), &contents);
    }

    #[test]
    #[should_panic(expected = "lack acknowledged writes")]
    fn what_is_lost_at_the_end_is_noticed() {
        let (logs, contents) = judges(&[1, 1]);
        logs.finish(&log(&[1]), &[], &contents);
    }
}
