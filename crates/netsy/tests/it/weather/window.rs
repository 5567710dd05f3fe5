//! A bucket that stays away: what waits for it has a limit, and what goes wrong on the way there is not hidden.

use std::process::Command;
use std::time::Duration;

use netsy::api::proto::etcdserverpb::{RequestOp, TxnRequest, TxnResponse};
use netsy::bucket::faults::{Fault, Verb};
use netsy::bucket::names;
use rules::revision::Revision;
use tonic::{Code, Status};

use super::cluster::{NAMES, calm_cluster, stop, take, voting};
use super::load::is_one_chain;
use super::node::{PATIENCE, Place, Running, new_chunks, until};
use crate::etcd::{delete, get, put};

const LIMIT: u64 = 1 << 20;
const VALUE: usize = 64 << 10;

async fn write(node: &Running, operation: RequestOp) -> Result<TxnResponse, Status> {
    let request = TxnRequest {
        compare: vec![],
        success: vec![operation],
        failure: vec![],
    };
    node.kv().txn(request).await
}

fn is_full(refused: &Status) -> bool {
    refused.code() == Code::ResourceExhausted
        && refused.message() == "etcdserver: too many requests"
}

async fn there(node: &Running, key: &str) -> Option<Vec<u8>> {
    let found = node.kv().range(get(key)).await.unwrap();
    found.kvs.first().map(|kv| kv.value().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_the_bucket_has_a_limit_and_outlives_the_primary() {
    let place = Place::new();
    let limited = |name| {
        place.calm_member(name).with(|config| {
            config.replication.unflushed_bytes = LIMIT;
            config.replication.receipt_timeout = Duration::from_secs(10);
            config.limits.drain_timeout = Duration::from_millis(500);
        })
    };
    let mut nodes = voting(&place, NAMES.map(limited)).await;
    let primary = take(&place, &mut nodes, true).await;
    write(&primary, put("early", "v")).await.unwrap();
    for node in nodes.iter().chain([&primary]) {
        node.sky.set(|_| Fault::Hang);
    }
    let value = "v".repeat(VALUE);
    let mut acknowledged = 0;
    let refused = loop {
        match write(&primary, put(&format!("k{acknowledged}"), &value)).await {
            Ok(_) => acknowledged += 1,
            Err(refused) => break refused,
        }
        assert!(acknowledged * VALUE < 2 * LIMIT as usize, "there is no end");
    };
    assert!(is_full(&refused), "{refused:?}");
    assert!(acknowledged * VALUE >= LIMIT as usize / 2, "{acknowledged}");
    let refused = write(&nodes[0], delete("early")).await.unwrap_err();
    assert!(is_full(&refused), "a delete, passed on: {refused:?}");

    primary.kill().await;
    for node in &nodes {
        node.sky.calm();
    }
    until("another is primary", || async {
        write(&nodes[0], put("again", "v")).await.is_ok()
    })
    .await;
    for number in 0..acknowledged {
        let found = there(&nodes[0], &format!("k{number}")).await;
        assert!(found.as_deref() == Some(value.as_bytes()), "k{number}");
    }
    let found = there(&nodes[0], &format!("k{acknowledged}")).await;
    assert!(found.is_none(), "it was refused");
    let found = there(&nodes[0], "early").await;
    assert!(found.is_some(), "its delete was refused");
    // More than the limit in all: the bucket takes it on the way.
    for number in 0..2 * LIMIT as usize / VALUE {
        until("there is room", || async {
            let written = write(&nodes[1], put(&format!("more{number}"), &value)).await;
            written.is_ok()
        })
        .await;
    }
    stop(nodes).await;
    is_one_chain(&place, Revision(1)).await;
}

/// What the bucket lacks a Replica gets from its Primary, whose memory has the newest 16 MiB of it: the rest is read from
/// the disk, and not all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lacks_tens_of_megabytes_catches_up_with_its_primary() {
    const COUNT: usize = 48;
    let place = Place::new();
    let mut nodes = calm_cluster(&place).await;
    let replica = take(&place, &mut nodes, false).await;
    let name = replica.name.clone();
    replica.kill().await;
    for node in &nodes {
        node.sky.set(new_chunks(Fault::Hang));
    }
    let value = "v".repeat(1 << 20);
    for number in 0..COUNT {
        until("it is written", || async {
            let written = write(&nodes[0], put(&format!("k{number}"), &value)).await;
            written.is_ok()
        })
        .await;
    }
    let back = place.calm_member(&name).start().await;
    let last = format!("k{}", COUNT - 1);
    until("the replica has the last one", || async {
        let mut question = get(&last);
        question.serializable = true;
        let answer = back.kv().range(question).await;
        answer.is_ok_and(|answer| !answer.kvs.is_empty())
    })
    .await;
    for number in 0..COUNT {
        let found = there(&back, &format!("k{number}")).await;
        assert!(found.as_deref() == Some(value.as_bytes()), "k{number}");
    }
    for node in &nodes {
        node.sky.calm();
    }
    nodes.push(back);
    stop(nodes).await;
    is_one_chain(&place, Revision(1)).await;
}

#[test]
fn a_panic_in_an_upload_ends_the_process() {
    const CHILD: &str = "NETSY_TEST_PANICS";
    const NAME: &str = "weather::window::a_panic_in_an_upload_ends_the_process";
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(panics_in_an_upload());
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.code(), Some(netsy::exit::FAULT), "{said}");
    // The harness itself ends with the same code when a test fails, but not without a word.
    assert!(said.contains("running 1 test"), "{said}");
    assert!(!said.contains("test result"), "{said}");
}

/// A Node whose first Chunk is its last.
async fn panics_in_an_upload() {
    let place = Place::new();
    let setup = place.node("one");
    setup.sky.set(|operation| {
        let chunk = operation.object.starts_with(names::chunks().as_ref());
        assert!(!(chunk && operation.verb == Verb::Create), "on purpose");
        Fault::None
    });
    let _node = setup.start().await;
    tokio::time::sleep(PATIENCE).await;
}
