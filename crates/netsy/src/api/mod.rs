//! The etcd door: etcd's gRPC API, translated to what the Node understands and back. It decides nothing.
//!
//! A request passes the [`server`] (sockets, TLS, HTTP), the guard (what holds for every RPC), and lands in
//! one service: kv, watch, lease, cluster or maintenance. What the subset leaves out is one table,
//! [`unsupported`]; how a refusal looks on the wire is another, [`status`]. docs/COMPATIBILITY.md is the
//! promise, and a test reads it.

use std::sync::Arc;
use std::time::Duration;

use rules::refusal::Refusal;
use rules::revision::Revision;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::standing::{Handle, Standing};

mod cluster;
mod codec;
mod guard;
mod kv;
pub mod lease;
mod maintenance;
pub mod metrics;
mod pages;
pub mod proto;
pub(crate) mod range;
mod server;
pub mod status;
pub mod txn;
pub mod unsupported;
mod watch;

pub use metrics::Metrics;
pub use server::{Tls, serve, with_alpn};
pub use watch::WatchLimits;

use proto::etcdserverpb::ResponseHeader;

/// The etcd release we say we are. From 3.5.13 on, kube-apiserver serves consistent lists from its cache,
/// trusting progress notifications (which Netsy answers); kubeadm wants 3.5.24 or newer.
pub const VERSION: &str = "3.6.11";
/// The cluster and storage version that goes with [`VERSION`].
pub const CLUSTER_VERSION: &str = "3.6.0";
/// Largest serialized Txn, in bytes: etcd's default.
pub const MAX_REQUEST_BYTES: usize = 3 << 19;
/// The largest request that may be let in: a Record of the datafile holds somewhat less than 4 MiB.
pub const LARGEST_REQUEST: usize = 3 << 20;
/// What a message may be larger than the largest request, in bytes; etcd's own allowance.
pub const MESSAGE_ROOM: usize = 512 << 10;

/// The RPCs served, as (service, RPC). What is not here is in [`unsupported::TABLE`].
pub const SUPPORTED: &[(&str, &str)] = &[
    ("KV", "Range"),
    ("KV", "RangeStream"),
    ("KV", "Txn"),
    ("Watch", "Watch"),
    ("Lease", "LeaseGrant"),
    ("Cluster", "MemberList"),
    ("Maintenance", "Alarm"),
    ("Maintenance", "Status"),
];

/// How patient the door is, and what it says of itself.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a Txn or a linearizable read may take to settle before it answers `request timed out`.
    pub answer_within: Duration,
    /// The largest Txn, in bytes of its encoding.
    pub request_bytes: usize,
    /// How long a TLS handshake may take.
    pub handshake_within: Duration,
    /// How long requests under way may take to end once the Node closes.
    pub close_within: Duration,
    /// Txns that may wait for their answer at once, in bytes; more are told `too many requests`.
    pub waiting_bytes: u32,
    /// How often an idle connection is pinged, and how long the answer may take.
    pub ping_every: Duration,
    /// How patient watches are.
    pub watch: WatchLimits,
    /// What Status calls the storage quota, in bytes; 0 is none.
    pub quota: u64,
    /// Whether leases are granted by which keys expire.
    pub leases_expire: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            answer_within: Duration::from_secs(7),
            request_bytes: MAX_REQUEST_BYTES,
            handshake_within: Duration::from_secs(10),
            close_within: Duration::from_secs(5),
            waiting_bytes: 256 << 20,
            ping_every: Duration::from_secs(30),
            watch: WatchLimits::default(),
            quota: 0,
            leases_expire: false,
        }
    }
}

/// What every service holds.
#[derive(Clone, Debug)]
struct Door {
    handle: Handle,
    limits: Arc<Limits>,
    /// One permit for each byte of a Txn that may wait.
    waiting: Arc<Semaphore>,
}

impl Door {
    fn new(handle: Handle, limits: Limits) -> Door {
        let waiting = Arc::new(Semaphore::new(limits.waiting_bytes as usize));
        Door {
            handle,
            limits: Arc::new(limits),
            waiting,
        }
    }

    /// Room for a Txn of `bytes` to wait in, for as long as it is held.
    fn room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        let bytes = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
        self.waiting
            .try_acquire_many(bytes)
            .map_err(|_| Refusal::TooManyRequests)
    }

    fn standing(&self) -> Arc<Standing> {
        self.handle.board.standing()
    }

    /// The header of an answer that speaks of `revision`.
    fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(header(&self.standing(), revision))
    }

    /// The committed Revision to read at. A read that is not `serializable` waits until that is
    /// linearizable.
    async fn settle(&self, serializable: bool) -> Result<Revision, Refusal> {
        self.standing().loaded()?;
        if !serializable {
            self.in_time(self.handle.linearize()).await?;
        }
        Ok(self.handle.view.committed())
    }

    /// Gives up waiting for `answer` when the limit has passed; what was asked for may still happen.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        tokio::time::timeout(self.limits.answer_within, answer)
            .await
            .unwrap_or(Err(Refusal::TimedOut))
    }
}

/// The header of an answer: who speaks, and of which Revision. The term is the epoch.
#[must_use]
pub fn header(standing: &Standing, revision: Revision) -> ResponseHeader {
    ResponseHeader {
        cluster_id: standing.cluster_number(),
        member_id: standing.member_id,
        revision: revision.wire(),
        raft_term: standing.epoch.0,
    }
}
