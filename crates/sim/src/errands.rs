//! Errands to the bucket: how requests travel, land and are answered, and how their outcome is settled, as
//! netsy does it (`bucket/document.rs`, `driver/effects.rs`).
//!
//! A write lands and is answered; or it lands late, or never, and the Node reads back what became of it. A Chunk
//! is sent again, the same, until its slot is settled.

use std::sync::Arc;

use rules::chain::{Found, first_difference};
use rules::primary::Tenure;
use rules::record::Record;
use rules::register::{Lock, Register, Swapped, Version};
use rules::revision::Revision;
use rules::step::Input;

use crate::bucket::holds_epoch;
use crate::world::{Happening, World};

/// How long a Replica that cannot believe the chain waits for its Primary's welcome, milliseconds.
const WELCOME_WITHIN: u64 = 30_000;
/// How long an answer of the bucket is waited for, milliseconds.
const TIMEOUT: u64 = 1_500;

impl World {
    /// A request that reads goes to the bucket.
    pub(crate) fn at_bucket(&mut self, index: usize, happening: Happening) {
        let delay = self.latency(index);
        self.at(delay, index, happening);
    }

    /// How long the way to the bucket, or back, takes.
    pub(crate) fn latency(&mut self, index: usize) -> u64 {
        if self.now < self.nodes[index].slow_until {
            return self.random.between(200, self.weather.slow_max.max(201));
        }
        self.random.delay(1, self.cluster.latency)
    }

    /// Whether a read brings an answer.
    pub(crate) fn reads(&mut self, index: usize) -> bool {
        let cut = self.now < self.nodes[index].bucket_cut_until;
        !cut && !self.random.chance(self.weather.lost_read)
    }

    /// The fates of a write: when it lands, if ever, and when its sender looks what became of it.
    pub(crate) fn write_lands(&mut self, index: usize) -> (Option<u64>, u64) {
        let gives_up = self.random.between(5, TIMEOUT);
        if self.now < self.nodes[index].bucket_cut_until {
            return (None, gives_up);
        }
        if self.random.chance(self.weather.lost_answer) {
            let late = self.random.delay(1, self.weather.late_max.max(2));
            return (self.random.chance(60).then_some(late), gives_up);
        }
        let there = self.latency(index);
        (Some(there), there + self.latency(index))
    }

    /// The same for a document: what its sender will be told is true when it is said, and takes the way back.
    fn document_lands(&mut self, index: usize) -> (Option<u64>, u64) {
        let (lands, settles) = self.write_lands(index);
        match lands {
            Some(there) if there <= settles => (lands, there),
            _ => (lands, settles),
        }
    }

    /// A write takes effect.
    pub(crate) fn lands(&mut self, happening: Happening) {
        match happening {
            Happening::LockLands(expected, lock) => {
                self.bucket.lock.apply(expected.as_ref(), &lock);
            }
            Happening::RegisterLands(expected, register) => {
                let won = self.bucket.register.apply(expected.as_ref(), &register);
                if won {
                    self.checks.registers.swapped(&register);
                }
            }
            Happening::ChunkLands(first, records) => {
                let won = self.bucket.put_chunk(first, &records);
                if won {
                    self.checks.chain.extended(&self.bucket, first, &records);
                }
            }
            Happening::SnapshotLands(last, records) => self.snapshot_lands(last, records),
            Happening::DeletionLands(doomed) => self.deletion_lands(doomed),
            _ => {}
        }
    }

    /// A Node reads, or learns what became of what it wrote.
    pub(crate) fn errand(&mut self, index: usize, errand: Happening) {
        match errand {
            Happening::LockSettles(expected, lock) => {
                let settled = self.bucket.lock.settle(expected.as_ref(), &lock);
                let known = if self.reads(index) {
                    settled
                } else {
                    Swapped::Unknown
                };
                self.comes_back(index, Input::LockSwapped(known));
            }
            Happening::RegisterSettles(expected, register) => {
                let settled = self.bucket.register.settle(expected.as_ref(), &register);
                let known = if self.reads(index) {
                    settled
                } else {
                    Swapped::Unknown
                };
                self.comes_back(index, Input::RegisterSwapped(known));
            }
            Happening::ChunkSettles(upload, first, records) => {
                self.chunk_settles(index, upload, first, records);
            }
            Happening::ReadsLock => {
                let found = self.bucket.lock.read();
                let found = if self.reads(index) {
                    Ok(found)
                } else {
                    Err(())
                };
                self.comes_back(index, Input::LockRead(found));
            }
            Happening::ReadsRegister => {
                let found = self.bucket.register.read();
                let found = if self.reads(index) {
                    Ok(found)
                } else {
                    Err(())
                };
                self.comes_back(index, Input::RegisterRead(found));
            }
            Happening::Confirms => {
                let reads = self.reads(index);
                let found = self.bucket.register.document().filter(|_| reads).cloned();
                let delay = self.latency(index);
                self.at(delay, index, Happening::Confirmed(found));
            }
            Happening::ReadsSlot(slot, confirm) => self.reads_slot(index, slot, confirm),
            Happening::ListsSnapshots(slot, records) => self.lists_snapshots(index, slot, &records),
            Happening::ListsChunks(slot) => self.lists_chunks(index, slot),
            Happening::MakesSnapshot(at, epoch) => self.makes_snapshot(index, at, epoch),
            Happening::ListsCovered(at, epoch) => self.lists_covered(index, at, epoch),
            Happening::CleansUp(doomed, epoch) => self.cleans_up(index, doomed, epoch),
            _ => {}
        }
    }

