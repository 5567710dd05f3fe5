//! A machine in the weather: a disk that works in order, a clock, and the process that lives on it.
//!
//! The process may die between any two pieces of work; what the disk had done stays, the rest never was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rules::chain::Log;
use rules::compaction::Compactions;
use rules::node::Node;
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};
use rules::step::Input;
use rules::txn::Meta;

use crate::clock::Clock;
use crate::doors::Doors;

/// What a disk holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u64,
    pub(crate) boot_seq: u64,
    pub(crate) records: Vec<Record>,
    pub(crate) epochs: Vec<(Epoch, Revision)>,
    pub(crate) promised: Epoch,
    pub(crate) durable: Revision,
    pub(crate) committed: Revision,
}

impl Disk {
    pub(crate) fn last(&self) -> Revision {
        self.records
            .last()
            .map_or(Revision::ZERO, |record| record.revision)
    }

    /// What a process that starts knows of it.
    pub(crate) fn log(&self) -> Log {
        Log {
            compactions: Compactions::of(&self.records),
            ..self.outline()
        }
    }

    /// The same without its compactions.
    pub(crate) fn outline(&self) -> Log {
        Log {
            last: self.last(),
            appended: self.last(),
            durable: self.durable,
            committed: self.committed.max(self.durable).min(self.last()),
            epochs: self.epochs.clone(),
            compactions: Compactions::default(),
        }
    }

    fn push(&mut self, record: Record) {
        if record.kind == Kind::Epoch {
            self.epochs.push((record.epoch, record.revision));
        }
        self.records.push(record);
    }

    /// Does one piece of work, all of it or nothing.
    pub(crate) fn apply(&mut self, work: &Work) {
        if let Some(last) = work.truncate {
            assert!(last >= self.committed, "the disk cuts what is committed");
            self.records.truncate(last.0 as usize);
            self.epochs.retain(|(_, first)| *first <= last);
        }
        for record in &work.append {
            assert_eq!(
                record.revision,
                self.last().next(),
                "the disk is contiguous"
            );
            self.promised = self.promised.max(record.epoch);
            self.push(record.clone());
        }
        self.promised = self.promised.max(work.promised.unwrap_or_default());
        self.durable = self.durable.max(work.durable);
        self.committed = self.committed.max(work.committed);
    }

    /// A Snapshot takes the log's place; what lies above it stays if it belongs behind it.
    pub(crate) fn install(&mut self, snapshot: &Arc<Vec<Record>>) {
        let last = Revision(snapshot.len() as u64);
        let epoch = |records: &[Record]| records.get(last.prev().0 as usize).map(|one| one.epoch);
        let keeps = self.last() > last && epoch(&self.records) == epoch(snapshot);
        assert!(
            keeps || self.committed <= last,
            "a snapshot contradicts what is committed"
        );
        let tail = if keeps {
            self.records.split_off(last.0 as usize)
        } else {
            Vec::new()
        };
        self.records.clear();
        self.epochs.clear();
        for record in snapshot.iter().cloned().chain(tail) {
            self.push(record);
        }
        self.durable = self.durable.max(last);
        self.committed = self.committed.max(last);
    }
}

/// What becomes durable together, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    pub(crate) truncate: Option<Revision>,
    pub(crate) append: Vec<Record>,
    pub(crate) promised: Option<Epoch>,
    pub(crate) durable: Revision,
    pub(crate) committed: Revision,
    /// How often the log had been cut when this was asked for.
    pub(crate) generation: u64,
}

