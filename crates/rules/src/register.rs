//! The two documents that settle who may act: the register (who is Primary) and the Elector lock.
//!
//! Both are changed only by compare-and-swap. Every swap raises `seq` and writes a fresh random `mark`, so
//! an old version never comes back and a writer knows its own write again. Epochs only rise, each claimed
//! by one swap, and one epoch names one Primary for ever.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::revision::Epoch;

/// Reads a number of a document. Half of what 64 bits hold is more than any count reaches, and leaves room
/// to count on: a document that says more is not one of ours, and must not make us wrap around.
///
/// # Errors
/// If it is no number, or not below 2^63.
pub fn countable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if number > i64::MAX as u64 {
        return Err(D::Error::custom("a number is not below 2^63"));
    }
    Ok(number)
}

/// What the store calls this version of a document (an etag, a generation). Opaque; only compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub Arc<str>);

/// One process of one Node: its name, its disk, its life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The Node's name.
    pub node_id: String,
    /// Random id made with the Node's SQLite file: an empty disk is a new Node.
    pub incarnation: String,
    /// Random id made at process start: a tenure lives in one process.
    pub boot: String,
}

impl Identity {
    /// Whether `other` is an earlier (or later) life of the same disk.
    #[must_use]
    pub fn is_same_disk(&self, other: &Identity) -> bool {
        self.node_id == other.node_id && self.incarnation == other.incarnation
    }
}

/// How far an epoch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Claimed by an Elector; nobody is named yet.
    Claimed,
    /// A Primary is named and reads the chain.
    Starting,
    /// The Primary accepts writes. Without a Primary: it closed, and everything is in the bucket.
    Active,
}

/// A Node whose Receipts count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// The Node's name.
    pub node_id: String,
    /// Its disk.
    pub incarnation: String,
}

impl Voter {
    /// The voter that the disk of `identity` is.
    #[must_use]
    pub fn of(identity: &Identity) -> Voter {
        Voter {
            node_id: identity.node_id.clone(),
            incarnation: identity.incarnation.clone(),
        }
    }

    /// Whether it is the disk of `identity`, whichever process lives on it.
    #[must_use]
    pub fn is(&self, identity: &Identity) -> bool {
        self.node_id == identity.node_id && self.incarnation == identity.incarnation
    }
}

/// `leader/primary.json`: who is Primary, since when, and whose Receipts commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Raised by every swap.
    #[serde(deserialize_with = "countable")]
    pub seq: u64,
    /// Random, fresh at every swap.
    pub mark: String,
    /// Only rises.
    pub epoch: Epoch,
    /// The Primary; none while claimed, and after it closed.
    pub primary: Option<Identity>,
    /// How far the epoch has come.
    pub phase: Phase,
    /// Empty: every commit goes by the bucket path.
    pub voters: Vec<Voter>,
    /// Receipts wanted: -1 majority, 0 none (bucket path), K static.
    pub quorum: i32,
    /// Length of the read lease in milliseconds; 0 is off.
    #[serde(deserialize_with = "countable")]
    pub lease: u64,
}

impl Register {
    /// Whether the last Primary closed: everything it assigned is in the bucket and it answers nothing more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Active && self.primary.is_none()
    }

    /// Whether the Receipts of `identity`'s disk count.
    #[must_use]
    pub fn has_voter(&self, identity: &Identity) -> bool {
        self.voters.iter().any(|voter| voter.is(identity))
    }
}

/// `leader/elector.json`: who may appoint. Liveness only; two Electors at once are safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Raised by every swap.
    #[serde(deserialize_with = "countable")]
    pub seq: u64,
    /// Random, fresh at every swap.
    pub mark: String,
    /// Raised by every take-over.
    #[serde(deserialize_with = "countable")]
    pub elector_epoch: u64,
    /// The Elector; none after it resigned.
    pub elector: Option<Identity>,
    /// Where Nodes reach the Elector.
    pub peer_address: String,
}

/// A document as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<T> {
    /// Its content.
    pub document: T,
    /// The store's version of it.
    pub version: Version,
}

/// How one attempt of a swap came out. `Unknown` is never taken for `Lost`: the write may land later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped<T> {
    /// Ours is in the store.
    Won(Version),
    /// Something else is there (or nothing, where we expected something): ours can never land.
    Lost(Option<Held<T>>),
    /// The state we started from is still there, or nothing could be read.
    Unknown,
}

/// A swap on its way: sent again, the same, until it is won or lost.
#[derive(Clone, Debug)]
pub struct Pending<T> {
    /// The version it replaces; `None` creates.
    pub expected: Option<Version>,
    /// What it writes.
    pub document: T,
    /// When it was first sent, milliseconds.
    pub started: u64,
    /// When to send it again after an unknown outcome; `None` while an attempt is out.
    pub again: Option<u64>,
}

impl<T> Pending<T> {
    /// A swap sent now.
    pub fn new(expected: Option<Version>, document: T, now: u64) -> Pending<T> {
        Pending {
            expected,
            document,
            started: now,
            again: None,
        }
    }
}
