//! Range: reading keys as of one Revision, with all of etcd's options.
//!
//! A walk collects hits in strides, letting the writer in between: every version it looks for is fixed by
//! the Revision, and a floor that passes it meanwhile ends the walk with a refusal, never a partial answer.
//! A walk that has its fill takes the rest of `count` from the index. Then, without the lock, hits are
//! sorted and limited, and values that were evicted are fetched.

use std::cmp::Ordering;
use std::collections::HashMap;

use parking_lot::RwLockReadGuard;
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::txn::Meta;

use super::View;
use super::chain::{Chain, Key};
use super::index::Span;
use super::keyvalue::KeyValue;
use super::query::{RangeAnswer, RangeQuery, SortOrder, SortTarget};
use super::state::State;

/// Keys looked at before a waiting writer is let in.
const STRIDE: usize = if cfg!(test) { 3 } else { 512 };

/// A key that belongs into the answer.
struct Hit {
    meta: Meta,
    found: Found,
}

/// What a walk takes along of a hit: no more than the answer needs, for each touches cold memory.
enum Found {
    /// Everything.
    Whole(KeyValue),
    /// The key; the value is not in memory, or not wanted.
    Key(Key),
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
            // A target without an order: etcd cuts first, one beyond the limit, and sorts what it has.
            _ if query.cuts_first() => limit.saturating_add(1),
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
            hits.sort_by(|a, b| a.compare(b, query));
        }
        let matched = if enough == usize::MAX {
            hits.len()
        } else {
            count as usize
        };
        hits.truncate(limit);
        let kvs = if query.keys_only {
            hits.iter().map(Hit::without_value).collect()
        } else {
            self.fetch_values(&mut hits, revision)?;
            hits.into_iter().filter_map(Hit::whole).collect()
        };
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

    /// Fetches the values of `hits` that are not there yet.
    fn fetch_values(&self, hits: &mut [Hit], revision: Revision) -> Result<(), Refusal> {
        let away = |hit: &&mut Hit| matches!(hit.found, Found::Key(_));
        let mut away: Vec<&mut Hit> = hits.iter_mut().filter(away).collect();
        let revisions: Vec<Revision> = away.iter().map(|hit| hit.meta.mod_revision).collect();
        let mut fetched = self.fetch(&revisions)?;
        for hit in &mut away {
            let Some(kv) = fetched.remove(&hit.meta.mod_revision) else {
                self.state.read().check_floor(revision)?;
                return Err(self.missing(hit.meta.mod_revision));
            };
            hit.found = Found::Whole(kv);
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
            let kv = version.kv.as_ref().filter(|_| self.query.needs_values());
            let found = kv.map_or_else(
                || Found::Key(chain.key.clone()),
                |kv| Found::Whole(kv.clone()),
            );
            self.hits.push(Hit {
                meta: version.meta,
                found,
            });
        }
    }
}

impl Hit {
    /// The order asked for. Equal targets stay in the order of their keys.
    fn compare(&self, other: &Hit, query: &RangeQuery) -> Ordering {
        let ascending = match query.target {
            SortTarget::Key => self.key().cmp(other.key()),
            SortTarget::Version => self.meta.version.cmp(&other.meta.version),
            SortTarget::Create => self.meta.create_revision.cmp(&other.meta.create_revision),
            SortTarget::Mod => self.meta.mod_revision.cmp(&other.meta.mod_revision),
            SortTarget::Value => self.value().cmp(other.value()),
        };
        if query.order == SortOrder::Descend {
            ascending.reverse()
        } else {
            ascending
        }
    }

    fn key(&self) -> &[u8] {
        match &self.found {
            Found::Whole(kv) => kv.key(),
            Found::Key(key) => key,
        }
    }

    fn value(&self) -> &[u8] {
        match &self.found {
            Found::Whole(kv) => kv.value(),
            Found::Key(_) => b"",
        }
    }

    fn without_value(&self) -> KeyValue {
        let Meta {
            create_revision,
            mod_revision,
            version,
            lease,
        } = self.meta;
        KeyValue::new(
            self.key(),
            b"",
            create_revision,
            mod_revision,
            version,
            lease,
        )
    }

    /// Everything, once fetched.
    fn whole(self) -> Option<KeyValue> {
        match self.found {
            Found::Whole(kv) => Some(kv),
            Found::Key(_) => None,
        }
    }
}
