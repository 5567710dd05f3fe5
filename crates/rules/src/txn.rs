//! Txn: compares, then at most one mutation; decided against the newest state, in-flight Records included.
//!
//! [`Txn::check`] refuses what the subset leaves out and what etcd's validation refuses, without looking
//! at data. [`Txn::decide`] then judges the compares and the taken branch against [`Newest`]. Ranges and
//! previous values of the answer are not read here: the decision names the Revisions at which to read.

use alloc::vec::Vec;
use bytes::Bytes;

use crate::key::KeyRange;
use crate::refusal::Refusal;
use crate::revision::Revision;

/// A client's transaction, translated from the wire and not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success` to be taken; none at all holds.
    pub compares: Vec<Compare>,
    /// The branch taken when every compare holds.
    pub success: Vec<Op>,
    /// The branch taken otherwise.
    pub failure: Vec<Op>,
}

/// One compare: every live key of `range` (or one zero KeyValue if there is none) must satisfy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The keys judged.
    pub range: KeyRange,
    /// What is compared, and with what. An unset or mismatched union of the wire is 0 or empty.
    pub target: Target,
    /// How the key's own value must relate to the target's.
    pub result: CompareResult,
}

/// What of a key is compared, with the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Number of changes since its creation.
    Version(i64),
    /// Revision of its creation.
    Create(i64),
    /// Revision of its last change.
    Mod(i64),
    /// The value's bytes, memcmp order. Always false for a missing key.
    Value(Bytes),
    /// The lease id.
    Lease(i64),
}

/// etcd's four results, and the unknown one (an enum number outside etcd's; never holds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// `=`
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
    /// `!=`
    NotEqual,
}

/// One operation of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read; its options are kept by whoever answers it. Only what the decision needs is here.
    Range {
        /// The keys read.
        range: KeyRange,
        /// Revision asked for; `<= 0` is the newest.
        revision: i64,
        /// Whether the client accepts local, possibly stale data.
        serializable: bool,
    },
    /// A write of one key.
    Put(Put),
    /// A delete.
    Delete {
        /// The keys to delete; the subset takes exactly one key.
        range: KeyRange,
        /// Whether the answer carries the old KeyValue.
        prev_kv: bool,
    },
    /// A nested Txn: never supported.
    Txn,
    /// An operation without content.
    Empty,
}

/// A write of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Lease id, 0 for none. Never validated (leases are synthetic).
    pub lease: i64,
    /// Whether the answer carries the old KeyValue.
    pub prev_kv: bool,
    /// Keep the old value; the key must exist.
    pub ignore_value: bool,
    /// Keep the old lease; the key must exist.
    pub ignore_lease: bool,
}

/// What is known of a live key, its value aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// Revision of its creation.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Number of changes since its creation.
    pub version: u64,
    /// Lease id, 0 for none.
    pub lease: i64,
}

/// The newest state, in-flight Records included. The driver hands it in; no lookup waits.
pub trait Newest {
    /// The newest Revision assigned or imported.
    fn last(&self) -> Revision;
    /// The floor below which nothing can be read.
    fn floor(&self) -> Revision;
    /// The live key, if it is there.
    fn meta(&self, key: &[u8]) -> Option<Meta>;
    /// The value of the live key at its newest Revision.
    fn value(&self, key: &[u8]) -> Option<Bytes>;
    /// Visits live keys of `range` in order until `visit` says false.
    fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Meta) -> bool);
}

/// What a checked Txn does, once decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether every compare held.
    pub succeeded: bool,
    /// The newest Revision the Txn was judged against: its reads before the mutation are as of here.
    pub base: Revision,
    /// Where in the taken branch the mutation stands, and what it is. `None`: nothing is written (a read,
    /// a failed compare, or a delete of a key that is not there).
    pub change: Option<(usize, Change)>,
}

/// The one mutation of a Txn, ready to be assigned a Revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The value to write; `None` deletes.
    pub value: Option<Bytes>,
    /// Lease to store with it.
    pub lease: i64,
    /// The live predecessor.
    pub prev: Option<Meta>,
}
