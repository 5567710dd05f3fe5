//! State: what the view's one lock guards, and the only place where it changes.
//!
//! `garbage` lists, in order of Revision, every key that had something superseded or was deleted: the
//! floor and the eviction of old values walk along it, so neither ever has to search all keys.

use std::collections::{BTreeMap, VecDeque};

use rules::record::Record;
use rules::refusal::Refusal;
use rules::revision::Revision;

use super::chain::{Key, Version};
use super::changes::Change;
use super::index::{Index, Span};
use super::keyvalue::KeyValue;
use super::recent::{Noted, Recent};
use super::tally::Tally;

/// The part of the budget that recent changes may hold on to.
const RECENT_PART: usize = 8;

pub(super) struct State {
    pub(super) index: Index,
    pub(super) recent: Recent,
    tally: Tally,
    /// Revisions that superseded or deleted something, above the floor, ascending.
    garbage: VecDeque<(Revision, Key)>,
    /// So many of the first in `garbage` have had their values evicted.
    swept: usize,
    /// The newest value of each live key, by age, as far as it is in memory.
    resident: BTreeMap<Revision, Key>,
    /// Bytes of values in memory, and how many there may be.
    held: usize,
    budget: usize,
    pub(super) last: Revision,
    pub(super) floor: Revision,
}

impl State {
    pub(super) fn new(budget: usize) -> State {
        State {
            index: Index::default(),
            recent: Recent::new(budget / RECENT_PART),
            tally: Tally::default(),
            garbage: VecDeque::new(),
            swept: 0,
            resident: BTreeMap::new(),
            held: 0,
            budget,
            last: Revision::ZERO,
            floor: Revision::ZERO,
        }
    }

    /// Takes the newest Record; `kv` is its encoding. Changes at or below `expendable` may leave memory.
    pub(super) fn insert(&mut self, record: &Record, kv: &KeyValue, expendable: Revision) {
        let revision = record.revision;
        assert!(
            revision > self.last,
            "Record {revision} comes after {}: the log only grows",
            self.last
        );
        self.last = revision;
        if !record.is_visible() {
            return;
        }
        let (key, prev) = self.index.push(&record.key, Version::of(record, kv));
        if let Some(prev) = &prev {
            self.resident.remove(&prev.revision());
        }
        if prev.is_some() || record.deleted {
            self.garbage.push_back((revision, key.clone()));
        }
        if !record.deleted {
            self.held += kv.weight();
            self.resident.insert(revision, key.clone());
        }
        let prev = prev.filter(Version::is_live);
        self.tally
            .push(revision, &key, prev.is_some(), !record.deleted);
        self.recent
            .push(Noted::new(record, kv.clone(), prev.as_ref()), expendable);
        while self.held > self.budget && (self.evict_superseded() || self.evict_oldest()) {}
    }

    /// Takes one step along the values that were superseded; false if there is none to take.
    fn evict_superseded(&mut self) -> bool {
        let Some((by, key)) = self.garbage.get(self.swept) else {
            return false;
        };
        if *by > self.recent.after() {
            return false;
        }
        self.swept += 1;
        self.index.edit(key, |chain| {
            self.held -= chain.evict_superseded(*by);
            true
        });
        true
    }

    /// Evicts the oldest live value; false if there is none to evict.
    fn evict_oldest(&mut self) -> bool {
        let Some(oldest) = self.resident.first_entry() else {
            return false;
        };
        if *oldest.key() > self.recent.after() {
            return false;
        }
        self.index.edit(&oldest.remove(), |chain| {
            self.held -= chain.evict_newest();
            true
        });
        true
    }

    /// Forgets everything above `last`.
    pub(super) fn truncate(&mut self, last: Revision) {
        let mut keys: Vec<Key> = Vec::new();
        if last < self.recent.after() {
            // Only right after start-up, when more was loaded than the ring holds.
            let all = self.index.scan(&Span::everything());
            keys.extend(
                all.filter(|chain| chain.newest().revision() > last)
                    .map(|c| c.key.clone()),
            );
        }
        self.recent
            .truncate(last, |change| keys.push(Key::from(&change.key[..])));
        for key in keys {
            self.truncate_key(&key, last);
        }
        let keep = self
            .garbage
            .partition_point(|(revision, _)| *revision <= last);
        self.garbage.truncate(keep);
        self.swept = self.swept.min(keep);
        self.tally.truncate(last);
        self.last = self.last.min(last);
    }

