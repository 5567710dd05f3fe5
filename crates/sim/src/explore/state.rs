//! Everything the model remembers: three Nodes, the bucket, the register, and what a judge has seen.
//!
//! A state is small and plain, so that millions of them can be told apart by a fingerprint. What is in
//! flight is not kept as messages: a stream delivers from the log its Primary assigned, a Receipt counts
//! from the moment it left, and only requests of those who are gone wait in [`World::ghost`] and
//! [`Register::pending`]. A Node may act arbitrarily late, so a pause is simply not moving.

use super::log::{Log, Record};

/// Nodes in the largest plan.
pub const NODES: usize = 3;
/// Epochs are below this; 0 means none.
pub const EPOCHS: usize = 6;

/// How far a Node's tenure has come.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tenure {
    /// Not Primary.
    #[default]
    None,
    /// Found itself in the register and promised; has not read the chain.
    Reading,
    /// Saw the end of the chain and sends its fence to the slot behind it.
    Fencing,
    /// Its create has won; the register is not active yet, so nothing is believed.
    Fenced,
    /// Accepts writes.
    Active,
    /// Gate shut; a swap of the voters is under way.
    Swapping,
    /// Closed, but a sabotage lets it go on answering reads.
    Closed,
}

/// One Node: its disk first, then what its process knows.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// The log on its disk.
    pub log: Log,
    /// The highest epoch it has seen or promised.
    pub promised: u8,
    /// What it may show.
    pub committed: u8,
    /// `D`: the chain it knows, always on its disk too.
    pub durable: u8,
    /// Which disk it is: raised when one is lost.
    pub incarnation: u8,
    /// Its tenure, if any, and the epoch of it.
    pub tenure: Tenure,
    /// Epoch of the tenure.
    pub epoch: u8,
    /// Last Revision of the Chunk it sends to slot `durable + 1`; 0 if it sends none.
    pub sending: u8,
    /// As Active Primary: the voters it knows.
    pub voters: u8,
    /// As Active Primary: holds the read lease.
    pub lease: bool,
    /// Epoch of its open Follow stream, 0 if none.
    pub stream: u8,
    /// Only under a sabotage: the cut its stream asked for is not durable yet.
    pub uncut: bool,
    /// Highest Receipt sent, by epoch of the stream.
    pub receipts: [u8; EPOCHS],
    /// The Elector of the claimed epoch has its answer.
    pub answer: Answer,
    /// The register names this very process.
    pub named: bool,
}

/// What the Elector of the newest epoch heard from a Node.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// Nothing.
    #[default]
    None,
    /// A promise by this process, with (last epoch, last Revision).
    Fresh(u8, u8),
    /// The same by a process that has ended since: it counts, but cannot be named.
    Stale(u8, u8),
}

impl Answer {
    /// The place in the log it told.
    #[must_use]
    pub fn place(self) -> Option<(u8, u8)> {
        match self {
            Answer::None => None,
            Answer::Fresh(epoch, last) | Answer::Stale(epoch, last) => Some((epoch, last)),
        }
    }

    /// The same after the process has ended.
    #[must_use]
    pub fn stale(self) -> Answer {
        self.place()
            .map_or(Answer::None, |(epoch, last)| Answer::Stale(epoch, last))
    }
}

/// How far the register's epoch has come.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Nobody has claimed anything, or the last Primary closed in good order.
    #[default]
    Closed,
    /// Claimed by an Elector.
    Claimed,
    /// X is named.
    Starting,
    /// X says that it is Active.
    Active,
}

/// `leader/primary.json`. Its mark need not be kept: a swap under way dies with the next change.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Register {
    /// Only rises.
    pub epoch: u8,
    /// How far it has come.
    pub phase: Phase,
    /// Bits of (node, incarnation), see [`voter`].
    pub voters: u8,
    /// Voters that a swap in flight will write, if nothing else changes the register before.
    pub pending: Option<u8>,
    /// Claimed when the last Primary had closed: no lease can be running.
    pub unleased: bool,
    /// A second name was given in this epoch; only a sabotage does.
    pub renamed: bool,
}

/// The bit of a voter.
#[must_use]
pub fn voter(node: usize, incarnation: u8) -> u8 {
    1 << (node + NODES * incarnation as usize)
}

/// A create of a Chunk whose sender is gone, or a Chunk that landed where one was cleaned away.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stray {
    /// Its slot, 0 if there is none.
    pub slot: u8,
    /// Its Records.
    pub records: Log,
}

/// An old copy of a disk.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Image {
    /// 1 + the Node it was taken of, 0 if there is none.
    pub of: u8,
    /// The Node was started again after the copy was taken, so its `boot_seq` tells.
    pub outdated: bool,
    /// Its log, promise, committed and durable Revision.
    pub log: Log,
    /// See [`Node::promised`].
    pub promised: u8,
    /// See [`Node::committed`].
    pub committed: u8,
    /// See [`Node::durable`].
    pub durable: u8,
}

