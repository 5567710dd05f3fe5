//! Record: one change of one key at one Revision, and the only thing the log holds.
//!
//! Internal Records (an epoch opening, a compaction) are part of the log and invisible to clients.

use alloc::sync::Arc;
use bytes::Bytes;
use core::fmt;

use crate::revision::{Epoch, Revision};
use crate::txn::Change;

/// The key every internal Record carries, as the ancestor's first Record does.
pub const INTERNAL_KEY: &[u8] = b"_netsy";

/// What a Record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A client's put or delete.
    Write,
    /// Opens an epoch in the log.
    Epoch,
    /// Raises the compaction floor to `prev_revision`.
    Compaction,
}

/// One change of one key at one Revision. (epoch, revision) names exactly one content for ever.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub revision: Revision,
    /// The epoch of the Primary that assigned it.
    pub epoch: Epoch,
    /// What it is for.
    pub kind: Kind,
    /// The key; never empty.
    pub key: Bytes,
    /// The new value; empty for a tombstone and for internal Records.
    pub value: Bytes,
    /// Whether this Revision created the key.
    pub created: bool,
    /// Whether this is a tombstone.
    pub deleted: bool,
    /// Revision of this incarnation's creation (a tombstone keeps it).
    pub create_revision: Revision,
    /// Revision of the live predecessor, 0 for a create.
    pub prev_revision: Revision,
    /// 1, 2, 3 ... per incarnation; 0 on a tombstone.
    pub version: u64,
    /// The lease id given by the client, 0 for none.
    pub lease: i64,
    /// The Primary's wall clock when it assigned, nanoseconds since 1970. Informative only.
    pub created_at: i64,
    /// node_id of the Primary that assigned it.
    pub leader_id: Arc<str>,
}

impl Record {
    /// The Record that opens `epoch` at `revision`.
    #[must_use]
    pub fn opening(
        epoch: Epoch,
        revision: Revision,
        leader_id: Arc<str>,
        created_at: i64,
    ) -> Record {
        Record {
            revision,
            epoch,
            kind: Kind::Epoch,
            key: Bytes::from_static(INTERNAL_KEY),
            value: Bytes::new(),
            created: revision == Revision(1),
            deleted: false,
            create_revision: revision,
            prev_revision: Revision::ZERO,
            version: 1,
            lease: 0,
            created_at,
            leader_id,
        }
    }

    /// The Record of a client's decided change, at the Revision it is assigned. A put without a live
    /// predecessor creates: version 1, its own create_revision, prev_revision 0. A put over one counts its
    /// version on and keeps its create_revision. A tombstone keeps the create_revision, with version 0,
    /// no value and no lease.
    #[must_use]
    pub fn write(
        change: &Change,
        revision: Revision,
        epoch: Epoch,
        leader_id: Arc<str>,
        created_at: i64,
    ) -> Record {
        let prev = change.prev;
        let deleted = change.value.is_none();
        let version = if deleted {
            0
        } else {
            prev.map_or(1, |prev| prev.version + 1)
        };
        Record {
            revision,
            epoch,
            kind: Kind::Write,
            key: change.key.clone(),
            value: change.value.clone().unwrap_or_default(),
            created: !deleted && prev.is_none(),
            deleted,
            create_revision: prev.map_or(revision, |prev| prev.create_revision),
            prev_revision: prev.map_or(Revision::ZERO, |prev| prev.mod_revision),
            version,
            lease: if deleted { 0 } else { change.lease },
            created_at,
            leader_id,
        }
    }

    /// Whether clients may ever see it.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.kind == Kind::Write
    }

    /// Bytes it holds in memory and files, roughly: key, value and fixed fields.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.key.len() + self.value.len() + 64
    }
}

/// Keys and values stay out of logs.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("revision", &self.revision.0)
            .field("epoch", &self.epoch.0)
            .field("kind", &self.kind)
            .field("deleted", &self.deleted)
            .field("leader_id", &self.leader_id)
            .finish_non_exhaustive()
    }
}
