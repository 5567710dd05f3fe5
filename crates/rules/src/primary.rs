//! The Primary: one tenure, from being named to its end.
//!
//! Named in the register, a Node promises its epoch durably, reads the chain to its end, and then creates
//! the tail slot with everything it holds beyond the chain and its own epoch Record. Winning that one create
//! is the fence: every commit of older epochs is in the chain, and no older Primary can extend it. Only
//! then is the register made Active and are writes accepted.

use crate::revision::{Epoch, Revision};

/// How far the own tenure has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Not Primary.
    None,
    /// Named; the promise is being made durable.
    Promising(Epoch),
    /// Reading the chain from the tail slot on.
    Reading(Epoch),
    /// Creating the tail slot with the tail and the epoch Record at this Revision.
    Fencing(Epoch, Revision),
    /// The fence stands; the epoch Record is on its way to the own disk, then the register to Active.
    Activating(Epoch, Revision),
    /// Accepts writes.
    Active(Epoch),
    /// Accepts no more writes; what was assigned is being made durable.
    Draining(Epoch),
    /// Everything is in the bucket; the register is being closed.
    Closing(Epoch),
}

impl Tenure {
    /// The epoch of the tenure.
    #[must_use]
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Tenure::None => None,
            Tenure::Promising(epoch)
            | Tenure::Reading(epoch)
            | Tenure::Fencing(epoch, _)
            | Tenure::Activating(epoch, _)
            | Tenure::Active(epoch)
            | Tenure::Draining(epoch)
            | Tenure::Closing(epoch) => Some(epoch),
        }
    }

    /// Whether Records of this tenure are, or may be, on their way to the bucket.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(
            self,
            Tenure::Active(_) | Tenure::Draining(_) | Tenure::Closing(_)
        )
    }
}
