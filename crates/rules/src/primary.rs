//! The Primary: one tenure, from being named to its end.
//!
//! Named in the register, a Node promises its epoch durably, reads the chain to its end, and then creates
//! the tail slot with everything it holds beyond the chain and its own epoch Record. Winning that one create
//! is the fence: every commit of older epochs is in the chain, and no older Primary can extend it. Only
//! then is the register made Active and are writes accepted.

use alloc::vec::Vec;

use crate::node::Node;
use crate::record::Record;
use crate::register::Phase;
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;
use crate::step::Effect;

/// How far the own tenure has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Not Primary.
    None,
    /// Named; the promise is being made durable.
    Promising(Epoch),
    /// Reading the chain from the tail slot on.
    Reading(Epoch),
    /// Creating the tail slot with the tail and the epoch Record at this Revision.
    Fencing(Epoch, Revision),
    /// The fence was won, and the register is on its way to Active. Until it is, the fence is not believed:
    /// it may have landed in a slot that was cleaned up while this Node slept.
    Activating(Epoch, Revision),
    /// Named Active; the epoch Record at this Revision is on its way to the own disk. Nothing is answered
    /// before it is committed: what older epochs committed late lies below it.
    Opening(Epoch, Revision),
    /// Accepts writes.
    Active(Epoch),
    /// Accepts no more writes; what was assigned is being made durable.
    Draining(Epoch),
    /// Everything is in the bucket; the register is being closed.
    Closing(Epoch),
}

impl Tenure {
    /// The epoch of the tenure.
    #[must_use]
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Tenure::None => None,
            Tenure::Promising(epoch)
            | Tenure::Reading(epoch)
            | Tenure::Fencing(epoch, _)
            | Tenure::Activating(epoch, _)
            | Tenure::Opening(epoch, _)
            | Tenure::Active(epoch)
            | Tenure::Draining(epoch)
            | Tenure::Closing(epoch) => Some(epoch),
        }
    }

    /// Whether Records of this tenure are, or may be, on their way to the bucket.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(
            self,
            Tenure::Active(_) | Tenure::Draining(_) | Tenure::Closing(_)
        )
    }
}

/// The tenure's part of a Node's step.
impl Node {
    /// Moves the tenure on when what it waits for has become true.
    pub(crate) fn go_on(&mut self, now: Moment, created_at: i64, effects: &mut Vec<Effect>) {
        match self.tenure {
            Tenure::Reading(epoch) if self.caught_up && !self.slot_reading && !self.uploading => {
                let opening = self.log.last.next();
                self.tenure = Tenure::Fencing(epoch, opening);
                self.uploading = true;
                let record = Record::opening(epoch, opening, self.leader_id.clone(), created_at);
                self.opening = Some(record.clone());
                effects.push(Effect::Upload {
                    first: self.log.tail_slot(),
                    last: self.log.last,
                    opening: Some(record),
                });
            }
            Tenure::Opening(epoch, opening) if self.log.committed >= opening => {
                self.tenure = Tenure::Active(epoch);
                self.voters_changed_at = now;
                self.heartbeat_at = now;
            }
            Tenure::Activating(epoch, _) if !self.elector.is_swapping() => {
                let named = self.elector.register().is_some_and(|register| {
                    register.epoch == epoch && register.primary.as_ref() == Some(&self.me)
                });
                if !named {
                    self.end_tenure(effects);
                    return;
                }
                let (mark, lease) = (Self::mark(&mut self.marks), self.settings.lease);
                effects.extend(self.elector.swap_register(now, mark, |register| {
                    register.phase = Phase::Active;
                    // The leases of those before have run out: they need not be known any more.
                    register.lease = lease;
                }));
            }
            _ => {}
        }
    }

    pub(crate) fn uploaded(&mut self, first: Revision, last: Revision, effects: &mut Vec<Effect>) {
        if first != self.log.tail_slot() || !self.uploading {
            return;
        }
        self.uploading = false;
        if let Tenure::Fencing(epoch, opening) = self.tenure {
            assert_eq!(last, opening, "a fence ends with its epoch record");
            self.tenure = Tenure::Activating(epoch, opening);
            return;
        }
        self.log.durable = last;
        effects.push(Effect::Durable(last));
    }

    /// The register names this Node, Active: the fence is the end of the chain, and of the own log.
    pub(crate) fn open(&mut self, epoch: Epoch, opening: Revision, effects: &mut Vec<Effect>) {
        let record = self.opening.take().expect("a fence keeps its epoch record");
        self.log.push(&record);
        self.log.durable = opening;
        effects.push(Effect::Append(alloc::vec![record]));
        effects.push(Effect::Durable(opening));
        self.followers.clear();
        self.tenure = Tenure::Opening(epoch, opening);
    }

    pub(crate) fn slot_taken(&mut self, now: Moment, slot: Revision, effects: &mut Vec<Effect>) {
        if slot != self.log.tail_slot() || !self.uploading {
            return;
        }
        self.uploading = false;
        self.slot_read_at = now;
        self.caught_up = false;
        if let Tenure::Fencing(epoch, _) = self.tenure {
            self.tenure = Tenure::Reading(epoch);
        } else {
            self.end_tenure(effects);
        }
    }

    /// Ends the tenure: nothing more is assigned, and what waits has an unknown outcome.
    pub(crate) fn end_tenure(&mut self, effects: &mut Vec<Effect>) {
        if self.tenure == Tenure::None {
            return;
        }
        self.tenure = Tenure::None;
        self.lease_until = 0;
        self.voters.clear();
        self.followers.clear();
        self.change = None;
        self.opening = None;
        self.doubts.clear();
        if core::mem::take(&mut self.uploading) {
            effects.push(Effect::AbandonUpload);
        }
        effects.push(Effect::Lease(0));
        effects.push(Effect::FailPending);
    }

    /// Closing: the gate is shut, what was assigned goes to the bucket, the register is closed, the lock given up.
    pub(crate) fn close(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if !self.closing {
            return;
        }
        match self.tenure {
            Tenure::Active(epoch) => {
                self.lease_until = 0;
                effects.push(Effect::Lease(0));
                self.tenure = Tenure::Draining(epoch);
                self.close(now, effects);
            }
            Tenure::Draining(epoch) => {
                // What voters committed may not be in the bucket yet, and no voter will be asked any more.
                let log = &self.log;
                let settled = log.committed == log.last && log.durable == log.last;
                if settled && !self.uploading && !self.elector.is_swapping() {
                    self.tenure = Tenure::Closing(epoch);
                    let mark = Self::mark(&mut self.marks);
                    effects.extend(self.elector.swap_register(now, mark, |register| {
                        register.primary = None;
                        register.voters = Vec::new();
                    }));
                }
            }
            Tenure::Closing(_) if self.elector.is_swapping() => {}
            Tenure::Closing(_) | Tenure::None => {
                self.tenure = Tenure::None;
                if self.elector.has_resigned() {
                    effects.push(Effect::Closed);
                }
            }
            _ => self.end_tenure(effects),
        }
    }

    pub(crate) fn is_promised(&mut self, now: Moment, epoch: Epoch, effects: &mut Vec<Effect>) {
        self.promised = self.promised.max(epoch);
        self.promise_kept(now, epoch, effects);
        if self.tenure == Tenure::Promising(epoch) {
            self.tenure = Tenure::Reading(epoch);
            self.caught_up = false;
            self.slot_read_at = now;
        }
    }
}
