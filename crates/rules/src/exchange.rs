//! Exchange: what a Node tells the Elector of itself, what the Elector answers, and what other Nodes say.
//!
//! A promise is answered when the disk holds it. Whatever names a higher epoch than the own tenure's ends
//! that tenure in the same step.

use alloc::vec::Vec;

use crate::elector::Around;
use crate::message::{Heartbeat, Message, Promise, State};
use crate::node::Node;
use crate::primary::Tenure;
use crate::register::Identity;
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;
use crate::step::Effect;

impl Node {
    /// How this Node is.
    fn heartbeat(&self, now: Moment) -> Heartbeat {
        let active = matches!(self.tenure, Tenure::Active(_));
        Heartbeat {
            sent: now,
            promised: self.promised,
            newest: self.newest(),
            committed: self.log.committed,
            eligible: self.is_eligible(),
            up: self.up(now),
            tenure: self.tenure.epoch().map(|epoch| (epoch, active)),
            hears: self.hears(now),
            register_seq: self.news.as_ref().map_or(0, |register| register.seq),
        }
    }

    /// Whether this Node could be Primary as things are. Whoever does not reach the bucket cannot open an epoch.
    pub(crate) fn is_eligible(&self) -> bool {
        self.trouble().is_none() && !self.closing && self.bucket_answers
    }

    fn up(&self, now: Moment) -> u64 {
        now - self.started_at.unwrap_or(now).min(now)
    }

    fn newest(&self) -> (Epoch, Revision) {
        (self.log.epoch_at(self.log.appended), self.log.appended)
    }

    pub(crate) fn tend_elector(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let heartbeat = self.heartbeat(now);
        let around = Around {
            leaves: self.closing && self.tenure == Tenure::None,
            resigns: self.trouble().is_some(),
            heartbeat: heartbeat.clone(),
        };
        let me = self.me.clone();
        if let Some(state) = self.elector.heartbeat(now, &me, heartbeat.clone()) {
            self.heed_state(now, &state, effects);
        } else if now >= self.heartbeat_at
            && let Some(elector) = self.elector.lock().and_then(|lock| lock.elector.as_ref())
            && elector.node_id != self.me.node_id
        {
            self.heartbeat_at = now + self.settings.heartbeat_interval;
            let to = elector.node_id.clone();
            effects.push(Effect::Send(to, Message::Heartbeat(heartbeat)));
        }
        let mark = &mut || Self::mark(&mut self.marks);
        effects.extend(self.elector.tick(now, &around, mark));
    }

    /// Another Node says something.
    pub(crate) fn received(
        &mut self,
        now: Moment,
        from: Identity,
        message: Message,
        effects: &mut Vec<Effect>,
    ) {
        match message {
            Message::Heartbeat(heartbeat) => {
                if let Some(state) = self.elector.heartbeat(now, &from, heartbeat) {
                    effects.push(Effect::Send(from.node_id, Message::State(state)));
                }
            }
            Message::State(state) => self.heed_state(now, &state, effects),
            Message::Look => self.elector.look(now),
            Message::Prepare(epoch) => self.prepare(from, epoch, effects),
            Message::Promise(promise) => self.elector.promised(from, promise),
            Message::Refused(epoch) => {
                self.elector.refused(epoch);
                if self.tenure.epoch().is_some_and(|own| epoch > own) {
                    self.end_tenure(effects);
                }
            }
            Message::Hello(hello) => self.greeted(now, &from, &hello, effects),
            Message::Welcome {
                epoch,
                stream,
                agreed,
            } => self.welcomed(now, &from, (epoch, stream), agreed, effects),
            Message::Records(piece) => self.replicated(now, &from, piece, effects),
            Message::Receipt {
                epoch,
                stream,
                revision,
                record_epoch,
            } => self.receipted(now, &from, (epoch, stream), (revision, record_epoch)),
        }
    }

    /// Refuses what belongs to a lower epoch than was promised, naming that. Whether it did.
    pub(crate) fn refuses(&self, from: &Identity, epoch: Epoch, effects: &mut Vec<Effect>) -> bool {
        let refuses = epoch < self.promised;
        if refuses {
            let refused = Message::Refused(self.promised);
            effects.push(Effect::Send(from.node_id.clone(), refused));
        }
        refuses
    }

    /// The Elector asks for a promise. A Primary that promises ends its tenure before it answers.
    fn prepare(&mut self, from: Identity, epoch: Epoch, effects: &mut Vec<Effect>) {
        if self.corrupt.is_some() {
            return;
        }
        if self.refuses(&from, epoch, effects) {
            return;
        }
        if self.tenure.epoch().is_some_and(|own| own < epoch) {
            self.end_tenure(effects);
        }
        if self
            .following
            .as_ref()
            .is_some_and(|following| following.epoch < epoch)
        {
            self.following = None;
        }
        self.promised = epoch;
        self.asked = Some((from.node_id, epoch));
        effects.push(Effect::Promise(epoch));
    }

    /// The Elector says what is. What names a higher epoch than ours ends our tenure.
    fn heed_state(&mut self, now: Moment, state: &State, effects: &mut Vec<Effect>) {
        let Some(register) = &state.register else {
            return;
        };
        let own = self.tenure.epoch();
        self.heard_register(register, effects);
        let mine = register.primary.as_ref() == Some(&self.me);
        if mine && own.is_none() && register.epoch > self.begun {
            self.elector.look(now);
        }
        let until = state.echo + register.lease;
        if state.grant
            && mine
            && self.tenure == Tenure::Active(register.epoch)
            && until > self.lease_until
        {
            self.lease_until = until;
            effects.push(Effect::Lease(until));
        }
    }

    /// The disk holds the promise: whoever asked for it is answered.
    pub(crate) fn promise_kept(&mut self, now: Moment, epoch: Epoch, effects: &mut Vec<Effect>) {
        if let Some((to, asked)) = self.asked.take_if(|(_, asked)| *asked <= epoch) {
            let promise = Promise {
                epoch: asked,
                newest: self.newest(),
                eligible: self.is_eligible(),
                up: self.up(now),
            };
            effects.push(Effect::Send(to, Message::Promise(promise)));
        }
    }
}
