//! What readers see: an in-memory, multi-version view of the committed log. No I/O of its own.
//!
//! One writer (the driver) appends Records, releases them when they are committed, truncates what never
//! will be, and raises the floor. Everybody else reads, always as of one Revision. Every key has a
//! [`chain`] of versions in an ordered [`index`]; the newest changes wait in [`recent`] for watchers.
//! Metadata is always in memory, values within a budget; the rest is fetched through [`Source`].

mod block;
mod chain;
mod changes;
mod index;
mod keyvalue;
mod mailbox;
mod newest;
mod query;
mod range;
mod ranges;
mod recent;
mod state;
mod tally;
#[cfg(test)]
mod twins;
pub mod watchers;

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rules::record::Record;
use rules::revision::Revision;
use tokio::sync::watch;

pub use changes::Change;
pub use keyvalue::KeyValue;
pub use mailbox::{Batch, Bounds, Delivery};
pub use query::{RangeAnswer, RangeQuery, SortOrder, SortTarget};
use state::State;
pub use watchers::Hub;

/// Superseded versions dropped before readers are let in.
const PRUNE_STRIDE: usize = if cfg!(test) { 2 } else { 256 };

/// Where Records come from that are no longer in memory. Implemented over the store; called from whatever
/// thread reads, without any lock of the view but the one the driver may hold itself.
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

/// The view. One writer, any number of readers.
pub struct View {
    state: RwLock<State>,
    committed: watch::Sender<Revision>,
    hub: Arc<Hub>,
    source: Arc<dyn Source>,
}

impl View {
    /// An empty view that holds about `budget_bytes` of values in memory.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, budget_bytes: usize) -> View {
        View {
            state: RwLock::new(State::new(budget_bytes)),
            committed: watch::Sender::new(Revision::ZERO),
            hub: Arc::default(),
            source,
        }
    }

    /// Takes a Record of the store at start-up: ascending, gaps allowed (below the floor).
    ///
    /// # Panics
    /// If it does not come after the last.
    pub fn load(&self, record: &Record) {
        let kv = KeyValue::of(record);
        self.state.write().insert(record, &kv, record.revision);
    }

    /// Takes an assigned or imported Record: at once visible to [`View::newest`], to readers when released.
    /// Its bytes are copied.
    ///
    /// # Panics
    /// If it is not the one after the last.
    pub fn append(&self, record: &Record) {
        let kv = KeyValue::of(record);
        let committed = self.committed();
        let mut state = self.state.write();
        let last = state.last;
        assert_eq!(
            record.revision,
            last.next(),
            "the log is contiguous, and ends at {last}"
        );
        state.insert(record, &kv, committed);
    }

    /// Forgets everything above `last`.
    ///
    /// # Panics
    /// If `last` is below the committed Revision.
    pub fn truncate(&self, last: Revision) {
        let committed = self.committed();
        assert!(
            last >= committed,
            "truncating to {last}: what is committed stays, up to {committed}"
        );
        self.state.write().truncate(last);
    }

    /// Shows everything up to `committed` to readers and watchers. Never goes back.
    ///
    /// # Panics
    /// If `committed` is above the last Record.
    pub fn release(&self, committed: Revision) {
        let last = self.last();
        assert!(
            committed <= last,
            "releasing up to {committed}: the log ends at {last}"
        );
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

    /// Raises the compaction floor as [`View::set_floor`] does, and drops nothing yet. At once.
    pub fn refuse_below(&self, floor: Revision) {
        let mut state = self.state.write();
        state.floor = state.floor.max(floor);
    }

    /// Raises the compaction floor: from now on Revisions below it cannot be read, and superseded versions
    /// and tombstones below it are dropped. May run on any thread, and holds the lock for short times
    /// only; Records may be deleted from the store when it has returned.
    pub fn set_floor(&self, floor: Revision) {
        loop {
            let mut state = self.state.write();
            state.floor = state.floor.max(floor);
            if !state.prune(PRUNE_STRIDE) {
                return;
            }
        }
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

    /// Bytes of values in memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.state.read().held()
    }

    /// Waits until the committed Revision is at least `revision`.
    pub async fn reached(&self, revision: Revision) {
        let mut shown = self.committed.subscribe();
        // The sender lives in `self`, so the wait cannot end early.
        let _ = shown.wait_for(|committed| *committed >= revision).await;
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let committed = self.committed();
        let state = self.state.read();
        f.debug_struct("View")
            .field("floor", &state.floor)
            .field("committed", &committed)
            .field("last", &state.last)
            .field("keys", &state.index.keys())
            .field("held_bytes", &state.held())
            .finish()
    }
}
