//! The unflushed window: what is committed by quorum and not in the bucket yet, in Records, bytes and age.
//!
//! It is what the loss of a majority of disks at one moment can cost, so operators are shown it, and each
//! Node measures it: the Primary as it is, a Replica as its stream tells. Every Node keeps it in memory, and the
//! next Primary's fence carries it as one Chunk, so the Primary assigns nothing more when it is too large.

use std::collections::VecDeque;

use rules::primary::Tenure;
use rules::record::Record;
use rules::refusal::Refusal;
use rules::register::Voter;
use rules::revision::Revision;
use rules::txn::Change;
use tracing::{info, warn};

use super::{Driver, wall_clock};
use crate::datafile::Encoded;
use crate::standing::{CommitPath, Figures, Unflushed, now};

/// Commits this close to one another count as one, milliseconds: of the first's age.
const GRAIN: u64 = 10;

/// What a Record takes in memory beside its bytes.
const BESIDE: u64 = size_of::<Encoded>() as u64;

/// The Records beyond the chain, ascending, and what they take in memory.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    records: VecDeque<Encoded>,
    size: u64,
}

impl From<Vec<Encoded>> for Unsent {
    fn from(records: Vec<Encoded>) -> Unsent {
        let mut unsent = Unsent::default();
        records.into_iter().for_each(|one| unsent.push_back(one));
        unsent
    }
}

impl Unsent {
    fn size_of(encoded: &Encoded) -> u64 {
        encoded.bytes.len() as u64 + BESIDE
    }

    pub(super) fn push_back(&mut self, encoded: Encoded) {
        self.size += Unsent::size_of(&encoded);
        self.records.push_back(encoded);
    }

    pub(super) fn pop_front(&mut self) -> Option<Encoded> {
        let popped = self.records.pop_front()?;
        self.size -= Unsent::size_of(&popped);
        Some(popped)
    }

    pub(super) fn pop_back(&mut self) -> Option<Encoded> {
        let popped = self.records.pop_back()?;
        self.size -= Unsent::size_of(&popped);
        Some(popped)
    }

    pub(super) fn clear(&mut self) {
        *self = Unsent::default();
    }

    pub(super) fn front(&self) -> Option<&Encoded> {
        self.records.front()
    }

    pub(super) fn back(&self) -> Option<&Encoded> {
        self.records.back()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Encoded> {
        self.records.iter()
    }
}

/// What is committed and waits for the bucket: since when, and how many bytes. It may be a million Records, so
/// each is looked at once.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// (committed up to here, at this moment), ascending in both.
    commits: VecDeque<(Revision, u64)>,
    /// The bytes of those that wait, counted up to here.
    bytes: u64,
    counted: Revision,
    /// What may wait beyond the chain, in bytes of memory.
    limit: u64,
    /// Whether writes are refused because so much waits, as the log says it.
    full: bool,
}

impl Window {
    pub(super) fn new(limit: u64) -> Window {
        Window {
            limit,
            ..Window::default()
        }
    }

    /// Whether nothing more may be assigned beside what waits.
    fn is_full(&mut self, unsent: &Unsent) -> bool {
        let full = unsent.size >= self.limit;
        if full && !std::mem::replace(&mut self.full, true) {
            warn!(
                bytes = unsent.size,
                "the unflushed window is full: writes are refused until the bucket takes more"
            );
        }
        full
    }

    /// Says when the bucket has taken half of what waited: before, writes come and go with every Chunk.
    fn is_over(&mut self, unsent: &Unsent) {
        if self.full && unsent.size <= self.limit / 2 {
            self.full = false;
            info!(
                bytes = unsent.size,
                "the unflushed window is not full any more"
            );
        }
    }

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
    fn count(&mut self, unsent: &Unsent, committed: Revision) {
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
    /// Assigns the next Revision to `change`.
    ///
    /// # Errors
    /// As [`Node::assign`](rules::node::Node::assign); `TooManyRequests`, too, when too much is not in the bucket
    /// yet. Nothing was done then.
    pub(super) fn assign(&mut self, change: &Change) -> Result<Record, Refusal> {
        if self.window.is_full(&self.unsent) {
            return Err(Refusal::TooManyRequests);
        }
        self.node.assign(change, wall_clock())
    }

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
        self.window.is_over(&self.unsent);
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
        let mut unsent = Unsent::from((4..=9).map(record).collect::<Vec<_>>());
        let bytes = |unsent: &Unsent, first: usize| -> u64 {
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
        (10..=12).for_each(|revision| unsent.push_back(record(revision)));
        window.count(&unsent, Revision(12));
        assert_eq!(window.bytes, bytes(&unsent, 3));
        window.recount();
        window.count(&unsent, Revision(11));
        assert_eq!(window.bytes, bytes(&unsent, 2));
    }
    #[test]
    fn the_window_is_full_at_its_limit_and_said_once() {
        let record = |revision: u64| {
            let node = "one".into();
            Encoded::new(Record::opening(Epoch(1), Revision(revision), node, 0))
        };
        let each = record(4).bytes.len() as u64 + BESIDE;
        let mut unsent = Unsent::default();
        let mut window = Window::new(3 * each);
        for revision in 4..=6 {
            assert!(!window.is_full(&unsent));
            unsent.push_back(record(revision));
        }
        assert_eq!(unsent.size, 3 * each);
        assert!(window.is_full(&unsent) && window.full);
        unsent.pop_front();
        assert!(!window.is_full(&unsent), "there is room again");
        window.is_over(&unsent);
        assert!(window.full, "and it may be gone at once: nothing is said");
        unsent.pop_back();
        window.is_over(&unsent);
        assert!(!window.full);
        unsent.clear();
        assert_eq!(unsent.size, 0);
    }
}
