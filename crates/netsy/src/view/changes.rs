//! Changes: the visible Records after a Revision, each with its live predecessor.
//!
//! The newest come from the ring in memory, older ones from the log through [`super::Source`]. Internal
//! Records are passed over. Whatever the floor passes meanwhile is refused as a whole.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rules::record::Record;
use rules::refusal::Refusal;
use rules::revision::Revision;

use super::View;
use super::keyvalue::KeyValue;
use super::range::unreadable;
use super::recent::Noted;

/// One visible Record, with what a watcher needs to show it.
#[derive(Clone, PartialEq)]
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
    /// The live predecessor. `None` for a create; and where the log begins: for a change exactly at the
    /// floor whose predecessor is gone.
    pub prev: Option<KeyValue>,
}

impl Change {
    /// Bytes it holds in memory, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        let prev = self.prev.as_ref().map_or(0, |prev| prev.weight());
        128 + self.key.len() + self.kv.weight() + prev
    }
}

impl View {
    /// The first `max` visible Records in `(after, upto]` that are committed, ascending. Fewer than `max`
    /// means that everything up to `upto` (or the committed Revision, if that is lower) was covered.
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
        let (mut found, mut covered) = (Vec::new(), after);
        loop {
            let fence = {
                let state = self.state.read();
                if covered >= state.recent.after() {
                    let recent = state.recent.between(covered, upto);
                    found.extend(recent.take(max - found.len()).cloned());
                    break;
                }
                upto.min(state.recent.after())
            };
            if covered >= fence || found.len() == max {
                break;
            }
            let wanted = max - found.len();
            let records = self
                .source
                .history(covered, fence, wanted)
                .map_err(unreadable)?;
            let full = records.len() >= wanted;
            covered = records
                .last()
                .filter(|_| full)
                .map_or(fence, |record| record.revision);
            found.extend(self.note(&records));
        }
        self.complete(found, after)
    }

    /// Old Records as changes, their predecessors looked up.
    fn note(&self, records: &[Record]) -> Vec<Noted> {
        let visible = records.iter().filter(|record| record.is_visible());
        let encoded: Vec<_> = visible
            .map(|record| (record, KeyValue::of(record)))
            .collect();
        let state = self.state.read();
        let note = |(record, kv): (&Record, KeyValue)| {
            let chain = state.index.get(&record.key);
            let prev = chain.and_then(|chain| chain.at(record.revision.prev()));
            Noted::new(record, kv, prev)
        };
        encoded.into_iter().map(note).collect()
    }

    /// Fetches the predecessors that are not in memory.
    fn complete(&self, noted: Vec<Noted>, after: Revision) -> Result<Vec<Arc<Change>>, Refusal> {
        let away: Vec<Revision> = noted.iter().filter_map(|noted| noted.away).collect();
        let fetched = self.fetch(&away)?;
        let floor = self.floor();
        if after.next() < floor {
            return Err(Refusal::Compacted { floor });
        }
        let complete = |noted: Noted| {
            let Some(prev) = noted.away else {
                return Ok(noted.change);
            };
            let found = fetched.get(&prev).cloned();
            if found.is_none() && noted.change.revision > floor {
                return Err(self.missing(prev));
            }
            Ok(Arc::new(Change {
                prev: found,
                ..Change::clone(&noted.change)
            }))
        };
        noted.into_iter().map(complete).collect()
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("revision", &self.revision)
            .field("deleted", &self.deleted)
            .field("created", &self.created)
            .field("kv", &self.kv)
            .field("prev", &self.prev)
            .finish()
    }
}
