//! Starting: a Node registers, reads the chain to its end, and only then runs (`start.rs`, `driver/restore.rs`).
//!
//! A disk that was started since, elsewhere or later, is an old copy: it is set aside. An empty disk, or one the
//! chain has moved away from, begins with a Snapshot.

use std::sync::Arc;

use rules::chain::{Found, Verdict, first_difference, judge};
use rules::node::Node;
use rules::record::Record;
use rules::register::Identity;
use rules::revision::Revision;

use crate::machine::{Disk, Process, Work};
use crate::world::{Happening, World};

/// How soon a bucket that does not answer is asked again, milliseconds.
const AGAIN: u64 = 2_000;

impl World {
    /// A process starts: it registers its disk.
    pub(crate) fn start(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.process.is_some() || node.is_gone || node.starts {
            return;
        }
        if !self.reads(index) {
            return self.at(AGAIN, index, Happening::Start);
        }
        let incarnation = self.random.word();
        let node = &mut self.nodes[index];
        node.starts = true;
        node.closes = false;
        node.disk_failed = false;
        node.disk.boot_seq += 1;
        let newest = self.registered.get(&(index, node.disk.incarnation));
        let old = newest.is_some_and(|newest| *newest >= node.disk.boot_seq);
        if old {
            node.disk = Disk {
                boot_seq: 1,
                ..Disk::default()
            };
        }
        if node.disk.incarnation == 0 {
            node.disk.incarnation = incarnation;
        }
        let disk = (index, node.disk.incarnation);
        let boot_seq = node.disk.boot_seq;
        self.registered.insert(disk, boot_seq);
        if old {
            self.checks.committed.died(index, false);
        }
        self.begins_reading(index);
    }

    /// Makes sure that the chain can be read on from what the disk holds.
    fn begins_reading(&mut self, index: usize) {
        let disk = &self.nodes[index].disk;
        let slot = disk.durable.next();
        let goes_on = self.bucket.chunks.contains_key(&slot) || !self.bucket.goes_on_beyond(slot);
        let is_empty = disk.last() == Revision::ZERO;
        if !goes_on || (is_empty && !self.bucket.snapshots.is_empty()) {
            self.install_newest(index);
        }
        self.at_bucket(index, Happening::Restores);
    }

    fn install_newest(&mut self, index: usize) {
        let newest = self.bucket.snapshots.last_key_value();
        let (_, snapshot) = newest.expect("whoever deletes Chunks leaves two Snapshots");
        self.nodes[index].disk.install(&Arc::clone(snapshot));
    }

    /// Reads the chain, some Chunks at a time, to its end.
    pub(crate) fn restores(&mut self, index: usize) {
        if !self.reads(index) {
            return self.at(AGAIN, index, Happening::Restores);
        }
        loop {
            let slot = self.nodes[index].disk.durable.next();
            let Some(records) = self.bucket.chunks.get(&slot).cloned() else {
                return self.begin_life(index);
            };
            if self.bucket.may_be_late(slot, &records) {
                self.install_newest(index);
            } else {
                self.imports(index, slot, &records);
            }
            if self.random.chance(3) {
                return self.at_bucket(index, Happening::Restores);
            }
        }
    }

    /// Takes one Chunk of the chain onto the disk.
    fn imports(&mut self, index: usize, slot: Revision, records: &Arc<Vec<Record>>) {
        let disk = &mut self.nodes[index].disk;
        let own = &disk.records[disk.records.len().min(slot.prev().0 as usize)..];
        let found = Found {
            differs: first_difference(records, own),
            records: records.to_vec(),
        };
        let mut work = Work {
            durable: records.last().map_or(slot, |record| record.revision),
            ..Work::default()
        };
        match judge(&disk.outline(), &found) {
            Verdict::Known => {}
            Verdict::Import { keep } => {
                work.truncate = Some(keep);
                let new = found.records.into_iter();
                work.append = new.filter(|record| record.revision > keep).collect();
            }
            Verdict::Damaged(why) => panic!("node {index} cannot be restored: {why}"),
        }
        disk.apply(&work);
    }

    /// The end of the chain: the Node begins to run.
    fn begin_life(&mut self, index: usize) {
        let seed = self.random.word();
        let settings = self.cluster.settings(self.now);
        let node = &mut self.nodes[index];
        let me = Identity {
            node_id: node.name.clone(),
            incarnation: format!("{:x}", node.disk.incarnation),
            boot: format!("{seed:x}"),
        };
        let log = node.disk.log();
        let running = Node::new(
            me,
            settings,
            log,
            node.disk.promised,
            String::new(),
            (node.disk.boot_seq, seed),
        );
        node.starts = false;
        node.process = Some(Process::new(running, node.disk.records.clone()));
        self.at(1, index, Happening::Tick);
    }
}
