//! Node: joins the log, the Elector, the tenure and the streams into one `step`.
//!
//! An [`Input`] is something that has become true; an [`Effect`] is something to make true, done in list
//! order per destination. `step` never fails, waits, logs or reads a clock. Assigning a Revision to a
//! client's change is the one call beside it, because its answer is wanted at once.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::chain::Log;
use crate::doubt::{Doubts, Ripening};
use crate::elector::Elector;
use crate::followers::Follower;
use crate::primary::Tenure;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::register::{Identity, Phase, Register, Swapped, Voter};
use crate::replica::Following;
use crate::revision::{Epoch, Revision};
use crate::settings::{Moment, Settings};
use crate::step::{Effect, Input};
use crate::txn::Change;
use crate::voters;

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
    /// The log a slot was read beside, its end and how often it had been cut; and the tenure that asked.
    pub(crate) slot_beside: (Revision, u64, Option<Epoch>),
    pub(crate) cuts: u64,
    pub(crate) slot_read_at: Moment,
    pub(crate) disk: Result<(), String>,
    pub(crate) corrupt: Option<String>,
    /// Whether the end of the chain has been seen since start.
    pub(crate) caught_up: bool,
    /// What the disk held at the start, less what was cut since: it may have been committed, and shown.
    pub(crate) held: Revision,
    /// The end of the chain as it was found at the start, until that may be shown.
    unripe: Revision,
    pub(crate) closing: bool,
    pub(crate) marks: u64,
    /// The epoch Record of a fence that is on its way.
    pub(crate) opening: Option<Record>,
    /// How often this disk was started.
    pub(crate) boot_seq: u64,
    pub(crate) started_at: Option<Moment>,
    /// Who asked for the promise that is on its way to the disk.
    pub(crate) asked: Option<(String, Epoch)>,
    /// The highest epoch this process began a tenure in: never twice in one.
    pub(crate) begun: Epoch,
    /// The newest register seen, whoever showed it.
    pub(crate) news: Option<Register>,
    pub(crate) heartbeat_at: Moment,
    /// The stream from the Primary, on a Replica.
    pub(crate) following: Option<Following>,
    pub(crate) streams: u64,
    /// Cuts that are on their way to the disk.
    pub(crate) cutting: usize,
    /// The Replicas of an Active Primary.
    pub(crate) followers: BTreeMap<String, Follower>,
    /// Whose Receipts commit, in the own tenure.
    pub(crate) voters: Vec<Voter>,
    pub(crate) quorum: i32,
    pub(crate) change: Option<voters::Change>,
    pub(crate) voters_changed_at: Moment,
    /// Since when the oldest uncommitted Record has waited, or the last one was committed.
    pub(crate) uncommitted_since: Option<Moment>,
    /// Since when a Record has waited for the bucket.
    unsent_since: Option<Moment>,
    pub(crate) doubts: Doubts,
    pub(crate) ripening: Ripening,
    /// Whether the bucket answered when it was last asked.
    pub(crate) bucket_answers: bool,
}

impl Node {
    /// A Node that starts with what its own disk holds. `boot_seq` is how often the disk was started, `seed`
    /// makes its marks and must be fresh at every start, `peer_address` is where other Nodes reach it.
    #[must_use]
    pub fn new(
        me: Identity,
        settings: Settings,
        log: Log,
        promised: Epoch,
        peer_address: String,
        (boot_seq, seed): (u64, u64),
    ) -> Node {
        // Holding a Record of an epoch counts as having seen it.
        let promised = promised.max(log.epoch_at(log.last));
        let (held, unripe) = (log.last, log.durable);
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
            slot_beside: (Revision::ZERO, 0, None),
            cuts: 0,
            slot_read_at: 0,
            disk: Ok(()),
            corrupt: None,
            caught_up: false,
            held,
            unripe,
            closing: false,
            marks: seed,
            opening: None,
            boot_seq,
            started_at: None,
            asked: None,
            begun: Epoch::ZERO,
            news: None,
            heartbeat_at: 0,
            following: None,
            // No two processes number their streams alike: what was meant for another is not taken for ours.
            streams: seed >> 1,
            cutting: 0,
            followers: BTreeMap::new(),
            voters: Vec::new(),
            quorum: 0,
            change: None,
            voters_changed_at: 0,
            uncommitted_since: None,
            unsent_since: None,
            doubts: Doubts::default(),
            ripening: Ripening::default(),
            bucket_answers: true,
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

    /// Whether it is known what became of everything the disk held at the start, and the chain as it was then
    /// has ripened. Before, this Node may have shown more in its last life than it knows to be committed, and
    /// must show nothing.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.log.committed >= self.held && self.unripe == Revision::ZERO
    }

