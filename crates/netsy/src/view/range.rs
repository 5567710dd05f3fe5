//! Range: reading keys as of one Revision, with all of etcd's options.
//!
//! A walk collects hits in strides, letting the writer in between: every version it looks for is fixed by
//! the Revision, and a floor that passes it meanwhile ends the walk with a refusal, never a partial answer.
//! A walk that has its fill takes the rest of `count` from the index. Then, without the lock, hits are
//! sorted and limited, and values that were evicted are fetched.

use std::cmp::Ordering;
use std::collections::HashMap;

use parking_lot::RwLockReadGuard;
use rules::key::KeyRange;
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::txn::Meta;

use super::View;
use super::chain::{Chain, Key, Version};
use super::index::Span;
use super::keyvalue::KeyValue;
use super::state::State;

/// Keys looked at before a waiting writer is let in.
const STRIDE: usize = if cfg!(test) { 3 } else { 512 };

/// How an answer is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// By key, ascending; with a target other than the key: by that target, ascending.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What an answer is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key's bytes.
    #[default]
    Key,
    /// Number of changes since its creation.
    Version,
    /// Revision of its creation.
    Create,
    /// Revision of its last change.
    Mod,
    /// The value's bytes.
    Value,
}

/// One read of a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeQuery {
    /// The keys asked for.
    pub range: KeyRange,
    /// As of which Revision; `<= 0` is the newest (the `current` handed to [`super::View::range`]).
    pub revision: i64,
    /// At most so many keys, counted after filters and sorting; `<= 0` is all.
    pub limit: i64,
    /// Ascending or descending.
    pub order: SortOrder,
    /// Ordered by what.
    pub target: SortTarget,
    /// Leave values out.
    pub keys_only: bool,
    /// Only count; no keys, `limit` ignored.
    pub count_only: bool,
    /// Keys changed earlier are left out; 0 is no bound.
    pub min_mod_revision: i64,
    /// Keys changed later are left out; 0 is no bound.
    pub max_mod_revision: i64,
    /// Keys created earlier are left out; 0 is no bound.
    pub min_create_revision: i64,
    /// Keys created later are left out; 0 is no bound.
    pub max_create_revision: i64,
}

