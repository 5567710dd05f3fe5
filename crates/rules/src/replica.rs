//! The Replica: follows the Active Primary's log, one stream of one epoch at a time.
//!
//! It says Hello with its epoch table, cuts what the Primary's log does not share, appends only `last + 1`,
//! and answers with Receipts for what its disk holds. A gap, a silence or a higher epoch ends the stream
//! and begins the next. Nothing but the stream raises committed, and only after the cut is on disk.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::message::{Hello, Message, Records};
use crate::node::Node;
use crate::primary::Tenure;
use crate::register::{Identity, Phase, Register};
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;
use crate::step::Effect;

/// One stream from the Active Primary.
#[derive(Clone, Debug)]
pub(crate) struct Following {
    /// The Primary's epoch.
    pub(crate) epoch: Epoch,
    /// The Primary's name.
    primary: String,
    stream: u64,
    /// Whether the Primary has answered: the logs agree.
    welcomed: bool,
    /// Whether the cut it asked for is on disk.
    cut: bool,
    /// When it was last heard.
    heard: Moment,
    hello_at: Moment,
    /// How long its answer is waited for.
    patience: Moment,
    /// What the Primary said is committed.
    committed: Revision,
    receipted: Revision,
    receipt_due: bool,
}

/// The Replica's part of a Node's step.
impl Node {
    /// The epoch of the Primary this Node follows and has heard lately.
    #[must_use]
    pub fn hears(&self, now: Moment) -> Option<Epoch> {
        self.heard_lately_from(now).map(|following| following.epoch)
    }

    /// The name of the Primary this Node follows and has heard lately.
    #[must_use]
    pub fn follows(&self, now: Moment) -> Option<&str> {
        self.heard_lately_from(now)
            .map(|following| following.primary.as_str())
    }

    fn heard_lately_from(&self, now: Moment) -> Option<&Following> {
        let following = self.following.as_ref()?;
        let lately = now < following.heard + self.settings.primary_timeout;
        (following.welcomed && lately).then_some(following)
    }

    /// Whether the Primary this Node wants to follow has not answered its Hello.
    pub(crate) fn is_unwelcome(&self) -> bool {
        self.following
            .as_ref()
            .is_some_and(|following| !following.welcomed)
    }

    /// The newest register this Node has seen, whoever showed it.
    #[must_use]
    pub fn newest_register(&self) -> Option<&Register> {
        self.news.as_ref()
    }

    /// A register was seen, wherever. One of a higher epoch ends our tenure.
    pub(crate) fn heard_register(&mut self, register: &Register, effects: &mut Vec<Effect>) {
        if self.tenure.epoch().is_some_and(|own| register.epoch > own) {
            self.end_tenure(effects);
        }
        let newer = self
            .news
            .as_ref()
            .is_none_or(|news| register.seq > news.seq);
        if newer {
            self.news = Some(register.clone());
        }
    }

    /// Follows whom the newest register names, and says Hello again when the stream stands still.
    pub(crate) fn tend_following(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let able = self.tenure == Tenure::None && !self.closing && self.trouble().is_none();
        let named = self.news.as_ref().filter(|register| {
            able && register.phase == Phase::Active && register.epoch >= self.promised
        });
        let target = named.and_then(|register| {
            let primary = register.primary.as_ref()?;
            (*primary != self.me).then(|| (register.epoch, primary.node_id.clone()))
        });
        let Some((epoch, primary)) = target else {
            self.following = None;
            return;
        };
        let settings = self.settings;
        if let Some(following) = &self.following {
            let same = following.epoch == epoch && following.primary == primary;
            let patient_until = if following.welcomed {
                following.heard + settings.primary_timeout
            } else {
                following.hello_at + following.patience
            };
            if same && now < patient_until {
                return;
            }
        }
        self.say_hello(now, epoch, primary, effects);
    }

    fn say_hello(&mut self, now: Moment, epoch: Epoch, primary: String, effects: &mut Vec<Effect>) {
        if epoch > self.promised {
            self.promised = epoch;
            effects.push(Effect::Promise(epoch));
        }
        self.streams += 1;
        let before = self.following.take();
        let heard = before.as_ref().map_or(0, |before| before.heard);
        // An answer that was not waited for may have been on its way: the next one is given more time.
        let unanswered = before.filter(|before| before.epoch == epoch && !before.welcomed);
        let patience = unanswered.map_or(self.settings.retry, |before| {
            (2 * before.patience).min(self.settings.primary_timeout)
        });
        effects.push(Effect::Send(
            primary.clone(),
            Message::Hello(Hello {
                epoch,
                stream: self.streams,
                boot_seq: self.boot_seq,
                epochs: self.log.epochs.clone(),
                last: self.log.last,
            }),
        ));
        self.following = Some(Following {
            epoch,
            primary,
            stream: self.streams,
            welcomed: false,
            cut: false,
            heard,
            hello_at: now,
            patience,
            committed: Revision::ZERO,
            receipted: Revision::ZERO,
            receipt_due: true,
        });
    }

