//! Deeds: what a Node asks of its world, done with the luck that the weather allows.

use rules::message::{Message, Records};
use rules::primary::Tenure;
use rules::record::Record;
use rules::register::{Lock, Register, Version};
use rules::revision::Revision;
use rules::step::{Effect, Input};

use crate::machine::DiskWork;
use crate::world::{Happening, World};

impl World {
    pub(crate) fn perform(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::ReadLock => self.at_soon(index, Happening::ReadsLock),
            Effect::ReadRegister => self.at_soon(index, Happening::ReadsRegister),
            Effect::ReadSlot { slot, .. } => self.at_soon(index, Happening::ReadsSlot(slot)),
            Effect::SwapLock { expected, lock } => self.swap_lock(index, expected, lock),
            Effect::SwapRegister { expected, register } => {
                self.swap_register(index, expected, register);
            }
            Effect::Promise(epoch) => self.disk(index, DiskWork::Promise(epoch)),
            Effect::Append(records) => {
                let node = &mut self.nodes[index];
                for record in &records {
                    node.learn(record);
                }
                self.disk(index, DiskWork::Append(records));
            }
            Effect::Truncate(last) => {
                let node = &mut self.nodes[index];
                node.log.truncate(last.0 as usize);
                node.recount();
                self.disk(index, DiskWork::Truncate(last));
            }
            Effect::Durable(upto) => self.disk(index, DiskWork::Durable(upto)),
            Effect::Upload {
                first,
                last,
                opening,
            } => self.upload(index, first, last, opening),
            Effect::AbandonUpload => self.nodes[index].upload += 1,
            // Shown at the end of the step, if the Node shows anything yet.
            Effect::Release(_) => {}
            Effect::Floor(floor) => self.floor_rose(index, floor),
            Effect::Lease(until) => self.nodes[index].lease_until = until,
            Effect::Send(to, message) => self.send(index, &to, message),
            Effect::Broadcast(message) => {
                for other in 0..self.nodes.len() {
                    let name = self.nodes[other].name.clone();
                    if other != index {
                        self.send(index, &name, message.clone());
                    }
                }
            }
            Effect::Replicate { to, head, upto } => {
                self.is_above_the_floor(index, head.after, upto);
                let log = &self.nodes[index].log;
                let records = log[head.after.0 as usize..upto.0 as usize].to_vec();
                self.send(index, &to, Message::Records(Records { records, ..head }));
            }
            Effect::Distrust(who, why) => panic!("node {index} distrusts {who}: {why}"),
            Effect::FailPending | Effect::Closed => {}
            Effect::Corrupt(reason) => panic!("node {index} calls itself corrupt: {reason}"),
            Effect::Refuse(reason) => {
                let namesake = reason.contains("alive elsewhere");
                assert!(namesake, "node {index} refuses to run: {reason}");
                self.crash(index);
            }
        }
    }

    fn upload(&mut self, index: usize, first: Revision, last: Revision, opening: Option<Record>) {
        let node = &mut self.nodes[index];
        node.upload += 1;
        let upload = node.upload;
        let mut records = node.log[first.prev().0 as usize..last.0 as usize].to_vec();
        if opening.is_none() {
            records.truncate(8);
        }
        records.extend(opening);
        self.send_chunk(index, upload, first, records);
    }

    /// What is committed is shown, and on the Primary acknowledged, once the Node may show anything.
    pub(crate) fn show(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(process) = node.node.as_ref().filter(|process| process.is_settled()) else {
            return;
        };
        let committed = process.log().committed;
        let shown = std::mem::replace(&mut node.shown, committed);
        let records = &node.log[shown.0 as usize..committed.0 as usize];
        let acknowledges = process.tenure() != Tenure::None;
        self.checks.released(index, records, acknowledges);
    }

    fn swap_lock(&mut self, index: usize, expected: Option<Version>, lock: Lock) {
        let (lands, answers) = self.write_lands(index);
        if let Some(delay) = lands {
            self.at(
                delay,
                index,
                Happening::LockLands(expected.clone(), lock.clone(), answers),
            );
        }
        if !answers {
            self.at(500, index, Happening::LockSettles(expected, lock));
        }
    }

    fn swap_register(&mut self, index: usize, expected: Option<Version>, register: Register) {
        let (lands, answers) = self.write_lands(index);
        if let Some(delay) = lands {
            let landing = Happening::RegisterLands(expected.clone(), register.clone(), answers);
            self.at(delay, index, landing);
        }
        if !answers {
            self.at(500, index, Happening::RegisterSettles(expected, register));
        }
    }

    fn send_chunk(&mut self, index: usize, upload: u64, first: Revision, records: Vec<Record>) {
        let (lands, answers) = self.write_lands(index);
        let settles = lands.filter(|_| answers).unwrap_or(500) + self.random.delay(1, 300);
        if let Some(delay) = lands {
            self.at(delay, index, Happening::ChunkLands(first, records.clone()));
        }
        self.at(
            settles,
            index,
            Happening::ChunkSettles(upload, first, records),
        );
    }

    /// Reading back settles an upload; nothing there means: send the same again.
    pub(crate) fn chunk_settles(
        &mut self,
        index: usize,
        upload: u64,
        first: Revision,
        records: Vec<Record>,
    ) {
        if self.nodes[index].upload != upload {
            return;
        }
        match self.bucket.chunks.get(&first) {
            Some(found) if *found == records => {
                let last = records.last().map_or(first, |record| record.revision);
                self.step(index, Input::Uploaded(first, last));
            }
            Some(_) => self.step(index, Input::SlotTaken(first)),
            None => self.send_chunk(index, upload, first, records),
        }
    }

    fn disk(&mut self, index: usize, work: DiskWork) {
        self.nodes[index].work.push_back(work);
        let delay = self.random.delay(1, 50);
        self.at(delay, index, Happening::DiskDone);
    }

    pub(crate) fn disk_done(&mut self, index: usize) {
        let input = match self.nodes[index].do_disk_work() {
            Some(DiskWork::Append(_)) => Input::Appended(self.nodes[index].disk.last()),
            Some(DiskWork::Promise(epoch)) => Input::Promised(epoch),
            Some(DiskWork::Truncate(last)) => Input::Truncated(last),
            _ => return,
        };
        self.step(index, input);
    }
    /// A message leaves: it may get lost, take its time, and come twice.
    fn send(&mut self, index: usize, to: &str, message: Message) {
        let Some(target) = self.nodes.iter().position(|node| node.name == to) else {
            return;
        };
        let sender = &self.nodes[index];
        let Some(me) = sender.node.as_ref().map(|node| node.me().clone()) else {
            return;
        };
        let cut = sender
            .cut_until
            .get(&target)
            .is_some_and(|until| self.now < *until);
        if target != index && (cut || self.random.chance(self.weather.lost_message)) {
            return;
        }
        let doubled = self.random.chance(self.weather.doubled_message);
        for _ in 0..=u64::from(doubled) {
            let delay = self.random.delay(1, self.weather.message_max.max(2));
            let arrival = Happening::Arrives(me.clone(), message.clone());
            self.at(delay, target, arrival);
        }
    }
}
