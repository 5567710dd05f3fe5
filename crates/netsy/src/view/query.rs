//! RangeQuery: what a client asks of the view, and RangeAnswer: what it is shown.
//!
//! The fields are etcd's own, in its units; the answer lacks only the header.

use rules::key::KeyRange;
use rules::revision::Revision;

use super::chain::Version;
use super::keyvalue::KeyValue;

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

    /// Whether hits must be put into another order than the index has them in.
    pub(super) fn is_sorted(&self) -> bool {
        self.target != SortTarget::Key || self.order == SortOrder::Descend
    }

    /// Whether the limit is applied before the order, as etcd does when a target is given without an order
    /// and nothing is filtered: what is sorted is then the first `limit + 1` keys.
    pub(super) fn cuts_first(&self) -> bool {
        self.limit > 0
            && self.order == SortOrder::None
            && self.target != SortTarget::Key
            && !self.is_filtered()
    }

    /// Whether hits are of use only with their values.
    pub(super) fn needs_values(&self) -> bool {
        !self.keys_only || self.target == SortTarget::Value
    }

    /// Whether some live keys of the range may be left out.
    pub(super) fn is_filtered(&self) -> bool {
        let bounds = [
            self.min_mod_revision,
            self.max_mod_revision,
            self.min_create_revision,
            self.max_create_revision,
        ];
        bounds != [0; 4]
    }

    /// Whether the filters let a live version pass.
    pub(super) fn admits(&self, version: &Version) -> bool {
        let (modified, created) = (version.meta.mod_revision, version.meta.create_revision);
        let within = |revision: Revision, min: i64, max: i64| {
            (min == 0 || revision.wire() >= min) && (max == 0 || revision.wire() <= max)
        };
        within(modified, self.min_mod_revision, self.max_mod_revision)
            && within(created, self.min_create_revision, self.max_create_revision)
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
