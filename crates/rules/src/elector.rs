//! The Elector: winning and keeping the lock, and appointing the Primary through the register.
//!
//! A follower takes the lock only if it saw the same version for the whole timeout on its own clock; a
//! holder stops acting when its last successful renewal *started* more than the timeout less a margin
//! ago. That is liveness only: two Electors at once are safe, because each epoch is claimed by one swap of
//! the register and names one Primary for ever.
//!
//! Appointing takes two swaps: claim the next epoch, then name the Primary, and in between whatever read
//! lease an earlier Primary may hold runs out. Without voters no promises are asked: the fence protects.

use alloc::string::String;
use alloc::vec::Vec;

use crate::register::{Held, Identity, Lock, Pending, Phase, Register, Swapped};
use crate::revision::Epoch;
use crate::settings::{Moment, Settings};
use crate::step::Effect;

/// What a Node does as Elector, or as a candidate for it.
#[derive(Debug)]
pub struct Elector {
    me: Identity,
    settings: Settings,
    peer_address: String,
    /// The lock as last read or won, and since when (own clock) it has been this version.
    seen: Option<(Held<Lock>, Moment)>,
    /// Whether the store has answered about the lock at all.
    looked: bool,
    /// When the last successful renewal of our lock started; `None` unless we hold it.
    renewed: Option<Moment>,
    /// When this process took the lock.
    since: Moment,
    lock_swap: Option<Pending<Lock>>,
    lock_read_at: Moment,
    lock_reading: bool,
    /// The register as last read or won.
    register: Option<Held<Register>>,
    /// Whether `register` is what the store held when we last looked (`None` then means: absent).
    register_known: bool,
    register_reading: bool,
    register_read_at: Moment,
    register_swap: Option<Pending<Register>>,
    /// The epoch we claimed and have not named a Primary in, and when we may.
    claimed: Option<(Epoch, Moment)>,
    resigning: bool,
}

/// What the rest of the Node tells its Elector at every step.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// The epoch of the own tenure, if there is one.
    pub tenure: Option<Epoch>,
    /// Whether the own tenure is Active.
    pub active: bool,
    /// Whether this Node could be Primary now.
    pub eligible: bool,
    /// Whether this Node gives up the lock, so that another can act without waiting.
    pub resigns: bool,
    /// The highest epoch this Node has seen or promised.
    pub promised: Epoch,
}

impl Elector {
    /// An Elector-to-be that has read nothing.
    #[must_use]
    pub fn new(me: Identity, settings: Settings, peer_address: String) -> Elector {
        Elector {
            me,
            settings,
            peer_address,
            seen: None,
            looked: false,
            renewed: None,
            since: 0,
            lock_swap: None,
            lock_read_at: 0,
            lock_reading: false,
            register: None,
            register_known: false,
            register_reading: false,
            register_read_at: 0,
            register_swap: None,
            claimed: None,
            resigning: false,
        }
    }

    /// Whether this Node may act as Elector at `now`.
    #[must_use]
    pub fn is_acting(&self, now: Moment) -> bool {
        let limit = self.settings.elector_timeout - self.settings.margin;
        !self.resigning && self.renewed.is_some_and(|renewed| now < renewed + limit)
    }

    /// The lock as last seen.
    #[must_use]
    pub fn lock(&self) -> Option<&Lock> {
        self.seen.as_ref().map(|(held, _)| &held.document)
    }

    /// The register as last seen.
    #[must_use]
    pub fn register(&self) -> Option<&Register> {
        self.register.as_ref().map(|held| &held.document)
    }

    /// Until when the Primary named in the register may answer linearizable reads, if the Elector grants
    /// it now. 0 is no grant.
    #[must_use]
    pub fn grant(&self, now: Moment, around: Around) -> Moment {
        let names_me = self.register().is_some_and(|register| {
            register.phase == Phase::Active
                && register.primary.as_ref() == Some(&self.me)
                && Some(register.epoch) == around.tenure
        });
        let grants = self.is_acting(now) && names_me && around.active && self.settings.lease > 0;
        if grants { now + self.settings.lease } else { 0 }
    }

    /// Whether nothing of ours is left in the lock.
    #[must_use]
    pub fn has_resigned(&self) -> bool {
        self.resigning && self.renewed.is_none() && self.lock_swap.is_none()
    }

    /// Whether a swap of the register is on its way: what it guards stays closed until it is settled.
    #[must_use]
    pub fn is_swapping(&self) -> bool {
        self.register_swap.is_some()
    }

    /// What time asks for: looks, renewals, claims, and unsettled writes sent again.
    pub fn tick(
        &mut self,
        now: Moment,
        around: Around,
        mark: &mut dyn FnMut() -> String,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.resigning = around.resigns;
        self.tend_lock(now, mark, &mut effects);
        self.tend_register(now, around, mark, &mut effects);
        effects
    }

