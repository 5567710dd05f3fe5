//! Among Nodes: what the rules say to other Nodes, what those say to us, and what a Replica passes on to
//! the Primary for its clients.
//!
//! A Txn is passed on once and never again; its answer leaves here when this Node's own view shows it. Reads
//! that wait share one question to the Primary, as they share one look at the register there.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rules::message::{Message, Records};
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::step::Input;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::{Driver, Event};
use crate::datafile::Encoded;
use crate::peer::{Inbound, Outbound, PIECE_BYTES};
use crate::standing::{Outcome, now};
use crate::store::Failure;

/// The most bytes of Records that a Replica is sent at once, the rest when they have arrived; a single Record may be
/// larger.
const SENT_BYTES: usize = 16 << 20;
/// How long the Primary's word on how far is committed is waited for: its connection may live while it does not.
const WORD_WITHIN: Duration = Duration::from_secs(3);

impl Driver {
    /// Another Node says something.
    pub(super) fn heard(&mut self, inbound: Inbound) {
        let Inbound {
            from,
            url,
            message,
            records,
            members,
            registration,
        } = inbound;
        if let Some(peers) = &self.peers {
            peers.learn(&from.node_id, &url);
        }
        if let Some(registration) = registration {
            return self.vouch(from, message, &registration);
        }
        match &message {
            Message::State(_) if !members.is_empty() => {
                self.told_at = now();
                self.meet(members);
            }
            Message::Heartbeat(_) => {
                let mut members = self.members.iter();
                let known = members.any(|member| {
                    member.name == from.node_id && member.peer_urls.first() == Some(&url)
                });
                if !known {
                    // Somebody new, or elsewhere: the Elector looks at once.
                    self.members_at = 0;
                }
            }
            _ => {}
        }
        self.arrived = records;
        self.step(Input::Received(from, message));
        self.arrived.clear();
    }

    /// Tells one Node; what this Node tells itself comes back as an Input.
    pub(super) fn tell(&mut self, to: &str, message: Message) {
        if to == self.registration.node_id {
            let me = self.node.me().clone();
            let _ = self.events.send(Event::Input(Input::Received(me, message)));
            return;
        }
        let Some(peers) = self.peers.clone() else {
            return;
        };
        let members = match message {
            Message::State(_) => self.members.clone().into(),
            _ => Arc::default(),
        };
        if !peers.knows(to) {
            self.learn_addresses();
        }
        peers.send(to, Outbound::Message(message, members));
    }

    pub(super) fn broadcast(&mut self, message: &Message) {
        let known = self.peers.as_ref().map(crate::peer::Peers::known);
        for name in known.into_iter().flatten() {
            self.tell(&name, message.clone());
        }
    }

    /// Sends a Replica a part of the log, from memory, or from the disk when it is far behind: as much as is sent
    /// at once.
    pub(super) fn replicate(&mut self, to: &str, head: Records, upto: Revision) {
        let Some(peers) = self.peers.clone() else {
            return;
        };
        let records = match self.read_back(head.after, upto) {
            Ok(records) => records,
            Err(failure) => {
                warn!(%failure, "could not read the log for a replica");
                return;
            }
        };
        let last = records
            .last()
            .map_or(head.after, |last| last.record.revision);
        let whole = last.since(head.after) == records.len() as u64;
        if !whole || (records.is_empty() && upto > head.after) {
            // Compacted, or still on its way to the disk: the Replica asks again, or reads the chain.
            return;
        }
        if last < upto {
            let (to, stream) = (to.to_owned(), head.stream);
            let upto = last;
            self.sent_less.push(Input::Sent { to, stream, upto });
        }
        let mut piece: Vec<Bytes> = Vec::new();
        let (mut bytes, mut after) = (0, head.after);
        for encoded in records {
            if bytes + encoded.bytes.len() > PIECE_BYTES && !piece.is_empty() {
                let records = std::mem::take(&mut piece);
                let part = Records {
                    after,
                    ..head.clone()
                };
                after = Revision(after.0 + records.len() as u64);
                bytes = 0;
                peers.send(to, Outbound::Records(part, records));
            }
            bytes += encoded.bytes.len();
            piece.push(encoded.bytes);
        }
        peers.send(to, Outbound::Records(Records { after, ..head }, piece));
    }

    /// The Records of the own log in `(after, upto]`, as many as fit into what is sent at once, at least one.
    fn read_back(&self, after: Revision, upto: Revision) -> Result<Vec<Encoded>, Failure> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let mut take = |encoded: Encoded| {
            bytes += encoded.bytes.len();
            if bytes > SENT_BYTES && !found.is_empty() {
                return ControlFlow::Break(());
            }
            found.push(encoded);
            ControlFlow::Continue(())
        };
        if let Some(records) = self.recent.after(after) {
            let mut wanted = records.take(upto.since(after) as usize).cloned();
            let _ = wanted.try_for_each(take);
        } else {
            self.store.scan(after, upto, &mut take)?;
        }
        Ok(found)
    }

    /// A Replica's disk lost what it had said it holds.
    pub(super) fn distrust(&self, node: &str, why: &str) {
        error!(
            node,
            why, "a replica is not to be relied on; empty its data directory"
        );
    }

    /// Passes a Txn on to the Primary, if one is known. Gives `reply` back if not.
    pub(super) fn pass_on(
        &self,
        wire: Bytes,
        mut reply: oneshot::Sender<Result<Outcome, Refusal>>,
    ) -> Option<oneshot::Sender<Result<Outcome, Refusal>>> {
        let (Some(peers), Some(primary)) = (self.peers.clone(), self.primary_elsewhere()) else {
            return Some(reply);
        };
        let view = Arc::clone(&self.view);
        self.runtime.spawn(async move {
            let answer = tokio::select! {
                answer = peers.txn(&primary, wire) => answer,
                // The client has given up: one that waits for the Primary's gate need not be done.
                () = reply.closed() => return,
            };
            if let Ok(outcome) = &answer {
                // What a client was told, it can read here: as long as here is somebody.
                let shown = view.reached(outcome.assigned.unwrap_or(outcome.base));
                peers.closing().run_until_cancelled(shown).await;
            }
            let _ = reply.send(answer);
        });
        None
    }

    /// The Primary this Node follows and has heard lately.
    pub(super) fn primary_elsewhere(&self) -> Option<String> {
        self.node.follows(now()).map(str::to_owned)
    }

    /// A linearizable read on a Replica: waits for the Primary's word, together with others.
    pub(super) fn ask_primary(&mut self, reply: oneshot::Sender<Result<Revision, Refusal>>) {
        self.indexes.push(reply);
        self.ask_next();
    }

    fn ask_next(&mut self) {
        if !self.indexes.begin() {
            return;
        }
        let (Some(peers), Some(primary)) = (self.peers.clone(), self.primary_elsewhere()) else {
            for reply in self.indexes.end() {
                let _ = reply.send(Err(Refusal::NoLeader));
            }
            return;
        };
        let events = self.events.clone();
        self.runtime.spawn(async move {
            let word = tokio::time::timeout(WORD_WITHIN, peers.read_index(&primary)).await;
            let _ = events.send(Event::Index(word.unwrap_or(Err(Refusal::TimedOut))));
        });
    }

    /// The Primary's word came, or did not.
    pub(super) fn index_known(&mut self, index: &Result<Revision, Refusal>) {
        for reply in self.indexes.end() {
            let _ = reply.send(index.clone());
        }
        self.ask_next();
    }
}
