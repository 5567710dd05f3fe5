//! What can happen next: every move of every Node, of Electors, of the weather and of the bucket.
//!
//! [`Model::moves`] lists what is possible in a state, [`Model::apply`] does one of it and lets the judge
//! look. A move is one atomic step as the protocol page has it: one durable transaction, one request that
//! takes effect, or one read. Anything may be delayed by not moving, so no clock is needed.

use super::claims::Breach;
use super::plans::Plan;
use super::sabotage::Sabotage;
use super::state::{Answer, NODES, Phase, Tenure, World, voter};

/// One step. Numbers are Nodes, if not said otherwise; `bool`: the create it was sending lands later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the story of each is told in story.rs")]
pub enum Move {
    Claim,
    Prepare(u8, bool),
    Name(u8),
    Start(u8),
    Read(u8),
    Land(u8),
    Taken(u8),
    Activate(u8),
    Depose(u8, bool),
    Restart(u8, bool),
    Lose(u8, bool),
    Copy(u8),
    Rollback(u8, bool),
    Assign(u8),
    Keep(u8),
    Upload(u8),
    Resend(u8),
    Follow(u8, u8),
    Cut(u8),
    Append(u8),
    Heartbeat(u8, u8),
    CatchUp(u8),
    /// The Primary, and the voters it wants.
    Swap(u8, u8),
    GiveUp(u8),
    LandSwap,
    LandGhost,
    Close(u8),
    Grant(u8),
    Expire(u8),
    Compare(u8),
    Snapshot(u8),
    Install(u8),
    Condemn(u8),
    Delete,
}

/// A plan, and the rule that is switched off in it.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// What may happen.
    pub plan: Plan,
    /// The rule that does not hold.
    pub off: Option<Sabotage>,
}

impl Model {
    /// Whether `rule` is switched off.
    #[must_use]
    pub fn lacks(&self, rule: Sabotage) -> bool {
        self.off == Some(rule)
    }

    /// Everything that may happen in `world`.
    pub fn moves(&self, world: &World, out: &mut Vec<Move>) {
        out.clear();
        self.claiming(world, out);
        if world.register.pending.is_some() {
            out.push(Move::LandSwap);
        }
        if world.ghost.slot > 0 {
            out.push(Move::LandGhost);
        }
        if world.condemned > 0 {
            out.push(Move::Delete);
        }
        for at in 0..self.plan.nodes {
            self.electing(world, at, out);
            self.losing(world, at, out);
            self.starting(world, at, out);
            self.reigning(world, at, out);
            self.following(world, at, out);
            self.keeping(world, at, out);
        }
    }

    /// The epoch that a claim would go to: above the register, and above every refusal.
    pub(super) fn next_epoch(&self, world: &World) -> u8 {
        let refused = world.nodes.iter().map(|node| node.promised).max();
        let seen = if self.lacks(Sabotage::ClaimIgnoresRefusals) {
            0
        } else {
            refused.unwrap_or(0)
        };
        world.register.epoch.max(seen) + 1
    }

    fn claiming(&self, world: &World, out: &mut Vec<Move>) {
        if self.next_epoch(world) <= self.plan.epochs {
            out.push(Move::Claim);
        }
    }

    /// Adds `make(false)`, and `make(true)` if the create that Node `at` sends can land after it is gone.
    fn with_ghost(world: &World, at: usize, make: impl Fn(bool) -> Move, out: &mut Vec<Move>) {
        out.push(make(false));
        let sends = world.nodes[at].sending > 0 && world.nodes[at].tenure != Tenure::Fenced;
        if sends && world.left.ghosts > 0 && world.ghost.slot == 0 {
            out.push(make(true));
        }
    }

