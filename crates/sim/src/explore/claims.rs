//! The judge: after every move it commits what may be committed, and asks whether the claims still hold.
//!
//! Commits are not moves. A Primary is taken to answer its clients at the first moment at which the commit
//! rules allow it, and a Replica to show at once what it may: whatever holds for the earliest answer holds
//! for every later one.

use std::fmt;

use super::log::Log;
use super::moves::{Model, Move};
use super::sabotage::Sabotage;
use super::state::{Answer, NODES, Node, Phase, Tenure, World, voter};

/// A claim that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// 1: two contents of one Revision were visible.
    TwoContents,
    /// 2: an Active Primary lacks what was acknowledged.
    PrimaryLacksAcknowledged,
    /// 3: a Chunk was created beyond the tail slot.
    ChainHasGap,
    /// 3: a Chunk was created in the middle of another one.
    ChunkBesideChain,
    /// 3: epochs fall along a log.
    EpochFalls,
    /// 4: the chain differs from a Record that was committed here.
    ChainAgainstCommitted,
    /// 4: a cut below what was committed here.
    CutsCommitted,
    /// 4: committed above what the Node holds.
    CommittedUnheld,
    /// 5: a linearizable read misses an acknowledged write.
    StaleRead,
    /// 6 of the register: voters without the Active Primary.
    VotersWithoutPrimary,
    /// 7: nobody can become Primary any more.
    Stuck,
    /// 8: one write is in the log twice.
    WrittenTwice,
}

impl fmt::Display for Breach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Breach::TwoContents => "two contents of one Revision were visible",
            Breach::PrimaryLacksAcknowledged => {
                "an Active Primary's log lacks what was acknowledged"
            }
            Breach::ChainHasGap => "a Chunk was created beyond the tail slot: the chain has a gap",
            Breach::ChunkBesideChain => "a Chunk was created in the middle of another one",
            Breach::EpochFalls => "epochs fall along the chain",
            Breach::ChainAgainstCommitted => "the chain differs from a Record committed on a Node",
            Breach::CutsCommitted => "a Node must cut below its committed Revision",
            Breach::CommittedUnheld => "a Node shows more than it holds",
            Breach::StaleRead => "a linearizable read misses an acknowledged write",
            Breach::VotersWithoutPrimary => "the voters are swapped to a set without the Primary",
            Breach::Stuck => "no fault is left, and nobody can become Primary",
            Breach::WrittenTwice => "one write is in the log twice",
        })
    }
}

impl Model {
    /// Commits what the rules allow, and checks every claim.
    pub(super) fn judge(&self, world: &mut World) -> Result<(), Breach> {
        for epoch in 1..=self.plan.epochs {
            for at in 0..self.plan.nodes {
                let node = &world.nodes[at];
                let reigns = matches!(node.tenure, Tenure::Active | Tenure::Swapping);
                if reigns && node.epoch == epoch {
                    self.commit(world, at)?;
                }
            }
        }
        for at in 0..self.plan.nodes {
            let node = &mut world.nodes[at];
            let told = world.told[node.stream as usize].min(node.log.len());
            if node.stream > 0 && !node.uncut && told > node.committed {
                node.committed = told;
                let (log, committed) = (node.log, node.committed);
                world.show(log, committed)?;
            }
        }
        world.forget();
        self.hold(world)
    }

    /// A Primary commits as much as the commit rules allow.
    fn commit(&self, world: &mut World, at: usize) -> Result<(), Breach> {
        let node = &world.nodes[at];
        let epoch = node.epoch;
        let sent = world.sent[epoch as usize];
        let own = |revision: u8| sent.epoch_at(revision) == epoch;
        let path = |revision: u8| Some(revision).filter(|revision| own(*revision));
        let bucket = path(node.durable.min(node.log.len()));
        let quorum = path(self.on_quorum(world, at).min(node.log.len()));
        let Some(committed) = bucket.max(quorum).filter(|at| *at > node.committed) else {
            return Ok(());
        };
        world.nodes[at].committed = committed;
        world.told[epoch as usize] = world.told[epoch as usize].max(committed);
        world.acked = world.acked.max(committed);
        world.show(sent, committed)
    }

    /// The highest Revision that is durable on a quorum of the voters the Primary knows.
    fn on_quorum(&self, world: &World, at: usize) -> u8 {
        let primary = &world.nodes[at];
        let count = primary.voters.count_ones() as usize;
        if count == 0 {
            return 0;
        }
        let counts_itself = self.lacks(Sabotage::PrimaryWithoutVote);
        let mut held = [0; NODES];
        for (other, node) in world.nodes[..self.plan.nodes].iter().enumerate() {
            let votes = primary.voters & voter(other, node.incarnation) != 0;
            held[other] = match other == at {
                true if votes || counts_itself => primary.log.len(),
                false if votes => node.receipts[primary.epoch as usize],
                _ => 0,
            };
        }
        held.sort_unstable_by(|a, b| b.cmp(a));
        held[count / 2]
    }

