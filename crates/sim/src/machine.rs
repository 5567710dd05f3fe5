//! A machine in the weather: one disk that works in order, and the process that lives on it.
//!
//! The process may die between any two pieces of work; what the disk had done stays, the rest never was.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rules::chain::Log;
use rules::compaction::Compactions;
use rules::node::Node;
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};
use rules::txn::Meta;

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u64,
    pub(crate) boot_seq: u64,
    pub(crate) records: Vec<Record>,
    pub(crate) promised: Epoch,
    pub(crate) durable: Revision,
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
            last: self.last(),
            appended: self.last(),
            durable: self.durable,
            committed: self.durable,
            epochs: self.epochs(),
            compactions: Compactions::of(&self.records),
        }
    }

    fn epochs(&self) -> Vec<(Epoch, Revision)> {
        let opening = self
            .records
            .iter()
            .filter(|record| record.kind == Kind::Epoch);
        opening
            .map(|record| (record.epoch, record.revision))
            .collect()
    }
}

pub(crate) enum DiskWork {
    Append(Vec<Record>),
    Truncate(Revision),
    Promise(Epoch),
    Durable(Revision),
}

/// One Node in the weather.
pub struct SimNode {
    pub(crate) name: String,
    pub(crate) disk: Disk,
    pub(crate) work: VecDeque<DiskWork>,
    /// The living process, and its number: what belongs to an earlier one is dropped.
    pub(crate) node: Option<Node>,
    pub(crate) life: u64,
    pub(crate) paused_until: u64,
    pub(crate) lease_until: u64,
    /// Newest state per key, in-flight included.
    pub(crate) keys: BTreeMap<Bytes, Meta>,
    pub(crate) log: Vec<Record>,
    pub(crate) shown: Revision,
    pub(crate) upload: u64,
    /// The disk as it once was: what an operator who restores volumes brings back.
    pub(crate) image: Option<Disk>,
    /// Until when the bucket cannot be reached.
    pub(crate) bucket_cut_until: u64,
    /// Until when messages to the Node of this number are lost.
    pub(crate) cut_until: BTreeMap<usize, u64>,
    pub(crate) was_active: bool,
}

impl SimNode {
    pub(crate) fn new(name: String) -> SimNode {
        SimNode {
            name,
            disk: Disk::default(),
            work: VecDeque::new(),
            node: None,
            life: 0,
            paused_until: 0,
            lease_until: 0,
            keys: BTreeMap::new(),
            log: Vec::new(),
            shown: Revision::ZERO,
            upload: 0,
            image: None,
            bucket_cut_until: 0,
            cut_until: BTreeMap::new(),
            was_active: false,
        }
    }

    pub(crate) fn learn(&mut self, record: &Record) {
        assert_eq!(
            record.revision.0 as usize,
            self.log.len() + 1,
            "the log is contiguous"
        );
        self.log.push(record.clone());
        if record.kind == Kind::Write {
            let meta = Meta {
                create_revision: record.create_revision,
                mod_revision: record.revision,
                version: record.version,
                lease: record.lease,
            };
            self.keys.insert(record.key.clone(), meta);
        }
    }

    pub(crate) fn recount(&mut self) {
        self.keys.clear();
        for record in std::mem::take(&mut self.log) {
            self.learn(&record);
        }
    }

    pub(crate) fn do_disk_work(&mut self) -> Option<DiskWork> {
        let work = self.work.pop_front()?;
        match &work {
            DiskWork::Append(records) => {
                for record in records {
                    assert_eq!(
                        record.revision,
                        self.disk.last().next(),
                        "the disk is contiguous"
                    );
                    self.disk.records.push(record.clone());
                }
            }
            DiskWork::Truncate(last) => self.disk.records.truncate(last.0 as usize),
            DiskWork::Promise(epoch) => self.disk.promised = *epoch,
            DiskWork::Durable(upto) => self.disk.durable = *upto,
        }
        Some(work)
    }
}
