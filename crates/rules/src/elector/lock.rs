//! The Elector lock: taken when nobody has renewed it for the whole timeout, renewed, given up.
//!
//! No wall clocks are compared: a follower counts on its own clock how long it has seen the same version,
//! and a holder counts from the *start* of its last successful renewal.

use alloc::string::String;
use alloc::vec::Vec;

use super::Elector;
use crate::message::Message;
use crate::register::{Held, Identity, Lock, Pending, Swapped};
use crate::settings::Moment;
use crate::step::Effect;

impl Elector {
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
                    "node `{}` is alive elsewhere: its lock was renewed by another disk (incarnation `{}`); stop that one, or give this one another `node_id`",
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
                    self.register_read_is_old = self.register_reading;
                    self.register_swap_is_old = self.register_swap.is_some();
                    self.register_read_at = now;
                    self.appointing = None;
                    self.signs.clear();
                    self.announces = true;
                }
                let released = pending.document.elector.is_none();
                self.announces |= released;
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
                self.appointing = None;
                self.looked = true;
                self.seen = current.map(|held| (held, now));
            }
            Swapped::Unknown => {
                pending.again = Some(now + self.settings.retry);
                self.lock_swap = Some(pending);
            }
        }
    }

    pub(super) fn tend_lock(
        &mut self,
        now: Moment,
        mark: &mut dyn FnMut() -> String,
        effects: &mut Vec<Effect>,
    ) {
        if core::mem::take(&mut self.announces) {
            effects.push(Effect::Broadcast(Message::Look));
        }
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
}
