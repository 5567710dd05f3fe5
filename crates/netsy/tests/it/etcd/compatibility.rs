//! docs/COMPATIBILITY.md is read, and every RPC it names is called. Page and server cannot drift apart.

use futures::stream::{self, StreamExt};
use netsy::api::proto::etcdserverpb as pb;
use netsy::api::proto::etcdserverpb::auth_client::AuthClient;
use netsy::api::proto::etcdserverpb::cluster_client::ClusterClient;
use netsy::api::proto::etcdserverpb::kv_client::KvClient;
use netsy::api::proto::etcdserverpb::lease_client::LeaseClient;
use netsy::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use netsy::api::proto::etcdserverpb::watch_client::WatchClient;
use netsy::api::{SUPPORTED, unsupported};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::{bytes, get, put};
use crate::fake::Node;

const PAGE: &str = include_str!("../../../../../docs/COMPATIBILITY.md");

/// The (service, RPC) rows of the table under `heading`.
fn rows(heading: &str) -> Vec<(String, String)> {
    let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "three cells in: {line}");
        assert!(!cells[3].is_empty(), "a note in: {line}");
        (cells[1].to_owned(), cells[2].trim_matches('`').to_owned())
    })
    .collect()
}

/// Waits for the first message of a stream.
async fn first<T>(stream: Result<tonic::Response<Streaming<T>>, Status>) -> Result<(), Status> {
    match stream?.into_inner().next().await {
        Some(message) => message.map(drop),
        None => Err(Status::unknown("the stream ended without a message")),
    }
}

/// Calls one RPC of `$client` with the plainest request it takes.
macro_rules! unary {
    ($client:ident, $method:ident, $request:expr) => {
        $client.$method($request).await.map(drop)
    };
}

macro_rules! stream {
    ($client:ident, $method:ident, $request:expr) => {
        first($client.$method($request).await).await
    };
}

async fn call(channel: &Channel, service: &str, rpc: &str) -> Result<(), Status> {
    match service {
        "KV" => call_kv(channel, rpc).await,
        "Watch" => call_watch(channel, rpc).await,
        "Lease" => call_lease(channel, rpc).await,
        "Cluster" => call_cluster(channel, rpc).await,
        "Maintenance" => call_maintenance(channel, rpc).await,
        "Auth" => call_auth(channel, rpc).await,
        _ => panic!("the page names {service}, which no client knows"),
    }
}

async fn call_kv(channel: &Channel, rpc: &str) -> Result<(), Status> {
    let mut kv = KvClient::new(channel.clone());
    match rpc {
        "Range" => unary!(kv, range, get("a")),
        "RangeStream" => stream!(kv, range_stream, get("a")),
        "Txn" => {
            let success = vec![put("a", "1")];
            unary!(
                kv,
                txn,
                pb::TxnRequest {
                    success,
                    ..Default::default()
                }
            )
        }
        "Put" => unary!(kv, put, pb::PutRequest::default()),
        "DeleteRange" => unary!(kv, delete_range, pb::DeleteRangeRequest::default()),
        "Compact" => unary!(kv, compact, pb::CompactionRequest::default()),
        _ => panic!("the page names KV/{rpc}, which no client knows"),
    }
}

async fn call_watch(channel: &Channel, rpc: &str) -> Result<(), Status> {
    assert_eq!(rpc, "Watch");
    let mut watch = WatchClient::new(channel.clone());
    let create = pb::WatchCreateRequest {
        key: bytes("a"),
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let request = pb::WatchRequest {
        request_union: Some(union),
    };
    stream!(
        watch,
        watch,
        stream::iter([request]).chain(stream::pending())
    )
}

async fn call_lease(channel: &Channel, rpc: &str) -> Result<(), Status> {
    let mut lease = LeaseClient::new(channel.clone());
    match rpc {
        "LeaseGrant" => unary!(lease, lease_grant, pb::LeaseGrantRequest { ttl: 10, id: 0 }),
        "LeaseRevoke" => unary!(lease, lease_revoke, pb::LeaseRevokeRequest::default()),
        "LeaseKeepAlive" => {
            let requests = stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]);
            stream!(lease, lease_keep_alive, requests.chain(stream::pending()))
        }
        "LeaseTimeToLive" => {
            unary!(
                lease,
                lease_time_to_live,
                pb::LeaseTimeToLiveRequest::default()
            )
        }
        "LeaseLeases" => unary!(lease, lease_leases, pb::LeaseLeasesRequest {}),
        _ => panic!("the page names Lease/{rpc}, which no client knows"),
    }
}

