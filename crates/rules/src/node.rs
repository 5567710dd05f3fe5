//! Node: joins the log, the Elector and the tenure into one `step`.
//!
//! An [`Input`] is something that has become true; an [`Effect`] is something to make true, done in list
//! order per destination. `step` never fails, waits, logs or reads a clock. Assigning a Revision to a
//! client's change is the one call beside it, because its answer is wanted at once.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::chain::{Found, Log, Verdict, judge};
use crate::elector::{Around, Elector};
use crate::primary::Tenure;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::register::{Identity, Phase, Register, Swapped};
use crate::revision::{Epoch, Revision};
use crate::settings::{Moment, Settings};
use crate::step::{Effect, Input};
use crate::txn::Change;

/// One Node's state.
#[derive(Debug)]
pub struct Node {
    pub(crate) me: Identity,
    pub(crate) leader_id: Arc<str>,
    pub(crate) settings: Settings,
    pub(crate) log: Log,
    pub(crate) promised: Epoch,
    pub(crate) tenure: Tenure,
    pub(crate) elector: Elector,
    pub(crate) lease_until: Moment,
    pub(crate) uploading: bool,
    pub(crate) slot_reading: bool,
    pub(crate) slot_read_at: Moment,
    pub(crate) disk: Result<(), String>,
    pub(crate) corrupt: Option<String>,
    /// Whether the end of the chain has been seen since start.
    pub(crate) caught_up: bool,
    pub(crate) closing: bool,
    pub(crate) marks: u64,
    /// The epoch Record of a fence that is on its way.
    pub(crate) opening: Option<Record>,
}

impl Node {
    /// A Node that starts with what its own disk holds. `seed` makes its marks; it must be fresh at every
    /// start. `peer_address` is where other Nodes will reach it.
    #[must_use]
    pub fn new(
        me: Identity,
        settings: Settings,
        log: Log,
        promised: Epoch,
        peer_address: String,
        seed: u64,
    ) -> Node {
        Node {
            leader_id: Arc::from(me.node_id.as_str()),
            elector: Elector::new(me.clone(), settings, peer_address),
            me,
            settings,
            log,
            promised,
            tenure: Tenure::None,
            lease_until: 0,
            uploading: false,
            slot_reading: false,
            slot_read_at: 0,
            disk: Ok(()),
            corrupt: None,
            caught_up: false,
            closing: false,
            marks: seed,
            opening: None,
        }
    }

    /// This process.
    #[must_use]
    pub fn me(&self) -> &Identity {
        &self.me
    }