impl RangeQuery {
    /// Everything in `range`, newest, ordered by key.
    #[must_use]
    pub fn all(range: KeyRange) -> RangeQuery {
        RangeQuery {
            range,
            revision: 0,
            limit: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeAnswer {
    /// The keys, ordered, filtered and limited.
    pub kvs: Vec<KeyValue>,
    /// Live keys in the range at that Revision, whatever the limit and the filters.
    pub count: i64,
    /// Whether the limit cut off keys that passed the filters.
    pub more: bool,
}

/// A key that belongs into the answer.
struct Hit {
    key: Key,
    meta: Meta,
    /// `None` while the value is not in memory.
    kv: Option<KeyValue>,
}

/// What a walk has found so far.
struct Walk<'a> {
    query: &'a RangeQuery,
    revision: Revision,
    /// What is still ahead.
    span: Span,
    /// How many hits are enough.
    enough: usize,
    hits: Vec<Hit>,
    /// Live keys passed.
    count: i64,
}

impl View {
    /// Reads `query`; its "newest" means `current`, a Revision that is committed.
    ///
    /// # Errors
    /// `FutureRevision` above `current`, `Compacted` below the floor (also when the floor passes the
    /// Revision during the read), `Unavailable` when an evicted value cannot be fetched.
    pub fn range(&self, query: &RangeQuery, current: Revision) -> Result<RangeAnswer, Refusal> {
        let revision = match u64::try_from(query.revision) {
            Ok(revision) if revision > 0 => Revision(revision),
            _ => current,
        };
        if revision > current {
            return Err(Refusal::FutureRevision);
        }
        let limit = usize::try_from(query.limit).ok().filter(|limit| *limit > 0);
        let limit = limit.unwrap_or(usize::MAX);
        let enough = match query {
            _ if query.count_only => 0,
            _ if query.is_sorted() || query.is_filtered() => usize::MAX,
            _ => limit,
        };
        let (mut hits, count) = self.walk(query, revision, enough)?;
        if query.count_only {
            return Ok(RangeAnswer {
                kvs: Vec::new(),
                count,
                more: false,
            });
        }
        if query.is_sorted() {
            if query.target == SortTarget::Value {
                self.fetch_values(&mut hits, revision)?;
            }
            hits.sort_by(|a, b| query.compare(a, b));
        }
        let matched = if enough == usize::MAX {
            hits.len()
        } else {
            count as usize
        };
        hits.truncate(limit);
        if !query.keys_only {
            self.fetch_values(&mut hits, revision)?;
        }
        let kvs = hits
            .into_iter()
            .map(|hit| hit.show(query.keys_only))
            .collect();
        Ok(RangeAnswer {
            kvs,
            count,
            more: matched > limit,
        })
    }

    /// The first `enough` hits of `query` in order, and the number of live keys in its range.
    fn walk(
        &self,
        query: &RangeQuery,
        revision: Revision,
        enough: usize,
    ) -> Result<(Vec<Hit>, i64), Refusal> {
        let span = Span::of(&query.range);
        let mut walk = Walk {
            query,
            revision,
            span,
            enough,
            hits: Vec::new(),
            count: 0,
        };
        let mut state = self.state.read();
        loop {
            state.check_floor(revision)?;
            let rest = if walk.is_full() {
                state.count(&walk.span, revision)
            } else {
                None
            };
            if let Some(rest) = rest {
                return Ok((walk.hits, walk.count + rest));
            }
            if walk.stride(&state) {
                return Ok((walk.hits, walk.count));
            }
            RwLockReadGuard::bump(&mut state);
        }
    }

    /// Fetches the values of `hits` that are not in memory.
    fn fetch_values(&self, hits: &mut [Hit], revision: Revision) -> Result<(), Refusal> {
        let away = hits
            .iter()
            .filter(|hit| hit.kv.is_none())
            .map(|hit| hit.meta.mod_revision);
        let fetched = self.fetch(&away.collect::<Vec<_>>())?;
        for hit in hits.iter_mut().filter(|hit| hit.kv.is_none()) {
            hit.kv = fetched.get(&hit.meta.mod_revision).cloned();
            if hit.kv.is_none() {
                self.state.read().check_floor(revision)?;
                return Err(self.missing(hit.meta.mod_revision));
            }
        }
        Ok(())
    }

    /// What the log has at `revisions`; the view's lock must not be held by a reader.
    pub(super) fn fetch(
        &self,
        revisions: &[Revision],
    ) -> Result<HashMap<Revision, KeyValue>, Refusal> {
        if revisions.is_empty() {
            return Ok(HashMap::new());
        }
        let records = self.source.records(revisions).map_err(unreadable)?;
        Ok(records
            .iter()
            .map(|record| (record.revision, KeyValue::of(record)))
            .collect())
    }

    /// A Record the view knows of is not in the log.
    pub(super) fn missing(&self, revision: Revision) -> Refusal {
        unreadable(format!("Record {revision} is not there"))
    }
}

/// The log could not be read: the operator is told why, the client that it was not its doing.
pub(super) fn unreadable(why: String) -> Refusal {
    tracing::error!(
        why,
        "reading Records for a client from the local database failed"
    );
    Refusal::Unavailable("netsy: the local database cannot be read".to_owned())
}

impl Walk<'_> {
    fn is_full(&self) -> bool {
        self.hits.len() >= self.enough
    }

    /// Looks at the next keys, until there are hits enough. Returns whether the range is at its end.
    fn stride(&mut self, state: &State) -> bool {
        let was_full = self.is_full();
        let (mut looked, mut end) = (0, None);
        for chain in state.index.scan(&self.span) {
            if looked == STRIDE || (self.is_full() && !was_full) {
                break;
            }
            looked += 1;
            end = Some(&chain.key);
            self.look_at(chain);
        }
        if let Some(key) = end {
            self.span.skip_past(key);
        }
        looked < STRIDE && (was_full || !self.is_full())
    }

    fn look_at(&mut self, chain: &Chain) {
        let Some(version) = chain.at(self.revision) else {
            return;
        };
        self.count += 1;
        if !self.is_full() && self.query.admits(version) {
            let (key, meta, kv) = (chain.key.clone(), version.meta, version.kv.clone());
            self.hits.push(Hit { key, meta, kv });
        }
    }
}

impl RangeQuery {
    /// Whether hits must be put into another order than the index has them in.
    fn is_sorted(&self) -> bool {
        self.target != SortTarget::Key || self.order == SortOrder::Descend
    }

    fn is_filtered(&self) -> bool {
        let bounds = [
            self.min_mod_revision,
            self.max_mod_revision,
            self.min_create_revision,
            self.max_create_revision,
        ];
        bounds != [0; 4]
    }

    fn admits(&self, version: &Version) -> bool {
        let (modified, created) = (version.meta.mod_revision, version.meta.create_revision);
        let within = |revision: Revision, min: i64, max: i64| {
            (min == 0 || revision.wire() >= min) && (max == 0 || revision.wire() <= max)
        };
        within(modified, self.min_mod_revision, self.max_mod_revision)
            && within(created, self.min_create_revision, self.max_create_revision)
    }

    /// The order asked for. Equal targets stay in the order of their keys.
    fn compare(&self, a: &Hit, b: &Hit) -> Ordering {
        let ascending = match self.target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.meta.version.cmp(&b.meta.version),
            SortTarget::Create => a.meta.create_revision.cmp(&b.meta.create_revision),
            SortTarget::Mod => a.meta.mod_revision.cmp(&b.meta.mod_revision),
            SortTarget::Value => a.value().cmp(&b.value()),
        };
        if self.order == SortOrder::Descend {
            ascending.reverse()
        } else {
            ascending
        }
    }
}

impl Hit {
    fn value(&self) -> Option<&[u8]> {
        self.kv.as_ref().map(KeyValue::value)
    }

    fn show(self, keys_only: bool) -> KeyValue {
        let meta = self.meta;
        match self.kv {
            Some(kv) if !keys_only => kv,
            _ => KeyValue::new(
                &self.key,
                b"",
                meta.create_revision,
                meta.mod_revision,
                meta.version,
                meta.lease,
            ),
        }
    }
}
