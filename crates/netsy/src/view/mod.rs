//! What readers see: an in-memory, multi-version view of the committed log. No I/O of its own.
//!
//! One writer (the driver) appends Records, releases them when they are committed, truncates what never
//! will be, and raises the floor. Everybody else reads, always as of one Revision. Values that do not fit
//! into the budget are fetched through [`Source`]. (First version: simple, complete, nothing evicted.)

pub mod keyvalue;
mod mailbox;
pub mod range;
mod ranges;
pub mod watchers;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use rules::key::KeyRange;
use rules::record::Record;
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::txn::{Meta, Newest};
use tokio::sync::watch;

pub use keyvalue::KeyValue;
pub use mailbox::{Batch, Bounds, Delivery, weight};
pub use range::{RangeAnswer, RangeQuery, SortOrder, SortTarget};
pub use watchers::Hub;

/// Where Records come from that are no longer in memory. Implemented over the store; called without any
/// lock of the view held, from whatever thread reads.
pub trait Source: Send + Sync {
    /// The Records at `revisions`, in any order; those that are not there are left out.
    ///
    /// # Errors
    /// A sentence for the log when the store cannot be read.
    fn records(&self, revisions: &[Revision]) -> Result<Vec<Record>, String>;

    /// The first `max` Records in `(after, upto]`, ascending, internal ones included.
    ///
    /// # Errors
    /// A sentence for the log when the store cannot be read.
    fn history(&self, after: Revision, upto: Revision, max: usize) -> Result<Vec<Record>, String>;
}

/// One visible Record, with what a watcher needs to show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its Revision.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// Whether it deletes the key.
    pub deleted: bool,
    /// Whether it creates the key.
    pub created: bool,
    /// The new state; for a delete the key and the Revision only.
    pub kv: KeyValue,
    /// The live predecessor; `None` for a create.
    pub prev: Option<KeyValue>,
}

/// The view. One writer, any number of readers.
pub struct View {
    state: RwLock<State>,
    committed: watch::Sender<Revision>,
    hub: Arc<Hub>,
}

#[derive(Default)]
struct State {
    /// Live versions and tombstones (`None`), oldest first.
    keys: BTreeMap<Bytes, Vec<(Revision, Option<KeyValue>)>>,
    log: Vec<Arc<Change>>,
    last: Revision,
    floor: Revision,
}

impl View {
    /// An empty view that holds about `budget_bytes` of values in memory.
    #[must_use]
    pub fn new(_source: Arc<dyn Source>, _budget_bytes: usize) -> View {
        View {
            state: RwLock::default(),
            committed: watch::Sender::new(Revision::ZERO),
            hub: Arc::default(),
        }
    }

    /// Takes a Record at start-up: ascending, gaps allowed.
    pub fn load(&self, record: &Record) {
        self.insert(record);
    }

    /// Takes an assigned or imported Record: at once visible to [`View::newest`], to readers when released.
    ///
    /// # Panics
    /// If it is not the one after the last.
    pub fn append(&self, record: &Record) {
        assert_eq!(record.revision, self.last().next(), "the log is contiguous");
        self.insert(record);
    }

    fn insert(&self, record: &Record) {
        let mut state = self.state.write();
        assert!(record.revision > state.last, "the log only grows");
        state.last = record.revision;
        if !record.is_visible() {
            return;
        }
        let key = Bytes::copy_from_slice(&record.key);
        let chain = state.keys.entry(key.clone()).or_default();
        let prev = chain.last().and_then(|(_, kv)| kv.clone());
        let (deleted, created) = (record.deleted, prev.is_none());
        let kv = if deleted {
            KeyValue::tombstone(&key, record.revision)
        } else {
            KeyValue::new(
                &key,
                &record.value,
                record.create_revision,
                record.revision,
                record.version,
                record.lease,
            )
        };
        chain.push((record.revision, (!deleted).then(|| kv.clone())));
        let change = Change {
            revision: record.revision,
            key,
            deleted,
            created,
            kv,
            prev,
        };
        state.log.push(Arc::new(change));
    }

    /// Forgets everything above `last`.
    ///
    /// # Panics
    /// If `last` is below the committed Revision.
    pub fn truncate(&self, last: Revision) {
        assert!(last >= self.committed(), "what is committed stays");
        let mut state = self.state.write();
        state.log.retain(|change| change.revision <= last);
        state.keys.retain(|_, chain| {
            chain.retain(|(revision, _)| *revision <= last);
            !chain.is_empty()
        });
        state.last = state.last.min(last);
    }

    /// Shows everything up to `committed` to readers and watchers. Never goes back.
    pub fn release(&self, committed: Revision) {
        let gate = self.hub.gate();
        self.committed.send_if_modified(|shown| {
            let rises = committed > *shown;
            *shown = committed.max(*shown);
            rises
        });
        gate.publish(committed, |after| {
            let changes = self.changes(after, committed, watchers::ONE_RELEASE).ok()?;
            (changes.len() < watchers::ONE_RELEASE).then_some(changes)
        });
    }

    /// The hub of all watches.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Raises the compaction floor: Revisions below it can no longer be read.
    pub fn set_floor(&self, floor: Revision) {
        let mut state = self.state.write();
        state.floor = state.floor.max(floor);
    }

