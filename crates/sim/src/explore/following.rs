//! Replicas: Follow, the cut, appending; and Snapshots with the clean-up they allow.
//!
//! A stream delivers what its Primary has assigned, also after that Primary is gone, until the Replica
//! promises a higher epoch. What a stream tells to be committed is shown at once: later is never worse.

use super::claims::Breach;
use super::log::Log;
use super::moves::Model;
use super::sabotage::Sabotage;
use super::state::{Tenure, World};

impl Model {
    /// Hello: both logs are compared by their epoch tables, and the Replica cuts what lies beyond.
    pub(super) fn follow(&self, world: &mut World, at: usize, of: usize) -> Result<(), Breach> {
        let epoch = world.nodes[of].epoch;
        let node = &mut world.nodes[at];
        node.stream = epoch;
        node.promised = epoch;
        if self.lacks(Sabotage::ReceiptBeforeCut) {
            node.uncut = true;
            let theirs = world.sent[epoch as usize].len();
            node.receipts[epoch as usize] = node.log.len().min(theirs);
            return Ok(());
        }
        self.cut(world, at)
    }

    pub(super) fn cut(&self, world: &mut World, at: usize) -> Result<(), Breach> {
        let node = &mut world.nodes[at];
        let epoch = node.stream as usize;
        let agreed = self.agreement(world.became_active, node.log, world.sent[epoch]);
        if agreed < node.committed {
            return Err(Breach::CutsCommitted);
        }
        node.uncut = false;
        node.log = node.log.upto(agreed);
        node.receipts[epoch] = agreed;
        world.hold_chain(at);
        Ok(())
    }

    /// The highest Revision at which both epoch tables give the same epoch.
    fn agreement(&self, became_active: u8, own: Log, theirs: Log) -> u8 {
        let epoch_at = |log: Log, revision: u8| {
            let known = |epoch: &u8| {
                !self.lacks(Sabotage::TableOfActives) || became_active >> epoch & 1 == 1
            };
            let table = (1..=revision).rev().map(|revision| log.epoch_at(revision));
            table.into_iter().find(known).unwrap_or(0)
        };
        (0..=own.len().min(theirs.len()))
            .rev()
            .find(|revision| epoch_at(own, *revision) == epoch_at(theirs, *revision))
            .unwrap_or(0)
    }

    /// A Node without a tenure reads the chain.
    pub(super) fn catch_up(&self, world: &mut World, at: usize) -> Result<(), Breach> {
        world.left.catchups -= 1;
        while let Some(chunk) = world.object(world.nodes[at].durable + 1) {
            if !self.is_credible(world, world.nodes[at].durable + 1, chunk) {
                break;
            }
            world.import(at, chunk)?;
        }
        Ok(())
    }

    /// What a Snapshot made by Node `at` would hold.
    pub(super) fn snapshot_of(&self, world: &World, at: usize) -> Log {
        let node = &world.nodes[at];
        if self.lacks(Sabotage::SnapshotAboveChain) {
            return node.log.upto(node.committed);
        }
        let inside = self.lacks(Sabotage::SnapshotInsideChunk);
        world.chain.upto(node.durable - u8::from(inside))
    }

    pub(super) fn snapshot(&self, world: &mut World, at: usize) {
        world.left.snapshots -= 1;
        world.snapshot = self.snapshot_of(world, at);
    }

    /// Chunks that clean-up may delete, as bits of their last Revisions.
    pub(super) fn cleanable(&self, world: &World) -> u8 {
        let (mut cleanable, mut slot) = (0, 1);
        while let Some(end) = world.chunk_from(slot) {
            let epochs = |from: u8, upto: u8| {
                (from..=upto).any(|at| world.chain.at(at).is_some_and(|record| record.opens()))
            };
            let next = world.chunk_from(end + 1);
            let kept = epochs(slot, end) || next.is_some_and(|last| epochs(end + 1, last));
            let may = !kept || self.lacks(Sabotage::CleansEpochs);
            if may && next.is_some() && end <= world.snapshot.len() {
                cleanable |= 1 << (end - 1);
            }
            slot = end + 1;
        }
        cleanable & !world.gone
    }

    /// A cleaner has listed the Chunks, and then seen its own epoch in the register.
    pub(super) fn condemn(&self, world: &mut World) {
        world.left.cleanings -= 1;
        world.condemned |= self.cleanable(world);
    }
}

impl World {
    /// The Replica takes the next Record of its stream and sends its Receipt.
    pub(super) fn append(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let sent = self.sent[node.stream as usize];
        if let Some(record) = sent.at(node.log.len() + 1) {
            node.log = node.log.with(record);
            node.receipts[node.stream as usize] = node.log.len();
        }
    }

    /// Only under a sabotage: committed is taken from a heartbeat.
    pub(super) fn heartbeat(&mut self, at: usize, of: usize) -> Result<(), Breach> {
        let told = self.told[self.nodes[of].epoch as usize];
        let node = &mut self.nodes[at];
        node.committed = node.committed.max(told.min(node.log.len()));
        self.show(self.nodes[at].log, self.nodes[at].committed)
    }

    /// A Node installs the Snapshot: everything at or below it is replaced as a whole.
    pub(super) fn install(&mut self, at: usize) -> Result<(), Breach> {
        let node = &mut self.nodes[at];
        let last = self.snapshot.len();
        let agrees = node.log.epoch_at(last) == self.snapshot.last_epoch();
        let tail = if agrees {
            node.log.above(last)
        } else {
            Log::default()
        };
        node.log = self.snapshot.and(tail);
        node.durable = last;
        node.committed = node.committed.max(last);
        node.promised = node.promised.max(self.snapshot.last_epoch());
        if node.committed > node.log.len() {
            return Err(Breach::CutsCommitted);
        }
        self.show(self.nodes[at].log, self.nodes[at].committed)
    }

    pub(super) fn delete(&mut self) {
        self.gone |= std::mem::take(&mut self.condemned);
    }

    /// Forgets what can never matter again, so that states that behave alike are one.
    pub(super) fn forget(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let epoch = node.stream as usize;
            let heard = node.log == self.sent[epoch] && node.committed >= self.told[epoch];
            if epoch > 0 && !self.reigns(node.stream) && heard {
                self.nodes[at].stream = 0;
            }
        }
        for epoch in 1..self.sent.len() {
            let reigns = self.reigns(epoch as u8);
            if !reigns {
                for node in &mut self.nodes {
                    node.receipts[epoch] = 0;
                }
            }
            let heard = self.nodes.iter().any(|node| node.stream as usize == epoch);
            if !reigns && !heard {
                self.sent[epoch] = Log::default();
                self.told[epoch] = 0;
            }
        }
        if self.left.images == 0 && self.image.of > 0 {
            let of = &self.nodes[self.image.of as usize - 1];
            if of.incarnation > 0 {
                self.image = Default::default();
            }
        }
        let dead = self.ghost.slot > 0
            && self.left.cleanings == 0
            && self.condemned == 0
            && self.object(self.ghost.slot).is_some();
        if dead {
            self.ghost = Default::default();
        }
        for node in &mut self.nodes {
            if node.tenure == Tenure::None {
                node.sending = 0;
            }
        }
    }
}
