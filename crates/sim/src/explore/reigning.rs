//! A tenure, from reading the chain to closing: the fence, writes, uploads, and swaps of the voters.
//!
//! A create and what its sender learns of it are one step, because a sender that learns late does nothing
//! in between that it could not do before; a sender that dies in between is a [`World::ghost`].

use super::claims::Breach;
use super::log::{Log, Record};
use super::moves::Model;
use super::sabotage::Sabotage;
use super::state::{Phase, Stray, Tenure, World, voter};

impl Model {
    /// X reads the chain to its end, and turns to the slot behind it.
    pub(super) fn read(&self, world: &mut World, at: usize) -> Result<(), Breach> {
        let epoch = world.nodes[at].epoch;
        world.nodes[at].sending = 0;
        world.nodes[at].tenure = Tenure::Reading;
        while let Some(chunk) = world.object(world.nodes[at].durable + 1) {
            if !self.is_credible(world, world.nodes[at].durable + 1, chunk) {
                if world.snapshot.last_epoch() >= epoch {
                    world.leave(at, false);
                    return Ok(());
                }
                world.install(at)?;
                continue;
            }
            let higher = chunk.records().any(|record| record.epoch() > epoch);
            let own = chunk.records().any(|record| record.epoch() == epoch);
            if higher && !self.lacks(Sabotage::ReadsPastHigherEpoch)
                || own && !self.lacks(Sabotage::SecondName)
            {
                world.leave(at, false);
                return Ok(());
            }
            world.import(at, chunk)?;
        }
        let slot = world.nodes[at].durable + 1;
        if world.lists_beyond(slot) && !self.lacks(Sabotage::EmptySlotIsEnd) {
            world.leave(at, false); // a list shows Chunks beyond: it fell behind
            return Ok(());
        }
        let usurps = world.register.renamed && world.nodes[at].named;
        let node = &mut world.nodes[at];
        if self.lacks(Sabotage::FenceWithoutTail) {
            node.log = node.log.upto(node.durable);
        }
        let early = self.lacks(Sabotage::OpeningBeforeFence);
        if early && node.log.last_epoch() < epoch {
            node.log = node.log.with(Record::opening(epoch, usurps));
        }
        node.tenure = Tenure::Fencing;
        node.sending = node.log.len() + u8::from(!early);
        Ok(())
    }

    /// Whether a Chunk found in `slot` can be believed. Only a fence can win a slot that was cleaned away, and
    /// only slots at or below a Snapshot are: a fence there is not taken, the Snapshot is.
    pub(super) fn is_credible(&self, world: &World, slot: u8, chunk: Log) -> bool {
        world.snapshot.len() < slot
            || chunk.records().all(|record| !record.opens())
            || self.lacks(Sabotage::OldFenceBelieved)
    }

    /// The create in flight wins its slot, and its sender learns of it.
    pub(super) fn land(&self, world: &mut World, at: usize) -> Result<(), Breach> {
        let upload = world.upload(at);
        world.create(upload)?;
        let node = &mut world.nodes[at];
        if node.tenure != Tenure::Fencing {
            node.durable = node.sending;
            node.sending = 0;
            return Ok(());
        }
        node.tenure = Tenure::Fenced;
        if self.lacks(Sabotage::FenceBelievedAtOnce) {
            node.log = node.log.upto(node.durable).and(upload.records);
            node.durable = node.sending;
            node.sending = 0;
        }
        Ok(())
    }

    /// Somebody else holds the slot that an Active Primary sends to: its tenure ends.
    pub(super) fn taken(&self, world: &mut World, at: usize) {
        let node = &world.nodes[at];
        let found = world.object(node.durable + 1).unwrap_or_default();
        if self.lacks(Sabotage::LargerBatch) && found.last_epoch() == node.epoch {
            world.nodes[at].durable = node.sending;
            world.nodes[at].sending = 0;
            return;
        }
        world.leave(at, false);
    }

    /// The swap to `active` is won. Only now X knows that its fence stands in the chain, and takes it over.
    pub(super) fn activate(&self, world: &mut World, at: usize) {
        let fence = world.upload(at).records;
        let node = &mut world.nodes[at];
        if self.lacks(Sabotage::SingleVoter) && self.plan.nodes == 1 {
            world.register.voters = voter(at, node.incarnation);
        }
        world.register.phase = Phase::Active;
        world.sent[node.epoch as usize] = node.log;
        if node.sending > 0 {
            world.sent[node.epoch as usize] = node.log.upto(node.durable).and(fence);
            node.durable = node.sending;
            node.sending = 0;
        }
        node.voters = world.register.voters;
        node.tenure = Tenure::Active;
        world.told[node.epoch as usize] = 0;
        world.became_active |= 1 << node.epoch;
    }

