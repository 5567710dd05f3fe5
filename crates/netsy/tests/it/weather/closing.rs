//! Being told to stop: everything acknowledged is in the bucket, the documents are closed, and the next
//! start need not wait for anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netsy::api::proto::etcdserverpb::watch_client::WatchClient;
use netsy::api::proto::etcdserverpb::watch_request::RequestUnion;
use netsy::api::proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use netsy::bucket::Document;
use netsy::bucket::faults::Fault;
use rules::register::{Lock, Register};
use rustix::process::Signal;
use tokio::time::timeout;

use super::cluster::{NAMES, cluster, stop, take, voting};
use super::load::{Ledger, Load, judge, some_load};
use super::node::{PATIENCE, Place, channel, new_chunks, until};
use super::process::Process;
use crate::etcd::bytes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_leaves_nothing_open() {
    let place = Place::on_files();
    let process = Process::start(&place, "one");
    process.ready().await;
    let requests = tokio_stream::StreamExt::chain(
        tokio_stream::once(WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: bytes("x"),
                ..WatchCreateRequest::default()
            })),
        }),
        tokio_stream::pending(),
    );
    let mut watch = WatchClient::new(channel(process.clients));
    let mut answers = watch.watch(requests).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().created);
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[process.clients], 6);
    until("there is some load", || async { ledger.done() >= 30 }).await;

    let began = Instant::now();
    process.signal(Signal::TERM);
    let end = timeout(PATIENCE, answers.message())
        .await
        .expect("the watch ends");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    assert_eq!(process.ended().await, 0);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    load.finish().await;

    let bucket = place.bucket();
    let (_, register) = bucket
        .read_as::<Register>(&Document::Primary)
        .await
        .unwrap()
        .unwrap();
    assert!(register.is_closed(), "{register:?}");
    let (_, lock) = bucket
        .read_as::<Lock>(&Document::Elector)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(lock.elector, None);

    // Another disk and another name: nothing is waited for.
    let next = place.node("two").with(|config| {
        config.elector.timeout = Duration::from_secs(60);
        config.reads.lease = Some(Duration::from_millis(300));
    });
    let next = next.start().await;
    let took = next.healthy().await;
    assert!(took < Duration::from_secs(5), "ready in {took:?}");
    next.kill().await;
    judge(&place, &ledger, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_bucket_it_gives_up_in_time_and_says_so() {
    let place = Place::new();
    let node = place.node("one").start().await;
    node.healthy().await;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[node.clients], 4);
    until("there is some load", || async { ledger.done() >= 20 }).await;
    node.sky.set(|_| Fault::Before);
    let began = Instant::now();
    let said = node
        .stop()
        .await
        .expect_err("it could not close")
        .to_string();
    assert!(
        said.contains("make every write durable before the end"),
        "{said}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    load.finish().await;
    judge(&place, &ledger, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_closes_does_not_wait_for_what_it_will_not_see() {
    let place = Place::new();
    let mut nodes = cluster(&place).await;
    let ledger = Arc::new(Ledger::default());
    for _ in 0..2 {
        let replica = take(&place, &mut nodes, false).await;
        let load = Load::start(&ledger, &[replica.clients], 16);
        let before = ledger.done();
        until("there is some load", || async {
            ledger.done() >= before + 50
        })
        .await;
        let began = Instant::now();
        replica.stop().await.unwrap();
        // Txns and reads under way wait for the view, which moves no more.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "it took {took:?} to close");
        load.finish().await;
    }
    stop(nodes).await;
    judge(&place, &ledger, "four").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_closes_brings_to_the_bucket_what_only_voters_held() {
    let place = Place::new();
    let patient = |name| {
        place.member(name).with(|config| {
            config.replication.upload_age = Duration::from_secs(60);
            config.limits.drain_timeout = Duration::from_secs(10);
        })
    };
    let mut nodes = voting(&place, NAMES.map(patient)).await;
    let ledger = Arc::new(Ledger::default());
    some_load(&ledger, &nodes[0]).await;
    let primary = take(&place, &mut nodes, true).await;
    // The documents are written faster than the Chunk.
    primary
        .sky
        .set(new_chunks(Fault::Delay(Duration::from_millis(300))));
    // All of them at once: no Replica is left to bring what it holds to the bucket.
    nodes.push(primary);
    for node in &nodes {
        node.shutdown.cancel();
    }
    for node in nodes {
        node.stop().await.unwrap();
    }
    judge(&place, &ledger, "judge").await;
}
