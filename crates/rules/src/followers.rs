//! Followers: the Active Primary's side of replication, one Replica at a time.
//!
//! A Hello is answered with the Revision up to which both logs agree; from there on the Replica is sent
//! what the log holds, a bounded window ahead of its Receipts. A Receipt counts only if its stream, disk
//! and Record's epoch fit the own log.

use alloc::format;
use alloc::vec::Vec;

use crate::chain::agreed;
use crate::message::{Hello, Message, Records};
use crate::node::Node;
use crate::primary::Tenure;
use crate::register::{Identity, Voter};
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;
use crate::step::Effect;

/// The most Records a Replica may be sent beyond its Receipts.
const WINDOW: u64 = 4096;
/// How many Records behind a Replica may be and count as caught up.
const LAG: u64 = 1000;

/// A Replica as its Primary knows it.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    identity: Identity,
    boot_seq: u64,
    stream: u64,
    /// Sent up to here.
    sent: Revision,
    /// Nothing more is sent before a Receipt for this.
    holds: Revision,
    /// Told that this is committed, and that durable.
    told: (Revision, Revision),
    receipted: Revision,
    heard: Moment,
    keep_at: Moment,
    distrusted: bool,
}

/// The Primary's part of a Node's step, towards its Replicas.
impl Node {
    /// A Replica asks for the log.
    pub(crate) fn greeted(
        &mut self,
        now: Moment,
        from: &Identity,
        hello: &Hello,
        effects: &mut Vec<Effect>,
    ) {
        if self.refuses(from, hello.epoch, effects) {
            return;
        }
        if self.tenure != Tenure::Active(hello.epoch) || *from == self.me {
            return;
        }
        let before = self.followers.get(&from.node_id);
        let same_disk = before.filter(|before| before.identity.is_same_disk(from));
        if same_disk.is_some_and(|before| {
            (hello.boot_seq, hello.stream) <= (before.boot_seq, before.stream)
        }) {
            return;
        }
        let receipted = same_disk.map_or(Revision::ZERO, |before| before.receipted);
        let mut distrusted = same_disk.is_some_and(|before| before.distrusted);
        if hello.last < receipted && !distrusted {
            distrusted = true;
            let reason = format!(
                "its disk holds records up to {}, and it said {receipted} before: it was rolled back, \
                 and counts no more",
                hello.last
            );
            effects.push(Effect::Distrust(from.node_id.clone(), reason));
        }
        let agreed = agreed(&self.log.epochs, self.log.last, &hello.epochs, hello.last);
        if agreed.next() < self.log.compactions.floor() {
            // What it lacks was compacted: it reads the chain, or starts from a Snapshot.
            return;
        }
        let follower = Follower {
            identity: from.clone(),
            boot_seq: hello.boot_seq,
            stream: hello.stream,
            sent: agreed,
            holds: Revision::ZERO,
            told: (Revision::ZERO, Revision::ZERO),
            receipted: receipted.min(agreed),
            heard: now,
            keep_at: now,
            distrusted,
        };
        self.followers.insert(from.node_id.clone(), follower);
        effects.push(Effect::Send(
            from.node_id.clone(),
            Message::Welcome {
                epoch: hello.epoch,
                stream: hello.stream,
                agreed,
            },
        ));
    }

    /// A Replica says what its disk holds.
    pub(crate) fn receipted(
        &mut self,
        now: Moment,
        from: &Identity,
        (epoch, stream): (Epoch, u64),
        (revision, record_epoch): (Revision, Epoch),
    ) {
        let fits = revision <= self.log.last && self.log.epoch_at(revision) == record_epoch;
        if self.tenure.epoch() != Some(epoch) || !self.tenure.writes() || !fits {
            return;
        }
        let follower = self.followers.get_mut(&from.node_id);
        if let Some(follower) = follower
            && follower.identity == *from
            && follower.stream == stream
        {
            follower.receipted = follower.receipted.max(revision);
            follower.sent = follower.sent.max(revision);
            follower.heard = now;
        }
    }

    /// A Replica was sent less than it was to be: as much as is sent at once, up to `upto`. The rest waits until
    /// that has arrived, so that no more is on its way than was meant to be.
    pub(crate) fn sent_less(&mut self, to: &str, stream: u64, upto: Revision) {
        let follower = self.followers.get_mut(to);
        if let Some(follower) = follower.filter(|follower| follower.stream == stream) {
            follower.sent = follower.sent.min(upto).max(follower.receipted);
            follower.holds = follower.sent;
        }
    }

