//! Appointing: claim the next epoch, ask the voters for their promises, name the Primary.
//!
//! A question goes before the claim, so that an Elector that reaches only the bucket does not depose a
//! healthy Primary: enough voters answer, and none has heard the Primary lately. After the claim, `R`
//! promises meet every committed write; the best log among them is named. In between, every read lease
//! that was ever granted runs out. Without voters no promises are asked: the fence protects.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Around, Elector, Sign};
use crate::message::{Message, Promise};
use crate::quorum::promises_needed;
use crate::register::{Identity, Pending, Phase, Register};
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;
use crate::step::Effect;

/// How many lock timeouts a Primary that was named may take to become Active.
const STARTING_TIMEOUTS: u64 = 5;

/// An epoch we claimed, until somebody is named in it.
#[derive(Debug)]
pub(super) struct Appointing {
    epoch: Epoch,
    claimed_at: Moment,
    name_from: Moment,
    ask_at: Moment,
    promises: BTreeMap<String, (Identity, Promise)>,
}

/// A Node that could be named. The greatest is.
type Candidate<'a> = ((Epoch, Revision), bool, Reverse<u64>, &'a Identity);

impl Elector {
    /// A voter's promise came in.
    pub fn promised(&mut self, from: Identity, promise: Promise) {
        if let Some(appointing) = &mut self.appointing
            && appointing.epoch == promise.epoch
        {
            let name = from.node_id.clone();
            appointing.promises.insert(name, (from, promise));
        }
    }

    /// Claims the next epoch when the register names nobody alive, then names a Primary in it.
    pub(super) fn appoint(
        &mut self,
        now: Moment,
        around: &Around,
        mark: &mut dyn FnMut() -> String,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(appointing) = &self.appointing {
            let stands = self.register().is_some_and(|register| {
                register.epoch == appointing.epoch && register.phase == Phase::Claimed
            });
            if stands && self.refused <= appointing.epoch {
                self.name(now, mark, effects);
            } else {
                self.appointing = None;
            }
            return;
        }
        let Some((claim_from, name_from)) = self.vacancy(around) else {
            return;
        };
        if now < claim_from {
            return;
        }
        if self.is_asked(now) {
            self.claim(now, name_from, around, mark(), effects);
        } else {
            self.ask(now, effects);
        }
    }

    /// Too few voters answer: those that are silent are asked for a word. One that is still restoring its log
    /// does not know whom to tell. And the register is looked at: somebody may have changed it.
    fn ask(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if now < self.ask_at {
            return;
        }
        self.ask_at = now + self.settings.heartbeat_interval;
        let voters = self.register().map(|register| &register.voters);
        let silent = voters.into_iter().flatten().filter(|voter| {
            let mut fresh = self.fresh(now);
            voter.node_id != self.me.node_id && !fresh.any(|sign| voter.is(&sign.from))
        });
        let looks = silent.map(|voter| Effect::Send(voter.node_id.clone(), Message::Look));
        effects.extend(looks);
        self.doubts_register = true;
    }

    fn claim(
        &mut self,
        now: Moment,
        name_from: Moment,
        around: &Around,
        mark: String,
        effects: &mut Vec<Effect>,
    ) {
        let before = self.register();
        let seen = self.signs.values().map(|sign| sign.heartbeat.promised);
        let epoch = before
            .map_or(Epoch::ZERO, |register| register.epoch)
            .max(around.heartbeat.promised)
            .max(self.refused)
            .max(seen.max().unwrap_or_default())
            .next();
        let claim = Register {
            seq: before.map_or(0, |register| register.seq) + 1,
            mark,
            epoch,
            primary: None,
            phase: Phase::Claimed,
            voters: before.map_or_else(Vec::new, |register| register.voters.clone()),
            quorum: before.map_or(self.settings.quorum, |register| register.quorum),
            lease: before.map_or(self.settings.lease, |register| register.lease),
        };
        let expected = self.register.as_ref().map(|held| held.version.clone());
        self.appointing = Some(Appointing {
            epoch,
            claimed_at: now,
            name_from,
            ask_at: now,
            promises: BTreeMap::new(),
        });
        self.register_swap = Some(Pending::new(expected.clone(), claim.clone(), now));
        effects.push(Effect::SwapRegister {
            expected,
            register: claim,
        });
    }

