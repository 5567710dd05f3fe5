//! Three Nodes on one bucket that speak with one another: every Node serves, any may die, and a majority of
//! disks commits while the bucket is away.

use std::sync::Arc;
use std::time::Duration;

use netsy::api::proto::etcdserverpb::MemberListRequest;
use netsy::api::proto::etcdserverpb::cluster_client::ClusterClient;
use netsy::bucket::Document;
use netsy::bucket::faults::Fault;
use rules::register::Register;

use super::load::{Ledger, Load, judge};
use super::node::{Place, Running, Setup, channel, until};
use crate::etcd::get;

pub(super) const NAMES: [&str; 3] = ["one", "two", "three"];

pub(super) async fn register(place: &Place) -> Register {
    let bucket = place.bucket();
    let found = bucket
        .read_as::<Register>(&Document::Primary)
        .await
        .unwrap();
    found.expect("there is a register").1
}

pub(super) async fn voters(place: &Place) -> Vec<String> {
    let voters = register(place).await.voters.into_iter();
    let mut names: Vec<String> = voters.map(|voter| voter.node_id).collect();
    names.sort();
    names
}

pub(super) async fn until_voters(place: &Place, mut names: Vec<&str>) {
    names.sort_unstable();
    until(&format!("the voters are {names:?}"), || async {
        voters(place).await == names
    })
    .await;
}

/// Three Nodes, all of them voters.
pub(super) async fn cluster(place: &Place) -> Vec<Running> {
    voting(place, NAMES.map(|name| place.member(name))).await
}

/// Three Nodes that take their time to give others up, all of them voters.
pub(super) async fn calm_cluster(place: &Place) -> Vec<Running> {
    voting(place, NAMES.map(|name| place.calm_member(name))).await
}

/// Three Nodes of the usual names as they were set up, all of them voters.
pub(super) async fn voting(place: &Place, setups: [Setup; 3]) -> Vec<Running> {
    let mut nodes = Vec::new();
    for setup in setups {
        nodes.push(setup.start().await);
    }
    for node in &nodes {
        node.healthy().await;
    }
    until_voters(place, NAMES.to_vec()).await;
    nodes
}

/// Takes the Primary, or another, out of `nodes`.
pub(super) async fn take(place: &Place, nodes: &mut Vec<Running>, primary: bool) -> Running {
    let named = register(place).await.primary.expect("there is a primary");
    let is = |node: &Running| (node.name == named.node_id) == primary;
    let at = nodes.iter().position(is).expect("it is among them");
    nodes.remove(at)
}

