//! Chain: every version of one key that can still be read, oldest first, newest at hand.
//!
//! A version's metadata is always in memory. Its value may have been evicted; then the log still has it.

use std::sync::Arc;

use rules::record::Record;
use rules::revision::Revision;
use rules::txn::Meta;

use super::keyvalue::KeyValue;

/// A key, shared by everything in the view that speaks of it.
pub(super) type Key = Arc<[u8]>;

/// One version of a key: a put or a tombstone.
#[derive(Clone)]
pub(super) struct Version {
    pub(super) meta: Meta,
    pub(super) deleted: bool,
    /// `None` for a tombstone, and for a put whose value was evicted.
    pub(super) kv: Option<KeyValue>,
}

/// All versions of one key. There is always at least one.
pub(super) struct Chain {
    pub(super) key: Key,
    newest: Version,
    older: Vec<Version>,
}

impl Version {
    /// What `record` makes of its key; `kv` is its encoding.
    pub(super) fn of(record: &Record, kv: &KeyValue) -> Version {
        let meta = Meta {
            create_revision: record.create_revision,
            mod_revision: record.revision,
            version: record.version,
            lease: record.lease,
        };
        let kv = (!record.deleted).then(|| kv.clone());
        Version {
            meta,
            deleted: record.deleted,
            kv,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.meta.mod_revision
    }

    pub(super) fn is_live(&self) -> bool {
        !self.deleted
    }

    /// Drops the value from memory. Returns the bytes that frees.
    fn evict(&mut self) -> usize {
        self.kv.take().map_or(0, |kv| kv.weight())
    }
}

impl Chain {
    pub(super) fn new(key: Key, first: Version) -> Chain {
        Chain {
            key,
            newest: first,
            older: Vec::new(),
        }
    }

    /// Adds the newest version. Returns that there is one left, as every edit does.
    pub(super) fn push(&mut self, version: Version) -> bool {
        self.older
            .push(std::mem::replace(&mut self.newest, version));
        true
    }

    pub(super) fn newest(&self) -> &Version {
        &self.newest
    }

    pub(super) fn is_live(&self) -> bool {
        self.newest.is_live()
    }

    /// The state of the key as of `revision`, if it is there then.
    pub(super) fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.revision() <= revision {
            return Some(&self.newest).filter(|version| version.is_live());
        }
        let upto = self
            .older
            .partition_point(|version| version.revision() <= revision);
        self.older[..upto]
            .last()
            .filter(|version| version.is_live())
    }

    /// Forgets versions above `last`, handing each to `gone`. Returns whether any version is left.
    pub(super) fn truncate(&mut self, last: Revision, mut gone: impl FnMut(&Version)) -> bool {
        while self.newest.revision() > last {
            gone(&self.newest);
            match self.older.pop() {
                Some(version) => self.newest = version,
                None => return false,
            }
        }
        true
    }

    /// Forgets what nobody can read at or above `floor`: versions superseded below it, and tombstones
    /// below it. The predecessor of a version exactly at the floor stays, for watchers that are shown
    /// that change. Returns the bytes this frees, and whether any version is left.
    pub(super) fn prune(&mut self, floor: Revision) -> (usize, bool) {
        let successors = self.older.iter().skip(1).chain([&self.newest]);
        let pairs = self.older.iter().zip(successors);
        let mut cut = pairs
            .take_while(|(_, successor)| successor.revision() < floor)
            .count();
        let buried = |version: &Version| version.deleted && version.revision() < floor;
        cut += usize::from(self.older.get(cut).is_some_and(buried));
        let freed = self
            .older
            .drain(..cut)
            .map(|mut version| version.evict())
            .sum();
        if self.older.is_empty() {
            self.older.shrink_to_fit();
        }
        (freed, !(self.older.is_empty() && buried(&self.newest)))
    }

    /// Drops the values of versions superseded at or before `by`. Returns the bytes this frees.
    pub(super) fn evict_superseded(&mut self, by: Revision) -> usize {
        let older = self.older.iter_mut();
        older
            .take_while(|version| version.revision() < by)
            .map(Version::evict)
            .sum()
    }

    /// Drops the newest value. Returns the bytes this frees.
    pub(super) fn evict_newest(&mut self) -> usize {
        self.newest.evict()
    }
}

#[cfg(test)]
impl Chain {
    pub(super) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.older.iter().chain([&self.newest])
    }
}
