//! Electors and the weather: claims, promises, names, and how a process or a disk ends.
//!
//! Any claim is allowed at any time, which covers every number of Electors with every mistake they can
//! make; what an Elector holds is therefore only what it heard for the newest epoch.

use super::log::Log;
use super::moves::Model;
use super::sabotage::Sabotage;
use super::state::{Answer, Image, Node, Phase, Tenure, World};

impl Model {
    pub(super) fn claim(&self, world: &mut World) {
        let epoch = self.next_epoch(world);
        let register = &mut world.register;
        register.unleased = register.phase == Phase::Closed
            || register.phase == Phase::Claimed && register.unleased;
        register.epoch = epoch;
        register.phase = Phase::Claimed;
        register.pending = None;
        register.renamed = false;
        for node in &mut world.nodes {
            node.answer = Answer::None;
            node.named = false;
        }
    }

    pub(super) fn prepare(&self, world: &mut World, at: usize, ghost: bool) {
        let epoch = world.register.epoch;
        if world.nodes[at].tenure != Tenure::None && !self.lacks(Sabotage::PromiserStaysPrimary) {
            world.leave(at, ghost);
        }
        let node = &mut world.nodes[at];
        node.promised = epoch;
        node.stream = 0;
        node.uncut = false;
        node.answer = Answer::Fresh(node.log.last_epoch(), node.log.len());
    }

    pub(super) fn name(&self, world: &mut World, at: usize) {
        if world.register.phase == Phase::Starting {
            world.register.renamed = true;
        }
        world.register.phase = Phase::Starting;
        for (other, node) in world.nodes.iter_mut().enumerate() {
            node.named = other == at;
            if !self.lacks(Sabotage::SecondName) {
                node.answer = Answer::None;
            }
        }
    }

    pub(super) fn restart(&self, world: &mut World, at: usize, ghost: bool) {
        world.left.restarts -= 1;
        let node = world.nodes[at];
        let goes_on = node.tenure == Tenure::Active && self.lacks(Sabotage::TenureSurvivesRestart);
        world.end_process(at, ghost);
        if goes_on {
            world.sent[node.epoch as usize] = node.log;
            world.nodes[at].tenure = Tenure::Active;
            world.nodes[at].voters = node.voters;
            world.nodes[at].epoch = node.epoch;
            world.nodes[at].named = node.named;
        }
    }

    pub(super) fn lose(&self, world: &mut World, at: usize, ghost: bool) {
        world.left.losses -= 1;
        world.end_process(at, ghost);
        let node = world.nodes[at];
        world.nodes[at] = Node {
            incarnation: node.incarnation + u8::from(!self.lacks(Sabotage::LostDiskVotes)),
            answer: node.answer,
            ..Node::default()
        };
    }

    /// An old copy of the disk comes back. `boot_seq` tells, and it becomes the disk of a new Node.
    pub(super) fn rollback(&self, world: &mut World, at: usize, ghost: bool) {
        let image = world.image;
        world.image = Image::default();
        world.end_process(at, ghost);
        let node = world.nodes[at];
        let old = self.lacks(Sabotage::OldDiskVotes);
        world.nodes[at] = Node {
            log: if old { image.log } else { Log::default() },
            promised: if old { image.promised } else { 0 },
            committed: if old { image.committed } else { 0 },
            durable: if old { image.durable } else { 0 },
            incarnation: node.incarnation + u8::from(!old),
            answer: node.answer,
            ..Node::default()
        };
    }
}

impl World {
    /// The named process finds itself in the register, and promises.
    pub(super) fn start(&mut self, at: usize) {
        let epoch = self.register.epoch;
        let node = &mut self.nodes[at];
        node.promised = epoch;
        node.stream = 0;
        node.uncut = false;
        node.tenure = Tenure::Reading;
        node.epoch = epoch;
    }

    /// The tenure ends. With `ghost`, the create it was sending is still on its way.
    pub(super) fn leave(&mut self, at: usize, ghost: bool) {
        if ghost {
            self.ghost = self.upload(at);
            self.left.ghosts -= 1;
        }
        self.hold_chain(at);
        let node = &mut self.nodes[at];
        node.tenure = Tenure::None;
        node.epoch = 0;
        node.sending = 0;
        node.voters = 0;
        node.lease = false;
    }

    /// The disk knows of no more chain than it holds: up to the last Chunk that is there as a whole.
    pub(super) fn hold_chain(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.durable > node.log.len() {
            let held = self.ends & ((1_u16 << node.log.len()) - 1) as u8;
            node.durable = 8 - held.leading_zeros() as u8;
        }
    }

    /// The process ends, and another one starts on what the disk holds.
    pub(super) fn end_process(&mut self, at: usize, ghost: bool) {
        self.leave(at, ghost);
        let node = &mut self.nodes[at];
        node.stream = 0;
        node.uncut = false;
        node.named = false;
        node.answer = node.answer.stale();
        if self.image.of as usize == at + 1 {
            self.image.outdated = true;
        }
    }

    pub(super) fn copy(&mut self, at: usize) {
        self.left.images -= 1;
        let node = &self.nodes[at];
        self.image = Image {
            of: at as u8 + 1,
            outdated: false,
            log: node.log,
            promised: node.promised,
            committed: node.committed,
            durable: node.durable,
        };
    }
}
