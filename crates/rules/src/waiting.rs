//! A voter that waits: what a Node may say while its log is still being restored.
//!
//! A promise needs nothing but the own disk, so no election waits for a restore, or for a bucket that this
//! Node alone cannot reach. What it says is what the disk holds at that moment; it never appends for, or
//! acknowledges to, anybody: the chain alone is imported meanwhile, and that holds for every epoch.

use crate::message::{Heartbeat, Message, Promise};
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;

/// What the disk of a waiting voter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The highest epoch promised or seen.
    pub promised: Epoch,
    /// The newest Record's epoch and Revision.
    pub newest: (Epoch, Revision),
    /// What it knows to be committed.
    pub committed: Revision,
}

/// What a waiting voter does about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Says this to whoever asked.
    Say(Message),
    /// Makes this promise durable, and only then says it: see [`Held::promise`].
    Promise(Epoch),
}

impl Held {
    /// What to do about `message`, `up` milliseconds after the process started; `None` is nothing. Whoever
    /// wants us to look at the lock is, or knows, an Elector in want of voters: it is told of this one.
    #[must_use]
    pub fn reply(&self, now: Moment, up: u64, message: &Message) -> Option<Reply> {
        match message {
            Message::Look => Some(Reply::Say(Message::Heartbeat(Heartbeat {
                sent: now,
                promised: self.promised,
                newest: self.newest,
                committed: self.committed,
                eligible: false,
                up,
                tenure: None,
                hears: None,
                register_seq: 0,
            }))),
            Message::Prepare(epoch) if *epoch < self.promised => {
                Some(Reply::Say(Message::Refused(self.promised)))
            }
            Message::Prepare(epoch) => Some(Reply::Promise(*epoch)),
            _ => None,
        }
    }

    /// The promise of `epoch`, which the disk holds by now together with all this. `None` if it has promised
    /// more since.
    #[must_use]
    pub fn promise(&self, epoch: Epoch, up: u64) -> Option<Promise> {
        (self.promised == epoch).then_some(Promise {
            epoch,
            newest: self.newest,
            eligible: false,
            up,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Held = Held {
        promised: Epoch(7),
        newest: (Epoch(5), Revision(40)),
        committed: Revision(38),
    };

    #[test]
    fn it_promises_what_is_not_below_and_refuses_the_rest() {
        let reply = |epoch| HELD.reply(1, 2, &Message::Prepare(Epoch(epoch)));
        let refused = Reply::Say(Message::Refused(Epoch(7)));
        assert_eq!(reply(6), Some(refused));
        assert_eq!(reply(7), Some(Reply::Promise(Epoch(7))));
        assert_eq!(reply(8), Some(Reply::Promise(Epoch(8))));
    }

    #[test]
    fn it_says_a_promise_only_when_the_disk_holds_it_and_no_higher_one() {
        assert_eq!(HELD.promise(Epoch(8), 2), None, "not durable yet");
        assert_eq!(HELD.promise(Epoch(6), 2), None, "overtaken");
        let promise = HELD.promise(Epoch(7), 2).expect("it is durable");
        assert_eq!((promise.newest, promise.eligible), (HELD.newest, false));
    }

    #[test]
    fn it_gives_a_sign_of_life_and_says_nothing_else() {
        let Some(Reply::Say(Message::Heartbeat(sign))) = HELD.reply(1, 2, &Message::Look) else {
            panic!("whoever asks for a sign of life is given one");
        };
        assert_eq!((sign.promised, sign.newest), (HELD.promised, HELD.newest));
        assert!(!sign.eligible && sign.tenure.is_none() && sign.hears.is_none());
        for ignored in [
            Message::Refused(Epoch(9)),
            Message::Heartbeat(sign),
            Message::Welcome {
                epoch: Epoch(7),
                stream: 1,
                agreed: Revision(40),
            },
        ] {
            assert_eq!(HELD.reply(1, 2, &ignored), None);
        }
    }
}
