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
use crate::register::{Held, Identity, Lock, Phase, Register, Swapped, Version};
use crate::revision::{Epoch, Revision};
use crate::settings::{Moment, Settings};
use crate::txn::Change;

/// Something that has become true.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// What the lock is; `Err` when it could not be read.
    LockRead(Result<Option<Held<Lock>>, ()>),
    /// One attempt to swap the lock came back.
    LockSwapped(Swapped<Lock>),
    /// What the register is; `Err` when it could not be read.
    RegisterRead(Result<Option<Held<Register>>, ()>),
    /// One attempt to swap the register came back.
    RegisterSwapped(Swapped<Register>),
    /// The own disk holds the promise of this epoch.
    Promised(Epoch),
    /// What lies in a slot that was read; `None` is nothing, `Err` is no answer.
    SlotRead(Revision, Result<Option<Found>, ()>),
    /// The tail slot is empty because its Chunk was cleaned up: the chain goes on beyond it.
    FellBehind,
    /// Our Chunk, reaching to the second Revision, is in the slot named by the first.
    Uploaded(Revision, Revision),
    /// Another Chunk is in the slot we wrote to.
    SlotTaken(Revision),
    /// The own disk holds every Record up to here.
    Appended(Revision),
    /// The own disk refused; what it holds is not known.
    DiskLost(String),
    /// The own disk works again: it holds every Record up to `last`, and knows the chain up to `durable`.
    DiskBack {
        /// The newest Record on disk.
        last: Revision,
        /// The end of a Chunk, at most `last`.
        durable: Revision,
    },
    /// An object of the chain is damaged. Names it.
    ChainDamaged(String),
    /// Close: make everything durable, then leave.
    Close,
}

/// Something to make true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read the lock; answer with `LockRead`.
    ReadLock,
    /// Swap the lock once; answer with `LockSwapped`.
    SwapLock {
        /// The version to replace; `None` creates.
        expected: Option<Version>,
        /// The new content.
        lock: Lock,
    },
    /// Read the register; answer with `RegisterRead`.
    ReadRegister,
    /// Swap the register once; answer with `RegisterSwapped`.
    SwapRegister {
        /// The version to replace; `None` creates.
        expected: Option<Version>,
        /// The new content.
        register: Register,
    },
    /// Make the promise durable; answer with `Promised`.
    Promise(Epoch),
    /// Read the slot; answer with `SlotRead`.
    ReadSlot {
        /// The tail slot.
        slot: Revision,
        /// Before answering that nothing is there, make sure by a list that the chain does not go on
        /// beyond the slot: it may have been cleaned up while this Node slept. If it does: `FellBehind`.
        confirm: bool,
    },
    /// Create the slot named by `first` with every Record from there on, at most to `last`, and
    /// `opening` after them. Settle it, sending the same bytes; answer with `Uploaded` or `SlotTaken`.
    Upload {
        /// The tail slot.
        first: Revision,
        /// The newest Record of the log.
        last: Revision,
        /// The epoch Record of a fence: then everything up to `last` must be in the Chunk.
        opening: Option<Record>,
    },
    /// Give up the upload that is on its way; it may still land.
    AbandonUpload,
    /// Append these to the own disk and show them to compares; answer with `Appended`.
    Append(Vec<Record>),
    /// Remove everything above from disk and view.
    Truncate(Revision),
    /// The bucket holds the chain up to here.
    Durable(Revision),
    /// Clients may be told of everything up to here.
    Release(Revision),
    /// Linearizable reads may be answered here until then; 0 ends it.
    Lease(Moment),
    /// Everything that waits for a commit has an unknown outcome.
    FailPending,
    /// Something must not be served any more. Says why.
    Corrupt(String),
    /// This process must not run. Says why.
    Refuse(String),
    /// Everything is durable and given up: leave.
    Closed,
}

/// One Node's state.
#[derive(Debug)]
pub struct Node {
    me: Identity,
    leader_id: Arc<str>,
    settings: Settings,
    log: Log,
    promised: Epoch,
    tenure: Tenure,
    elector: Elector,
    lease_until: Moment,
    uploading: bool,
    slot_reading: bool,
    slot_read_at: Moment,
    disk: Result<(), String>,
    corrupt: Option<String>,
    /// Whether the end of the chain has been seen since start.
    caught_up: bool,
    closing: bool,
    marks: u64,
    /// The epoch Record of a fence that is on its way.
    opening: Option<Record>,
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

    fn mark(marks: &mut u64) -> String {
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

    /// Moves the tenure on when what it waits for has become true.
    fn go_on(&mut self, now: Moment, created_at: i64, effects: &mut Vec<Effect>) {
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
            Tenure::Activating(epoch, opening)
                if self.log.appended >= opening && !self.elector.is_swapping() =>
            {
                let named = self.elector.register().is_some_and(|register| {
                    register.epoch == epoch && register.primary.as_ref() == Some(&self.me)
                });
                if !named {
                    self.end_tenure(effects);
                    return;
                }
                let mark = Self::mark(&mut self.marks);
                effects.extend(
                    self.elector
                        .swap_register(now, mark, |register| register.phase = Phase::Active),
                );
            }
            _ => {}
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

    fn is_promised(&mut self, now: Moment, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
        if self.tenure == Tenure::Promising(epoch) {
            self.tenure = Tenure::Reading(epoch);
            self.caught_up = false;
            self.slot_read_at = now;
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

    fn uploaded(&mut self, first: Revision, last: Revision, effects: &mut Vec<Effect>) {
        if first != self.log.tail_slot() || !self.uploading {
            return;
        }
        self.uploading = false;
        if let Tenure::Fencing(epoch, opening) = self.tenure {
            assert_eq!(last, opening, "a fence ends with its epoch record");
            let record = self.opening.take().expect("a fence keeps its epoch record");
            self.log.push(&record);
            effects.push(Effect::Append(alloc::vec![record]));
            self.tenure = Tenure::Activating(epoch, opening);
        }
        self.log.durable = last;
        effects.push(Effect::Durable(last));
    }

    fn slot_taken(&mut self, now: Moment, slot: Revision, effects: &mut Vec<Effect>) {
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
    fn end_tenure(&mut self, effects: &mut Vec<Effect>) {
        if self.tenure == Tenure::None {
            return;
        }
        self.tenure = Tenure::None;
        self.lease_until = 0;
        if core::mem::take(&mut self.uploading) {
            effects.push(Effect::AbandonUpload);
        }
        effects.push(Effect::Lease(0));
        effects.push(Effect::FailPending);
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

    /// Closing: the gate is shut, what was assigned goes to the bucket, the register is closed, the lock given up.
    fn close(&mut self, now: Moment, effects: &mut Vec<Effect>) {
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
                let settled = self.log.committed == self.log.last && !self.uploading;
                if settled && !self.elector.is_swapping() {
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
}
