//! docs/COMPATIBILITY.md is read, and every RPC it names is called. Page and server cannot drift apart.

use futures::StreamExt;
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

use super::{get, put};
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

/// Calls one RPC with the plainest request it takes.
async fn call(channel: &Channel, service: &str, rpc: &str) -> Result<(), Status> {
    macro_rules! unary {
        ($client:ident, $method:ident, $request:expr) => {
            $client::new(channel.clone())
                .$method($request)
                .await
                .map(drop)
        };
    }
    macro_rules! stream {
        ($client:ident, $method:ident, $request:expr) => {
            first($client::new(channel.clone()).$method($request).await).await
        };
    }
    match (service, rpc) {
        ("KV", "Range") => unary!(KvClient, range, get("a")),
        ("KV", "RangeStream") => stream!(KvClient, range_stream, get("a")),
        ("KV", "Txn") => {
            let success = vec![put("a", "1")];
            unary!(
                KvClient,
                txn,
                pb::TxnRequest {
                    success,
                    ..pb::TxnRequest::default()
                }
            )
        }
        ("KV", "Put") => unary!(KvClient, put, pb::PutRequest::default()),
        ("KV", "DeleteRange") => unary!(KvClient, delete_range, pb::DeleteRangeRequest::default()),
        ("KV", "Compact") => unary!(KvClient, compact, pb::CompactionRequest::default()),
        ("Watch", "Watch") => {
            use pb::watch_request::RequestUnion;
            let create = RequestUnion::CreateRequest(pb::WatchCreateRequest::default());
            let create = pb::WatchRequest {
                request_union: Some(create),
            };
            let requests = futures::stream::iter([create]).chain(futures::stream::pending());
            stream!(WatchClient, watch, requests)
        }
        ("Lease", "LeaseGrant") => {
            unary!(
                LeaseClient,
                lease_grant,
                pb::LeaseGrantRequest { ttl: 10, id: 0 }
            )
        }
        ("Lease", "LeaseRevoke") => {
            unary!(LeaseClient, lease_revoke, pb::LeaseRevokeRequest::default())
        }
        ("Lease", "LeaseKeepAlive") => {
            let requests = futures::stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]);
            stream!(
                LeaseClient,
                lease_keep_alive,
                requests.chain(futures::stream::pending())
            )
        }
        ("Lease", "LeaseTimeToLive") => {
            unary!(
                LeaseClient,
                lease_time_to_live,
                pb::LeaseTimeToLiveRequest::default()
            )
        }
        ("Lease", "LeaseLeases") => unary!(LeaseClient, lease_leases, pb::LeaseLeasesRequest {}),
        ("Cluster", "MemberList") => {
            unary!(ClusterClient, member_list, pb::MemberListRequest::default())
        }
        ("Cluster", "MemberAdd") => {
            unary!(ClusterClient, member_add, pb::MemberAddRequest::default())
        }
        ("Cluster", "MemberRemove") => {
            unary!(
                ClusterClient,
                member_remove,
                pb::MemberRemoveRequest::default()
            )
        }
        ("Cluster", "MemberUpdate") => {
            unary!(
                ClusterClient,
                member_update,
                pb::MemberUpdateRequest::default()
            )
        }
        ("Cluster", "MemberPromote") => {
            unary!(
                ClusterClient,
                member_promote,
                pb::MemberPromoteRequest::default()
            )
        }
        ("Maintenance", "Alarm") => unary!(MaintenanceClient, alarm, pb::AlarmRequest::default()),
        ("Maintenance", "Status") => unary!(MaintenanceClient, status, pb::StatusRequest {}),
        ("Maintenance", "Defragment") => {
            unary!(MaintenanceClient, defragment, pb::DefragmentRequest {})
        }
        ("Maintenance", "Hash") => unary!(MaintenanceClient, hash, pb::HashRequest {}),
        ("Maintenance", "HashKV") => {
            unary!(MaintenanceClient, hash_kv, pb::HashKvRequest::default())
        }
        ("Maintenance", "Snapshot") => stream!(MaintenanceClient, snapshot, pb::SnapshotRequest {}),
        ("Maintenance", "MoveLeader") => {
            unary!(
                MaintenanceClient,
                move_leader,
                pb::MoveLeaderRequest::default()
            )
        }
        ("Maintenance", "Downgrade") => {
            unary!(
                MaintenanceClient,
                downgrade,
                pb::DowngradeRequest::default()
            )
        }
        ("Auth", rpc) => call_auth(channel, rpc).await,
        (service, rpc) => panic!("the page names {service}/{rpc}, which no client knows"),
    }
}

async fn call_auth(channel: &Channel, rpc: &str) -> Result<(), Status> {
    let mut auth = AuthClient::new(channel.clone());
    macro_rules! unary {
        ($method:ident, $request:ident) => {
            auth.$method(pb::$request::default()).await.map(drop)
        };
    }
    match rpc {
        "AuthEnable" => unary!(auth_enable, AuthEnableRequest),
        "AuthDisable" => unary!(auth_disable, AuthDisableRequest),
        "AuthStatus" => unary!(auth_status, AuthStatusRequest),
        "Authenticate" => unary!(authenticate, AuthenticateRequest),
        "UserAdd" => unary!(user_add, AuthUserAddRequest),
        "UserGet" => unary!(user_get, AuthUserGetRequest),
        "UserList" => unary!(user_list, AuthUserListRequest),
        "UserDelete" => unary!(user_delete, AuthUserDeleteRequest),
        "UserChangePassword" => unary!(user_change_password, AuthUserChangePasswordRequest),
        "UserGrantRole" => unary!(user_grant_role, AuthUserGrantRoleRequest),
        "UserRevokeRole" => unary!(user_revoke_role, AuthUserRevokeRoleRequest),
        "RoleAdd" => unary!(role_add, AuthRoleAddRequest),
        "RoleGet" => unary!(role_get, AuthRoleGetRequest),
        "RoleList" => unary!(role_list, AuthRoleListRequest),
        "RoleDelete" => unary!(role_delete, AuthRoleDeleteRequest),
        "RoleGrantPermission" => unary!(role_grant_permission, AuthRoleGrantPermissionRequest),
        "RoleRevokePermission" => unary!(role_revoke_permission, AuthRoleRevokePermissionRequest),
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
