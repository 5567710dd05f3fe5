//! Two Nodes on one bucket: one serves, the other says why it does not, and takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netsy::api::proto::etcdserverpb::RangeRequest;
use netsy::bucket::faults::{Fault, Verb};
use netsy::bucket::names;
use netsy::config::WhenDegraded;
use rustix::process::Signal;
use tonic::Code;

use super::load::{Ledger, Load, judge};
use super::node::{Place, Running, kv, until};
use super::process::Process;
use crate::etcd::{get, put};
use netsy::api::proto::etcdserverpb::TxnRequest;

/// `elector.timeout` and `reads.lease` of these Nodes, and a second.
const TAKEN_OVER_WITHIN: Duration = Duration::from_millis(900 + 300 + 1_000);

fn write(key: &str) -> TxnRequest {
    TxnRequest {
        success: vec![put(key, "v")],
        ..TxnRequest::default()
    }
}

/// The standby refuses everything that needs a Primary, and names it.
async fn is_standby(node: &Running, primary: &str) {
    let refused = node.kv().txn(write("standby")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let why = refused.message();
    assert!(
        why.contains(&format!("`{}` does not accept writes", node.name)),
        "{why}"
    );
    assert!(
        why.contains(&format!("the primary on this bucket is node `{primary}`")),
        "{why}"
    );
    let refused = node.kv().range(get("k")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(node.ready().await.is_err());
    let errors = node.status().await.errors;
    assert!(
        errors.iter().any(|error| error.contains(primary)),
        "{errors:?}"
    );
}

/// Waits until `node` knows that it is the standby of `primary`.
async fn settles_as_standby(node: &Running, primary: &str) {
    until("the standby knows its place", || async {
        node.ready()
            .await
            .is_err_and(|said| said.contains(&format!("is node `{primary}`")))
    })
    .await;
    is_standby(node, primary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_takes_over_and_the_first_comes_back_as_standby() {
    let place = Place::new();
    let one = place.node("one").start().await;
    one.healthy().await;
    let two = place.node("two").start().await;
    settles_as_standby(&two, "one").await;

    let written = one.kv().put("k", "v").await;
    let request = RangeRequest {
        serializable: true,
        ..get("k")
    };
    until("the standby follows", || async {
        let seen = two.kv().range(request.clone()).await.unwrap();
        seen.kvs
            .first()
            .is_some_and(|kv| kv.mod_revision() == written)
    })
    .await;

    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[one.clients, two.clients], 6);
    until("there is some load", || async { ledger.done() >= 20 }).await;
    let began = Instant::now();
    one.sky.set(|_| Fault::Hang);
    until("the second accepts writes", || async {
        two.kv().txn(write("taken-over")).await.is_ok()
    })
    .await;
    let took = began.elapsed();
    assert!(took < TAKEN_OVER_WITHIN, "taken over in {took:?}");
    // The first is still there, cut off from the bucket, and clients still reach it.
    let before = ledger.done();
    until("writes go on", || async { ledger.done() > before + 20 }).await;
    one.kill().await;

    let one = place.node("one").start().await;
    settles_as_standby(&one, "two").await;
    load.finish().await;
    one.kill().await;
    two.kill().await;
    judge(&place, &ledger, "two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_may_be_stale_answers_and_a_primary_that_is_cut_off_does_not() {
    let place = Place::new();
    let stale = |name| {
        place
            .node(name)
            .with(|config| config.reads.when_degraded = WhenDegraded::Stale)
    };
    let one = stale("one").start().await;
    one.healthy().await;
    let written = one.kv().put("k", "v").await;
    let two = stale("two").start().await;
    until("the standby answers", || async {
        let seen = two.kv().range(get("k")).await;
        seen.is_ok_and(|seen| seen.kvs[0].mod_revision() == written)
    })
    .await;
    let refused = two.kv().txn(write("standby")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    one.sky.set(|_| Fault::Hang);
    two.healthy().await;
    let refused = one.kv().range(get("k")).await;
    assert!(refused.is_err(), "{refused:?}");
    one.kill().await;
    two.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_that_is_cut_off_for_a_while_gives_way() {
    let place = Place::new();
    let one = place.node("one").start().await;
    one.healthy().await;
    let two = place.node("two").start().await;
    settles_as_standby(&two, "one").await;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[one.clients, two.clients], 6);
    for round in 0..4 {
        let (away, other) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let before = ledger.done();
        until("writes go on", || async { ledger.done() > before + 10 }).await;
        away.sky.set(move |operation| {
            let chunk = operation.object.starts_with(names::chunks().as_ref());
            match operation.verb {
                // The last Chunk lands and nobody tells: what waited for it is in the log.
                Verb::Create if chunk && round < 2 => Fault::HangAfter,
                _ if round < 2 => Fault::Hang,
                // What it has sent may land long after somebody else is Primary.
                _ => Fault::Late(Duration::from_millis(1_500)),
            }
        });
        other.healthy().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        away.sky.calm();
        settles_as_standby(away, &other.name).await;
    }
    load.finish().await;
    one.kill().await;
    two.kill().await;
    judge(&place, &ledger, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_that_nobody_writes_to_learns_that_it_is_second() {
    let place = Place::new();
    let one = place.node("one").start().await;
    one.healthy().await;
    let two = place.node("two").start().await;
    settles_as_standby(&two, "one").await;
    one.sky.set(|_| Fault::Before);
    two.healthy().await;
    one.sky.calm();
    settles_as_standby(&one, "two").await;
    one.kill().await;
    two.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_that_slept_acknowledges_nothing_when_it_wakes() {
    let place = Place::on_files();
    let one = Process::start(&place, "one");
    one.ready().await;
    let two = Process::start(&place, "two");
    let first = kv(one.clients).put("k", "before").await;
    one.put_to_sleep().await;
    // These wait in the sleeper's socket, and are the first thing it sees when it wakes.
    let client = kv(one.clients);
    let asleep = tokio::spawn({
        let client = client.clone();
        async move { client.txn(write("asleep")).await }
    });
    let read = tokio::spawn({
        let client = client.clone();
        async move { client.range(get("k")).await }
    });
    two.ready().await;
    let second = kv(two.clients).put("k", "after").await;
    assert!(second > first);
    one.signal(Signal::CONT);
    let (asleep, read) = (asleep.await.unwrap(), read.await.unwrap());
    assert!(
        asleep.is_err(),
        "a write was acknowledged by a Primary of the past: {asleep:?}"
    );
    assert!(
        read.is_err(),
        "a linearizable read was answered by a Primary of the past: {read:?}"
    );
    for round in 0..20 {
        let written = client.txn(write(&format!("awake-{round}"))).await;
        assert!(written.is_err(), "{written:?}");
        let read = client.range(get("k")).await;
        assert!(read.is_err(), "{read:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let now = kv(two.clients).range(get("k")).await.unwrap();
    assert_eq!(now.kvs[0].mod_revision(), second);
    let there = kv(two.clients).range(get("asleep")).await.unwrap();
    assert_eq!(
        there.kvs,
        [],
        "what the sleeper was asked for is not in the log"
    );
}