    fn electing(&self, world: &World, at: usize, out: &mut Vec<Move>) {
        let (node, register, name) = (&world.nodes[at], &world.register, at as u8);
        if register.phase == Phase::Claimed {
            let votes = register.voters & voter(at, node.incarnation) != 0;
            if votes && node.promised <= register.epoch && node.answer == Answer::None {
                Model::with_ghost(world, at, |ghost| Move::Prepare(name, ghost), out);
            }
            if self.may_name(world, at) {
                out.push(Move::Name(name));
            }
        }
        let again = self.lacks(Sabotage::SecondName) && register.phase == Phase::Starting;
        if again && !node.named && !register.renamed && self.is_best(world, at) {
            out.push(Move::Name(name));
        }
    }

    fn may_name(&self, world: &World, at: usize) -> bool {
        let leased = world.nodes.iter().any(|node| node.lease) && !world.register.unleased;
        if leased && !self.lacks(Sabotage::NamesUnderLease) {
            return false;
        }
        let voters = world.register.voters;
        if voters == 0 {
            return true;
        }
        let count = voters.count_ones() as usize;
        let mut needed = count - (count / 2 + 1) + 1;
        if self.lacks(Sabotage::TooFewPromises) {
            needed -= 1;
        }
        let answers = world
            .nodes
            .iter()
            .filter(|node| node.answer.place().is_some());
        answers.count() >= needed.max(1) && self.is_best(world, at)
    }

    /// Whether Node `at` may be named as far as its log goes.
    fn is_best(&self, world: &World, at: usize) -> bool {
        if world.register.voters == 0 {
            return true;
        }
        let best = world
            .nodes
            .iter()
            .filter_map(|node| node.answer.place())
            .max();
        let own = world.nodes[at].answer;
        matches!(own, Answer::Fresh(..))
            && (own.place() == best || self.lacks(Sabotage::AnyPromiser))
    }

    /// What the weather does to a Node.
    fn losing(&self, world: &World, at: usize, out: &mut Vec<Move>) {
        let (node, left, name) = (&world.nodes[at], &world.left, at as u8);
        let volatile = node.tenure != Tenure::None
            || node.named
            || matches!(node.answer, Answer::Fresh(..))
            || world.image.of == name + 1 && !world.image.outdated;
        if left.restarts > 0 && volatile {
            Model::with_ghost(world, at, |ghost| Move::Restart(name, ghost), out);
        }
        if left.losses > 0 && node.incarnation == 0 && (!node.log.is_empty() || node.promised > 0) {
            Model::with_ghost(world, at, |ghost| Move::Lose(name, ghost), out);
        }
        if left.images > 0 && !node.log.is_empty() {
            out.push(Move::Copy(name));
        }
        if world.image.of == name + 1 && world.image.outdated && node.incarnation == 0 {
            Model::with_ghost(world, at, |ghost| Move::Rollback(name, ghost), out);
        }
        if node.tenure != Tenure::None && world.register.epoch > node.epoch {
            Model::with_ghost(world, at, |ghost| Move::Depose(name, ghost), out);
        }
    }

    /// X on its way to become Active.
    fn starting(&self, world: &World, at: usize, out: &mut Vec<Move>) {
        let (node, register, name) = (&world.nodes[at], &world.register, at as u8);
        let named = register.phase == Phase::Starting && node.named;
        if named && node.tenure == Tenure::None && node.promised <= register.epoch {
            out.push(Move::Start(name));
        }
        let taken = world.object(node.durable + 1).is_some();
        match node.tenure {
            Tenure::Reading => out.push(Move::Read(name)),
            Tenure::Fencing if taken => out.push(Move::Read(name)),
            Tenure::Fencing => out.push(Move::Land(name)),
            Tenure::Fenced if named && node.epoch == register.epoch => {
                out.push(Move::Activate(name));
            }
            _ => {}
        }
    }

