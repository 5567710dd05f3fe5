//! The bucket in the weather: compare-and-swap documents, create-only Chunks and Snapshots, strongly consistent.
//!
//! What is slow or lost is the request or the answer, never the order of what took effect. A write without
//! an answer may land much later, or never.

use std::collections::BTreeMap;
use std::sync::Arc;

use rules::record::{Kind, Record};
use rules::register::{Held, Lock, Register, Swapped, Version};
use rules::revision::Revision;

/// A document that knows its mark.
pub trait Document: Clone {
    /// The random mark of its last swap.
    fn mark(&self) -> &str;
}

impl Document for Lock {
    fn mark(&self) -> &str {
        &self.mark
    }
}

impl Document for Register {
    fn mark(&self) -> &str {
        &self.mark
    }
}

/// One document in the store.
#[derive(Clone, Debug)]
pub struct Cell<T>(Option<Held<T>>);

impl<T> Default for Cell<T> {
    fn default() -> Cell<T> {
        Cell(None)
    }
}

impl<T: Document> Cell<T> {
    /// What it holds.
    #[must_use]
    pub fn read(&self) -> Option<Held<T>> {
        self.0.clone()
    }

    /// The document, if there is one.
    #[must_use]
    pub fn document(&self) -> Option<&T> {
        self.0.as_ref().map(|held| &held.document)
    }

    /// A swap takes effect, if its condition holds. The version is the content's mark, as an etag may be.
    pub fn apply(&mut self, expected: Option<&Version>, document: &T) -> bool {
        let holds = self.0.as_ref().map(|held| &held.version) == expected;
        if holds {
            let version = Version(Arc::from(document.mark()));
            self.0 = Some(Held {
                document: document.clone(),
                version,
            });
        }
        holds
    }

    /// How a swap settles by reading back, whatever its answer was.
    #[must_use]
    pub fn settle(&self, expected: Option<&Version>, document: &T) -> Swapped<T> {
        match &self.0 {
            Some(held) if held.document.mark() == document.mark() => {
                Swapped::Won(held.version.clone())
            }
            Some(held) if Some(&held.version) == expected => Swapped::Unknown,
            Some(held) => Swapped::Lost(Some(held.clone())),
            None if expected.is_none() => Swapped::Unknown,
            None => Swapped::Lost(None),
        }
    }
}

/// Everything in the bucket.
#[derive(Clone, Debug, Default)]
pub struct SimBucket {
    /// `leader/elector.json`.
    pub lock: Cell<Lock>,
    /// `leader/primary.json`.
    pub register: Cell<Register>,
    /// `chunks/`, by first Revision.
    pub chunks: BTreeMap<Revision, Arc<Vec<Record>>>,
    /// `snapshots/`, by last Revision. Whole logs: what is superseded is not left out here.
    pub snapshots: BTreeMap<Revision, Arc<Vec<Record>>>,
}

/// Whether a Chunk holds an epoch Record, as every fence does.
#[must_use]
pub fn holds_epoch(records: &[Record]) -> bool {
    records.iter().any(|record| record.kind == Kind::Epoch)
}

impl SimBucket {
    /// A create-only put takes effect. Whether it won.
    pub fn put_chunk(&mut self, first: Revision, records: &Arc<Vec<Record>>) -> bool {
        if self.chunks.contains_key(&first) {
            return false;
        }
        self.chunks.insert(first, Arc::clone(records));
        true
    }

    /// The older of the two newest Snapshots: a start falls back to it.
    #[must_use]
    pub fn older_snapshot(&self) -> Option<Revision> {
        self.snapshots.keys().rev().nth(1).copied()
    }

    /// Whether the Chunk in `slot` may be a fence that landed late, where its slot had been cleaned up.
    #[must_use]
    pub fn may_be_late(&self, slot: Revision, records: &[Record]) -> bool {
        holds_epoch(records) && self.older_snapshot().is_some_and(|older| older >= slot)
    }

    /// Whether there is a Chunk beyond `slot`.
    #[must_use]
    pub fn goes_on_beyond(&self, slot: Revision) -> bool {
        self.chunks.range(slot.next()..).next().is_some()
    }
}
