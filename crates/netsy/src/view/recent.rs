//! Recent: a ring of the newest changes, ready to be handed to watchers.
//!
//! It covers every Revision above `after` without a gap, within a budget of bytes. What is not committed
//! yet never leaves it, and what it holds is never evicted, so nothing is asked of the [`super::Source`]
//! before the store is sure to have it.

use std::collections::VecDeque;
use std::sync::Arc;

use rules::revision::Revision;

use super::changes::Change;

/// A change whose predecessor may have to be fetched before anybody sees it.
#[derive(Clone)]
pub(super) struct Noted {
    pub(super) change: Arc<Change>,
    /// The predecessor's Revision, if there is one and its value is not in memory.
    pub(super) away: Option<Revision>,
}

/// The newest visible changes, ascending.
pub(super) struct Recent {
    after: Revision,
    changes: VecDeque<Noted>,
    bytes: usize,
    budget: usize,
}

impl Noted {
    fn weight(&self) -> usize {
        self.change.weight()
    }
}

impl Recent {
    pub(super) fn new(budget: usize) -> Recent {
        Recent {
            after: Revision::ZERO,
            changes: VecDeque::new(),
            bytes: 0,
            budget,
        }
    }

    /// Takes the newest change. Over budget, the oldest ones at or below `expendable` go.
    pub(super) fn push(&mut self, noted: Noted, expendable: Revision) {
        self.bytes += noted.weight();
        self.changes.push_back(noted);
        while self.bytes > self.budget
            && let Some(oldest) = self.changes.front()
            && oldest.change.revision <= expendable
        {
            self.bytes -= oldest.weight();
            self.after = oldest.change.revision;
            self.changes.pop_front();
        }
    }

    /// Forgets changes above `last`, handing each to `gone`.
    pub(super) fn truncate(&mut self, last: Revision, mut gone: impl FnMut(&Change)) {
        while let Some(noted) = self
            .changes
            .pop_back_if(|noted| noted.change.revision > last)
        {
            self.bytes -= noted.weight();
            gone(&noted.change);
        }
        self.after = self.after.min(last);
    }

    /// Every change above this Revision is here.
    pub(super) fn after(&self) -> Revision {
        self.after
    }

    /// The changes in `(after, upto]`, ascending.
    pub(super) fn between(&self, after: Revision, upto: Revision) -> impl Iterator<Item = &Noted> {
        let start = self
            .changes
            .partition_point(|noted| noted.change.revision <= after);
        let end = self
            .changes
            .partition_point(|noted| noted.change.revision <= upto);
        self.changes.range(start..end.max(start))
    }
}