    pub(super) fn close(&self, world: &mut World, at: usize) {
        world.left.closings -= 1;
        let lease = world.nodes[at].lease && self.lacks(Sabotage::ReadsAfterClosing);
        let epoch = world.nodes[at].epoch;
        world.leave(at, false);
        world.register.voters = 0;
        world.register.phase = Phase::Closed;
        world.register.pending = None;
        world.nodes[at].named = false;
        if lease {
            world.nodes[at].tenure = Tenure::Closed;
            world.nodes[at].epoch = epoch;
            world.nodes[at].lease = true;
        }
    }
}

impl World {
    /// A create takes effect: in the tail slot, or where it must not.
    pub(super) fn create(&mut self, chunk: Stray) -> Result<(), Breach> {
        let tail = self.chain.len() + 1;
        if chunk.slot > tail {
            return Err(Breach::ChainHasGap);
        }
        if chunk.slot < tail {
            let Some(end) = self.chunk_from(chunk.slot) else {
                return Err(Breach::ChunkBesideChain);
            };
            let gone = self.chain.above(chunk.slot - 1).upto(end - chunk.slot + 1);
            if gone == chunk.records {
                self.gone &= !(1 << (end - 1));
            } else {
                self.stray = chunk;
            }
            return Ok(());
        }
        let mut epoch = self.chain.last_epoch();
        for record in chunk.records.records() {
            if record.epoch() < epoch || (record.epoch() > epoch) && !record.opens() {
                return Err(Breach::EpochFalls);
            }
            epoch = record.epoch();
        }
        self.chain = self.chain.and(chunk.records);
        self.ends |= 1 << (self.chain.len() - 1);
        Ok(())
    }

    /// A create of somebody who is gone takes effect, or finds its slot taken.
    pub(super) fn land_ghost(&mut self) -> Result<(), Breach> {
        let ghost = std::mem::take(&mut self.ghost);
        if self.object(ghost.slot).is_some() {
            return Ok(());
        }
        self.create(ghost)
    }

    /// A Chunk in the next slot is taken over: where it differs from the own log, it wins.
    pub(super) fn import(&mut self, at: usize, chunk: Log) -> Result<(), Breach> {
        let node = &mut self.nodes[at];
        for record in chunk.records() {
            node.durable += 1;
            let revision = node.durable;
            let found = node.log.at(revision);
            if found == Some(record) {
                continue;
            }
            if found.is_some() && revision <= node.committed {
                return Err(Breach::ChainAgainstCommitted);
            }
            if record.epoch() < node.log.epoch_at(revision - 1) {
                return Err(Breach::EpochFalls);
            }
            node.log = node.log.upto(revision - 1).with(record);
        }
        node.promised = node.promised.max(chunk.last_epoch());
        self.nodes[at].committed = self.nodes[at].committed.max(self.nodes[at].durable);
        self.show(self.nodes[at].log, self.nodes[at].committed)
    }

    pub(super) fn assign(&mut self, at: usize) {
        self.left.writes -= 1;
        self.writes += 1;
        let epoch = self.nodes[at].epoch;
        let log = &mut self.sent[epoch as usize];
        *log = log.with(Record::write(epoch, self.writes));
    }

    /// The Primary's own disk takes what was assigned.
    pub(super) fn keep(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.log = self.sent[node.epoch as usize];
    }

    /// The Primary starts an upload of all that the bucket lacks.
    pub(super) fn send(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.sending = self.sent[node.epoch as usize].len();
    }

    /// Only under a sabotage: the same slot is sent again with more Records.
    pub(super) fn resend(&mut self, at: usize) {
        self.ghost = self.upload(at);
        self.left.ghosts -= 1;
        self.send(at);
    }

    pub(super) fn swap(&mut self, at: usize, voters: u8) {
        self.left.swaps -= 1;
        self.register.pending = Some(voters);
        self.nodes[at].tenure = Tenure::Swapping;
    }

    /// A swap in flight takes effect; its Primary learns of it, if it still waits.
    pub(super) fn land_swap(&mut self) {
        let Some(voters) = self.register.pending.take() else {
            return;
        };
        self.register.voters = voters;
        let epoch = self.register.epoch;
        for node in &mut self.nodes {
            if node.tenure == Tenure::Swapping && node.epoch == epoch && node.named {
                node.voters = voters;
                node.tenure = Tenure::Active;
            }
        }
    }

    /// Only under a sabotage: an answer from what is not committed.
    pub(super) fn compare(&mut self, at: usize) -> Result<(), Breach> {
        let log = self.sent[self.nodes[at].epoch as usize];
        self.show(log, log.len())
    }
}