/// A process: what dies with it.
pub(crate) struct Process {
    pub(crate) node: Node,
    /// The log as the Node knows it.
    pub(crate) log: Vec<Record>,
    /// Newest state per key, in-flight included.
    pub(crate) keys: BTreeMap<Bytes, Meta>,
    /// What it shows.
    pub(crate) shown: Revision,
    /// Until when it may answer reads, on its own clock.
    pub(crate) lease_until: u64,
    /// The number of its newest upload: what belongs to an earlier one is not answered.
    pub(crate) upload: u64,
    /// What the next piece of work for the disk is made of.
    pub(crate) batch: Work,
    /// Which Replicas were sent less than this turn wanted.
    pub(crate) sent_less: Vec<Input>,
    /// Whether that must go to the disk now, not with the next one.
    pub(crate) urgent: bool,
    pub(crate) generation: u64,
    pub(crate) doors: Doors,
    pub(crate) was_active: bool,
    /// Since when it has neither been Primary nor heard one, on its own clock.
    pub(crate) alone_since: Option<u64>,
    /// The newest Snapshot it made or found, and whether one is at work.
    pub(crate) snapshot: Revision,
    pub(crate) makes_snapshot: bool,
}

impl Process {
    pub(crate) fn new(node: Node, log: Vec<Record>) -> Process {
        let mut process = Process {
            node,
            log: Vec::new(),
            keys: BTreeMap::new(),
            shown: Revision::ZERO,
            lease_until: 0,
            upload: 0,
            batch: Work::default(),
            sent_less: Vec::new(),
            urgent: false,
            generation: 0,
            doors: Doors::default(),
            was_active: false,
            alone_since: None,
            snapshot: Revision::ZERO,
            makes_snapshot: false,
        };
        for record in log {
            process.learn(record);
        }
        process
    }

    pub(crate) fn learn(&mut self, record: Record) {
        assert_eq!(
            record.revision.0 as usize,
            self.log.len() + 1,
            "the log is contiguous"
        );
        if record.kind == Kind::Write {
            let meta = Meta {
                create_revision: record.create_revision,
                mod_revision: record.revision,
                version: record.version,
                lease: record.lease,
            };
            self.keys.insert(record.key.clone(), meta);
        }
        self.log.push(record);
    }

    /// Forgets everything above `last`.
    pub(crate) fn cut(&mut self, last: Revision) {
        self.generation += 1;
        if self.log.len() <= last.0 as usize {
            return;
        }
        self.log.truncate(last.0 as usize);
        self.keys.clear();
        for record in std::mem::take(&mut self.log) {
            self.learn(record);
        }
    }
}

/// One Node in the weather.
pub(crate) struct SimNode {
    pub(crate) name: String,
    pub(crate) disk: Disk,
    pub(crate) work: VecDeque<Work>,
    /// Whether the disk refuses to write.
    pub(crate) disk_failed: bool,
    pub(crate) clock: Clock,
    /// The living process, and its number: what belongs to an earlier one is dropped.
    pub(crate) process: Option<Process>,
    pub(crate) life: u64,
    /// Whether it is registering or reading the chain.
    pub(crate) starts: bool,
    /// How many clients wait here.
    pub(crate) clients: usize,
    /// Whether it never comes back.
    pub(crate) is_gone: bool,
    /// Whether it was told to stop.
    pub(crate) closes: bool,
    pub(crate) paused_until: u64,
    pub(crate) paused_at: u64,
    /// The disk as it once was: what an operator who restores volumes brings back.
    pub(crate) image: Option<Disk>,
    /// Until when the bucket cannot be reached.
    pub(crate) bucket_cut_until: u64,
    /// Until when the bucket answers slowly.
    pub(crate) slow_until: u64,
    /// Until when messages to the Node of this number are lost.
    pub(crate) cut_until: BTreeMap<usize, u64>,
}

impl SimNode {
    pub(crate) fn new(name: String, clock: Clock) -> SimNode {
        SimNode {
            name,
            disk: Disk::default(),
            work: VecDeque::new(),
            disk_failed: false,
            clock,
            process: None,
            life: 0,
            starts: false,
            clients: 0,
            is_gone: false,
            closes: false,
            paused_until: 0,
            paused_at: 0,
            image: None,
            bucket_cut_until: 0,
            slow_until: 0,
            cut_until: BTreeMap::new(),
        }
    }
}