    /// When the next epoch may be claimed, and when its Primary may be named; `None` while the Primary in
    /// the register is this very process at work.
    fn vacancy(&self, around: &Around) -> Option<(Moment, Moment)> {
        let Some(register) = self.register() else {
            return Some((0, 0));
        };
        if register.is_closed() {
            return Some((0, 0));
        }
        let lease = register.lease.max(self.settings.lease);
        let lease_over = self.granted_until.max(self.since + lease);
        match &register.primary {
            // Claimed by an Elector that did not go on: which Primary held a lease before is not known.
            None => Some((0, lease_over)),
            Some(primary) if *primary == self.me => {
                (around.tenure() != Some(register.epoch)).then_some((0, 0))
            }
            // An earlier life of this disk: its process is dead, and its lease with it.
            Some(primary) if primary.is_same_disk(&self.me) => Some((0, 0)),
            Some(primary) => Some((self.silent_from(register, primary), lease_over)),
        }
    }

    /// When the Primary of another Node counts as gone.
    fn silent_from(&self, register: &Register, primary: &Identity) -> Moment {
        // Whoever was just named, or found by a new Elector, is given the time to say a word; where there
        // are voters, they are asked instead.
        let first = if register.voters.is_empty() || register.phase != Phase::Active {
            self.named_at.max(self.since)
        } else {
            self.named_at
        };
        let sign = self.signs.get(&primary.node_id);
        let heard = sign.map_or(0, |sign| {
            let works = sign.heartbeat.tenure.map(|(epoch, _)| epoch) == Some(register.epoch);
            if sign.from == *primary && works {
                sign.at
            } else {
                0
            }
        });
        // A new process on the same disk: the old one is dead.
        if sign
            .is_some_and(|sign| sign.from.is_same_disk(primary) && sign.from.boot != primary.boot)
        {
            return 0;
        }
        let silent = first.max(heard) + self.settings.primary_timeout;
        if register.phase == Phase::Active {
            return silent;
        }
        let started = self.named_at.max(self.since);
        silent.min(started + STARTING_TIMEOUTS * self.settings.elector_timeout)
    }

    /// Whether enough voters answer, and have not heard the Primary lately; without voters, whether
    /// anybody could be named.
    fn is_asked(&self, now: Moment) -> bool {
        let mut fresh = self.fresh(now);
        let Some(register) = self
            .register()
            .filter(|register| !register.voters.is_empty())
        else {
            return fresh.any(|sign| sign.heartbeat.eligible);
        };
        let needed = promises_needed(register.voters.len(), register.quorum);
        let silent = fresh.filter(|sign| {
            register.has_voter(&sign.from) && sign.heartbeat.hears != Some(register.epoch)
        });
        silent.count() >= needed
    }

    /// Names the best of those who promised, or, without voters, of those who could.
    fn name(&mut self, now: Moment, mark: &mut dyn FnMut() -> String, effects: &mut Vec<Effect>) {
        let (Some(appointing), Some(held)) = (&mut self.appointing, &self.register) else {
            return;
        };
        let register = &held.document;
        if now >= appointing.ask_at {
            appointing.ask_at = now + self.settings.retry;
            for voter in &register.voters {
                if !appointing.promises.contains_key(&voter.node_id) {
                    let prepare = Message::Prepare(appointing.epoch);
                    effects.push(Effect::Send(voter.node_id.clone(), prepare));
                }
            }
        }
        let Some(appointing) = self.appointing.as_ref().filter(|it| now >= it.name_from) else {
            return;
        };
        let candidates: Vec<Candidate> = if register.voters.is_empty() {
            self.candidates(now)
        } else {
            self.promisers(now, register, appointing)
        };
        let Some((_, _, _, best)) = candidates.into_iter().max() else {
            self.doubts_register = true;
            return;
        };
        let primary = best.clone();
        effects.extend(self.swap_register(now, mark(), |register| {
            register.phase = Phase::Starting;
            register.primary = Some(primary);
        }));
    }

    fn candidates(&self, now: Moment) -> Vec<Candidate<'_>> {
        self.fresh(now)
            .filter(|sign| sign.heartbeat.eligible)
            .map(
                |Sign {
                     from, heartbeat, ..
                 }| (heartbeat.newest, true, Reverse(heartbeat.up), from),
            )
            .collect()
    }

    /// The voters that promised, if they are enough; and all that can be expected to, for a short while.
    fn promisers<'a>(
        &self,
        now: Moment,
        register: &Register,
        appointing: &'a Appointing,
    ) -> Vec<Candidate<'a>> {
        let promises = appointing.promises.values();
        let voted: Vec<Candidate> = promises
            .filter(|(from, _)| register.has_voter(from))
            .map(|(from, promise)| (promise.newest, promise.eligible, Reverse(promise.up), from))
            .collect();
        let fresh = self.fresh(now);
        let expected = fresh.filter(|sign| register.has_voter(&sign.from)).count();
        let patient = now < appointing.claimed_at + 2 * self.settings.retry;
        let needed = promises_needed(register.voters.len(), register.quorum);
        if voted.len() < needed || (patient && voted.len() < expected) {
            return Vec::new();
        }
        voted
    }
}