/// How much may still go wrong, or be asked for.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Budget {
    /// Client writes.
    pub writes: u8,
    /// Processes that end and start again.
    pub restarts: u8,
    /// Disks lost.
    pub losses: u8,
    /// Creates that land after their sender is gone.
    pub ghosts: u8,
    /// Swaps of the voters.
    pub swaps: u8,
    /// Primaries that close in good order.
    pub closings: u8,
    /// Snapshots.
    pub snapshots: u8,
    /// Rounds of clean-up.
    pub cleanings: u8,
    /// Copies of a disk.
    pub images: u8,
    /// Times a Node without a tenure reads the chain by itself.
    pub catchups: u8,
    /// Read leases granted.
    pub leases: u8,
}

/// One state of everything.
#[derive(Clone, Default, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The Nodes; a smaller plan leaves the last ones alone.
    pub nodes: [Node; NODES],
    /// The register.
    pub register: Register,
    /// All Records of the chain, cleaned away or not.
    pub chain: Log,
    /// Bit `r - 1`: a Chunk of the chain ends at `r`.
    pub ends: u8,
    /// The same bits, for Chunks that were cleaned away.
    pub gone: u8,
    /// The same bits, for Chunks that a cleaner decided to delete.
    pub condemned: u8,
    /// A Chunk that won the slot of one that was cleaned away, with other Records.
    pub stray: Stray,
    /// A create in flight whose sender is gone.
    pub ghost: Stray,
    /// The Snapshot: all Records up to its Revision.
    pub snapshot: Log,
    /// What the Primary of each epoch has assigned, while somebody can still hear of it.
    pub sent: [Log; EPOCHS],
    /// What the Primary of each epoch has told to be committed.
    pub told: [u8; EPOCHS],
    /// Epochs that ever became active; documents know no others.
    pub became_active: u8,
    /// What anybody could have seen: the judge's own log.
    pub truth: Log,
    /// The highest Revision acknowledged to a client, or shown by a Primary.
    pub acked: u8,
    /// An old copy of a disk.
    pub image: Image,
    /// What is left of the plan's budget.
    pub left: Budget,
    /// Client writes asked for so far.
    pub writes: u8,
}

impl World {
    /// Whether a Primary of `epoch` still works.
    #[must_use]
    pub fn reigns(&self, epoch: u8) -> bool {
        self.nodes.iter().any(|node| {
            node.epoch == epoch && matches!(node.tenure, Tenure::Active | Tenure::Swapping)
        })
    }

    /// Whether a Chunk of the chain begins at `slot`, cleaned away or not; then its last Revision.
    #[must_use]
    pub fn chunk_from(&self, slot: u8) -> Option<u8> {
        let begins = slot == 1 || self.ends >> (slot - 2) & 1 == 1;
        (begins && slot <= self.chain.len())
            .then(|| slot + (self.ends >> (slot - 1)).trailing_zeros() as u8)
    }

    /// What the bucket holds under the name of `slot`.
    #[must_use]
    pub fn object(&self, slot: u8) -> Option<Log> {
        if self.stray.slot == slot {
            return Some(self.stray.records);
        }
        let end = self.chunk_from(slot)?;
        (self.gone >> (end - 1) & 1 == 0).then(|| self.chain.above(slot - 1).upto(end - slot + 1))
    }

    /// Whether a list of the bucket shows a Chunk beyond `slot`.
    #[must_use]
    pub fn lists_beyond(&self, slot: u8) -> bool {
        (slot + 1..=self.chain.len()).any(|slot| self.object(slot).is_some())
    }

    /// The Chunk that Node `at` sends: its slot and its Records.
    #[must_use]
    pub fn upload(&self, at: usize) -> Stray {
        let node = &self.nodes[at];
        let records = if matches!(node.tenure, Tenure::Fencing | Tenure::Fenced) {
            let tail = node.log.above(node.durable);
            let usurps = self.register.renamed && self.register.epoch == node.epoch && node.named;
            if node.sending > node.log.len() {
                tail.with(Record::opening(node.epoch, usurps))
            } else {
                tail
            }
        } else {
            self.sent[node.epoch as usize]
                .upto(node.sending)
                .above(node.durable)
        };
        Stray {
            slot: node.durable + 1,
            records,
        }
    }

    /// Renumbers the Nodes so that states that differ only in names become one. Returns for each new place
    /// the old one.
    pub fn sort_nodes(&mut self, nodes: usize) -> [usize; NODES] {
        let mut order = [0, 1, 2];
        let key = |at: usize| {
            let bits = |mask: u8| (mask >> at) & 0b1001;
            let imaged = self.image.of as usize == at + 1;
            (
                self.nodes[at],
                bits(self.register.voters),
                bits(self.register.pending.unwrap_or(0)),
                imaged,
            )
        };
        order[..nodes].sort_by_key(|at| std::cmp::Reverse(key(*at)));
        if order != [0, 1, 2] {
            self.rename(order);
        }
        order
    }

    fn rename(&mut self, order: [usize; NODES]) {
        let mask = |mask: u8| {
            (0..NODES).fold(0, |all, new| {
                let bits = mask >> order[new] & 0b1001;
                all | bits << new
            })
        };
        self.nodes = order.map(|old| self.nodes[old]);
        for node in &mut self.nodes {
            node.voters = mask(node.voters);
        }
        self.register.voters = mask(self.register.voters);
        self.register.pending = self.register.pending.map(mask);
        if self.image.of > 0 {
            let new = order
                .iter()
                .position(|old| *old + 1 == self.image.of as usize);
            self.image.of = new.map_or(0, |new| new as u8 + 1);
        }
    }
}
