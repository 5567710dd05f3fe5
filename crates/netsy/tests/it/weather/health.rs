//! What a Node says of itself while the bucket is away, what it still answers, and that it recovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use netsy::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use netsy::api::proto::etcdserverpb::{AlarmRequest, AlarmType, RangeRequest, alarm_request};
use netsy::bucket::Document;
use netsy::bucket::faults::{Fault, Verb};
use tonic::Code;

use super::load::{Ledger, Load, judge};
use super::node::{Place, Running, channel, new_chunks, until};
use crate::etcd::get;

/// The alarms it raises.
async fn alarms(node: &Running) -> Vec<i32> {
    let request = AlarmRequest {
        action: alarm_request::AlarmAction::Get as i32,
        ..AlarmRequest::default()
    };
    let mut maintenance = MaintenanceClient::new(channel(node.clients));
    let alarms = maintenance
        .alarm(request)
        .await
        .unwrap()
        .into_inner()
        .alarms;
    alarms.iter().map(|alarm| alarm.alarm).collect()
}

fn serializable(key: &str) -> RangeRequest {
    RangeRequest {
        serializable: true,
        ..get(key)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_shown_and_passes() {
    let place = Place::new();
    let node = place.node("one").start().await;
    node.healthy().await;
    assert!(node.status().await.errors.is_empty());
    assert!(alarms(&node).await.is_empty());
    let written = node.kv().put("k", "v").await;

    node.sky.set(|_| Fault::Denied);
    until("it is not ready", || async { node.ready().await.is_err() }).await;
    let said = node.ready().await.unwrap_err();
    assert!(
        said.contains("degraded") && said.contains("bucket"),
        "{said}"
    );
    let errors = node.status().await.errors;
    assert!(
        errors
            .iter()
            .any(|error| error.contains("`one` is degraded")),
        "{errors:?}"
    );
    assert_eq!(alarms(&node).await, [AlarmType::Corrupt as i32]);
    let refused = node.kv().range(get("k")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let stale = node.kv().range(serializable("k")).await.unwrap();
    assert_eq!(stale.kvs[0].mod_revision(), written);

    node.sky.calm();
    node.healthy().await;
    assert!(node.status().await.errors.is_empty());
    assert!(alarms(&node).await.is_empty());
    assert_eq!(
        node.kv().range(get("k")).await.unwrap().kvs[0].mod_revision(),
        written
    );
    assert!(node.kv().put("k", "w").await > written);
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_does_not_land_is_shown_and_lands() {
    let place = Place::new();
    let node = place.node("one").start().await;
    node.healthy().await;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&ledger, &[node.clients], 2);
    until("there is some load", || async { ledger.done() >= 10 }).await;
    node.sky.set(new_chunks(Fault::Before));
    // A linearizable read waits for an upload that takes long; one that asks for less is answered at once.
    let reads = node.kv().range(serializable("k")).await;
    assert!(reads.is_ok(), "{reads:?}");
    until("it is not ready", || async {
        node.ready()
            .await
            .is_err_and(|said| said.contains("writes wait"))
    })
    .await;
    let before = ledger.done();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ledger.done(), before, "nothing is acknowledged meanwhile");
    node.sky.calm();
    node.healthy().await;
    until("writes go on", || async { ledger.done() > before + 10 }).await;
    load.finish().await;
    node.kill().await;
    judge(&place, &ledger, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_loses_the_elector_lock_goes_on_as_it_was() {
    let place = Place::new();
    let without_lease = |config: &mut netsy::config::Config| config.reads.lease = None;
    let node = place.member("one").with(without_lease).start().await;
    node.healthy().await;
    let written = node.kv().put("k", "v").await;
    let looks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&looks);
    node.sky.set(move |operation| {
        let on = |document: Document| operation.object == document.location().as_ref();
        if on(Document::Members) && operation.verb == Verb::Get {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        if on(Document::Elector) && operation.verb == Verb::Replace {
            return Fault::Before;
        }
        Fault::None
    });
    // Whoever is not the Elector looks up the member ids, which come without addresses.
    until("it has looked twice who the members are", || async {
        assert_eq!(node.ready().await, Ok(()));
        let read = node.kv().range(get("k")).await.unwrap();
        assert_eq!(read.kvs[0].mod_revision(), written);
        looks.load(Ordering::SeqCst) >= 2
    })
    .await;
    node.kill().await;
}
