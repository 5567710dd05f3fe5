//! Deeds: what a Node asks of its world, done as netsy's driver does it (`driver/effects.rs`), with the luck that
//! the weather allows.
//!
//! What goes to the disk gathers as in the driver: at once, unless a Primary on the bucket path can wait for its
//! next Chunk.

use rules::message::{Message, Records};
use rules::primary::Tenure;
use rules::revision::Revision;
use rules::step::{Effect, Input};

use crate::machine::Work;
use crate::world::{Happening, World};

/// The most Records that a Replica is sent at once. The driver counts bytes; what it comes to is the same.
const SENT_AT_ONCE: u64 = 24;

impl World {
    pub(crate) fn perform(&mut self, index: usize, effect: Effect) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        match effect {
            Effect::ReadLock => self.at_bucket(index, Happening::ReadsLock),
            Effect::ReadRegister => self.at_bucket(index, Happening::ReadsRegister),
            Effect::ReadSlot { slot, confirm } => {
                self.at_bucket(index, Happening::ReadsSlot(slot, confirm));
            }
            Effect::SwapLock { expected, lock } => self.swap_lock(index, expected, lock),
            Effect::SwapRegister { expected, register } => {
                self.swap_register(index, expected, register);
            }
            Effect::Promise(epoch) => {
                process.batch.promised = Some(epoch);
                process.urgent = true;
            }
            Effect::Append(records) => {
                process.urgent |=
                    !process.node.tenure().writes() || !process.node.voters().is_empty();
                for record in records {
                    process.learn(record.clone());
                    process.batch.append.push(record);
                }
            }
            Effect::Truncate(last) => self.truncate(index, last),
            Effect::Durable(upto) => process.batch.durable = upto,
            Effect::Upload {
                first,
                last,
                opening,
            } => self.upload(index, first, last, opening),
            Effect::AbandonUpload => process.upload += 1,
            Effect::Release(committed) => self.release(index, committed),
            Effect::Floor(floor) => self.floor_rose(index, floor),
            Effect::Lease(until) => process.lease_until = until,
            Effect::Send(to, message) => self.send(index, &to, &message),
            Effect::Broadcast(message) => {
                for other in 0..self.nodes.len() {
                    let name = self.nodes[other].name.clone();
                    if other != index {
                        self.send(index, &name, &message);
                    }
                }
            }
            Effect::Replicate { to, head, upto } => self.replicate(index, &to, head, upto),
            Effect::Distrust(who, why) => self.complains(index, format!("{who}: {why}")),
            Effect::FailPending => {
                process.urgent = true;
                self.fail_pending(index);
            }
            Effect::Corrupt(reason) => self.complains(index, reason),
            Effect::Refuse(reason) => self.refuses_to_run(index, &reason),
            Effect::Closed => self.crash(index, true),
        }
    }

    fn truncate(&mut self, index: usize, last: Revision) {
        // What waits for the disk goes first, so that the order stays.
        self.process(index).urgent = true;
        self.send_batch(index);
        let process = self.process(index);
        process.cut(last);
        process.batch.truncate = Some(last);
        process.urgent = true;
    }

    fn replicate(&mut self, index: usize, to: &str, head: Records, upto: Revision) {
        self.is_above_the_floor(index, head.after, upto);
        let process = self.process(index);
        let sent = upto.min(Revision(head.after.0 + SENT_AT_ONCE));
        if sent < upto {
            let (to, stream, upto) = (to.to_owned(), head.stream, sent);
            process.sent_less.push(Input::Sent { to, stream, upto });
        }
        let records = process.log[head.after.0 as usize..sent.0 as usize].to_vec();
        self.send(index, to, &Message::Records(Records { records, ..head }));
    }

    fn release(&mut self, index: usize, committed: Revision) {
        let batch = &mut self.process(index).batch;
        batch.committed = batch.committed.max(committed);
        self.show(index);
        self.settle_waiting(index, committed);
    }

    /// What is committed is shown, and on the Primary acknowledged, once the Node may show anything.
    pub(crate) fn show(&mut self, index: usize) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        if !process.node.is_settled() {
            return;
        }
        let committed = process.node.log().committed;
        let shown = std::mem::replace(&mut process.shown, committed);
        if shown == committed {
            return;
        }
        let records = &process.log[shown.0 as usize..committed.0 as usize];
        let acknowledges = process.node.tenure() != Tenure::None;
        self.checks.released(index, records, acknowledges);
        self.deliver(index);
        self.reached(index);
    }

    /// Sends what has gathered to the disk, if it is time.
    pub(crate) fn send_batch(&mut self, index: usize) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        if !std::mem::take(&mut process.urgent) {
            return;
        }
        let mut work = std::mem::take(&mut process.batch);
        work.generation = process.generation;
        self.nodes[index].work.push_back(work);
        let delay = self.random.delay(1, 50);
        self.at(delay, index, Happening::DiskDone);
    }

    pub(crate) fn disk_done(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(work) = node.work.pop_front() else {
            return;
        };
        if node.disk_failed {
            return self.step(index, Input::DiskLost("it does not write".to_owned()));
        }
        node.disk.apply(&work);
        self.disk_did(index, &work);
    }

    /// What the Node learns of work that is done, in this order.
    fn disk_did(&mut self, index: usize, work: &Work) {
        let node = &self.nodes[index];
        let last = node.disk.last();
        let generation = node.process.as_ref().map(|process| process.generation);
        if generation == Some(work.generation) {
            self.step(index, Input::Appended(last));
        }
        if let Some(last) = work.truncate {
            self.step(index, Input::Truncated(last));
        }
        if let Some(epoch) = work.promised {
            self.step(index, Input::Promised(epoch));
        }
    }

    /// A disk that failed works again: it holds what it holds.
    pub(crate) fn disk_mends(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !std::mem::replace(&mut node.disk_failed, false) {
            return;
        }
        node.work.clear();
        let Some(process) = &mut node.process else {
            return;
        };
        process.generation += 1;
        let back = Input::DiskBack {
            last: node.disk.last(),
            durable: node.disk.durable,
            epochs: node.disk.epochs.clone(),
        };
        self.step(index, back);
    }

    /// A message leaves: it may get lost, take its time, and come twice.
    fn send(&mut self, index: usize, to: &str, message: &Message) {
        let Some(target) = self.nodes.iter().position(|node| node.name == to) else {
            return;
        };
        let Some(me) = self.node(index).map(|node| node.me().clone()) else {
            return;
        };
        let doubled = self.random.chance(self.weather.doubled_message);
        for _ in 0..=u64::from(doubled) {
            if let Some(delay) = self.travels(index, target) {
                let arrival = Happening::Arrives(me.clone(), message.clone());
                self.at(delay, target, arrival);
            }
        }
    }

    /// How long a word from one Node to another is on its way; `None` if it gets lost.
    pub(crate) fn travels(&mut self, from: usize, to: usize) -> Option<u64> {
        if from == to {
            return Some(1);
        }
        let cut = self.nodes[from]
            .cut_until
            .get(&to)
            .is_some_and(|until| self.now < *until);
        // Nobody holds on for long to a connection that nobody reads from.
        let target = &self.nodes[to];
        let asleep = self.now < target.paused_until && self.now > target.paused_at + 30_000;
        if cut || asleep || self.random.chance(self.weather.lost_message) {
            return None;
        }
        let more = self.random.delay(1, self.weather.message_max.max(2));
        Some(self.weather.message_min + more)
    }

    fn process(&mut self, index: usize) -> &mut crate::machine::Process {
        let process = self.nodes[index].process.as_mut();
        process.expect("only a living process asks for anything")
    }
}
