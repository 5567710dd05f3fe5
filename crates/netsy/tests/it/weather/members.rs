//! Who the members are: a Node that is gone for long loses its vote and its registration, and gets both back
//! when it returns, wherever it then is; a registration that goes by mistake is made again.

use std::time::Duration;

use netsy::api::proto::etcdserverpb::cluster_client::ClusterClient;
use netsy::api::proto::etcdserverpb::{Member, MemberListRequest};
use netsy::bucket::Document;
use netsy::driver::Members;

use super::cluster::{NAMES, register, stop, until_voters, voting};
use super::node::{Place, Running, Setup, channel, until};

/// A member that forgets others soon.
fn forgetful(place: &Place, name: &str) -> Setup {
    place.member(name).with(|config| {
        config.elector.forget_after = Some(Duration::from_secs(2));
    })
}

async fn cluster(place: &Place) -> Vec<Running> {
    voting(place, NAMES.map(|name| forgetful(place, name))).await
}

/// The members as `node` tells them; none while it knows no Elector.
async fn members(node: &Running) -> Vec<Member> {
    let mut door = ClusterClient::new(channel(node.clients));
    let answer = door.member_list(MemberListRequest::default()).await;
    answer.map_or_else(|_| Vec::new(), |answer| answer.into_inner().members)
}

async fn id_of(place: &Place, name: &str) -> u64 {
    let found = place.bucket().read_as::<Members>(&Document::Members).await;
    found.unwrap().unwrap().1.members[name]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_for_long_is_forgotten_and_may_come_back_elsewhere() {
    let place = Place::new();
    let mut nodes = cluster(&place).await;
    let primary = register(&place).await.primary.unwrap().node_id;
    let at = nodes.iter().position(|node| node.name != primary).unwrap();
    let gone = nodes.remove(at);
    let name = gone.name.clone();
    let id = id_of(&place, &name).await;
    gone.kill().await;
    let rest: Vec<&str> = NAMES.into_iter().filter(|other| *other != name).collect();
    until_voters(&place, rest).await;
    until("its registration is gone", || async {
        let listed = place.bucket().list_nodes().await.unwrap();
        listed.len() == 2 && !listed.contains(&name)
    })
    .await;
    for node in &nodes {
        until("the others are two", || async {
            members(node).await.len() == 2
        })
        .await;
        assert!(node.kv().put("k", &node.name).await > 0);
    }

    let back = forgetful(&place, &name).start().await;
    back.healthy().await;
    until_voters(&place, NAMES.to_vec()).await;
    assert_eq!(id_of(&place, &name).await, id);
    nodes.push(back);
    let url = format!("http://{}", nodes[2].clients);
    for node in &nodes {
        until("it is known where it is", || async {
            let members = members(node).await;
            let found = members.iter().find(|member| member.id == id);
            found.is_some_and(|member| member.client_ur_ls == [url.clone()])
        })
        .await;
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_goes_by_mistake_is_made_again() {
    let place = Place::new();
    let nodes = cluster(&place).await;
    for node in &nodes {
        let id = id_of(&place, &node.name).await;
        let registration = Document::Node(node.name.clone());
        place.bucket().remove(&registration).await.unwrap();
        until("it is there again", || async {
            let found = place.bucket().read(&registration).await.unwrap();
            found.is_some()
        })
        .await;
        assert_eq!(id_of(&place, &node.name).await, id);
    }
    for node in &nodes {
        until("everybody is a member", || async {
            members(node).await.len() == 3
        })
        .await;
    }
    stop(nodes).await;
}
