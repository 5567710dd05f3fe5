//! The Elector: winning and keeping the lock, and appointing the Primary through the register.
//!
//! A follower takes the lock only if it saw the same version for the whole timeout on its own clock; a
//! holder stops acting when its last successful renewal *started* more than the timeout less a margin
//! ago. That is liveness only: two Electors at once are safe, because each epoch is claimed by one swap of
//! the register and names one Primary for ever.
//!
//! Appointing takes two swaps: claim the next epoch, then name the Primary, and in between whatever read
//! lease an earlier Primary may hold runs out. Without voters no promises are asked: the fence protects.

mod appoint;
mod lock;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::message::{Heartbeat, Message, State};
use crate::register::{Held, Identity, Lock, Pending, Phase, Register, Swapped};
use crate::revision::Epoch;
use crate::settings::{Moment, Settings};
use crate::step::Effect;

use appoint::Appointing;

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
    /// Whether a swap was settled, or the lock won, since the read that is on its way was asked.
    register_read_is_old: bool,
    register_read_at: Moment,
    register_swap: Option<Pending<Register>>,
    /// Whether the lock was won since the attempt at a swap that is on its way was sent.
    register_swap_is_old: bool,
    /// Whether we wait for voters, and somebody may have changed the register meanwhile: an operator who gives
    /// them up.
    doubts_register: bool,
    /// When silent voters are asked for a word again.
    ask_at: Moment,
    /// The epoch we claimed and have not named a Primary in.
    appointing: Option<Appointing>,
    /// When we last named a Primary.
    named_at: Moment,
    /// The last sign of life of each Node, this one included.
    signs: BTreeMap<String, Sign>,
    /// Until when the newest lease we granted may run, on our clock.
    granted_until: Moment,
    /// The highest epoch somebody refused us with.
    refused: Epoch,
    /// Every Node is to look at the lock.
    announces: bool,
    /// Every Node is to hear of the register.
    pushes: bool,
    resigning: bool,
}

/// A Node's last Heartbeat.
#[derive(Debug)]
struct Sign {
    at: Moment,
    from: Identity,
    heartbeat: Heartbeat,
}

/// What the rest of the Node tells its Elector at every step.
#[derive(Clone, Debug)]
pub struct Around {
    /// How this Node is, as it tells any Elector.
    pub heartbeat: Heartbeat,
    /// Whether this Node leaves, and gives up the lock when somebody else can act.
    pub leaves: bool,
    /// Whether this Node gives up the lock at once.
    pub resigns: bool,
}

