//! Tally: which keys came to life and which died in the newest Revisions.
//!
//! The index counts live keys as of the newest version. A reader stands at an older Revision; the steps
//! since then, taken back, turn the one count into the other.

use std::collections::VecDeque;

use rules::revision::Revision;

use super::chain::Key;
use super::index::Span;

/// Steps remembered. More would make a count slower than a walk over a usual range.
const STEPS: usize = if cfg!(test) { 8 } else { 16_384 };

/// The newest creations and deletions, ascending.
#[derive(Default)]
pub(super) struct Tally {
    /// Every step above this Revision is here.
    after: Revision,
    steps: VecDeque<Step>,
}

struct Step {
    revision: Revision,
    key: Key,
    /// +1 for a creation, -1 for a deletion.
    change: i64,
}

impl Tally {
    /// Notes that `key` was live or not before `revision`, and is or is not after.
    pub(super) fn push(&mut self, revision: Revision, key: &Key, before: bool, after: bool) {
        let change = i64::from(after) - i64::from(before);
        if change == 0 {
            return;
        }
        self.steps.push_back(Step {
            revision,
            key: key.clone(),
            change,
        });
        if self.steps.len() > STEPS
            && let Some(step) = self.steps.pop_front()
        {
            self.after = step.revision;
        }
    }

    pub(super) fn truncate(&mut self, last: Revision) {
        let keep = self.steps.partition_point(|step| step.revision <= last);
        self.steps.truncate(keep);
        self.after = self.after.min(last);
    }

    /// By how much the number of live keys in `span` grew after `revision`, if that is remembered.
    pub(super) fn since(&self, revision: Revision, span: &Span) -> Option<i64> {
        if revision < self.after {
            return None;
        }
        let known = self.steps.partition_point(|step| step.revision <= revision);
        let steps = self
            .steps
            .range(known..)
            .filter(|step| span.contains(&step.key));
        Some(steps.map(|step| step.change).sum())
    }
}