    /// What each Replica is to be sent now.
    pub(crate) fn replicate(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let (Some(epoch), true) = (self.tenure.epoch(), self.tenure.writes()) else {
            return;
        };
        // What the own disk does not hold yet is not committed: no Replica is to take it for that.
        let held = self.log.durable <= self.log.appended;
        let durable = if held {
            self.log.durable
        } else {
            Revision::ZERO
        };
        let log = (self.log.committed, durable);
        for (name, follower) in &mut self.followers {
            // A stream that compaction has overtaken is silent: the Replica will ask anew.
            let overtaken = follower.sent.next() < self.log.compactions.floor();
            if overtaken || now >= follower.heard + self.settings.primary_timeout {
                continue;
            }
            let room = if follower.receipted < follower.holds {
                0
            } else {
                WINDOW.saturating_sub(follower.sent.since(follower.receipted))
            };
            let waits = self.log.last.since(follower.sent).min(room);
            if waits == 0 && follower.told == log && now < follower.keep_at {
                continue;
            }
            let after = follower.sent;
            follower.sent = Revision(after.0 + waits);
            follower.told = log;
            follower.keep_at = now + self.settings.heartbeat_interval;
            effects.push(Effect::Replicate {
                to: name.clone(),
                head: Records {
                    epoch,
                    stream: follower.stream,
                    after,
                    records: Vec::new(),
                    committed: self.log.committed,
                    durable,
                },
                upto: follower.sent,
            });
        }
    }

    /// The newest Revision that enough voters hold; 0 without voters.
    pub(crate) fn quorum_committed(&self) -> Revision {
        if self.voters.is_empty() {
            return Revision::ZERO;
        }
        let held = self.voters.iter().map(|voter| self.held_by(voter));
        let mut held: Vec<Revision> = held.collect();
        held.sort_unstable_by(|one, other| other.cmp(one));
        let needed = crate::quorum::writes_needed(self.voters.len(), self.quorum);
        held[needed - 1]
    }

    fn held_by(&self, voter: &Voter) -> Revision {
        if voter.is(&self.me) {
            return self.log.appended;
        }
        let follower = self.followers.get(&voter.node_id);
        let counted =
            follower.filter(|follower| voter.is(&follower.identity) && !follower.distrusted);
        counted.map_or(Revision::ZERO, |follower| follower.receipted)
    }

    /// Every disk that is caught up and was heard lately, the own one first.
    pub(crate) fn healthy(&self, now: Moment) -> Vec<Voter> {
        let caught_up = |follower: &&Follower| self.log.last.since(follower.receipted) <= LAG;
        let followers = self.heard_lately(now).filter(caught_up);
        core::iter::once(&self.me)
            .chain(followers.map(|follower| &follower.identity))
            .map(Voter::of)
            .collect()
    }

    /// How many voters can be counted on just now, this Node included.
    pub(crate) fn reachable(&self, now: Moment) -> usize {
        let is_there = |voter: &&Voter| {
            let mut heard = self.heard_lately(now);
            voter.is(&self.me) || heard.any(|follower| voter.is(&follower.identity))
        };
        self.voters.iter().filter(is_there).count()
    }

    /// Whether a voter's disk does not hold what it receipted.
    pub(crate) fn has_distrusted_voter(&self) -> bool {
        self.followers.values().any(|follower| {
            let mut voters = self.voters.iter();
            follower.distrusted && voters.any(|voter| voter.is(&follower.identity))
        })
    }

    /// Whether a voter has been silent for so long that it is given up: with one that is dead among them, the
    /// next loss leaves too few to name a Primary.
    pub(crate) fn has_forgotten_voter(&self, now: Moment) -> bool {
        let after = self.settings.forget_after;
        let is_forgotten = |voter: &Voter| {
            let follower = self.followers.get(&voter.node_id);
            let heard = follower
                .filter(|follower| voter.is(&follower.identity))
                .map_or(0, |follower| follower.heard);
            !voter.is(&self.me) && now >= heard.max(self.voters_changed_at) + after
        };
        after > 0 && self.voters.iter().any(is_forgotten)
    }

    fn heard_lately(&self, now: Moment) -> impl Iterator<Item = &Follower> {
        let lately = move |follower: &&Follower| {
            !follower.distrusted && now < follower.heard + self.settings.primary_timeout
        };
        self.followers.values().filter(lately)
    }

    /// The disks whose Receipts commit; none on the bucket path.
    #[must_use]
    pub fn voters(&self) -> &[Voter] {
        &self.voters
    }
}