    fn reigning(&self, world: &World, at: usize, out: &mut Vec<Move>) {
        let (node, name) = (&world.nodes[at], at as u8);
        let gate = node.tenure == Tenure::Active
            || self.lacks(Sabotage::GateOpenInSwap) && node.tenure == Tenure::Swapping;
        if !matches!(node.tenure, Tenure::Active | Tenure::Swapping) {
            return;
        }
        let sent = world.sent[node.epoch as usize];
        if gate && world.left.writes > 0 {
            out.push(Move::Assign(name));
        }
        if node.log != sent {
            out.push(Move::Keep(name));
        }
        if node.sending == 0 && sent.len() > node.durable {
            out.push(Move::Upload(name));
        }
        if node.sending > 0 {
            out.push(match world.object(node.durable + 1) {
                None => Move::Land(name),
                Some(_) => Move::Taken(name),
            });
            let grown = sent.len() > node.sending && world.ghost.slot == 0 && world.left.ghosts > 0;
            if grown && self.lacks(Sabotage::LargerBatch) {
                out.push(Move::Resend(name));
            }
        }
        if self.lacks(Sabotage::AnswersUncommitted) && sent.len() > node.committed {
            out.push(Move::Compare(name));
        }
        let reigns = node.named && world.register.epoch == node.epoch;
        if reigns && node.tenure == Tenure::Active {
            self.swapping(world, at, out);
            if world.left.leases > 0 && !node.lease {
                out.push(Move::Grant(name));
            }
        }
        if self.lacks(Sabotage::SwapTakenForLost)
            && node.tenure == Tenure::Swapping
            && world.register.pending.is_some()
        {
            out.push(Move::GiveUp(name));
        }
    }

    /// Changes of the voters, which all begin with a flush.
    fn swapping(&self, world: &World, at: usize, out: &mut Vec<Move>) {
        let (node, name) = (&world.nodes[at], at as u8);
        let sent = world.sent[node.epoch as usize];
        let flushed = node.durable == sent.len() && node.log == sent && node.sending == 0;
        if !flushed && !self.lacks(Sabotage::SwapBeforeFlush) {
            return;
        }
        if world.left.closings > 0 && world.register.pending.is_none() {
            out.push(Move::Close(name));
        }
        if world.left.swaps == 0 || world.register.pending.is_some() {
            return;
        }
        if node.voters != 0 {
            out.push(Move::Swap(name, 0));
        }
        let near = |other: &usize| {
            let other = &world.nodes[*other];
            other.stream == node.epoch && other.receipts[node.epoch as usize] == sent.len()
        };
        let others: Vec<usize> = (0..self.plan.nodes).filter(|other| *other != at).collect();
        let own = voter(at, node.incarnation);
        let bit = |other: &usize| voter(*other, world.nodes[*other].incarnation);
        let ready: Vec<u8> = others.iter().filter(|other| near(other)).map(bit).collect();
        let all = ready.iter().fold(0, |all, bit| all | bit);
        let mut wanted: Vec<u8> = ready.iter().map(|bit| bit | own).collect();
        wanted.push(all | own);
        if self.lacks(Sabotage::PrimaryWithoutVote) && ready.len() == 2 {
            wanted.push(all);
        }
        wanted.sort_unstable();
        wanted.dedup();
        for voters in wanted {
            if voters != node.voters && voters.count_ones() >= 2 {
                out.push(Move::Swap(name, voters));
            }
        }
    }

    fn following(&self, world: &World, at: usize, out: &mut Vec<Move>) {
        let (node, name) = (&world.nodes[at], at as u8);
        if node.tenure != Tenure::None {
            if node.lease {
                out.push(Move::Expire(name));
            }
            return;
        }
        for other in (0..NODES).filter(|other| *other != at) {
            let primary = &world.nodes[other];
            let reigns = matches!(primary.tenure, Tenure::Active | Tenure::Swapping);
            if reigns && node.promised <= primary.epoch && node.stream != primary.epoch {
                out.push(Move::Follow(name, other as u8));
                let more = world.told[primary.epoch as usize].min(node.log.len()) > node.committed;
                if more && self.lacks(Sabotage::HeartbeatCommits) {
                    out.push(Move::Heartbeat(name, other as u8));
                }
            }
        }
        if node.uncut {
            out.push(Move::Cut(name));
        } else if node.stream > 0 && node.log.len() < world.sent[node.stream as usize].len() {
            out.push(Move::Append(name));
        }
    }

