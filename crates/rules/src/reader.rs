//! Reader: how a Node without a tenure, or before its fence, reads the chain from the tail slot on; and what
//! becomes of it when the own disk fails, or the chain is damaged.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::chain::{Found, Verdict, agreed, judge};
use crate::node::Node;
use crate::primary::Tenure;
use crate::record::Record;
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;
use crate::step::Effect;

impl Node {
    /// Reads the tail slot when there is reason to: a tenure that begins, or a Node that follows.
    pub(crate) fn follow(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let alone = self.tenure == Tenure::None && self.hears(now).is_none();
        let wants = alone || matches!(self.tenure, Tenure::Reading(_));
        let idle = !self.slot_reading && !self.closing && self.trouble().is_none();
        let settled = self.log.appended == self.log.last && self.cutting == 0;
        if wants && idle && settled && now >= self.slot_read_at {
            self.slot_reading = true;
            self.slot_beside = (self.log.last, self.cuts, self.tenure.epoch());
            effects.push(Effect::ReadSlot {
                slot: self.log.tail_slot(),
                // A Primary that does not welcome us may have compacted what our log ends with.
                confirm: self.tenure != Tenure::None || !self.caught_up || self.is_unwelcome(),
            });
        }
    }

    pub(crate) fn slot_read(
        &mut self,
        now: Moment,
        slot: Revision,
        found: Result<Option<Found>, ()>,
        effects: &mut Vec<Effect>,
    ) {
        self.slot_reading = false;
        let expected = matches!(self.tenure, Tenure::None | Tenure::Reading(_));
        // What was read was compared with the log as it was: one that moved on asks again. So does a tenure: a slot
        // that was empty before it was named may have been filled since, and cleaned up.
        let beside = (self.log.last, self.cuts, self.tenure.epoch());
        let moved = self.slot_beside != beside || self.trouble().is_some();
        if !expected || moved || self.hears(now).is_some() || slot != self.log.tail_slot() {
            return;
        }
        match found {
            Err(()) => self.slot_read_at = now + self.settings.retry,
            Ok(None) => {
                self.caught_up = true;
                self.slot_read_at = now + self.settings.follow_interval;
            }
            Ok(Some(found)) => {
                self.slot_read_at = now;
                self.import(slot, found, effects);
            }
        }
    }

    /// Takes in a Chunk of the chain.
    fn import(&mut self, slot: Revision, found: Found, effects: &mut Vec<Effect>) {
        let verdict = judge(&self.log, &found);
        if let Verdict::Damaged(why) = verdict {
            return self.damage(format!("slot {slot} of the chain: {why}"), effects);
        }
        let Some(last) = found.records.last() else {
            return;
        };
        if self.tenure.epoch().is_some_and(|epoch| last.epoch >= epoch) {
            self.end_tenure(effects);
        }
        self.promised = self.promised.max(last.epoch);
        self.following = None;
        let end = last.revision;
        if let Verdict::Import { keep } = verdict {
            if keep < self.log.last {
                self.cut(keep, effects);
            }
            let records: Vec<Record> = found
                .records
                .into_iter()
                .filter(|record| record.revision > keep)
                .collect();
            for record in &records {
                self.log.push(record);
            }
            effects.push(Effect::Append(records));
        }
        self.log.durable = end;
        effects.push(Effect::Durable(end));
    }

    pub(crate) fn disk_lost(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.end_tenure(effects);
        self.following = None;
        self.cutting = 0;
        self.disk = Err(reason);
    }

    /// The disk works again. Whether what was asked of it last came to pass, a cut above all, only its epoch table
    /// tells: what both logs hold stays.
    pub(crate) fn disk_back(
        &mut self,
        now: Moment,
        (last, durable): (Revision, Revision),
        epochs: &[(Epoch, Revision)],
        effects: &mut Vec<Effect>,
    ) {
        if self.disk.is_ok() {
            return;
        }
        self.disk = Ok(());
        self.caught_up = false;
        self.slot_read_at = now;
        let kept = agreed(&self.log.epochs, self.log.last, epochs, last);
        if kept < self.log.committed {
            return self.damage(
                format!("the disk came back with records up to {kept} only, below a committed one"),
                effects,
            );
        }
        self.cut(kept, effects);
        self.log.appended = self.log.last;
        // What was uploaded but not appended is read from the chain again.
        self.log.durable = durable;
    }

    pub(crate) fn damage(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.end_tenure(effects);
        self.corrupt = Some(reason.clone());
        effects.push(Effect::Corrupt(reason));
    }
}
