//! What the doors ask of the driver: Txns, decided and assigned here or passed on, and linearizable reads.

use bytes::Bytes;
use rules::primary::Tenure;
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::txn::{Decision, Txn};
use tokio::sync::oneshot;

use super::reads::Unconfirmed;
use super::{Answer, Driver, Waiting};
use crate::standing::{Outcome, now};

impl Driver {
    pub(super) fn txn(
        &mut self,
        txn: Txn,
        wire: Option<Bytes>,
        reply: oneshot::Sender<Result<Outcome, Refusal>>,
    ) {
        if !matches!(self.node.tenure(), Tenure::Active(_)) {
            let reply = match wire {
                Some(wire) => self.pass_on(wire, reply),
                None => Some(reply),
            };
            if let Some(reply) = reply {
                let _ = reply.send(Err(self.not_primary()));
            }
            return;
        }
        if self.node.is_gated() {
            self.held.push((txn, reply));
            return;
        }
        let decision = match txn.decide(&self.view.newest()) {
            Ok(decision) => decision,
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        let Some((_, change)) = &decision.change else {
            return self.answer_unchanged(&decision, reply);
        };
        if change.value.is_some() && self.is_full() {
            let _ = reply.send(Err(Refusal::NoSpace));
            return;
        }
        match self.assign(change) {
            Ok(record) => {
                let revision = record.revision;
                self.take(record);
                let outcome = Outcome::new(&decision, Some(revision));
                self.waiting.push_back(Waiting {
                    upto: revision,
                    answer: Answer::Written(outcome, reply),
                });
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
        }
    }

    /// Whether the storage quota is used up: nothing is put any more, and deletes go on.
    fn is_full(&self) -> bool {
        let in_use = self.board.sizes().in_use;
        self.quota.is_some_and(|quota| in_use >= quota)
    }

    /// A Txn that writes nothing answers when what it saw is committed, and only as a linearizable read.
    fn answer_unchanged(
        &mut self,
        decision: &Decision,
        reply: oneshot::Sender<Result<Outcome, Refusal>>,
    ) {
        let upto = decision.base;
        let outcome = Outcome::new(decision, None);
        self.confirm_when(upto, Unconfirmed::Txn(outcome, reply));
    }

    /// Confirms `read` as soon as everything up to `upto` is committed.
    fn confirm_when(&mut self, upto: Revision, read: Unconfirmed) {
        if upto > self.node.log().committed {
            let answer = Answer::Read(read);
            self.waiting.push_back(Waiting { upto, answer });
        } else {
            self.confirm(read);
        }
    }

    /// A linearizable read: answered here, or by the Primary's word, or from what a Degraded Replica has.
    pub(super) fn read_index(
        &mut self,
        reply: oneshot::Sender<Result<Revision, Refusal>>,
        passed_on: bool,
    ) {
        let active = matches!(self.node.tenure(), Tenure::Active(_));
        if passed_on && !active {
            let _ = reply.send(Err(Refusal::NoLeader));
        } else if !active && self.primary_elsewhere().is_some() {
            self.ask_primary(reply);
        } else {
            let committed = self.node.log().committed;
            let upto = self.node.reads_wait_for(now()).unwrap_or(committed);
            self.confirm_when(upto, Unconfirmed::Index(upto, reply));
        }
    }
}