    /// Why the own disk is not to be relied on, if it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.corrupt
            .as_deref()
            .or(self.disk.as_ref().err().map(String::as_str))
    }

    /// How many writes may wait for commit.
    #[must_use]
    pub fn pending_max(&self) -> u64 {
        self.settings.pending_max
    }

    /// Assigns the next Revision to a client's change.
    ///
    /// # Errors
    /// `NoLeader` unless this Node is the Active Primary and its gate is open (see `is_gated`);
    /// `TooManyRequests` when too much waits.
    pub fn assign(&mut self, change: &Change, created_at: i64) -> Result<Record, Refusal> {
        let (Tenure::Active(epoch), false) = (self.tenure, self.is_gated()) else {
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

    /// Sends off what waits for the bucket and for the Replicas: called when a batch is decided.
    pub fn flush(&mut self, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.replicate(now, &mut effects);
        if self.log.last == self.log.committed {
            self.uncommitted_since = None;
        } else {
            self.uncommitted_since.get_or_insert(now);
        }
        if !self.tenure.writes() || self.log.last == self.log.durable {
            self.unsent_since = None;
            return effects;
        }
        let since = *self.unsent_since.get_or_insert(now);
        if self.uploading {
            return effects;
        }
        let waits = self.log.committed.since(self.log.durable);
        let due = now >= since + self.settings.upload_age || waits >= self.settings.upload_records;
        let last = if self.is_on_bucket_path(now) {
            self.log.last
        } else if due && waits > 0 {
            self.log.committed
        } else {
            return effects;
        };
        self.uploading = true;
        self.unsent_since = Some(now);
        if last > self.log.committed {
            self.doubts.begin(last, now);
        }
        effects.push(Effect::Upload {
            first: self.log.tail_slot(),
            last,
            opening: None,
        });
        effects
    }

    /// Takes in what has become true at `now`, with the wall clock `created_at` for Records it opens.
    pub fn step(&mut self, now: Moment, created_at: i64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.started_at.get_or_insert(now);
        let before = self.tenure;
        let moves_data = input.moves_data();
        self.bucket_answers = input.is_answered().unwrap_or(self.bucket_answers);
        match input {
            Input::Tick => {}
            Input::Received(from, message) => self.received(now, from, message, &mut effects),
            Input::Sent { to, stream, upto } => self.sent_less(&to, stream, upto),
            Input::Truncated(_) => self.is_cut(),
            Input::LockRead(Ok(found)) => {
                if let Err(reason) = self.elector.lock_read(now, found) {
                    effects.push(Effect::Refuse(reason));
                }
            }
            Input::LockRead(Err(())) => self.elector.lock_unread(now),
            Input::LockSwapped(outcome) => self.elector.lock_swapped(now, outcome),
            Input::RegisterRead(Ok(found)) => {
                self.elector.register_read(found);
                self.heed_register(now, &mut effects);
            }
            Input::RegisterRead(Err(())) => self.elector.register_unread(now),
            Input::RegisterSwapped(outcome) => self.register_swapped(now, outcome, &mut effects),
            Input::Promised(epoch) => self.is_promised(now, epoch, &mut effects),
            Input::SlotRead(slot, found) => self.slot_read(now, slot, found, &mut effects),
            Input::Uploaded(first, last) => self.uploaded(first, last, &mut effects),
            Input::SlotTaken(slot) => self.slot_taken(now, slot, &mut effects),
            Input::Appended(upto) => {
                self.log.appended = self.log.appended.max(upto).min(self.log.last)
            }
            Input::DiskLost(reason) => self.disk_lost(reason, &mut effects),
            Input::DiskBack {
                last,
                durable,
                epochs,
            } => self.disk_back(now, (last, durable), &epochs, &mut effects),
            Input::ChainDamaged(reason) => self.damage(reason, &mut effects),
            Input::FellBehind => {
                self.end_tenure(&mut effects);
                effects.push(Effect::Refuse(format!(
                    "chunks after revision {} were cleaned up while this node was away: \
                     start it again, and it restores from the newest snapshot",
                    self.log.durable
                )));
            }
            Input::Close => {
                self.closing = true;
                // Whoever is the Elector names somebody else, or nobody, from now on.
                self.heartbeat_at = now;
            }
        }
        self.advance(now, created_at, moves_data, &mut effects);
        // The Elector has nothing to learn from Records on their way: time will tell it soon enough.
        if !moves_data || self.tenure != before {
            self.tend_elector(now, &mut effects);
        }
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

    /// Everything that follows from the state as it now is.
    fn advance(
        &mut self,
        now: Moment,
        created_at: i64,
        moves_data: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.tend_following(now, effects);
        self.commit(now, effects);
        self.raise_floor(effects);
        self.send_receipt(effects);
        self.go_on(now, created_at, effects);
        if !moves_data || self.change.is_some() {
            self.tend_voters(now, effects);
        }
        self.close(now, effects);
        self.follow(now, effects);
    }

    /// Raises committed: by the bucket path, what the chain and the own disk both hold; by the quorum path, what
    /// enough voters hold; on a Replica, what its stream says is committed.
    fn commit(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let told = match self.tenure {
            Tenure::None => self.told_committed(),
            tenure if tenure.writes() => self.quorum_committed(),
            _ => Revision::ZERO,
        };
        let known = self.chain_committed(now).max(told);
        if known >= self.unripe {
            self.unripe = Revision::ZERO;
        }
        let committed = known.min(self.log.appended);
        if committed > self.log.committed {
            self.log.committed = committed;
            self.doubts.settle(committed);
            self.uncommitted_since = (self.log.last > committed).then_some(now);
            effects.push(Effect::Release(committed));
        }
    }

    /// A register that was read: one of a higher epoch ends our tenure; one that names us begins it.
    fn heed_register(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(register) = self.elector.register().cloned() else {
            return;
        };
        self.heard_register(&register, effects);
        let mine = register.primary.as_ref() == Some(&self.me);
        let is_new = register.epoch > self.begun && register.epoch >= self.promised;
        if mine
            && register.phase == Phase::Starting
            && self.tenure == Tenure::None
            && is_new
            && self.is_eligible()
        {
            self.begun = register.epoch;
            self.promised = register.epoch;
            self.following = None;
            self.tenure = Tenure::Promising(register.epoch);
            self.heartbeat_at = now;
            effects.push(Effect::Promise(register.epoch));
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
                self.swap_lost(effects);
                self.heed_register(now, effects);
            }
            return;
        };
        self.heed_register(now, effects);
        if register.primary.as_ref() == Some(&self.me) && register.phase == Phase::Active {
            match self.tenure {
                Tenure::Activating(epoch, opening) if epoch == register.epoch => {
                    self.open(epoch, opening, effects);
                }
                Tenure::Active(epoch) if epoch == register.epoch => {}
                _ => return,
            }
            self.change = None;
            self.voters = register.voters;
            self.quorum = register.quorum;
            self.voters_changed_at = now;
        } else if register.is_closed() && matches!(self.tenure, Tenure::Closing(_)) {
            self.tenure = Tenure::None;
            self.heartbeat_at = now;
        }
    }

    /// Our swap of the register can never land: somebody claimed the next epoch.
    fn swap_lost(&mut self, effects: &mut Vec<Effect>) {
        let writes = self.tenure.writes() || matches!(self.tenure, Tenure::Activating(..));
        if writes {
            self.end_tenure(effects);
        }
    }
}
