//! Revision and Epoch: the two numbers every promise of the cluster is made of.
//!
//! A Revision names a place in the one log; an Epoch names the tenure of one Primary. Both only rise, and
//! (epoch, revision) names exactly one content for ever. Nobody else does arithmetic on them.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A place in the log: 1 for the first Record, contiguous from there. 0 means "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first Record.
    pub const ZERO: Revision = Revision(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// The place before this one; 0 stays 0.
    #[must_use]
    pub const fn prev(self) -> Revision {
        Revision(self.0.saturating_sub(1))
    }

    /// How many Records lie in `(other, self]`; 0 if there are none.
    #[must_use]
    pub const fn since(self, other: Revision) -> u64 {
        self.0.saturating_sub(other.0)
    }

    /// As etcd puts it on the wire. Revisions never reach 2^63.
    #[must_use]
    pub const fn wire(self) -> i64 {
        self.0 as i64
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The tenure of one Primary. 0 means "none yet".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(#[serde(deserialize_with = "crate::register::countable")] pub u64);

impl Epoch {
    /// Before the first tenure.
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