    fn hold(&self, world: &World) -> Result<(), Breach> {
        let nodes = &world.nodes[..self.plan.nodes];
        let reigning = nodes
            .iter()
            .filter(|node| matches!(node.tenure, Tenure::Active | Tenure::Swapping));
        let later = |epoch: u8| epoch >= world.truth.last_epoch();
        let lacks = |epoch: u8| !world.sent[epoch as usize].begins_with(world.truth);
        if reigning
            .into_iter()
            .any(|node| later(node.epoch) && lacks(node.epoch))
        {
            return Err(Breach::PrimaryLacksAcknowledged);
        }
        let confirms = |named: bool, epoch: u8| {
            let current = named && epoch == world.register.epoch;
            current && world.register.phase == Phase::Active
                || self.lacks(Sabotage::ReadsUnconfirmed)
        };
        let opened = |node: &Node| {
            node.log.epoch_at(node.committed) == node.epoch
                || self.lacks(Sabotage::ReadsBeforeOpening)
        };
        let answers = nodes.iter().filter(|node| match node.tenure {
            Tenure::Active | Tenure::Swapping => {
                opened(node) && (node.lease || confirms(node.named, node.epoch))
            }
            Tenure::Closed => node.lease,
            _ => false,
        });
        if answers.into_iter().any(|node| node.committed < world.acked) {
            return Err(Breach::StaleRead);
        }
        if nodes.iter().any(|node| node.committed > node.log.len()) {
            return Err(Breach::CommittedUnheld);
        }
        let writes = |log: Log| log.records().filter_map(|record| record.written());
        let twice = |write: u8| writes(world.truth).filter(|other| *other == write).count() > 1;
        if writes(world.truth).any(twice) {
            return Err(Breach::WrittenTwice);
        }
        if self.plan.heals && self.ought_to_heal(world) && !self.heals(world) {
            return Err(Breach::Stuck);
        }
        Ok(())
    }

    /// Whether claim 7 speaks of this state: `R` voters survive, or none are needed.
    fn ought_to_heal(&self, world: &World) -> bool {
        let voters = world.register.voters;
        let alive = |at: &usize| voters & voter(*at, world.nodes[*at].incarnation) != 0;
        let alive = (0..self.plan.nodes).filter(alive).count();
        let count = voters.count_ones() as usize;
        self.plan.nodes == 1 || count == 0 || alive > count - (count / 2 + 1)
    }

    /// Lets faults stop and everybody do the obvious: is a new write committed?
    fn heals(&self, world: &World) -> bool {
        let mut calm = *self;
        calm.plan.heals = false;
        calm.plan.epochs = super::state::EPOCHS as u8 - 1;
        let mut now = world.clone();
        for at in 0..self.plan.nodes {
            now.end_process(at, false);
        }
        (now.ghost, now.register.pending) = (Default::default(), None);
        now.left = super::state::Budget {
            writes: 1,
            ..Default::default()
        };
        let (mut moves, aim) = (Vec::new(), world.writes + 1);
        if calm.next_epoch(&now) > calm.plan.epochs {
            return true; // nothing can be said: the model has no number left
        }
        calm.claim(&mut now);
        for _ in 0..40 {
            let written = now
                .truth
                .records()
                .any(|record| record.written() == Some(aim));
            if written {
                return true;
            }
            calm.moves(&now, &mut moves);
            let best = moves
                .iter()
                .filter(|step| helps(&now, **step))
                .min_by_key(|step| rank(**step));
            let Some(step) = best else {
                return false;
            };
            match calm.apply(&now, *step) {
                Ok(next) => now = next,
                Err(_) => return false,
            }
        }
        false
    }
}

/// Whether a calm cluster would do it: no faults, no further claims.
fn helps(world: &World, step: Move) -> bool {
    match step {
        Move::Name(at) => {
            let node = &world.nodes[at as usize];
            world.register.voters == 0 || matches!(node.answer, Answer::Fresh(..))
        }
        Move::Prepare(_, ghost) => !ghost,
        Move::Start(_)
        | Move::Read(_)
        | Move::Land(_)
        | Move::Activate(_)
        | Move::Assign(_)
        | Move::Keep(_)
        | Move::Upload(_) => true,
        _ => false,
    }
}

/// What a calm cluster does first: all that can answer are asked before anybody is named.
fn rank(step: Move) -> u8 {
    match step {
        Move::Prepare(..) => 0,
        Move::Name(_) => 2,
        _ => 1,
    }
}

impl World {
    /// Somebody could see `log` up to `committed`: it must go together with all that was ever seen.
    pub(super) fn show(&mut self, log: Log, committed: u8) -> Result<(), Breach> {
        let seen = log.upto(committed);
        if seen.begins_with(self.truth) {
            self.truth = seen;
        } else if !self.truth.begins_with(seen) {
            return Err(Breach::TwoContents);
        }
        Ok(())
    }
}
