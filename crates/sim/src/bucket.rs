//! The bucket in the weather: compare-and-swap documents and create-only Chunks, strongly consistent.
//!
//! What is slow or lost is the request or the answer, never the order of what took effect. A write without
//! an answer may land much later, or never.

use std::collections::BTreeMap;
use std::sync::Arc;

use rules::record::Record;
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
    pub chunks: BTreeMap<Revision, Vec<Record>>,
}

impl SimBucket {
    /// A create-only put takes effect. Whether it won.
    pub fn put_chunk(&mut self, first: Revision, records: &[Record]) -> bool {
        if self.chunks.contains_key(&first) {
            return false;
        }
        self.chunks.insert(first, records.to_vec());
        true
    }

    /// The Records of the chain, from 1 to its end.
    #[must_use]
    pub fn chain(&self) -> Vec<&Record> {
        let mut records = Vec::new();
        let mut slot = Revision(1);
        while let Some(chunk) = self.chunks.get(&slot) {
            records.extend(chunk);
            slot = chunk.last().map_or(slot, |record| record.revision).next();
        }
        records
    }
}
