//! The judges: the claims of the commit protocol, one file each, checked after every step from the outside.
//!
//! They see what clients and the bucket see, never a Node's mind. A broken claim panics with its story. The
//! numbers are those of the protocol page, section 13: [`contents`] 1, [`logs`] 2, [`chain`] 3, [`committed`] 4,
//! [`reads`] 5, [`watches`] 6, [`recovery`] 7, [`writes`] 8. [`registers`] and [`floors`] look at what sections 3, 4,
//! 7 and 11 demand of documents and floors.

pub mod chain;
pub mod committed;
pub mod contents;
pub mod floors;
pub mod logs;
pub mod reads;
pub mod recovery;
pub mod registers;
pub mod watches;
pub mod writes;

use rules::record::Record;
use rules::revision::{Epoch, Revision};

use crate::bucket::SimBucket;
use crate::cluster::Cluster;

/// All judges.
#[derive(Debug)]
pub struct Checks {
    /// Claim 1.
    pub contents: contents::Contents,
    /// Claim 2.
    pub logs: logs::Logs,
    /// Claim 3.
    pub chain: chain::Chain,
    /// Claim 4.
    pub committed: committed::Committed,
    /// Claim 5.
    pub reads: reads::Reads,
    /// Claim 6.
    pub watches: watches::Watches,
    /// Claim 7.
    pub recovery: recovery::Recovery,
    /// Claim 8.
    pub writes: writes::Writes,
    /// Sections 3, 4 and 7.
    pub registers: registers::Registers,
    /// Section 11.
    pub floors: floors::Floors,
}

impl Checks {
    /// Judges of a cluster that has not begun.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Checks {
        Checks {
            contents: contents::Contents::default(),
            logs: logs::Logs::default(),
            chain: chain::Chain::default(),
            committed: committed::Committed::default(),
            reads: reads::Reads::default(),
            watches: watches::Watches::default(),
            recovery: recovery::Recovery::default(),
            writes: writes::Writes::default(),
            registers: registers::Registers::new(cluster.quorums()),
            floors: floors::Floors::default(),
        }
    }

    /// How many Revisions were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.logs.acknowledged().0
    }

    /// What a linearizable read that begins now must not miss.
    #[must_use]
    pub fn newest(&self) -> Revision {
        self.contents.newest().max(self.logs.acknowledged())
    }

    /// A Node shows more of its log; the Primary's clients hear of it.
    pub fn released(&mut self, node: usize, records: &[Record], acknowledges: bool) {
        for record in records {
            self.contents.seen(record);
            self.committed.shows(node, record.revision);
        }
        if let Some(last) = records.last().filter(|_| acknowledges) {
            self.logs.acknowledge(last.revision);
        }
    }

    /// A client has seen this Record as the newest one.
    pub fn seen(&mut self, record: Option<&Record>) {
        if let Some(record) = record {
            self.contents.seen(record);
        }
    }

    /// A linearizable read that began when `floor` was the newest is answered as of `shown`.
    pub fn read(&mut self, node: usize, floor: Revision, shown: Revision) {
        self.reads.answered(node, floor, shown);
    }

    /// A Node begins to accept writes in `epoch`, with this log.
    pub fn begins(&self, node: usize, epoch: Epoch, log: &[Record]) {
        self.logs.begins(node, epoch, log, &self.contents);
    }

    /// The last word: what was shown is in the chain or in the Primary's log, and what clients were told is true.
    pub fn finish(&self, bucket: &SimBucket, log: &[Record]) {
        self.chain.finish(bucket);
        let chain = self.chain.history();
        self.logs.finish(chain, log, &self.contents);
        let whole = if chain.len() > log.len() { chain } else { log };
        self.writes.finish(whole);
    }
}