    /// The lengths of time it was given.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The log as this Node knows it.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How far the own tenure has come.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        self.tenure
    }

    /// The Elector in this Node.
    #[must_use]
    pub fn elector(&self) -> &Elector {
        &self.elector
    }

    /// The highest epoch seen or promised.
    #[must_use]
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// Whether the end of the chain has been seen since start.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Why the own disk is not to be relied on, if it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.corrupt
            .as_deref()
            .or(self.disk.as_ref().err().map(String::as_str))
    }

    /// Assigns the next Revision to a client's change.
    ///
    /// # Errors
    /// `NoLeader` unless this Node is the Active Primary; `TooManyRequests` when too much waits.
    pub fn assign(&mut self, change: &Change, created_at: i64) -> Result<Record, Refusal> {
        let Tenure::Active(epoch) = self.tenure else {
            return Err(Refusal::NoLeader);
        };
        if self.log.last.since(self.log.committed) >= self.settings.pending_max {
            return Err(Refusal::TooManyRequests);
        }
        let record = Record::write(
            change,
            self.log.last.next(),
            epoch,
            self.leader_id.clone(),
            created_at,
        );
        self.log.push(&record);
        Ok(record)
    }

    /// Sends off what waits for the bucket, if nothing is on its way: called when a batch is decided.
    pub fn flush(&mut self) -> Option<Effect> {
        let waits = self.tenure.writes() && self.log.last > self.log.durable;
        if !waits || self.uploading {
            return None;
        }
        self.uploading = true;
        Some(Effect::Upload {
            first: self.log.tail_slot(),
            last: self.log.last,
            opening: None,
        })
    }

    /// Takes in what has become true at `now`, with the wall clock `created_at` for Records it opens.
    pub fn step(&mut self, now: Moment, created_at: i64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Tick => {}
            Input::LockRead(Ok(found)) => {
                if let Err(reason) = self.elector.lock_read(now, found) {
                    effects.push(Effect::Refuse(reason));
                }
            }
            Input::LockRead(Err(())) => self.elector.lock_unread(now),
            Input::LockSwapped(outcome) => self.elector.lock_swapped(now, outcome),
            Input::RegisterRead(Ok(found)) => {
                self.elector.register_read(found);
                self.heed_register(&mut effects);
            }
            Input::RegisterRead(Err(())) => self.elector.register_unread(now),
            Input::RegisterSwapped(outcome) => self.register_swapped(now, outcome, &mut effects),
            Input::Promised(epoch) => self.is_promised(now, epoch),
            Input::SlotRead(slot, found) => self.slot_read(now, slot, found, &mut effects),
            Input::Uploaded(first, last) => self.uploaded(first, last, &mut effects),
            Input::SlotTaken(slot) => self.slot_taken(now, slot, &mut effects),
            Input::Appended(upto) => {
                self.log.appended = self.log.appended.max(upto).min(self.log.last)
            }
            Input::DiskLost(reason) => self.disk_lost(reason, &mut effects),
            Input::DiskBack { last, durable } => self.disk_back(now, last, durable, &mut effects),
            Input::ChainDamaged(reason) => self.damage(reason, &mut effects),
            Input::FellBehind => {
                self.end_tenure(&mut effects);
                effects.push(Effect::Refuse(format!(
                    "chunks after revision {} were cleaned up while this node was away: \
                     start it again, and it restores from the newest snapshot",
                    self.log.durable
                )));
            }
            Input::Close => self.closing = true,
        }
        self.advance(now, created_at, &mut effects);
        effects
    }

    pub(crate) fn mark(marks: &mut u64) -> String {
        // splitmix64: marks need to be fresh, not secret.
        let mut next = || {
            *marks = marks.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = *marks;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        };
        format!("{:016x}{:016x}", next(), next())
    }

    fn around(&self) -> Around {
        Around {
            tenure: self.tenure.epoch(),
            active: matches!(self.tenure, Tenure::Active(_)),
            eligible: self.trouble().is_none() && !self.closing,
            resigns: self.trouble().is_some() || (self.closing && self.tenure == Tenure::None),
            promised: self.promised,
        }
    }

    /// Everything that follows from the state as it now is.
    fn advance(&mut self, now: Moment, created_at: i64, effects: &mut Vec<Effect>) {
        self.commit(effects);
        self.go_on(now, created_at, effects);
        self.close(now, effects);
        let around = self.around();
        effects.extend(
            self.elector
                .tick(now, around, &mut || Self::mark(&mut self.marks)),
        );
        self.follow(now, effects);
        let lease = self.elector.grant(now, around);
        if lease > self.lease_until {
            self.lease_until = lease;
            effects.push(Effect::Lease(lease));
        }
    }

    /// Raises committed: by the bucket path, what the chain and the own disk both hold. Not while the
    /// fence waits for the register: a fence that landed in a cleaned-up slot must never have been believed.
    fn commit(&mut self, effects: &mut Vec<Effect>) {
        if matches!(self.tenure, Tenure::Activating(..)) {
            return;
        }
        let committed = self.log.durable.min(self.log.appended);
        if committed > self.log.committed {
            self.log.committed = committed;
            effects.push(Effect::Release(committed));
        }
    }

    /// A register that names another epoch than ours ends our tenure; one that names us begins it.
    fn heed_register(&mut self, effects: &mut Vec<Effect>) {
        let Some(register) = self.elector.register().cloned() else {
            return;
        };
        if self
            .tenure
            .epoch()
            .is_some_and(|epoch| register.epoch > epoch)
        {
            self.end_tenure(effects);
        }
    }

    fn register_swapped(
        &mut self,
        now: Moment,
        outcome: Swapped<Register>,
        effects: &mut Vec<Effect>,
    ) {
        let lost = matches!(outcome, Swapped::Lost(_));
        let Some(register) = self.elector.register_swapped(now, outcome) else {
            if lost {
                self.heed_register(effects);
            }
            return;
        };
        let is_mine = register.primary.as_ref() == Some(&self.me);
        match (register.phase, self.tenure) {
            (Phase::Starting, Tenure::None) if is_mine => {
                self.tenure = Tenure::Promising(register.epoch);
                effects.push(Effect::Promise(register.epoch));
            }
            (Phase::Active, Tenure::Activating(epoch, _)) if is_mine && epoch == register.epoch => {
                self.tenure = Tenure::Active(epoch);
            }
            (Phase::Active, Tenure::Closing(_)) if register.is_closed() => {
                self.tenure = Tenure::None;
            }
            _ => {}
        }
    }

    /// Reads the tail slot when there is reason to: a tenure that begins, or a Node that follows.
    fn follow(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let wants = matches!(self.tenure, Tenure::None | Tenure::Reading(_));
        let idle = !self.slot_reading && !self.closing && self.trouble().is_none();
        if wants && idle && self.log.appended == self.log.last && now >= self.slot_read_at {
            self.slot_reading = true;
            effects.push(Effect::ReadSlot {
                slot: self.log.tail_slot(),
                confirm: self.tenure != Tenure::None || !self.caught_up,
            });
        }
    }

    fn slot_read(
        &mut self,
        now: Moment,
        slot: Revision,
        found: Result<Option<Found>, ()>,
        effects: &mut Vec<Effect>,
    ) {
        self.slot_reading = false;
        let expected = matches!(self.tenure, Tenure::None | Tenure::Reading(_));
        if !expected || slot != self.log.tail_slot() {
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
        let end = last.revision;
        if let Verdict::Import { keep } = verdict {
            if keep < self.log.last {
                self.log.truncate(keep);
                effects.push(Effect::Truncate(keep));
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

    fn disk_lost(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.end_tenure(effects);
        self.disk = Err(reason);
    }

    fn disk_back(
        &mut self,
        now: Moment,
        last: Revision,
        durable: Revision,
        effects: &mut Vec<Effect>,
    ) {
        if self.disk.is_ok() {
            return;
        }
        self.disk = Ok(());
        self.caught_up = false;
        self.slot_read_at = now;
        if last < self.log.committed {
            return self.damage(
                format!("the disk came back with records up to {last} only, below a committed one"),
                effects,
            );
        }
        self.log.truncate(last);
        self.log.appended = self.log.last;
        // What was uploaded but not appended is read from the chain again.
        self.log.durable = durable;
        effects.push(Effect::Truncate(last));
    }

    fn damage(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.end_tenure(effects);
        self.corrupt = Some(reason.clone());
        effects.push(Effect::Corrupt(reason));
    }
}
