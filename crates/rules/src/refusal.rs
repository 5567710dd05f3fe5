//! Refusals: what a client is told when it may not have what it asked for.
//!
//! One enum for the whole house; texts are etcd's own, byte for byte, where etcd has one (clients match
//! on the text). The etcd door turns a Refusal into a gRPC status in one table.

use alloc::string::String;
use thiserror::Error;

use crate::revision::Revision;

/// Why a client is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A key was empty.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// More than 128 compares or operations.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// The same key is put twice, or put and deleted, in one branch.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// An operation without content, or ignore_value / ignore_lease on a key that is not there.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// ignore_value together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// ignore_lease together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// An unknown sort order or target.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// The serialized request is over 1.5 MiB.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// The Revision asked for lies below the floor.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The floor: the lowest Revision that can still be read.
        floor: Revision,
    },
    /// The Revision asked for lies above the newest.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// No Primary is known, or this Node may not answer for it.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// The tenure ended while the request waited: its outcome is unknown.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// The outcome did not become known in time: it is unknown.
    #[error("etcdserver: request timed out")]
    TimedOut,
    /// Too much is waiting already.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// The storage quota is used up.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// A lease TTL above etcd's maximum.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// Not now, for the reason given; nothing was done.
    #[error("{0}")]
    Unavailable(String),
    /// Not part of Netsy's subset, decided without looking at data; names the way out.
    #[error("{0}")]
    Unsupported(String),
}
