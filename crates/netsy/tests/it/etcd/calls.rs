//! Lease, Cluster and Maintenance: what operators' tools read.

use netsy::api::proto::etcdserverpb::cluster_client::ClusterClient;
use netsy::api::proto::etcdserverpb::lease_client::LeaseClient;
use netsy::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use netsy::api::proto::etcdserverpb::{
    AlarmRequest, AlarmType, LeaseGrantRequest, LeaseGrantResponse, MemberListRequest,
    StatusRequest, alarm_request::AlarmAction,
};
use netsy::api::{Limits, lease};
use netsy::standing::HealthState;
use rules::expiry;
use rules::refusal::Refusal;
use tonic::{Code, Status};

use crate::fake::{EPOCH, MEMBER, Mood, Node};

async fn grant(node: &Node, ttl: i64, id: i64) -> Result<LeaseGrantResponse, Status> {
    let mut leases = LeaseClient::new(node.channel().await);
    Ok(leases
        .lease_grant(LeaseGrantRequest { ttl, id })
        .await?
        .into_inner())
}

#[tokio::test]
async fn a_lease_is_granted_and_its_id_tells_the_ttl() {
    let node = Node::start().await;
    let granted = grant(&node, 3660, 0).await.unwrap();
    assert_eq!(granted.ttl, 3660);
    assert!(granted.id > 0);
    assert_eq!(lease::ttl(granted.id), Some(3660));
    assert_eq!(
        granted.header.unwrap().revision,
        1,
        "no revision is used up"
    );
    assert!(granted.error.is_empty());
    assert_ne!(grant(&node, 3660, 0).await.unwrap().id, granted.id);

    assert_eq!(grant(&node, 10, 1234).await.unwrap().id, 1234);
    for ttl in [0, -3, 1] {
        assert_eq!(grant(&node, ttl, 0).await.unwrap().ttl, 2);
    }
    assert!(grant(&node, 9_000_000_000, 0).await.is_ok());
    let refused = grant(&node, 9_000_000_001, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(refused.message(), "etcdserver: too large lease TTL");
}

#[tokio::test]
async fn with_leases_that_expire_the_id_says_so_unless_the_client_chose_it() {
    let limits = |leases_expire| Limits {
        leases_expire,
        ..Limits::default()
    };
    let on = Node::start_with(limits(true), None).await;
    let granted = grant(&on, 3660, 0).await.unwrap();
    assert_eq!((granted.ttl, lease::ttl(granted.id)), (3660, Some(3660)));
    assert_eq!(expiry::ttl(granted.id), Some(3660));
    assert_eq!(granted.header.unwrap().revision, 1);
    assert_eq!(grant(&on, 0, 0).await.unwrap().ttl, 2);
    assert_eq!(grant(&on, 10, 1234).await.unwrap().id, 1234);
    let refused = grant(&on, 9_000_000_001, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let off = Node::start_with(limits(false), None).await;
    let granted = grant(&off, 3660, 0).await.unwrap();
    assert_eq!(expiry::ttl(granted.id), None);
}

#[tokio::test]
async fn members_come_from_the_elector() {
    let node = Node::start().await;
    let mut cluster = ClusterClient::new(node.channel().await);
    let here = cluster
        .member_list(MemberListRequest { linearizable: true })
        .await
        .unwrap();
    let here = here.into_inner();
    let member = &here.members[0];
    assert_eq!(
        (member.id, member.name.as_str(), member.is_learner),
        (MEMBER, "fake", false)
    );
    assert_eq!(member.client_ur_ls, ["http://127.0.0.1:2379"]);
    assert_eq!(member.peer_ur_ls, ["https://127.0.0.1:2380"]);
    assert_eq!(here.header.unwrap().member_id, MEMBER);

    node.change(|standing| {
        standing.elector = false;
        standing.members.clear();
    });
    let asked = cluster
        .member_list(MemberListRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(asked.members.len(), 1);
    node.set_mood(Mood::Refusing(Refusal::Unavailable(
        "the elector is not reachable".into(),
    )));
    let refused = cluster
        .member_list(MemberListRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn status_is_local_and_its_raft_fields_stand_still() {
    let node = Node::start().await;
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    let status = maintenance
        .status(StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.version.as_str(), status.storage_version.as_str()),
        ("3.6.11", "3.6.0")
    );
    assert_eq!((status.db_size, status.db_size_in_use), (40_960, 20_480));
    assert_eq!(
        (status.leader, status.errors.len(), status.is_learner),
        (MEMBER, 0, false)
    );
    assert_eq!(
        (
            status.raft_index,
            status.raft_term,
            status.raft_applied_index
        ),
        (0, 0, 0)
    );
    assert!(!status.downgrade_info.unwrap().enabled);
    let header = status.header.unwrap();
    assert_eq!((header.revision, header.raft_term), (1, EPOCH.0));

    node.handle
        .board
        .set_sizes(netsy::standing::Sizes::default());
    node.change(|standing| {
        standing.leader = 0;
        standing.health = HealthState::Degraded;
        standing.reason = Some("the bucket is unreachable".into());
    });
    let status = maintenance
        .status(StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(status.db_size > 0, "etcdctl divides by it");
    assert_eq!(status.errors[0], "etcdserver: no leader");
    assert!(
        status.errors[1].contains("the bucket is unreachable"),
        "{:?}",
        status.errors
    );
}

#[tokio::test]
async fn the_alarm_follows_the_health_state() {
    let node = Node::start().await;
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    let mut alarms = async |action: AlarmAction, alarm: AlarmType| {
        let request = AlarmRequest {
            action: action as i32,
            member_id: 0,
            alarm: alarm as i32,
        };
        let answer = maintenance.alarm(request).await.unwrap().into_inner();
        assert!(answer.header.is_some());
        answer.alarms
    };
    assert!(alarms(AlarmAction::Get, AlarmType::None).await.is_empty());
    for health in [HealthState::Loading, HealthState::Degraded] {
        node.change(|standing| standing.health = health);
        for action in [
            AlarmAction::Get,
            AlarmAction::Activate,
            AlarmAction::Deactivate,
        ] {
            let raised = alarms(action, AlarmType::None).await;
            assert_eq!(raised.len(), 1);
            assert_eq!(raised[0].member_id, MEMBER);
            assert_eq!(raised[0].alarm, AlarmType::Corrupt as i32);
        }
        assert!(
            alarms(AlarmAction::Get, AlarmType::Nospace)
                .await
                .is_empty()
        );
    }
}
