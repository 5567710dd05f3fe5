//! What the subset leaves out: one table of RPCs, each with the way out. All answer `Unimplemented`.
//!
//! The routes here are asked before the generated services, so that each refusal names its RPC.

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use tonic::Status;

const TXN: &str = "write with a Txn that holds one put or one delete of one key";
const LEASES: &str = "leases are synthetic: a lease is granted, and never kept, listed or revoked";
const MEMBERS: &str =
    "members are the nodes that registered in the bucket: start or stop a node instead";
const AUTH: &str = "clients are authenticated by their TLS certificates";

/// (service, RPC, way out).
pub const TABLE: &[(&str, &str, &str)] = &[
    ("KV", "Put", TXN),
    ("KV", "DeleteRange", TXN),
    (
        "KV",
        "Compact",
        "history is compacted by time and by count: set `compaction.retention` and `compaction.revisions`",
    ),
    ("Lease", "LeaseRevoke", LEASES),
    ("Lease", "LeaseKeepAlive", LEASES),
    ("Lease", "LeaseTimeToLive", LEASES),
    ("Lease", "LeaseLeases", LEASES),
    ("Cluster", "MemberAdd", MEMBERS),
    ("Cluster", "MemberRemove", MEMBERS),
    ("Cluster", "MemberUpdate", MEMBERS),
    (
        "Cluster",
        "MemberPromote",
        "there are no learners to promote",
    ),
    (
        "Maintenance",
        "Defragment",
        "there is nothing to defragment: the database uses free pages again",
    ),
    (
        "Maintenance",
        "Hash",
        "every record and file carries a crc, which is checked when it is read",
    ),
    (
        "Maintenance",
        "HashKV",
        "every record and file carries a crc, which is checked when it is read",
    ),
    (
        "Maintenance",
        "Snapshot",
        "the bucket is the backup: copy it",
    ),
    (
        "Maintenance",
        "MoveLeader",
        "the elector appoints the primary: stop the primary's node instead",
    ),
    (
        "Maintenance",
        "Downgrade",
        "there is no cluster version to lower: start the older binary",
    ),
    ("Auth", "AuthEnable", AUTH),
    ("Auth", "AuthDisable", AUTH),
    ("Auth", "AuthStatus", AUTH),
    ("Auth", "Authenticate", AUTH),
    ("Auth", "UserAdd", AUTH),
    ("Auth", "UserGet", AUTH),
    ("Auth", "UserList", AUTH),
    ("Auth", "UserDelete", AUTH),
    ("Auth", "UserChangePassword", AUTH),
    ("Auth", "UserGrantRole", AUTH),
    ("Auth", "UserRevokeRole", AUTH),
    ("Auth", "RoleAdd", AUTH),
    ("Auth", "RoleGet", AUTH),
    ("Auth", "RoleList", AUTH),
    ("Auth", "RoleDelete", AUTH),
    ("Auth", "RoleGrantPermission", AUTH),
    ("Auth", "RoleRevokePermission", AUTH),
];

/// What is said to whoever calls `rpc`.
#[must_use]
pub fn sentence(rpc: &str, way_out: &str) -> String {
    format!("netsy: {rpc} is not supported: {way_out}")
}

/// One route for each line of the table.
pub(super) fn routes() -> Router {
    TABLE
        .iter()
        .fold(Router::new(), |router, (service, rpc, way_out)| {
            let path = format!("/etcdserverpb.{service}/{rpc}");
            let refuse = move || async move {
                Status::unimplemented(sentence(rpc, way_out)).into_http::<Body>()
            };
            router.route(&path, post(refuse))
        })
}
