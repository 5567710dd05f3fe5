//! Voters that wait: a Node that starts again with its disk promises before it has its log, or the bucket; so
//! that an election which needs it is won without it being ready.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netsy::bucket::Document;
use netsy::bucket::faults::{Fault, Operation, Verb};
use netsy::bucket::names;
use rules::register::Phase;

use super::cluster::{NAMES, register, stop, take, until_voters, voting};
use super::load::{Ledger, judge, some_load};
use super::node::{Place, Running, Setup, new_chunks, until};

/// Three Nodes whose peer ports outlive them: the Primary and two Replicas.
struct Trio {
    place: Place,
    ports: Vec<TcpListener>,
    primary: Running,
    replicas: [Running; 2],
}

impl Trio {
    async fn start() -> Trio {
        let place = Place::new();
        let ports: Vec<TcpListener> = NAMES
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let mut nodes = voting(&place, NAMES.map(|name| again(&place, &ports, name))).await;
        let primary = take(&place, &mut nodes, true).await;
        let replicas = nodes.try_into().ok().unwrap();
        Trio {
            place,
            ports,
            primary,
            replicas,
        }
    }
}

/// The Node of this name once more, at its address.
fn again(place: &Place, ports: &[TcpListener], name: &str) -> Setup {
    let at = NAMES.iter().position(|known| *known == name).unwrap();
    place.calm_member(name).at(&ports[at])
}

async fn until_active(place: &Place, name: &str) {
    until(&format!("`{name}` is the Primary"), || async {
        let register = register(place).await;
        let named = register.primary.is_some_and(|named| named.node_id == name);
        named && register.phase == Phase::Active
    })
    .await;
}

/// One Replica dies, then the Primary; the first comes back and meets `weather` at the bucket.
async fn elects_while_it_waits(weather: fn(&Operation) -> Fault) {
    let Trio {
        place,
        ports,
        primary,
        replicas: [survivor, other],
    } = Trio::start().await;
    let ledger = Arc::new(Ledger::default());
    some_load(&ledger, &primary).await;
    let names = [primary.name.clone(), other.name.clone()];
    other.kill().await;
    some_load(&ledger, &primary).await;
    primary.kill().await;
    let back = again(&place, &ports, &names[1]);
    back.sky.set(weather);
    let back = back.start().await;
    until_active(&place, &survivor.name).await;
    some_load(&ledger, &survivor).await;
    let said = back.ready().await.unwrap_err();
    assert!(said.contains("restoring the log"), "{said}");
    back.sky.calm();
    back.healthy().await;
    let first = again(&place, &ports, &names[0]).start().await;
    first.healthy().await;
    until_voters(&place, NAMES.to_vec()).await;
    stop(vec![survivor, back, first]).await;
    judge(&place, &ledger, "judge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_does_not_reach_the_bucket_promises() {
    elects_while_it_waits(|_| Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_takes_long_to_restore_promises() {
    elects_while_it_waits(|operation| {
        let is_log = [names::chunks(), names::snapshots()]
            .iter()
            .any(|folder| operation.object.starts_with(folder.as_ref()));
        if is_log { Fault::Hang } else { Fault::None }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_waits_with_the_best_log_is_named_and_takes_over_when_it_can() {
    let Trio {
        place,
        ports,
        primary,
        replicas: [other, best],
    } = Trio::start().await;
    let ledger = Arc::new(Ledger::default());
    let names = [primary.name.clone(), other.name.clone(), best.name.clone()];
    other.kill().await;
    // Two disks acknowledge what the bucket does not get any more.
    primary.sky.set(new_chunks(Fault::Hang));
    some_load(&ledger, &primary).await;
    primary.kill().await;
    best.kill().await;
    let other = again(&place, &ports, &names[1]).start().await;
    let best = again(&place, &ports, &names[2]);
    best.sky.set(|_| Fault::Hang);
    let best = best.start().await;
    until("the best log is named", || async {
        let named = register(&place).await;
        let is_best = named.primary.is_some_and(|node| node.node_id == names[2]);
        is_best && named.phase == Phase::Starting
    })
    .await;
    best.sky.calm();
    until_active(&place, &names[2]).await;
    some_load(&ledger, &best).await;
    other.healthy().await;
    stop(vec![other, best]).await;
    judge(&place, &ledger, "judge").await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_disk_has_no_vote() {
    let Trio {
        place,
        ports,
        primary,
        replicas: [survivor, other],
    } = Trio::start().await;
    let ledger = Arc::new(Ledger::default());
    let (first, name) = (primary.name.clone(), other.name.clone());
    other.stop().await.unwrap();
    let image = place.disk("image");
    copy(&place.disk(&name), &image);
    let other = again(&place, &ports, &name).start().await;
    other.healthy().await;
    until_voters(&place, NAMES.to_vec()).await;
    some_load(&ledger, &primary).await;
    other.kill().await;
    primary.kill().await;
    std::fs::remove_dir_all(place.disk(&name)).unwrap();
    copy(&image, &place.disk(&name));

    let registration = Document::Node(name.clone()).location();
    let looks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&looks);
    survivor.sky.set(move |operation| {
        if operation.verb == Verb::Get && operation.object == registration.as_ref() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Fault::None
    });
    let back = again(&place, &ports, &name);
    back.sky.set(|_| Fault::Hang);
    let back = back.start().await;
    until("its vote was weighed some times", || async {
        looks.load(Ordering::SeqCst) >= 5 && register(&place).await.phase == Phase::Claimed
    })
    .await;
    back.sky.calm();
    // It has set the old disk aside, and is nobody's voter: the first Primary has to come back.
    let first = again(&place, &ports, &first).start().await;
    for node in [&first, &survivor, &back] {
        node.healthy().await;
    }
    until_voters(&place, NAMES.to_vec()).await;
    stop(vec![survivor, back, first]).await;
    judge(&place, &ledger, "judge").await;
}
