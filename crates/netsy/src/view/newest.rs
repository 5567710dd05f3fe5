//! Newest: the state a Txn is decided against, Records in flight included.
//!
//! It holds the view's read lock, so the one writer asks, drops it, and then appends. Should a Txn look
//! at a value that was evicted, it is fetched with the lock held: the only one who could want to write
//! is the one who asks.

use bytes::Bytes;
use parking_lot::RwLockReadGuard;
use rules::key::KeyRange;
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::txn::{Meta, Newest};

use super::View;
use super::chain::{Chain, Version};
use super::index::Span;
use super::state::State;

struct NewestState<'a> {
    view: &'a View,
    state: RwLockReadGuard<'a, State>,
}

impl View {
    /// The newest state, in-flight Records included, for deciding a Txn. Holds the view's read lock: drop
    /// it before calling anything else of the view on the same thread.
    #[must_use]
    pub fn newest(&self) -> impl Newest + '_ {
        NewestState {
            view: self,
            state: self.state.read(),
        }
    }
}

fn live(chain: &Chain) -> Option<&Version> {
    Some(chain.newest()).filter(|version| version.is_live())
}

impl Newest for NewestState<'_> {
    fn last(&self) -> Revision {
        self.state.last
    }

    fn floor(&self) -> Revision {
        self.state.floor
    }

    fn meta(&self, key: &[u8]) -> Option<Meta> {
        self.state
            .index
            .get(key)
            .and_then(live)
            .map(|version| version.meta)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        let Some(version) = self.state.index.get(key).and_then(live) else {
            return Ok(None);
        };
        if let Some(kv) = &version.kv {
            return Ok(Some(Bytes::copy_from_slice(kv.value())));
        }
        let revision = version.revision();
        match self.view.fetch(&[revision])?.get(&revision) {
            Some(kv) => Ok(Some(Bytes::copy_from_slice(kv.value()))),
            None => Err(self.view.missing(revision)),
        }
    }

    fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Meta) -> bool) {
        for chain in self.state.index.scan(&Span::of(range)) {
            if let Some(version) = live(chain)
                && !visit(&chain.key, version.meta)
            {
                return;
            }
        }
    }
}
