//! The judges: claims of the commit protocol, checked after every step from the outside.
//!
//! They see what clients and the bucket see, never a Node's mind. A broken claim panics with its story.

use std::collections::BTreeMap;

use rules::record::Record;
use rules::register::{Phase, Register};
use rules::revision::{Epoch, Revision};

use crate::bucket::SimBucket;

/// What the judges remember.
#[derive(Debug, Default)]
pub struct Checks {
    /// The one content each visible Revision ever had.
    visible: BTreeMap<Revision, Record>,
    /// The highest acknowledged Revision.
    acknowledged: Revision,
    /// What each Node has shown in its present life, and what it has to begin with in its next one.
    shown: BTreeMap<usize, (Revision, Revision)>,
    /// The one Primary of each epoch.
    primaries: BTreeMap<Epoch, String>,
    /// How often a floor rose.
    pub(crate) floors: u64,
    chain_end: Revision,
    chain_epoch: Epoch,
}

impl Checks {
    /// How many writes were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.0
    }

    /// How often a floor rose.
    #[must_use]
    pub fn floors(&self) -> u64 {
        self.floors
    }

    /// Claims 1, 2 and 4: at most one content per Revision is ever visible; committed only rises.
    pub fn released(&mut self, node: usize, records: &[Record], acknowledges: bool) {
        for record in records {
            let first = self
                .visible
                .entry(record.revision)
                .or_insert_with(|| record.clone());
            assert_eq!(
                first, record,
                "revision {} was shown with two contents",
                record.revision
            );
            let (shown, _) = self.shown.entry(node).or_default();
            assert!(
                record.revision > *shown,
                "node {node} went back to {}",
                record.revision
            );
            *shown = record.revision;
            if acknowledges {
                self.acknowledged = self.acknowledged.max(record.revision);
            }
        }
        if let Some((shown, before)) = self.shown.get(&node) {
            assert!(
                records.is_empty() || shown >= before,
                "node {node} shows {shown}, and {before} in the life before"
            );
        }
    }

    /// A life ended. The next one shows nothing at first, and then no less than this one did, if it keeps the disk.
    pub fn died(&mut self, node: usize, keeps_disk: bool) {
        let (shown, before) = self.shown.remove(&node).unwrap_or_default();
        if keeps_disk {
            self.shown.insert(node, (Revision::ZERO, shown.max(before)));
        }
    }

    /// Claim 5: a linearizable read misses no acknowledged write, nor what any Node has shown to anybody.
    pub fn linearizable_read(&self, node: usize, shown: Revision) {
        assert!(
            shown >= self.acknowledged,
            "node {node} answers a linearizable read at {shown}, {} is acknowledged",
            self.acknowledged
        );
        let newest = self.visible.keys().next_back().copied();
        let newest = newest.unwrap_or_default();
        assert!(
            shown >= newest,
            "node {node} answers a linearizable read at {shown}, {newest} was shown elsewhere"
        );
    }

    /// Claim 3: the chain is gap-free and its epochs never fall. Looks at what is new only.
    pub fn chain(&mut self, bucket: &SimBucket) {
        while let Some(chunk) = bucket.chunks.get(&self.chain_end.next()) {
            for record in chunk {
                assert_eq!(record.revision, self.chain_end.next(), "a gap in the chain");
                assert!(
                    record.epoch >= self.chain_epoch,
                    "an epoch falls at {}",
                    record.revision
                );
                self.chain_end = record.revision;
                self.chain_epoch = record.epoch;
            }
        }
    }

    /// One name per epoch, for ever.
    pub fn registered(&mut self, register: &Register) {
        let Some(primary) = &register.primary else {
            return;
        };
        if register.phase == Phase::Claimed {
            return;
        }
        let name = format!("{}/{}", primary.node_id, primary.boot);
        let first = self
            .primaries
            .entry(register.epoch)
            .or_insert_with(|| name.clone());
        assert_eq!(*first, name, "epoch {} named two primaries", register.epoch);
    }

    /// Claim 2: everything acknowledged is in the log of every later Primary, with the content that was shown.
    pub fn begins(&self, node: usize, log: &[Record]) {
        assert!(
            log.len() as u64 >= self.acknowledged.0,
            "node {node} became primary with a log up to {}, {} was acknowledged",
            log.len(),
            self.acknowledged
        );
        self.compare(log.iter());
    }

    /// Claim 2, at the end: chain and Primary hold everything acknowledged.
    pub fn finish(&self, bucket: &SimBucket, log: &[Record]) {
        let chain = bucket.chain();
        let held = chain.len().max(log.len()) as u64;
        assert!(
            held >= self.acknowledged.0,
            "the chain and the primary lack acknowledged writes"
        );
        self.compare(chain.into_iter());
        self.compare(log.iter());
    }

    fn compare<'a>(&self, log: impl Iterator<Item = &'a Record>) {
        for record in log {
            if record.revision > self.acknowledged {
                break;
            }
            if let Some(shown) = self.visible.get(&record.revision) {
                assert_eq!(shown, record, "a log holds another {}", record.revision);
            }
        }
    }
}