    /// The newest state, in-flight Records included, for deciding a Txn. Holds the view's read lock.
    #[must_use]
    pub fn newest(&self) -> impl Newest + '_ {
        NewestState(self.state.read())
    }

    /// The newest Revision shown to readers.
    #[must_use]
    pub fn committed(&self) -> Revision {
        *self.committed.borrow()
    }

    /// The lowest Revision that can still be read.
    #[must_use]
    pub fn floor(&self) -> Revision {
        self.state.read().floor
    }

    /// The newest Revision appended.
    #[must_use]
    pub fn last(&self) -> Revision {
        self.state.read().last
    }

    /// Waits until the committed Revision is at least `revision`.
    pub async fn reached(&self, revision: Revision) {
        let mut shown = self.committed.subscribe();
        // The sender lives in `self`, so the wait cannot end early.
        let _ = shown.wait_for(|committed| *committed >= revision).await;
    }

    /// Reads `query`; its "newest" means `current`, a Revision that is committed.
    ///
    /// # Errors
    /// `FutureRevision` above `current`, `Compacted` below the floor, `Unavailable` when an evicted value
    /// cannot be fetched.
    pub fn range(&self, query: &RangeQuery, current: Revision) -> Result<RangeAnswer, Refusal> {
        let state = self.state.read();
        let revision = match u64::try_from(query.revision) {
            Ok(revision) if revision > 0 => Revision(revision),
            _ => current,
        };
        if revision > current {
            return Err(Refusal::FutureRevision);
        }
        if revision < state.floor {
            return Err(Refusal::Compacted { floor: state.floor });
        }
        let live: Vec<KeyValue> = state
            .keys
            .iter()
            .filter(|(key, _)| query.range.contains(key))
            .filter_map(|(_, chain)| {
                chain
                    .iter()
                    .rev()
                    .find(|(at, _)| *at <= revision)
                    .and_then(|(_, kv)| kv.clone())
            })
            .collect();
        let count = live.len() as i64;
        if query.count_only {
            return Ok(RangeAnswer {
                kvs: Vec::new(),
                count,
                more: false,
            });
        }
        let within = |number: i64, min: i64, max: i64| {
            (min == 0 || number >= min) && (max == 0 || number <= max)
        };
        let mut kvs: Vec<KeyValue> = live
            .into_iter()
            .filter(|kv| {
                within(
                    kv.mod_revision(),
                    query.min_mod_revision,
                    query.max_mod_revision,
                ) && within(
                    kv.create_revision(),
                    query.min_create_revision,
                    query.max_create_revision,
                )
            })
            .collect();
        kvs.sort_by(|a, b| {
            let by = match query.target {
                SortTarget::Key => a.key().cmp(b.key()),
                SortTarget::Version => a.version().cmp(&b.version()),
                SortTarget::Create => a.create_revision().cmp(&b.create_revision()),
                SortTarget::Mod => a.mod_revision().cmp(&b.mod_revision()),
                SortTarget::Value => a.value().cmp(b.value()),
            };
            if query.order == SortOrder::Descend {
                by.reverse()
            } else {
                by
            }
        });
        let limit = usize::try_from(query.limit).ok().filter(|limit| *limit > 0);
        let more = limit.is_some_and(|limit| kvs.len() > limit);
        kvs.truncate(limit.unwrap_or(usize::MAX));
        if query.keys_only {
            kvs = kvs.iter().map(KeyValue::without_value).collect();
        }
        Ok(RangeAnswer { kvs, count, more })
    }

    /// The first `max` visible Records in `(after, upto]` that are committed, ascending. Fewer than `max`
    /// means that everything up to `upto` was covered.
    ///
    /// # Errors
    /// `Compacted` if `after + 1` lies below the floor, `Unavailable` when history cannot be fetched.
    pub fn changes(
        &self,
        after: Revision,
        upto: Revision,
        max: usize,
    ) -> Result<Vec<Arc<Change>>, Refusal> {
        let upto = upto.min(self.committed());
        let state = self.state.read();
        if after.next() < state.floor {
            return Err(Refusal::Compacted { floor: state.floor });
        }
        let changes = state.log.iter();
        let wanted = changes.filter(|change| change.revision > after && change.revision <= upto);
        Ok(wanted.take(max).cloned().collect())
    }
}

struct NewestState<'a>(RwLockReadGuard<'a, State>);

impl NewestState<'_> {
    fn live(&self, key: &[u8]) -> Option<&KeyValue> {
        self.0.keys.get(key)?.last()?.1.as_ref()
    }
}

fn meta(kv: &KeyValue) -> Meta {
    Meta {
        create_revision: Revision(kv.create_revision() as u64),
        mod_revision: Revision(kv.mod_revision() as u64),
        version: kv.version() as u64,
        lease: kv.lease(),
    }
}

impl Newest for NewestState<'_> {
    fn last(&self) -> Revision {
        self.0.last
    }

    fn floor(&self) -> Revision {
        self.0.floor
    }

    fn meta(&self, key: &[u8]) -> Option<Meta> {
        self.live(key).map(meta)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        Ok(self.live(key).map(|kv| Bytes::copy_from_slice(kv.value())))
    }

    fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Meta) -> bool) {
        for (key, chain) in self.0.keys.iter().filter(|(key, _)| range.contains(key)) {
            if let Some((_, Some(kv))) = chain.last()
                && !visit(key, meta(kv))
            {
                return;
            }
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.read();
        f.debug_struct("View")
            .field("floor", &state.floor)
            .field("committed", &self.committed())
            .field("last", &state.last)
            .field("keys", &state.keys.len())
            .finish()
    }
}