    /// An answer is on its way back.
    fn comes_back(&mut self, index: usize, input: Input) {
        let delay = self.latency(index);
        self.at(delay, index, Happening::Input(input));
    }

    /// What lies in a slot. A Chunk that may be a late fence, and an empty slot that is to be confirmed, ask for a
    /// list first.
    fn reads_slot(&mut self, index: usize, slot: Revision, confirm: bool) {
        if !self.reads(index) {
            return self.comes_back(index, Input::SlotRead(slot, Err(())));
        }
        match self.bucket.chunks.get(&slot).cloned() {
            Some(records) if holds_epoch(&records) => {
                self.at_bucket(index, Happening::ListsSnapshots(slot, records));
            }
            Some(records) => self.compares(index, slot, &records),
            None if confirm => self.at_bucket(index, Happening::ListsChunks(slot)),
            None => self.comes_back(index, Input::SlotRead(slot, Ok(None))),
        }
    }

    fn lists_snapshots(&mut self, index: usize, slot: Revision, records: &Arc<Vec<Record>>) {
        if !self.reads(index) {
            return self.comes_back(index, Input::SlotRead(slot, Err(())));
        }
        if !self.bucket.may_be_late(slot, records) {
            return self.compares(index, slot, records);
        }
        self.fell_behind(index, slot);
    }

    fn lists_chunks(&mut self, index: usize, slot: Revision) {
        if !self.reads(index) || self.bucket.chunks.contains_key(&slot) {
            return self.comes_back(index, Input::SlotRead(slot, Err(())));
        }
        if !self.bucket.goes_on_beyond(slot) {
            return self.comes_back(index, Input::SlotRead(slot, Ok(None)));
        }
        self.fell_behind(index, slot);
    }

    /// The chain cannot be read on: a Replica waits for its Primary, who knows what is true; for a while.
    fn fell_behind(&mut self, index: usize, slot: Revision) {
        let (now, count) = (self.clock(index), self.nodes.len());
        let Some(process) = &self.nodes[index].process else {
            return;
        };
        let left = process
            .alone_since
            .is_some_and(|since| now >= since + WELCOME_WITHIN);
        let waits = count > 1 && process.node.tenure() == Tenure::None && !left;
        let input = if waits {
            Input::SlotRead(slot, Err(()))
        } else {
            Input::FellBehind
        };
        self.comes_back(index, input);
    }

    /// A Chunk beside what the own disk holds at the same Revisions.
    fn compares(&mut self, index: usize, slot: Revision, records: &Arc<Vec<Record>>) {
        let own = &self.nodes[index].disk.records;
        let own = &own[own.len().min(slot.prev().0 as usize)..];
        let found = Found {
            differs: first_difference(records, own),
            records: records.to_vec(),
        };
        self.comes_back(index, Input::SlotRead(slot, Ok(Some(found))));
    }

    pub(crate) fn swap_lock(&mut self, index: usize, expected: Option<Version>, lock: Lock) {
        let (lands, settles) = self.document_lands(index);
        if let Some(delay) = lands {
            let landing = Happening::LockLands(expected.clone(), lock.clone());
            self.at(delay, index, landing);
        }
        self.at(settles, index, Happening::LockSettles(expected, lock));
    }

    pub(crate) fn swap_register(
        &mut self,
        index: usize,
        expected: Option<Version>,
        register: Register,
    ) {
        let (lands, settles) = self.document_lands(index);
        if let Some(delay) = lands {
            let landing = Happening::RegisterLands(expected.clone(), register.clone());
            self.at(delay, index, landing);
        }
        let settling = Happening::RegisterSettles(expected, register);
        self.at(settles, index, settling);
    }

    pub(crate) fn upload(
        &mut self,
        index: usize,
        first: Revision,
        last: Revision,
        opening: Option<Record>,
    ) {
        let most = self.cluster.chunk_records;
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        process.upload += 1;
        process.urgent |= !process.batch.append.is_empty();
        let upload = process.upload;
        let mut records = process.log[first.prev().0 as usize..last.0 as usize].to_vec();
        if opening.is_none() {
            records.truncate(most);
        }
        records.extend(opening);
        self.send_chunk(index, upload, first, Arc::new(records));
    }

    fn send_chunk(
        &mut self,
        index: usize,
        upload: u64,
        first: Revision,
        records: Arc<Vec<Record>>,
    ) {
        let (lands, settles) = self.write_lands(index);
        if let Some(delay) = lands {
            let landing = Happening::ChunkLands(first, Arc::clone(&records));
            self.at(delay, index, landing);
        }
        let settling = Happening::ChunkSettles(upload, first, records);
        self.at(settles, index, settling);
    }

    /// Reading back settles an upload; nothing there means: send the same again.
    fn chunk_settles(
        &mut self,
        index: usize,
        upload: u64,
        first: Revision,
        records: Arc<Vec<Record>>,
    ) {
        let process = self.nodes[index].process.as_ref();
        if process.is_none_or(|process| process.upload != upload) {
            return;
        }
        if !self.reads(index) {
            let again = self.random.between(100, 2_000);
            let settling = Happening::ChunkSettles(upload, first, records);
            return self.at(again, index, settling);
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
}