    /// The Primary answered our Hello.
    pub(crate) fn welcomed(
        &mut self,
        now: Moment,
        from: &Identity,
        (epoch, stream): (Epoch, u64),
        agreed: Revision,
        effects: &mut Vec<Effect>,
    ) {
        let Some(following) = self.following.as_mut().filter(|following| {
            following.primary == from.node_id
                && following.epoch == epoch
                && following.stream == stream
                && !following.welcomed
        }) else {
            return;
        };
        if agreed < self.log.committed {
            return self.damage(
                format!(
                    "the primary's log differs from ours after revision {agreed}, below a committed one"
                ),
                effects,
            );
        }
        if agreed < self.log.durable || agreed > self.log.last {
            // Not the log this Hello spoke of, or a chain that went on: ask anew.
            return;
        }
        following.welcomed = true;
        following.heard = now;
        following.cut = agreed == self.log.last && self.cutting == 0;
        if agreed < self.log.last {
            self.cut(agreed, effects);
        }
    }

    /// Cuts the log; it counts when the disk says so.
    pub(crate) fn cut(&mut self, last: Revision, effects: &mut Vec<Effect>) {
        self.log.truncate(last);
        self.held = self.held.min(last);
        self.cutting += 1;
        self.cuts += 1;
        effects.push(Effect::Truncate(last));
    }

    /// The disk is cut.
    pub(crate) fn is_cut(&mut self) {
        self.cutting = self.cutting.saturating_sub(1);
        if self.cutting == 0
            && let Some(following) = &mut self.following
        {
            following.cut |= following.welcomed;
        }
    }

    /// A piece of the Primary's log.
    pub(crate) fn replicated(
        &mut self,
        now: Moment,
        from: &Identity,
        piece: Records,
        effects: &mut Vec<Effect>,
    ) {
        if self.refuses(from, piece.epoch, effects) {
            return;
        }
        let Some(following) = self.following.as_mut().filter(|following| {
            following.primary == from.node_id
                && following.epoch == piece.epoch
                && following.stream == piece.stream
                && following.welcomed
        }) else {
            return;
        };
        following.heard = now;
        if piece.after > self.log.last {
            // Something was lost on the way.
            if now >= following.hello_at + self.settings.retry {
                self.say_hello(now, piece.epoch, from.node_id.clone(), effects);
            }
            return;
        }
        following.committed = following.committed.max(piece.committed);
        following.receipt_due |= piece.records.is_empty();
        let (cut, last) = (following.cut, self.log.last);
        let records = piece.records.into_iter();
        let new: Vec<_> = records.filter(|record| record.revision > last).collect();
        if !new.is_empty() {
            for record in &new {
                self.log.push(record);
            }
            effects.push(Effect::Append(new));
        }
        if cut && piece.durable > self.log.durable && piece.durable <= self.log.last {
            self.log.durable = piece.durable;
            effects.push(Effect::Durable(piece.durable));
        }
    }

    /// What the stream says is committed, if it may be believed.
    pub(crate) fn told_committed(&self) -> Revision {
        let following = self.following.as_ref();
        let believed = following.filter(|following| following.welcomed && following.cut);
        believed.map_or(Revision::ZERO, |following| following.committed)
    }

    /// Says what the disk holds, when that is more than was said, or when asked.
    pub(crate) fn send_receipt(&mut self, effects: &mut Vec<Effect>) {
        let Some(following) = &mut self.following else {
            return;
        };
        let more = self.log.appended > following.receipted;
        let ready = following.welcomed && following.cut && self.promised == following.epoch;
        if !ready || !(more || following.receipt_due) {
            return;
        }
        following.receipted = self.log.appended;
        following.receipt_due = false;
        let receipt = Message::Receipt {
            epoch: following.epoch,
            stream: following.stream,
            revision: self.log.appended,
            record_epoch: self.log.epoch_at(self.log.appended),
        };
        effects.push(Effect::Send(following.primary.clone(), receipt));
    }
}