async fn call_cluster(channel: &Channel, rpc: &str) -> Result<(), Status> {
    let mut cluster = ClusterClient::new(channel.clone());
    match rpc {
        "MemberList" => unary!(cluster, member_list, pb::MemberListRequest::default()),
        "MemberAdd" => unary!(cluster, member_add, pb::MemberAddRequest::default()),
        "MemberRemove" => unary!(cluster, member_remove, pb::MemberRemoveRequest::default()),
        "MemberUpdate" => unary!(cluster, member_update, pb::MemberUpdateRequest::default()),
        "MemberPromote" => unary!(cluster, member_promote, pb::MemberPromoteRequest::default()),
        _ => panic!("the page names Cluster/{rpc}, which no client knows"),
    }
}

async fn call_maintenance(channel: &Channel, rpc: &str) -> Result<(), Status> {
    let mut maintenance = MaintenanceClient::new(channel.clone());
    match rpc {
        "Alarm" => unary!(maintenance, alarm, pb::AlarmRequest::default()),
        "Status" => unary!(maintenance, status, pb::StatusRequest {}),
        "Defragment" => unary!(maintenance, defragment, pb::DefragmentRequest {}),
        "Hash" => unary!(maintenance, hash, pb::HashRequest {}),
        "HashKV" => unary!(maintenance, hash_kv, pb::HashKvRequest::default()),
        "Snapshot" => stream!(maintenance, snapshot, pb::SnapshotRequest {}),
        "MoveLeader" => unary!(maintenance, move_leader, pb::MoveLeaderRequest::default()),
        "Downgrade" => unary!(maintenance, downgrade, pb::DowngradeRequest::default()),
        _ => panic!("the page names Maintenance/{rpc}, which no client knows"),
    }
}

async fn call_auth(channel: &Channel, rpc: &str) -> Result<(), Status> {
    let mut auth = AuthClient::new(channel.clone());
    macro_rules! call {
        ($method:ident, $request:ident) => {
            unary!(auth, $method, pb::$request::default())
        };
    }
    match rpc {
        "AuthEnable" => call!(auth_enable, AuthEnableRequest),
        "AuthDisable" => call!(auth_disable, AuthDisableRequest),
        "AuthStatus" => call!(auth_status, AuthStatusRequest),
        "Authenticate" => call!(authenticate, AuthenticateRequest),
        "UserAdd" => call!(user_add, AuthUserAddRequest),
        "UserGet" => call!(user_get, AuthUserGetRequest),
        "UserList" => call!(user_list, AuthUserListRequest),
        "UserDelete" => call!(user_delete, AuthUserDeleteRequest),
        "UserChangePassword" => call!(user_change_password, AuthUserChangePasswordRequest),
        "UserGrantRole" => call!(user_grant_role, AuthUserGrantRoleRequest),
        "UserRevokeRole" => call!(user_revoke_role, AuthUserRevokeRoleRequest),
        "RoleAdd" => call!(role_add, AuthRoleAddRequest),
        "RoleGet" => call!(role_get, AuthRoleGetRequest),
        "RoleList" => call!(role_list, AuthRoleListRequest),
        "RoleDelete" => call!(role_delete, AuthRoleDeleteRequest),
        "RoleGrantPermission" => call!(role_grant_permission, AuthRoleGrantPermissionRequest),
        "RoleRevokePermission" => call!(role_revoke_permission, AuthRoleRevokePermissionRequest),
        _ => panic!("the page names Auth/{rpc}, which no client knows"),
    }
}

#[tokio::test]
async fn what_the_page_calls_supported_succeeds() {
    let node = Node::start().await;
    let channel = node.channel().await;
    for (service, rpc) in rows("Supported RPCs") {
        if let Err(refused) = call(&channel, &service, &rpc).await {
            panic!("{service}/{rpc} answered {refused}");
        }
    }
}

#[tokio::test]
async fn what_the_page_calls_unsupported_names_itself() {
    let node = Node::start().await;
    let channel = node.channel().await;
    for (service, rpc) in rows("Unsupported RPCs") {
        let refused = call(&channel, &service, &rpc).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::Unimplemented,
            "{service}/{rpc}: {refused}"
        );
        let told = refused.message();
        assert!(
            told.starts_with(&format!("netsy: {rpc} is not supported: ")),
            "{told}"
        );
        assert!(told.len() > rpc.len() + 40, "a way out in: {told}");
    }
}

#[test]
fn the_page_and_the_tables_name_the_same_rpcs() {
    let owned = |(service, rpc): (&str, &str)| (service.to_owned(), rpc.to_owned());
    let supported: Vec<_> = SUPPORTED.iter().copied().map(owned).collect();
    assert_eq!(rows("Supported RPCs"), supported);
    let refused = unsupported::TABLE
        .iter()
        .map(|(service, rpc, _)| owned((service, rpc)));
    assert_eq!(rows("Unsupported RPCs"), refused.collect::<Vec<_>>());
    assert_eq!(rows("Unsupported RPCs").len(), 34);
}
