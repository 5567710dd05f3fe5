//! The unflushed window: what is committed by quorum and not in the bucket yet, in Records, bytes and age.
//!
//! It is what the loss of a majority of disks at one moment can cost, so operators are shown it, and each
//! Node measures it: the Primary as it is, a Replica as its stream tells.

use std::collections::VecDeque;

use rules::primary::Tenure;
use rules::register::Voter;
use rules::revision::Revision;

use super::Driver;
use crate::datafile::Encoded;
use crate::standing::{CommitPath, Figures, Unflushed, now};

/// Commits this close to one another count as one, milliseconds: of the first's age.
const GRAIN: u64 = 10;

/// What is committed and waits for the bucket: since when, and how many bytes. It may be a million Records, so
/// each is looked at once.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// (committed up to here, at this moment), ascending in both.
    commits: VecDeque<(Revision, u64)>,
    /// The bytes of those that wait, counted up to here.
    bytes: u64,
    counted: Revision,
}

impl Window {
    /// Everything up to `revision` is committed, and was not before.
    pub(super) fn committed(&mut self, revision: Revision, now: u64) {
        match self.commits.back_mut() {
            Some((upto, at)) if now < *at + GRAIN => *upto = revision,
            _ => self.commits.push_back((revision, now)),
        }
    }

    /// Everything up to `durable` is in the bucket.
    pub(super) fn flushed(&mut self, durable: Revision) {
        while self
            .commits
            .front()
            .is_some_and(|(upto, _)| *upto <= durable)
        {
            self.commits.pop_front();
        }
    }

    /// Counts those of `unsent`, which is contiguous, that are committed and were not counted yet.
    fn count(&mut self, unsent: &VecDeque<Encoded>, committed: Revision) {
        let Some(first) = unsent.front().map(|encoded| encoded.record.revision) else {
            return;
        };
        let skip = self.counted.next().since(first);
        let waits = unsent
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX));
        let waits = waits.take_while(|encoded| encoded.record.revision <= committed);
        self.bytes += waits.map(|encoded| encoded.bytes.len() as u64).sum::<u64>();
        self.counted = self.counted.max(committed);
    }

    /// This Record waits no more.
    pub(super) fn sent(&mut self, encoded: &Encoded) {
        if encoded.record.revision <= self.counted {
            self.bytes = self.bytes.saturating_sub(encoded.bytes.len() as u64);
        }
    }

    /// Those that wait are told anew.
    pub(super) fn recount(&mut self) {
        (self.bytes, self.counted) = (0, Revision::ZERO);
    }

    /// For how long the oldest has waited; 0 if nothing does.
    fn age(&self, now: u64) -> u64 {
        self.commits
            .front()
            .map_or(0, |(_, at)| now.saturating_sub(*at))
    }
}

impl Driver {
    /// Measures how far the log is.
    pub(super) fn measure(&mut self) {
        let log = self.node.log();
        let (committed, durable) = (log.committed, log.durable);
        self.window.flushed(durable);
        if committed > durable && self.window.commits.is_empty() {
            // Since before this process, or this Node's knowledge of it.
            self.window.committed(committed, now());
        }
        self.window.count(&self.unsent, committed);
        let unflushed = Unflushed {
            records: committed.since(durable),
            bytes: self.window.bytes,
            age: self.window.age(now()),
        };
        let active = matches!(self.node.tenure(), Tenure::Active(_));
        let path = active.then(|| match self.node.is_on_bucket_path(now()) {
            true => CommitPath::Bucket,
            false => CommitPath::Quorum,
        });
        let register = self.node.newest_register();
        let voters: &[Voter] = match register {
            _ if active => self.node.voters(),
            Some(register) => &register.voters,
            None => &[],
        };
        self.board.set_figures(Figures {
            latest: log.last,
            committed,
            durable,
            floor: self.view.floor(),
            pending: self.waiting.len() as u64,
            path,
            voters: voters.iter().map(|voter| voter.node_id.clone()).collect(),
            unflushed,
        });
    }
}

#[cfg(test)]
mod tests {
    use rules::record::Record;
    use rules::revision::Epoch;

    use super::*;

    #[test]
    fn the_oldest_that_is_committed_and_not_flushed_tells_the_age() {
        let mut window = Window::default();
        assert_eq!(window.age(5), 0);
        window.committed(Revision(3), 100);
        window.committed(Revision(5), 100 + GRAIN - 1);
        window.committed(Revision(9), 200);
        assert_eq!(window.age(250), 150);
        window.flushed(Revision(3));
        assert_eq!(window.age(250), 150, "4 and 5 wait");
        window.flushed(Revision(5));
        assert_eq!(window.age(250), 50);
        window.flushed(Revision(9));
        assert_eq!(window.age(250), 0);
    }

    #[test]
    fn each_record_is_counted_once_and_taken_off_once() {
        let record = |revision| {
            Encoded::new(Record::opening(
                Epoch(1),
                Revision(revision),
                "one".into(),
                0,
            ))
        };
        let mut unsent: VecDeque<Encoded> = (4..=9).map(record).collect();
        let bytes = |unsent: &VecDeque<Encoded>, first: usize| -> u64 {
            let first = unsent.iter().take(first);
            first.map(|encoded| encoded.bytes.len() as u64).sum()
        };
        let mut window = Window::default();
        window.count(&unsent, Revision(3));
        assert_eq!(window.bytes, 0);
        for (committed, waits) in [(6, 3), (6, 3), (8, 5)] {
            window.count(&unsent, Revision(committed));
            assert_eq!(window.bytes, bytes(&unsent, waits));
        }
        for _ in 4..=9 {
            window.sent(&unsent.pop_front().unwrap());
        }
        assert_eq!(window.bytes, 0, "9 was never counted");
        unsent.extend((10..=12).map(record));
        window.count(&unsent, Revision(12));
        assert_eq!(window.bytes, bytes(&unsent, 3));
        window.recount();
        window.count(&unsent, Revision(11));
        assert_eq!(window.bytes, bytes(&unsent, 2));
    }
}
