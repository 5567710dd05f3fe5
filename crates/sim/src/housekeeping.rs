//! Housekeeping: compactions, Snapshots and clean-up, as the Primary of netsy does them (`driver/compaction.rs`,
//! `driver/snapshots.rs`).
//!
//! A floor may rise only by a Record that is committed and that the bucket holds: whoever deletes below it must
//! never find that it was not true. A Snapshot is made at the end of the chain as its maker knows it. What is
//! deleted lies below two Snapshots and is no slot that a sleeping Primary could still hit; and the register is
//! read after the lists and before the first deletion.

use std::sync::Arc;

use rules::primary::Tenure;
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};
use rules::step::Effect;

use crate::world::{Doomed, Happening, World};

impl World {
    /// What time brings to an Active Primary.
    pub(crate) fn housekeeping(&mut self, index: usize) {
        if self.random.chance(5) && self.cluster.writes > 0 {
            let [least, most] = self.cluster.kept;
            let kept = self.random.between(least, most);
            self.compact(index, kept);
        }
        self.tend_snapshots(index);
    }

    /// The Primary compacts, and keeps so many Revisions.
    pub(crate) fn compact(&mut self, index: usize, kept: u64) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        let floor = Revision(process.node.log().committed.0.saturating_sub(kept));
        if let Some(record) = process.node.compact(floor, 0) {
            self.perform(index, Effect::Append(vec![record]));
            self.flush(index);
        }
    }

    /// A Node may delete below `floor`: the Record that says so is committed and in the chain.
    pub(crate) fn floor_rose(&mut self, index: usize, floor: Revision) {
        let Some(process) = &self.nodes[index].process else {
            return;
        };
        let committed = &process.log[..process.node.log().committed.0 as usize];
        self.checks
            .floors
            .rose(index, floor, committed, &self.checks.chain);
    }

    /// What a Replica is sent must still be there.
    pub(crate) fn is_above_the_floor(&self, index: usize, after: Revision, upto: Revision) {
        let floor = self
            .node(index)
            .map_or(Revision::ZERO, |node| node.log().compactions.floor());
        assert!(
            upto == after || after.next() >= floor,
            "node {index} sends records from {} on, and its floor is {floor}",
            after.next()
        );
    }

    /// The epoch in which this Node is Active.
    fn active_epoch(&self, index: usize) -> Option<Epoch> {
        match self.node(index)?.tenure() {
            Tenure::Active(epoch) => Some(epoch),
            _ => None,
        }
    }

    /// Makes a Snapshot if one is due and this Node may.
    fn tend_snapshots(&mut self, index: usize) {
        let every = self.cluster.snapshot_every;
        let Some(epoch) = self.active_epoch(index).filter(|_| every > 0) else {
            return;
        };
        let newest = self.bucket.snapshots.keys().next_back().copied();
        let process = self.nodes[index].process.as_mut().expect("it is alive");
        let log = process.node.log();
        let at = log.durable;
        let last = process.snapshot.max(newest.unwrap_or_default());
        // The chain may be ahead of the own disk, which the Snapshot is read from.
        if process.makes_snapshot || log.appended < at || at.since(last) < every {
            return;
        }
        process.makes_snapshot = true;
        process.snapshot = at;
        self.at_bucket(index, Happening::MakesSnapshot(at, epoch));
    }

    /// Whether the register still names the epoch in which this was begun.
    fn is_ours(&mut self, index: usize, epoch: Epoch) -> bool {
        let register = self.bucket.register.document();
        let ours = register.is_some_and(|register| register.epoch == epoch);
        self.reads(index) && ours
    }

    /// The register was read: the Snapshot is sent, if it still names this Node's epoch.
    pub(crate) fn makes_snapshot(&mut self, index: usize, at: Revision, epoch: Epoch) {
        if !self.is_ours(index, epoch) {
            return self.no_snapshot(index);
        }
        let records = &self.nodes[index].disk.records;
        if records.len() < at.0 as usize {
            return self.no_snapshot(index);
        }
        let whole: Vec<Record> = records[..at.0 as usize].to_vec();
        let (lands, settles) = self.write_lands(index);
        if let Some(delay) = lands {
            self.at(delay, index, Happening::SnapshotLands(at, Arc::new(whole)));
        }
        self.at(settles, index, Happening::ListsCovered(at, epoch));
    }

    fn no_snapshot(&mut self, index: usize) {
        if let Some(process) = &mut self.nodes[index].process {
            process.makes_snapshot = false;
        }
    }

    /// The Snapshot was read back: what it covers is listed.
    pub(crate) fn lists_covered(&mut self, index: usize, at: Revision, epoch: Epoch) {
        let made = self.reads(index) && self.bucket.snapshots.contains_key(&at);
        self.no_snapshot(index);
        let mut doomed = Vec::new();
        if let (true, Some(node), Some(older)) =
            (made, self.node(index), self.bucket.older_snapshot())
        {
            let snapshots = self.bucket.snapshots.keys();
            doomed.extend(
                snapshots
                    .filter(|last| **last < older)
                    .map(|last| Doomed::Snapshot(*last)),
            );
            let slots: Vec<Revision> = self.bucket.chunks.keys().copied().collect();
            let covered = covered(&slots, older, &node.log().epochs);
            doomed.extend(covered.into_iter().map(Doomed::Chunk));
        }
        if !doomed.is_empty() {
            self.at_bucket(index, Happening::CleansUp(doomed, epoch));
        }
    }

    /// The register is read after the lists; if it still names this Node's epoch, what was listed is deleted.
    pub(crate) fn cleans_up(&mut self, index: usize, doomed: Vec<Doomed>, epoch: Epoch) {
        if !self.is_ours(index, epoch) {
            return;
        }
        for one in doomed {
            let (lands, _) = self.write_lands(index);
            if let Some(delay) = lands {
                self.at(delay, index, Happening::DeletionLands(one));
            }
        }
    }

    pub(crate) fn snapshot_lands(&mut self, last: Revision, records: Arc<Vec<Record>>) {
        if self.bucket.snapshots.contains_key(&last) {
            return;
        }
        self.checks.chain.snapshot(last, &records);
        self.bucket.snapshots.insert(last, records);
    }

    pub(crate) fn deletion_lands(&mut self, doomed: Doomed) {
        match doomed {
            Doomed::Chunk(first) => self.bucket.chunks.remove(&first).map(|_| ()),
            Doomed::Snapshot(last) => self.bucket.snapshots.remove(&last).map(|_| ()),
        };
        self.checks.chain.cleaned(&self.bucket);
    }
}

/// The slots that may go: below the older Snapshot, and not one that a sleeping Primary could still hit.
fn covered(slots: &[Revision], older: Revision, epochs: &[(Epoch, Revision)]) -> Vec<Revision> {
    let opens = |from: Revision, before: Revision| {
        let mut epochs = epochs.iter();
        epochs.any(|(_, opened)| *opened >= from && *opened < before)
    };
    let mut covered = Vec::new();
    for (place, first) in slots.iter().enumerate() {
        // A chunk ends just below the next one; the newest chunk has none, and stays.
        let Some(next) = slots.get(place + 1) else {
            break;
        };
        let after = slots.get(place + 2).copied().unwrap_or(Revision(u64::MAX));
        if next.prev() <= older && !opens(*first, *next) && !opens(*next, after) {
            covered.push(*first);
        }
    }
    covered
}

/// Whether `record` says that the floor is to rise to `floor`.
pub(crate) fn raises(record: &Record, floor: Revision) -> bool {
    record.kind == Kind::Compaction && record.prev_revision == floor
}
