//! The newest Records of the log, kept at hand for the Replicas that are nearly up to date: most of what they are
//! sent is read from nowhere else.

use std::collections::VecDeque;

use rules::revision::Revision;

use crate::datafile::Encoded;

/// How many bytes of them are kept.
const KEPT_BYTES: usize = 16 << 20;

/// One Record right behind the other.
#[derive(Debug, Default)]
pub(super) struct Recent {
    records: VecDeque<Encoded>,
    bytes: usize,
}

impl Recent {
    /// The log goes on with this one.
    pub(super) fn push(&mut self, encoded: Encoded) {
        self.bytes += encoded.bytes.len();
        self.records.push_back(encoded);
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= oldest.bytes.len();
        }
    }

    /// The log ends with `last`.
    pub(super) fn truncate(&mut self, last: Revision) {
        while let Some(newest) = self
            .records
            .pop_back_if(|newest| newest.record.revision > last)
        {
            self.bytes -= newest.bytes.len();
        }
    }

    /// The Records after this Revision, if the first of them is still here.
    pub(super) fn after(&self, after: Revision) -> Option<impl Iterator<Item = &Encoded>> {
        let first = self.records.front()?.record.revision;
        let here = first <= after.next();
        here.then(|| self.records.iter().skip(after.next().since(first) as usize))
    }
}