    fn truncate_key(&mut self, key: &Key, last: Revision) {
        let (held, resident) = (&mut self.held, &mut self.resident);
        self.index.edit(key, |chain| {
            let stays = chain.truncate(last, |version| {
                *held -= version.kv.as_ref().map_or(0, |kv| kv.weight());
                resident.remove(&version.revision());
            });
            if stays && chain.newest().kv.is_some() {
                resident.insert(chain.newest().revision(), chain.key.clone());
            }
            stays
        });
    }

    /// Drops what lies below the floor, looking at no more than `max` keys. False when nothing is left.
    pub(super) fn prune(&mut self, max: usize) -> bool {
        for _ in 0..max {
            let Some((_, key)) = self
                .garbage
                .pop_front_if(|(revision, _)| *revision < self.floor)
            else {
                return false;
            };
            self.swept = self.swept.saturating_sub(1);
            self.index.edit(&key, |chain| {
                let (freed, stays) = chain.prune(self.floor);
                self.held -= freed;
                stays
            });
        }
        true
    }

    /// Whether `revision` can still be read.
    pub(super) fn check_floor(&self, revision: Revision) -> Result<(), Refusal> {
        if revision < self.floor {
            Err(Refusal::Compacted { floor: self.floor })
        } else {
            Ok(())
        }
    }

    /// How many keys in `span` are live at `revision`, if that is known without a walk.
    pub(super) fn count(&self, span: &Span, revision: Revision) -> Option<i64> {
        let grown = self.tally.since(revision, span)?;
        Some(self.index.count(span) as i64 - grown)
    }

    /// Bytes of values in memory.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

impl Noted {
    /// The change `record` makes (`kv` is its encoding) after `prev`, its live predecessor.
    pub(super) fn new(record: &Record, kv: KeyValue, prev: Option<&Version>) -> Noted {
        let away = prev.filter(|prev| prev.kv.is_none()).map(Version::revision);
        let change = Change {
            revision: record.revision,
            key: bytes::Bytes::copy_from_slice(&record.key),
            deleted: record.deleted,
            created: record.created,
            kv,
            prev: prev.and_then(|prev| prev.kv.clone()),
        };
        Noted {
            change: change.into(),
            away,
        }
    }
}

#[cfg(test)]
impl State {
    /// What is counted beside the index agrees with the index.
    pub(super) fn assert_sound(&self) {
        self.index.assert_sound();
        let (mut held, mut resident) = (0, BTreeMap::new());
        for chain in self.index.scan(&Span::everything()) {
            for version in chain.versions() {
                held += version.kv.as_ref().map_or(0, |kv| kv.weight());
            }
            assert!(chain.versions().is_sorted_by_key(Version::revision));
            if chain.newest().kv.is_some() {
                resident.insert(chain.newest().revision(), chain.key.clone());
            }
        }
        assert_eq!(self.held, held);
        assert_eq!(self.resident, resident);
        assert!(
            self.garbage
                .iter()
                .is_sorted_by_key(|(revision, _)| *revision)
        );
        assert!(self.swept <= self.garbage.len());
    }

    /// Nothing is kept that the floor has passed, but a predecessor of the change at the floor.
    pub(super) fn assert_pruned(&self) {
        for chain in self.index.scan(&Span::everything()) {
            let versions: Vec<&Version> = chain.versions().collect();
            assert!(
                versions
                    .windows(2)
                    .all(|pair| pair[1].revision() >= self.floor)
            );
            assert!(
                versions
                    .iter()
                    .all(|v| v.is_live() || v.revision() >= self.floor)
            );
        }
    }

    /// Over budget only with what must not be evicted yet.
    pub(super) fn assert_within_budget(&self) {
        let young = |revision: Option<&Revision>| revision.is_none_or(|r| *r > self.recent.after());
        let superseded = self.garbage.get(self.swept).map(|(revision, _)| revision);
        let oldest = self.resident.keys().next();
        assert!(self.held <= self.budget || (young(superseded) && young(oldest)));
    }
}
