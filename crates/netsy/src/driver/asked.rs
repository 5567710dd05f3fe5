//! What the doors ask of the driver: Txns, decided and assigned here or passed on, and linearizable reads.

use bytes::Bytes;
use rules::primary::Tenure;
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::txn::Txn;
use tokio::sync::oneshot;

use super::reads::Unconfirmed;
use super::{Answer, Driver, Waiting};
use crate::standing::{Outcome, now};

type Reply = oneshot::Sender<Result<Outcome, Refusal>>;

/// Txns that came while the write gate was shut, and how many may wait.
#[derive(Default)]
pub(super) struct Held(Vec<(Txn, Reply)>);

impl Held {
    /// One more waits, unless `max` do already, not counting those whose client has given up: then `reply` is
    /// handed back.
    fn push(&mut self, txn: Txn, reply: Reply, max: u64) -> Option<Reply> {
        let is_full = |held: &Held| held.0.len() as u64 >= max;
        if is_full(self) {
            self.tidy();
        }
        if is_full(self) {
            return Some(reply);
        }
        self.0.push((txn, reply));
        None
    }

    /// Forgets those whose client has given up.
    pub(super) fn tidy(&mut self) {
        self.0.retain(|(_, reply)| !reply.is_closed());
    }

    /// Those whose client still waits, in the order they came.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Txn, Reply)> + use<> {
        let held = std::mem::take(&mut self.0).into_iter();
        held.filter(|(_, reply)| !reply.is_closed())
    }
}

impl Driver {
    pub(super) fn txn(&mut self, txn: Txn, wire: Option<Bytes>, reply: Reply) {
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
            if let Some(reply) = self.held.push(txn, reply, self.node.pending_max()) {
                let _ = reply.send(Err(Refusal::TooManyRequests));
            }
            return;
        }
        // The view is let go of before anything else is done.
        let decided = txn.decide(&self.view.newest());
        let decision = match decided {
            Ok(decision) => decision,
            Err(refused) => {
                return self.answer_unchanged(refused.base, Err(refused.refusal), reply);
            }
        };
        let Some((_, change)) = &decision.change else {
            let outcome = Outcome::new(&decision, None);
            return self.answer_unchanged(decision.base, Ok(outcome), reply);
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

    /// A Txn that writes nothing, as one that is refused for what it saw, is answered when that is committed,
    /// and only as a linearizable read.
    fn answer_unchanged(&mut self, base: Revision, answer: Result<Outcome, Refusal>, reply: Reply) {
        self.confirm_when(base, Unconfirmed::Txn(answer, reply));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A client asks; whether it waits.
    fn asks(
        held: &mut Held,
        clients: &mut Vec<oneshot::Receiver<Result<Outcome, Refusal>>>,
    ) -> bool {
        let (reply, client) = oneshot::channel();
        clients.push(client);
        held.push(Txn::default(), reply, 3).is_none()
    }

    #[test]
    fn txns_behind_the_gate_are_limited_and_those_given_up_are_not_done() {
        let (mut held, mut clients) = (Held::default(), Vec::new());
        for _ in 0..3 {
            assert!(asks(&mut held, &mut clients));
        }
        assert!(!asks(&mut held, &mut clients), "three wait already");
        clients[1].close();
        assert!(asks(&mut held, &mut clients), "in the place of who gave up");
        assert!(!asks(&mut held, &mut clients));
        clients[0].close();
        assert_eq!(held.take().count(), 2);
        assert_eq!(held.take().count(), 0);
    }
}