impl Around {
    fn tenure(&self) -> Option<Epoch> {
        self.heartbeat.tenure.map(|(epoch, _)| epoch)
    }
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
            register_read_is_old: false,
            register_read_at: 0,
            register_swap: None,
            register_swap_is_old: false,
            doubts_register: false,
            ask_at: 0,
            appointing: None,
            named_at: 0,
            signs: BTreeMap::new(),
            granted_until: 0,
            refused: Epoch::ZERO,
            announces: false,
            pushes: false,
            resigning: false,
        }
    }

    /// Whether this Node may act as Elector at `now`. Once it has begun to give up the lock somebody else may
    /// hold it, whatever this Node knows of that.
    #[must_use]
    pub fn is_acting(&self, now: Moment) -> bool {
        let limit = self.settings.elector_timeout - self.settings.margin;
        let swap = self.lock_swap.as_ref();
        let gives_up = self.resigning || swap.is_some_and(|swap| swap.document.elector.is_none());
        !gives_up && self.renewed.is_some_and(|renewed| now < renewed + limit)
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

    /// A Node tells how it is: what the Elector answers, if this Node is the Elector.
    ///
    /// A grant lets the Primary of the register answer linearizable reads for the register's lease, counted
    /// from when it *sent* this Heartbeat. None is given once the next epoch is being claimed, nor before the
    /// register was read as Elector: others may have named somebody since.
    pub fn heartbeat(
        &mut self,
        now: Moment,
        from: &Identity,
        heartbeat: Heartbeat,
    ) -> Option<State> {
        if !self.is_acting(now) {
            return None;
        }
        if heartbeat.register_seq > self.register().map_or(0, |register| register.seq) {
            self.register_known = false;
            self.register_read_at = self.register_read_at.min(now);
        }
        let grant = self.may_grant(from, &heartbeat);
        let lease = self.register().map_or(0, |register| register.lease);
        if grant {
            self.granted_until = self.granted_until.max(now + lease);
        }
        let state = State {
            echo: heartbeat.sent,
            grant,
            register: self.register().cloned(),
        };
        let sign = Sign {
            at: now,
            from: from.clone(),
            heartbeat,
        };
        self.signs.insert(from.node_id.clone(), sign);
        Some(state)
    }

    fn may_grant(&self, from: &Identity, heartbeat: &Heartbeat) -> bool {
        let idle = self.register_swap.is_none() && self.appointing.is_none();
        let knows = self.register_known;
        idle && knows
            && self.register().is_some_and(|register| {
                register.phase == Phase::Active
                    && register.lease > 0
                    && register.primary.as_ref() == Some(from)
                    && heartbeat.tenure == Some((register.epoch, true))
            })
    }

    /// Somebody has promised `epoch`: whatever is lower is refused.
    pub fn refused(&mut self, epoch: Epoch) {
        self.refused = self.refused.max(epoch);
    }

    /// The lock, or the register, changed: look at once.
    pub fn look(&mut self, now: Moment) {
        self.lock_read_at = self.lock_read_at.min(now);
        self.register_read_at = self.register_read_at.min(now);
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
        around: &Around,
        mark: &mut dyn FnMut() -> String,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.resigning = around.resigns || (around.leaves && !self.is_needed(now));
        self.tend_lock(now, mark, &mut effects);
        self.tend_register(now, around, mark, &mut effects);
        self.push(now, &mut effects);
        effects
    }

    /// Whether a Node has been silent for so long that its registration, which has stood as it is since
    /// `since`, may go. Never that of a Node the register names: its vote is the Primary's to give up.
    #[must_use]
    pub fn may_forget(&self, now: Moment, node_id: &str, since: Moment) -> bool {
        let after = self.settings.forget_after;
        let heard = self.signs.get(node_id).map_or(0, |sign| sign.at);
        let silent = now >= heard.max(since).max(self.since) + after;
        let spared = self.register().is_none_or(|register| {
            let named = register.primary.as_ref();
            let mut voters = register.voters.iter();
            register.phase != Phase::Active
                || named.is_none_or(|primary| primary.node_id == node_id)
                || voters.any(|voter| voter.node_id == node_id)
        });
        after > 0 && self.is_acting(now) && silent && !spared && node_id != self.me.node_id
    }

    /// Whether an Elector that leaves still has somebody to appoint.
    fn is_needed(&self, now: Moment) -> bool {
        let others = self
            .fresh(now)
            .any(|sign| sign.heartbeat.eligible && sign.from.node_id != self.me.node_id);
        let has_primary = self.register().is_some_and(|register| {
            let primary = register.primary.as_ref();
            register.phase == Phase::Active && primary.is_some_and(|primary| *primary != self.me)
        });
        self.is_acting(now) && others && !has_primary
    }

    /// The Nodes that were heard lately, this one included.
    fn fresh(&self, now: Moment) -> impl Iterator<Item = &Sign> {
        let fresh = move |sign: &&Sign| now < sign.at + self.settings.primary_timeout;
        self.signs.values().filter(fresh)
    }

    /// Tells every Node of a register that changed, without waiting for its Heartbeat.
    fn push(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if !core::mem::take(&mut self.pushes) || !self.is_acting(now) {
            return;
        }
        let state = State {
            echo: 0,
            grant: false,
            register: self.register().cloned(),
        };
        for sign in self.fresh(now) {
            if sign.from.node_id != self.me.node_id {
                let to = sign.from.node_id.clone();
                effects.push(Effect::Send(to, Message::State(state.clone())));
            }
        }
    }
}

