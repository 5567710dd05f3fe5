//! The plans: named configurations, each small enough to be searched to its end.
//!
//! A plan says how a story may begin and how much of each fault it may hold. Every plan holds with all
//! rules in force; [`CASES`] names for each rule the plan in which its absence is found.

use super::log::{Log, Record};
use super::sabotage::Sabotage;
use super::state::{Budget, NODES, Phase, Tenure, World, voter};

/// How a plan begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// An empty bucket and empty disks.
    Birth,
    /// Node 0 is Active in epoch 1, all Nodes are voters and follow it.
    Voting,
    /// The same without voters: every commit goes by the bucket.
    Bucket,
    /// Like `Voting`, but the last Node refuses everything up to epoch 3.
    Feverish,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What it is called.
    pub name: &'static str,
    /// Nodes, 1 to 3.
    pub nodes: usize,
    /// How it begins.
    pub start: Start,
    /// The highest epoch that is claimed.
    pub epochs: u8,
    /// How much may happen.
    pub budget: Budget,
    /// Claim 7 is checked in every state.
    pub heals: bool,
}

/// A budget of nothing.
const NONE: Budget = Budget {
    writes: 0,
    restarts: 0,
    losses: 0,
    ghosts: 0,
    swaps: 0,
    closings: 0,
    snapshots: 0,
    cleanings: 0,
    images: 0,
    catchups: 0,
    leases: 0,
};

const fn plan(name: &'static str, nodes: usize, start: Start, epochs: u8, budget: Budget) -> Plan {
    Plan {
        name,
        nodes,
        start,
        epochs,
        budget,
        heals: false,
    }
}

/// The same with claim 7 checked in every state.
const fn healing(plan: Plan) -> Plan {
    Plan {
        heals: true,
        ..plan
    }
}

/// Every plan, the quick ones first.
#[rustfmt::skip]
pub const PLANS: &[Plan] = &[
    healing(plan("single", 1, Start::Birth, 3, Budget { writes: 2, restarts: 2, losses: 1, ghosts: 1, ..NONE })),
    healing(plan("birth", 2, Start::Birth, 2, Budget { writes: 2, restarts: 1, ghosts: 1, swaps: 1, ..NONE })),
    healing(plan("fever", 3, Start::Feverish, 5, Budget { losses: 1, ..NONE })),
    plan("voting", 3, Start::Voting, 3, Budget { writes: 2, restarts: 1, ghosts: 1, ..NONE }),
    plan("tails", 3, Start::Voting, 3, Budget { writes: 3, ..NONE }),
    plan("bucket", 3, Start::Bucket, 3, Budget { writes: 2, restarts: 1, ghosts: 1, catchups: 1, ..NONE }),
    plan("losses", 3, Start::Voting, 3, Budget { writes: 2, losses: 1, ..NONE }),
    plan("images", 3, Start::Voting, 2, Budget { writes: 2, restarts: 1, images: 1, ..NONE }),
    plan("leases", 2, Start::Voting, 3, Budget { writes: 2, leases: 2, closings: 1, restarts: 1, ..NONE }),
    plan("fallback", 3, Start::Voting, 3, Budget { writes: 2, swaps: 2, restarts: 1, ..NONE }),
    plan("joining", 3, Start::Bucket, 3, Budget { writes: 2, swaps: 1, losses: 1, ..NONE }),
    plan("sleeping", 2, Start::Bucket, 3, Budget { writes: 2, snapshots: 1, cleanings: 1, catchups: 1, ..NONE }),
    plan("cleaning", 3, Start::Bucket, 3, Budget { writes: 2, ghosts: 1, snapshots: 1, cleanings: 1, catchups: 1, ..NONE }),
    plan("snapshots", 3, Start::Voting, 2, Budget { writes: 2, losses: 1, snapshots: 1, ..NONE }),
];

impl Plan {
    /// The plan called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Plan> {
        PLANS.iter().copied().find(|plan| plan.name == name)
    }

    /// Its first state.
    #[must_use]
    pub fn begin(&self) -> World {
        let mut world = World {
            left: self.budget,
            ..World::default()
        };
        if self.start == Start::Birth {
            return world;
        }
        let log = Log::default().with(Record::opening(1, false));
        world.chain = log;
        world.ends = 1;
        (world.truth, world.acked) = (log, 1);
        world.sent[1] = log;
        world.told[1] = 1;
        world.became_active = 0b10;
        world.register.epoch = 1;
        world.register.phase = Phase::Active;
        let everybody = (0..self.nodes).fold(0, |all, at| all | voter(at, 0));
        world.register.voters = if self.start == Start::Bucket {
            0
        } else {
            everybody
        };
        for node in &mut world.nodes[..self.nodes] {
            node.log = log;
            (node.promised, node.committed, node.durable) = (1, 1, 1);
            node.stream = 1;
            node.receipts[1] = 1;
        }
        let primary = &mut world.nodes[0];
        (primary.stream, primary.receipts[1]) = (0, 0);
        (primary.tenure, primary.epoch, primary.named) = (Tenure::Active, 1, true);
        primary.voters = world.register.voters;
        if self.start == Start::Feverish {
            let ill = &mut world.nodes[NODES - 1];
            (ill.promised, ill.stream, ill.receipts[1]) = (3, 0, 0);
        }
        world
    }
}

/// Each rule, and the plan in which switching it off is found.
#[rustfmt::skip]
pub const CASES: &[(Sabotage, &str)] = &[
    (Sabotage::TableOfActives, "bucket"),
    (Sabotage::ReadsPastHigherEpoch, "voting"),
    (Sabotage::SecondName, "voting"),
    (Sabotage::SwapTakenForLost, "fallback"),
    (Sabotage::TenureSurvivesRestart, "voting"),
    (Sabotage::PromiserStaysPrimary, "voting"),
    (Sabotage::PrimaryWithoutVote, "fallback"),
    (Sabotage::ReceiptBeforeCut, "tails"),
    (Sabotage::HeartbeatCommits, "voting"),
    (Sabotage::GateOpenInSwap, "fallback"),
    (Sabotage::SwapBeforeFlush, "fallback"),
    (Sabotage::CleansEpochs, "sleeping"),
    (Sabotage::LargerBatch, "voting"),
    (Sabotage::CleansUnseen, "sleeping"),
    (Sabotage::EmptySlotIsEnd, "sleeping"),
    (Sabotage::OldFenceBelieved, "sleeping"),
    (Sabotage::FenceBelievedAtOnce, "sleeping"),
    (Sabotage::NamesUnderLease, "leases"),
    (Sabotage::ReadsAfterClosing, "leases"),
    (Sabotage::ReadsBeforeOpening, "voting"),
    (Sabotage::AnswersUncommitted, "voting"),
    (Sabotage::ReadsUnconfirmed, "voting"),
    (Sabotage::SingleVoter, "single"),
    (Sabotage::OldDiskVotes, "images"),
    (Sabotage::SnapshotAboveChain, "snapshots"),
    (Sabotage::SnapshotInsideChunk, "snapshots"),
    (Sabotage::ClaimIgnoresRefusals, "fever"),
    (Sabotage::TooFewPromises, "voting"),
    (Sabotage::AnyPromiser, "voting"),
    (Sabotage::FenceWithoutTail, "voting"),
    (Sabotage::LostDiskVotes, "losses"),
];