    /// The store answered what the lock is.
    ///
    /// # Errors
    /// A sentence, when a live Node under our own name holds it.
    pub fn lock_read(&mut self, now: Moment, found: Option<Held<Lock>>) -> Result<(), String> {
        self.lock_reading = false;
        self.looked = true;
        self.lock_read_at = now
            + self
                .settings
                .renew_interval
                .min(self.settings.elector_timeout / 4);
        let Some(found) = found else {
            self.seen = None;
            return Ok(());
        };
        if let Some((seen, _)) = &self.seen {
            if seen.version == found.version {
                return Ok(());
            }
            let namesake = found.document.elector.as_ref().is_some_and(|elector| {
                elector.node_id == self.me.node_id && elector.incarnation != self.me.incarnation
            });
            if namesake && seen.document.elector == found.document.elector {
                return Err(alloc::format!(
                    "node `{}` is alive elsewhere: its lock was renewed by another disk (incarnation `{}`)",
                    self.me.node_id,
                    found
                        .document
                        .elector
                        .as_ref()
                        .map_or("", |elector| elector.incarnation.as_str()),
                ));
            }
        }
        self.seen = Some((found, now));
        Ok(())
    }

    /// A read of the lock brought no answer.
    pub fn lock_unread(&mut self, now: Moment) {
        self.lock_reading = false;
        self.lock_read_at = now + self.settings.retry;
    }

    /// One attempt to swap the lock came back.
    pub fn lock_swapped(&mut self, now: Moment, outcome: Swapped<Lock>) {
        let Some(mut pending) = self.lock_swap.take() else {
            return;
        };
        match outcome {
            Swapped::Won(version) => {
                if self.renewed.is_none() {
                    self.since = now;
                    self.register_known = false;
                    self.claimed = None;
                }
                let released = pending.document.elector.is_none();
                self.renewed = (!released).then_some(pending.started);
                self.seen = Some((
                    Held {
                        document: pending.document,
                        version,
                    },
                    now,
                ));
            }
            Swapped::Lost(current) => {
                self.renewed = None;
                self.claimed = None;
                self.looked = true;
                self.seen = current.map(|held| (held, now));
            }
            Swapped::Unknown => {
                pending.again = Some(now + self.settings.retry);
                self.lock_swap = Some(pending);
            }
        }
    }

    fn tend_lock(
        &mut self,
        now: Moment,
        mark: &mut dyn FnMut() -> String,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(pending) = &mut self.lock_swap {
            if pending.again.is_some_and(|again| now >= again) {
                pending.again = None;
                effects.push(Effect::SwapLock {
                    expected: pending.expected.clone(),
                    lock: pending.document.clone(),
                });
            }
            return;
        }
        if let Some(renewed) = self.renewed {
            if self.resigning || now >= renewed + self.settings.renew_interval {
                let elector = (!self.resigning).then(|| self.me.clone());
                self.swap_lock(now, elector, mark(), effects);
            }
            return;
        }
        if self.resigning || self.lock_reading {
            return;
        }
        if self.looked && self.is_free(now) {
            self.swap_lock(now, Some(self.me.clone()), mark(), effects);
        } else if now >= self.lock_read_at {
            self.lock_reading = true;
            effects.push(Effect::ReadLock);
        }
    }

    /// Whether the lock may be taken: absent, resigned, left by an earlier life of this very disk (whose
    /// process is dead: the disk is locked), or unchanged for the whole timeout.
    fn is_free(&self, now: Moment) -> bool {
        match &self.seen {
            None => true,
            Some((held, since)) => match &held.document.elector {
                None => true,
                Some(elector) => {
                    elector.is_same_disk(&self.me) || now >= since + self.settings.elector_timeout
                }
            },
        }
    }

    fn swap_lock(
        &mut self,
        now: Moment,
        elector: Option<Identity>,
        mark: String,
        effects: &mut Vec<Effect>,
    ) {
        let before = self.seen.as_ref().map(|(held, _)| held);
        let takes_over = before.is_none_or(|held| held.document.elector.as_ref() != Some(&self.me));
        let lock = Lock {
            seq: before.map_or(0, |held| held.document.seq) + 1,
            mark,
            elector_epoch: before.map_or(0, |held| held.document.elector_epoch)
                + u64::from(takes_over),
            elector,
            peer_address: self.peer_address.clone(),
        };
        let expected = before.map(|held| held.version.clone());
        effects.push(Effect::SwapLock {
            expected: expected.clone(),
            lock: lock.clone(),
        });
        self.lock_swap = Some(Pending::new(expected, lock, now));
    }

    /// The store answered what the register is.
    pub fn register_read(&mut self, found: Option<Held<Register>>) {
        self.register_reading = false;
        if self.register_swap.is_none() {
            self.register = found;
            self.register_known = true;
        }
    }

    /// A read of the register brought no answer.
    pub fn register_unread(&mut self, now: Moment) {
        self.register_reading = false;
        self.register_read_at = now + self.settings.retry;
    }