impl Elector {
    /// The store answered what the register is.
    ///
    /// It is not heeded while a swap is on its way, or if one was settled since it was asked: that is the newer word.
    /// Nor if the lock was won since: until then others named Primaries.
    pub fn register_read(&mut self, found: Option<Held<Register>>) {
        self.register_reading = false;
        let is_old = core::mem::take(&mut self.register_read_is_old);
        if self.register_swap.is_none() && !is_old {
            self.pushes |= self.register.as_ref().map(|held| &held.version)
                != found.as_ref().map(|held| &held.version);
            self.register = found;
            self.register_known = true;
        }
    }

    /// A read of the register brought no answer.
    pub fn register_unread(&mut self, now: Moment) {
        self.register_reading = false;
        self.register_read_is_old = false;
        self.register_read_at = now + self.settings.retry;
    }

    /// One attempt to swap the register came back. Returns whether the document we wrote is in force.
    pub fn register_swapped(
        &mut self,
        now: Moment,
        outcome: Swapped<Register>,
    ) -> Option<Register> {
        let mut pending = self.register_swap.take()?;
        self.register_read_is_old = self.register_reading;
        // What it says may be from before the lock was won: others may have named Primaries since.
        let is_old = core::mem::take(&mut self.register_swap_is_old);
        if is_old {
            self.register_read_at = now;
        }
        match outcome {
            Swapped::Won(version) => {
                let document = pending.document.clone();
                self.pushes = true;
                self.register = Some(Held {
                    document: pending.document,
                    version,
                });
                self.register_known = !is_old;
                if document.phase != Phase::Claimed {
                    self.appointing = None;
                    self.named_at = now;
                }
                Some(document)
            }
            Swapped::Lost(current) => {
                self.register = current;
                self.register_known = !is_old;
                self.appointing = None;
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
        around: &Around,
        mark: &mut dyn FnMut() -> String,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(pending) = &mut self.register_swap {
            if pending.again.is_some_and(|again| now >= again) {
                pending.again = None;
                self.register_swap_is_old = false;
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
        if self.resigning {
            return;
        }
        self.doubts_register = false;
        self.appoint(now, around, mark, effects);
        if self.doubts_register && now >= self.register_read_at {
            self.read_register(now, effects);
        }
    }

    fn read_register(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.register_reading = true;
        self.register_read_at = now + self.settings.renew_interval;
        effects.push(Effect::ReadRegister);
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;
    use crate::register::{Version, Voter};
    use crate::revision::Revision;

    fn process(name: &str) -> Identity {
        Identity {
            node_id: name.to_string(),
            incarnation: format!("disk of {name}"),
            boot: format!("process of {name}"),
        }
    }

    fn heartbeat(now: Moment) -> Heartbeat {
        Heartbeat {
            sent: now,
            promised: Epoch(1),
            newest: (Epoch(1), Revision(1)),
            committed: Revision(1),
            eligible: true,
            up: now,
            tenure: None,
            hears: None,
            register_seq: 0,
        }
    }

    /// What `one` does as the Elector at `now`, beside its own Heartbeat.
    fn tick(elector: &mut Elector, now: Moment) -> Vec<Effect> {
        let me = elector.me.clone();
        let heartbeat = heartbeat(now);
        elector.heartbeat(now, &me, heartbeat.clone());
        let around = Around {
            heartbeat,
            leaves: false,
            resigns: false,
        };
        let mut mark = || "m".to_string();
        elector.tick(now, &around, &mut mark)
    }

    /// `one`, which took the lock at 0 and found `two` Primary, and `one`, `two` and `three` voters.
    fn elector() -> Elector {
        let settings = Settings {
            elector_timeout: 1_000_000,
            ..Settings::default()
        };
        let mut elector = Elector::new(process("one"), settings, String::new());
        elector.lock_read(0, None).expect("nobody holds it");
        tick(&mut elector, 0);
        elector.lock_swapped(0, Swapped::Won(Version("lock".into())));
        // What was asked before the lock was won is not heeded.
        elector.register_read(None);
        tick(&mut elector, 0);
        let voters = ["one", "two", "three"].map(|name| Voter::of(&process(name)));
        let register = Register {
            seq: 1,
            mark: "r".to_string(),
            epoch: Epoch(1),
            primary: Some(process("two")),
            phase: Phase::Active,
            voters: voters.into(),
            quorum: -1,
            lease: 0,
        };
        elector.register_read(Some(Held {
            document: register,
            version: Version("register".into()),
        }));
        elector
    }

    #[test]
    fn only_whom_nobody_needs_or_hears_is_forgotten() {
        let mut elector = elector();
        let after = elector.settings.forget_after;
        elector.renewed = Some(after);
        let said = heartbeat(5);
        elector.heartbeat(after, &process("heard"), said);
        let may = |elector: &Elector, name: &str, now| elector.may_forget(now, name, 7);
        assert!(!may(&elector, "gone", after + 6), "its registration is new");
        assert!(may(&elector, "gone", after + 7));
        for spared in ["one", "two", "three", "heard"] {
            assert!(!may(&elector, spared, after + 7), "{spared}");
        }
        elector.settings.forget_after = 0;
        assert!(!may(&elector, "gone", after + 7), "nobody ever is");
        elector.settings.forget_after = after;
        elector.renewed = None;
        assert!(!may(&elector, "gone", after + 7), "by the Elector alone");
    }

    #[test]
    fn a_read_that_was_asked_before_a_swap_was_settled_says_nothing() {
        let mut elector = elector();
        let before = elector.register.clone();
        let silent = elector.settings.primary_timeout;
        let asks = |effects: Vec<Effect>| effects.contains(&Effect::ReadRegister);
        assert!(asks(tick(&mut elector, silent + 5_000)));
        elector.swap_register(silent, "s".to_string(), |register| register.voters.clear());
        elector.register_swapped(silent, Swapped::Won(Version("swapped".into())));
        elector.register_read(before.clone());
        let known = |elector: &Elector| elector.register().map(|register| register.seq);
        assert_eq!(known(&elector), Some(2));
        // What is asked from now on counts, whatever it is.
        elector.register_known = false;
        assert!(asks(tick(&mut elector, 2 * silent + 10_000)));
        elector.register_read(before);
        assert_eq!(known(&elector), Some(1));
    }

    #[test]
    fn an_elector_that_leaves_stays_only_for_whom_it_could_name() {
        let mut elector = elector();
        let vacant = elector.register.as_mut().expect("it has been read");
        vacant.document.primary = None;
        assert!(!elector.is_needed(0), "nobody else was heard");
        elector.heartbeat(1, &process("two"), heartbeat(1));
        assert!(elector.is_needed(1));
        let leaves = Heartbeat {
            eligible: false,
            ..heartbeat(2)
        };
        elector.heartbeat(2, &process("two"), leaves);
        assert!(!elector.is_needed(2), "it leaves, too");
    }

    #[test]
    fn an_elector_in_want_of_voters_asks_them_and_looks_at_the_register() {
        let mut elector = elector();
        let silent = elector.settings.primary_timeout;
        let asked = |effects: &[Effect], name: &str| {
            let look = Effect::Send(name.to_string(), Message::Look);
            effects.contains(&look)
        };
        let before = tick(&mut elector, silent - 1);
        assert!(!asked(&before, "two"), "the Primary has time to say a word");
        let effects = tick(&mut elector, silent + 5_000);
        assert!(asked(&effects, "two") && asked(&effects, "three") && !asked(&effects, "one"));
        assert!(effects.contains(&Effect::ReadRegister));
        let found = elector.register.clone();
        elector.register_read(found);
        let effects = tick(&mut elector, silent + 5_001);
        assert!(!asked(&effects, "three"), "not all the time");
        // Two of three are enough.
        let word = heartbeat(1);
        elector.heartbeat(silent + 5_002, &process("three"), word);
        let effects = tick(&mut elector, silent + 5_002);
        let claims = |effect: &Effect| matches!(effect, Effect::SwapRegister { register, .. } if register.epoch == Epoch(2));
        assert!(effects.iter().any(claims), "{effects:?}");
    }
}