pub(super) async fn stop(nodes: Vec<Running>) {
    for node in nodes {
        node.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_what_any_of_them_was_told() {
    let place = Place::new();
    let nodes = cluster(&place).await;
    for writer in &nodes {
        let key = format!("by-{}", writer.name);
        let revision = writer.kv().put(&key, "v").await;
        for reader in &nodes {
            let found = reader.kv().range(get(&key)).await.unwrap();
            assert_eq!(found.kvs[0].mod_revision(), revision, "{}", reader.name);
            assert!(found.header.unwrap().revision >= revision);
        }
    }
    let mut leaders = Vec::new();
    let mut ids = Vec::new();
    for node in &nodes {
        let status = node.status().await;
        leaders.push(status.leader);
        ids.push(status.header.unwrap().member_id);
        let mut door = ClusterClient::new(channel(node.clients));
        let members = door
            .member_list(MemberListRequest::default())
            .await
            .unwrap();
        let members = members.into_inner().members;
        assert_eq!(members.len(), 3, "{}", node.name);
        let whole = |member: &netsy::api::proto::etcdserverpb::Member| {
            !member.name.is_empty() && !member.client_ur_ls.is_empty()
        };
        assert!(members.iter().all(whole));
    }
    assert!(ids.contains(&leaders[0]), "the leader is a member");
    assert!(leaders.iter().all(|leader| *leader == leaders[0]));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    stop(nodes).await;
    // The last may have been told to stop while it took over; nothing is asked of any disk all the same.
    let closed = register(&place).await;
    assert!(closed.voters.is_empty(), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn primaries_die_one_after_another_and_nothing_acknowledged_is_lost() {
    let place = Place::new();
    let mut nodes = cluster(&place).await;
    let ledger = Arc::new(Ledger::default());
    for round in 0..3 {
        let addresses: Vec<_> = nodes.iter().map(|node| node.clients).collect();
        let load = Load::start(&ledger, &addresses, 6);
        let before = ledger.done();
        until("there is some load", || async {
            ledger.done() >= before + 30
        })
        .await;
        let primary = take(&place, &mut nodes, true).await;
        let name = primary.name.clone();
        primary.kill().await;
        let before = ledger.done();
        until("writes go on", || async { ledger.done() >= before + 30 }).await;
        load.finish().await;
        if round == 1 {
            // Its disk is gone, too.
            std::fs::remove_dir_all(place.disk(&name)).unwrap();
        }
        let back = place.member(&name).start().await;
        back.healthy().await;
        nodes.push(back);
        until_voters(&place, NAMES.to_vec()).await;
    }
    stop(nodes).await;
    judge(&place, &ledger, "judge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_commits_while_the_bucket_is_away() {
    let place = Place::new();
    let nodes = cluster(&place).await;
    let ledger = Arc::new(Ledger::default());
    let addresses: Vec<_> = nodes.iter().map(|node| node.clients).collect();
    let load = Load::start(&ledger, &addresses, 4);
    until("there is some load", || async { ledger.done() >= 30 }).await;
    for node in &nodes {
        node.sky.set(|_| Fault::Hang);
    }
    let before = ledger.done();
    until("writes go on without it", || async {
        ledger.done() >= before + 60
    })
    .await;
    for node in &nodes {
        node.sky.calm();
    }
    until("the bucket is served again", || async {
        let chunks = place
            .bucket()
            .list_chunks(rules::revision::Revision(1))
            .await;
        let newest = chunks.ok().and_then(|chunks| chunks.last().copied());
        newest.is_some_and(|newest| newest.wire() >= ledger.acknowledged() - 60)
    })
    .await;
    for node in &nodes {
        node.healthy().await;
    }
    load.finish().await;
    stop(nodes).await;
    judge(&place, &ledger, "judge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_the_bucket_commits_and_the_voters_come_back() {
    let place = Place::new();
    let mut nodes = cluster(&place).await;
    let ledger = Arc::new(Ledger::default());
    let primary = take(&place, &mut nodes, true).await;
    let load = Load::start(&ledger, &[primary.clients], 4);
    until("there is some load", || async { ledger.done() >= 30 }).await;
    let mut names = Vec::new();
    for replica in nodes {
        names.push(replica.name.clone());
        replica.kill().await;
    }
    until_voters(&place, Vec::new()).await;
    let before = ledger.done();
    until("writes go on", || async { ledger.done() >= before + 30 }).await;
    let mut nodes = vec![primary];
    for name in names {
        let back = place.member(&name).start().await;
        back.healthy().await;
        nodes.push(back);
    }
    until_voters(&place, NAMES.to_vec()).await;
    assert_eq!(
        ledger.told(|told| matches!(told, super::load::Told::Refused(_))),
        0,
        "nobody was refused on the way"
    );
    load.finish().await;
    stop(nodes).await;
    judge(&place, &ledger, "judge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_leaves_hands_over_at_once() {
    let place = Place::new();
    let mut nodes = cluster(&place).await;
    let ledger = Arc::new(Ledger::default());
    let addresses: Vec<_> = nodes.iter().map(|node| node.clients).collect();
    let load = Load::start(&ledger, &addresses, 4);
    until("there is some load", || async { ledger.done() >= 30 }).await;
    let primary = take(&place, &mut nodes, true).await;
    let epoch = register(&place).await.epoch;
    primary.stop().await.unwrap();
    until("another is active", || async {
        let register = register(&place).await;
        register.epoch > epoch && register.primary.is_some()
    })
    .await;
    let before = ledger.done();
    until("writes go on", || async { ledger.done() >= before + 30 }).await;
    load.finish().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    stop(nodes).await;
    judge(&place, &ledger, "judge").await;
}