    /// One attempt to swap the register came back. Returns whether the document we wrote is in force.
    pub fn register_swapped(
        &mut self,
        now: Moment,
        outcome: Swapped<Register>,
    ) -> Option<Register> {
        let mut pending = self.register_swap.take()?;
        match outcome {
            Swapped::Won(version) => {
                let document = pending.document.clone();
                self.register = Some(Held {
                    document: pending.document,
                    version,
                });
                self.register_known = true;
                if document.phase != Phase::Claimed {
                    self.claimed = None;
                }
                Some(document)
            }
            Swapped::Lost(current) => {
                self.register = current;
                self.register_known = true;
                self.claimed = None;
                None
            }
            Swapped::Unknown => {
                pending.again = Some(now + self.settings.retry);
                self.register_swap = Some(pending);
                None
            }
        }
    }

    /// The Primary's own swap of the register: `change` edits a copy of it.
    pub fn swap_register(
        &mut self,
        now: Moment,
        mark: String,
        change: impl FnOnce(&mut Register),
    ) -> Option<Effect> {
        let held = self.register.as_ref()?;
        let mut next = held.document.clone();
        next.seq += 1;
        next.mark = mark;
        change(&mut next);
        let expected = Some(held.version.clone());
        self.register_swap = Some(Pending::new(expected.clone(), next.clone(), now));
        Some(Effect::SwapRegister {
            expected,
            register: next,
        })
    }

    fn tend_register(
        &mut self,
        now: Moment,
        around: Around,
        mark: &mut dyn FnMut() -> String,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(pending) = &mut self.register_swap {
            if pending.again.is_some_and(|again| now >= again) {
                pending.again = None;
                effects.push(Effect::SwapRegister {
                    expected: pending.expected.clone(),
                    register: pending.document.clone(),
                });
            }
            return;
        }
        if self.register_reading {
            return;
        }
        if !self.is_acting(now) {
            // A Primary that lost the lock looks, too: it may have been deposed.
            if !self.resigning && now >= self.register_read_at {
                self.read_register(now, effects);
            }
            return;
        }
        if !self.register_known {
            if now >= self.register_read_at {
                self.read_register(now, effects);
            }
            return;
        }
        if around.eligible {
            self.appoint(now, around, mark, effects);
        }
    }

    fn read_register(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.register_reading = true;
        self.register_read_at = now + self.settings.renew_interval;
        effects.push(Effect::ReadRegister);
    }

    /// Claims the next epoch when the register names nobody alive, then names this Node in it.
    fn appoint(
        &mut self,
        now: Moment,
        around: Around,
        mark: &mut dyn FnMut() -> String,
        effects: &mut Vec<Effect>,
    ) {
        if let Some((epoch, from)) = self.claimed {
            let is_ours = self.register().is_some_and(|register| {
                register.epoch == epoch && register.phase == Phase::Claimed
            });
            if !is_ours {
                self.claimed = None;
            } else if now >= from {
                let me = self.me.clone();
                effects.extend(self.swap_register(now, mark(), |register| {
                    register.phase = Phase::Starting;
                    register.primary = Some(me);
                }));
            }
            return;
        }
        let Some((claim_from, name_from)) = self.vacancy(around) else {
            return;
        };
        if now < claim_from {
            return;
        }
        let before = self.register();
        let epoch = before
            .map_or(Epoch::ZERO, |register| register.epoch)
            .max(around.promised)
            .next();
        let claim = Register {
            seq: before.map_or(0, |register| register.seq) + 1,
            mark: mark(),
            epoch,
            primary: None,
            phase: Phase::Claimed,
            voters: before.map_or_else(Vec::new, |register| register.voters.clone()),
            quorum: before.map_or(0, |register| register.quorum),
            lease: self.settings.lease,
        };
        let expected = self.register.as_ref().map(|held| held.version.clone());
        self.claimed = Some((epoch, name_from));
        self.register_swap = Some(Pending::new(expected.clone(), claim.clone(), now));
        effects.push(Effect::SwapRegister {
            expected,
            register: claim,
        });
    }

    /// When the next epoch may be claimed, and when its Primary may be named; `None` while the Primary in
    /// the register is this very process at work.
    fn vacancy(&self, around: Around) -> Option<(Moment, Moment)> {
        let Some(register) = self.register() else {
            return Some((0, 0));
        };
        let lease_over = self.since + register.lease.max(self.settings.lease);
        if register.is_closed() {
            return Some((0, 0));
        }
        match &register.primary {
            // Claimed by an Elector that did not go on: which Primary held a lease before is not known.
            None => Some((0, lease_over)),
            Some(primary) if *primary == self.me => {
                (around.tenure != Some(register.epoch)).then_some((0, 0))
            }
            // An earlier life of this disk: its process is dead, and its lease with it.
            Some(primary) if primary.is_same_disk(&self.me) => Some((0, 0)),
            Some(_) => Some((self.since + self.settings.primary_timeout, lease_over)),
        }
    }
}