    /// Reading the chain without a tenure, Snapshots and clean-up.
    fn keeping(&self, world: &World, at: usize, out: &mut Vec<Move>) {
        let (node, left, name) = (&world.nodes[at], &world.left, at as u8);
        let idle = node.tenure == Tenure::None && node.stream == 0;
        let behind = node.durable < world.snapshot.len();
        let slot = node.durable + 1;
        let next = world.object(slot);
        if left.catchups > 0 && idle && next.is_some_and(|one| self.is_credible(world, slot, one)) {
            out.push(Move::CatchUp(name));
        }
        if idle && behind {
            out.push(Move::Install(name));
        }
        if node.tenure != Tenure::Active {
            return;
        }
        let reigns = world.register.epoch == node.epoch;
        let fresh = self.snapshot_of(world, at).len() > world.snapshot.len();
        if left.snapshots > 0 && fresh {
            out.push(Move::Snapshot(name));
        }
        let unseen = self.lacks(Sabotage::CleansUnseen);
        if left.cleanings > 0 && (reigns || unseen) && self.cleanable(world) > 0 {
            out.push(Move::Condemn(name));
        }
    }

    /// `world` after `step`, or the claim that it breaks.
    ///
    /// # Errors
    /// The first claim that does not hold any more.
    pub fn apply(&self, world: &World, step: Move) -> Result<World, Breach> {
        let mut next = world.clone();
        match step {
            Move::Claim => self.claim(&mut next),
            Move::Prepare(at, ghost) => self.prepare(&mut next, at as usize, ghost),
            Move::Name(at) => self.name(&mut next, at as usize),
            Move::Start(at) => next.start(at as usize),
            Move::Read(at) => self.read(&mut next, at as usize)?,
            Move::Land(at) => self.land(&mut next, at as usize)?,
            Move::Taken(at) => self.taken(&mut next, at as usize),
            Move::Activate(at) => self.activate(&mut next, at as usize),
            Move::Depose(at, ghost) => next.leave(at as usize, ghost),
            Move::Restart(at, ghost) => self.restart(&mut next, at as usize, ghost),
            Move::Lose(at, ghost) => self.lose(&mut next, at as usize, ghost),
            Move::Copy(at) => next.copy(at as usize),
            Move::Rollback(at, ghost) => self.rollback(&mut next, at as usize, ghost),
            Move::Assign(at) => next.assign(at as usize),
            Move::Keep(at) => next.keep(at as usize),
            Move::Upload(at) => next.send(at as usize),
            Move::Resend(at) => next.resend(at as usize),
            Move::Follow(at, of) => self.follow(&mut next, at as usize, of as usize)?,
            Move::Cut(at) => self.cut(&mut next, at as usize)?,
            Move::Append(at) => next.append(at as usize),
            Move::Heartbeat(at, of) => next.heartbeat(at as usize, of as usize)?,
            Move::CatchUp(at) => self.catch_up(&mut next, at as usize)?,
            Move::Swap(at, voters) => next.swap(at as usize, voters),
            Move::GiveUp(at) => next.nodes[at as usize].tenure = Tenure::Active,
            Move::LandSwap => next.land_swap(),
            Move::LandGhost => next.land_ghost()?,
            Move::Close(at) => self.close(&mut next, at as usize),
            Move::Grant(at) => {
                next.left.leases -= 1;
                next.nodes[at as usize].lease = true;
            }
            Move::Expire(at) => next.nodes[at as usize].lease = false,
            Move::Compare(at) => next.compare(at as usize)?,
            Move::Snapshot(at) => self.snapshot(&mut next, at as usize),
            Move::Install(at) => next.install(at as usize)?,
            Move::Condemn(_) => self.condemn(&mut next),
            Move::Delete => next.delete(),
        }
        self.judge(&mut next)?;
        Ok(next)
    }
}
