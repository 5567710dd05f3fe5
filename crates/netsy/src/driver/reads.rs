//! Linearizable reads: what the Primary may say of the newest committed state, and when.
//!
//! While the read lease runs, at once. Without one (it lapsed, or `reads.lease` is off) a batch of reads is
//! confirmed by one read of the register that *started after* they arrived and still names this process,
//! Active, in its epoch: then no later Primary had acknowledged anything when they arrived. What arrived in one
//! tenure is refused when that ends: a look that finds the next one says nothing of it.

use rules::primary::Tenure;
use rules::refusal::Refusal;
use rules::register::{Phase, Register};
use rules::revision::Revision;
use tokio::sync::oneshot;
use tracing::warn;

use super::{Driver, Event};
use crate::bucket::Document;
use crate::standing::{Outcome, now};

/// A read that waits for its confirmation.
pub(super) enum Unconfirmed {
    /// May a read at this Revision be answered?
    Index(Revision, oneshot::Sender<Result<Revision, Refusal>>),
    /// May this Txn, which writes nothing, be answered so?
    Txn(
        Result<Outcome, Refusal>,
        oneshot::Sender<Result<Outcome, Refusal>>,
    ),
}

/// Those who wait for one question to be answered: those it is under way for, and those that came since and
/// need the next one, because an answer counts only for who came before it was asked for.
pub(super) struct Askers<T> {
    asked: Option<Vec<T>>,
    next: Vec<T>,
}

impl<T> Default for Askers<T> {
    fn default() -> Askers<T> {
        Askers {
            asked: None,
            next: Vec::new(),
        }
    }
}

impl<T> Askers<T> {
    /// One more waits for the next question.
    pub(super) fn push(&mut self, asker: T) {
        self.next.push(asker);
    }

    /// Whether the question is to be asked now: somebody waits, and none is under way.
    pub(super) fn begin(&mut self) -> bool {
        let begins = self.asked.is_none() && !self.next.is_empty();
        if begins {
            self.asked = Some(std::mem::take(&mut self.next));
        }
        begins
    }

    /// Everybody who waits. The question under way, if there is one, will be answered to nobody.
    pub(super) fn give_up(&mut self) -> Vec<T> {
        let mut all: Vec<T> = self.asked.iter_mut().flat_map(std::mem::take).collect();
        all.append(&mut self.next);
        all
    }

    /// The question was answered: those it was asked for.
    pub(super) fn end(&mut self) -> Vec<T> {
        self.asked.take().unwrap_or_default()
    }
}

impl Driver {
    /// Answers `read` now if the lease runs, or when it is confirmed, or refuses it.
    pub(super) fn confirm(&mut self, read: Unconfirmed) {
        if self.board.has_lease() {
            read.grant();
        } else if matches!(self.node.tenure(), Tenure::Active(_)) {
            self.unconfirmed.push(read);
            self.ask();
        } else if matches!(read, Unconfirmed::Index(..)) && self.may_answer_stale() {
            read.grant();
        } else {
            read.refuse(self.not_primary());
        }
    }

    /// Whether a read is answered from what this Degraded Replica has (`reads.when_degraded`): counted, and
    /// said in the log at most once a minute. Never on a Node that is restoring, corrupt, or a Primary.
    fn may_answer_stale(&mut self) -> bool {
        let degraded = self.is_left_alone() && self.node.is_caught_up();
        if !self.answers_stale || !degraded || self.node.trouble().is_some() {
            return false;
        }
        self.metrics.stale_reads.inc();
        if now() >= self.stale_told_at + 60_000 {
            self.stale_told_at = now();
            warn!(
                "answering linearizable reads from the committed state of a degraded replica; set \
                 `reads.when_degraded` to `refuse` where clients rely on them, as Kubernetes does"
            );
        }
        true
    }

    fn ask(&mut self) {
        if !self.unconfirmed.begin() {
            return;
        }
        let (bucket, events) = (self.bucket.clone(), self.events.clone());
        self.runtime.spawn(async move {
            let found = bucket.read(&Document::Primary).await.ok().flatten();
            let register = found.and_then(|found| serde_json::from_slice(&found.body).ok());
            let _ = events.send(Event::Confirmed(register));
        });
    }

    /// The register was read: the reads it was asked for are answered, and the next ones asked for.
    pub(super) fn confirmed(&mut self, register: Option<Register>) {
        let holds = register.is_some_and(|register| {
            register.phase == Phase::Active
                && register.primary.as_ref() == Some(self.node.me())
                && self.node.tenure() == Tenure::Active(register.epoch)
        });
        for read in self.unconfirmed.end() {
            if holds {
                read.grant();
            } else {
                read.refuse(self.not_primary());
            }
        }
        self.ask();
    }
}

impl Unconfirmed {
    /// Whether its client has given up.
    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Unconfirmed::Index(_, reply) => reply.is_closed(),
            Unconfirmed::Txn(_, reply) => reply.is_closed(),
        }
    }

    fn grant(self) {
        match self {
            Unconfirmed::Index(revision, reply) => {
                let _ = reply.send(Ok(revision));
            }
            Unconfirmed::Txn(answer, reply) => {
                let _ = reply.send(answer);
            }
        }
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        match self {
            Unconfirmed::Index(_, reply) => {
                let _ = reply.send(Err(refusal));
            }
            Unconfirmed::Txn(_, reply) => {
                let _ = reply.send(Err(refusal));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_given_up_is_not_answered_by_the_question_under_way() {
        let mut askers = Askers::default();
        askers.push(1);
        assert!(askers.begin());
        askers.push(2);
        assert_eq!(askers.give_up(), [1, 2]);
        askers.push(3);
        assert!(!askers.begin(), "the old question is still under way");
        assert_eq!(askers.end(), [0; 0]);
        assert!(askers.begin());
        assert_eq!(askers.end(), [3]);
    }
}
