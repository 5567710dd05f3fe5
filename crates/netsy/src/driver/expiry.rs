//! Keys whose lease has run out, deleted by the Active Primary if it is told to (`leases.expire`).
//!
//! `rules::expiry` keeps the schedule; it begins anew with every tenure, and is looked at with every tick. A
//! delete is decided against the newest state and assigned as a client's is, so that Replicas, watches, the
//! chain and the floor know nothing of expiry. What is due at once goes in portions: clients come first.

use rules::expiry::Schedule;
use rules::primary::Tenure;
use rules::record::Record;
use rules::revision::Epoch;

use super::{Answer, Driver, Waiting};
use crate::standing::now;

/// How many keys are looked at in one tick while a new Primary makes its schedule.
const WALK: usize = 10_000;
/// How many deletes may wait for their commit.
const UNDER_WAY: u64 = 256;
/// The part of the writes that may wait for their commit that these deletes may be.
const PART: u64 = 4;

/// What the driver knows of keys that expire.
pub(super) struct Expiry {
    wanted: bool,
    /// The schedule of the own tenure.
    tenure: Option<(Epoch, Schedule)>,
    /// Deletes that wait for their commit.
    under_way: u64,
}

impl Expiry {
    pub(super) fn new(wanted: bool) -> Expiry {
        Expiry {
            wanted,
            tenure: None,
            under_way: 0,
        }
    }

    /// The log has a new Record.
    pub(super) fn note(&mut self, record: &Record) {
        if let Some((_, schedule)) = &mut self.tenure {
            schedule.note(now(), record);
        }
    }

    /// How many keys will be deleted.
    fn keys(&self) -> usize {
        let schedule = self.tenure.as_ref();
        schedule.map_or(0, |(_, schedule)| schedule.len())
    }

    /// The schedule of the tenure, if this Node is the Active Primary and keys expire.
    fn schedule(&mut self, tenure: Tenure) -> Option<&mut Schedule> {
        let epoch = match tenure {
            Tenure::Active(epoch) if self.wanted => epoch,
            _ => {
                self.tenure = None;
                return None;
            }
        };
        if self
            .tenure
            .as_ref()
            .is_none_or(|(begun, _)| *begun != epoch)
        {
            self.tenure = Some((epoch, Schedule::new(now())));
            self.under_way = 0;
        }
        self.tenure.as_mut().map(|(_, schedule)| schedule)
    }
}

impl Driver {
    /// What time brings: the schedule is made, and what is due is deleted.
    pub(super) fn tend_expiry(&mut self) {
        let gated = self.node.is_gated();
        if let Some(schedule) = self.expiry.schedule(self.node.tenure()) {
            schedule.pass(now(), self.node.log(), gated);
            schedule.walk(now(), &self.view.newest(), WALK);
        }
        let most = self.node.settings().pending_max / PART;
        while !gated && self.expiry.under_way < UNDER_WAY.min(most.max(1)) && self.expire_next() {}
        self.metrics.expiring_keys.set(self.expiry.keys() as i64);
    }

    /// Deletes the key whose time ended first. False if none is due, or if nothing can be assigned now.
    fn expire_next(&mut self) -> bool {
        let Some((_, schedule)) = &mut self.expiry.tenure else {
            return false;
        };
        let committed = self.node.log().committed;
        let Some(change) = schedule.due(&self.view.newest(), committed) else {
            return false;
        };
        let Ok(record) = self.assign(&change) else {
            return false;
        };
        self.waiting.push_back(Waiting {
            upto: record.revision,
            answer: Answer::Expired,
        });
        self.expiry.under_way += 1;
        self.take(record);
        true
    }

    /// The delete of a key that had expired is committed.
    pub(super) fn expired(&mut self) {
        self.expiry.under_way = self.expiry.under_way.saturating_sub(1);
        self.metrics.expired_keys.inc();
    }
}
