//! Compaction: what is superseded goes from memory, disk and Snapshots, what is live or young stays, and
//! whoever asks for what is gone is told so as etcd would.

use std::time::{Duration, Instant};

use netsy::api::proto::etcdserverpb::watch_client::WatchClient;
use netsy::api::proto::etcdserverpb::watch_request::RequestUnion;
use netsy::api::proto::etcdserverpb::{
    RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use rules::record::Kind;
use rules::revision::Revision;
use tonic::Code;

use super::node::{PATIENCE, Place, Running, Setup, channel, until};
use crate::etcd::{Kv, bytes, delete, get, put, revision};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// Keeps 20 Revisions, and nothing for long.
fn compacting(setup: Setup) -> Setup {
    setup.with(|config| {
        config.compaction.retention = Some(Duration::from_millis(200));
        config.compaction.revisions = 20;
        config.compaction.interval = Duration::from_millis(50);
        config.snapshots.retention = Duration::ZERO;
    })
}

/// What `netsy_compaction_revision` says.
async fn floor(node: &Running) -> i64 {
    let url = format!("http://{}/metrics", node.health);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("netsy_compaction_revision "));
    line.and_then(|line| line.rsplit(' ').next())
        .and_then(|number| number.parse::<f64>().ok())
        .map_or(0, |number| number as i64)
}

/// Writes, again and again on a machine that is busy with other things. The Revision.
async fn write(kv: &Kv, operation: RequestOp) -> i64 {
    let request = TxnRequest {
        success: vec![operation],
        ..TxnRequest::default()
    };
    let give_up = Instant::now() + PATIENCE;
    loop {
        match kv.txn(request.clone()).await {
            Ok(answer) => return revision(&answer),
            Err(status) => assert!(Instant::now() < give_up, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Updates `keys` keys, `rounds` times each. The Revision of the last one.
async fn update(kv: &Kv, keys: usize, rounds: usize) -> i64 {
    let mut last = 0;
    for round in 0..rounds {
        let writes = (0..keys).map(|key| {
            let kv = kv.clone();
            let operation = put(&format!("key-{key:03}"), &format!("{round:0>400}"));
            async move { write(&kv, operation).await }
        });
        let written = futures::future::join_all(writes).await;
        last = last.max(written.into_iter().max().unwrap_or(0));
    }
    last
}

/// Writes a little until the floor is at least `wanted`.
async fn until_floor(node: &Running, wanted: i64) {
    until("the floor rises", || async {
        write(&node.kv(), put("heartbeat", "v")).await;
        floor(node).await >= wanted
    })
    .await;
}

fn all(revision: i64) -> RangeRequest {
    RangeRequest {
        range_end: bytes("\0"),
        revision,
        ..get("\0")
    }
}

/// What a watch from `start` on is told first, after it was created.
async fn watch_from(node: &Running, start: i64) -> WatchResponse {
    let create = WatchCreateRequest {
        key: bytes("key-"),
        range_end: bytes("key."),
        start_revision: start,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let requests =
        futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    let mut client = WatchClient::new(channel(node.clients));
    let mut answers = client.watch(requests).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().created);
    let told = tokio::time::timeout(PATIENCE, answers.message()).await;
    told.expect("the watch is told something").unwrap().unwrap()
}

/// Below the floor everything is refused; from there on everything is there.
async fn is_compacted(node: &Running, newest: &[(Vec<u8>, Vec<u8>)]) {
    let floor = floor(node).await;
    assert!(floor > 1);
    let kv = node.kv();
    for revision in [1, floor - 1] {
        let refused = kv.range(all(revision)).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::OutOfRange, COMPACTED)
        );
        let canceled = watch_from(node, revision).await;
        assert!(canceled.canceled);
        assert!(canceled.compact_revision >= floor, "{canceled:?}");
    }
    let answer = kv.range(all(0)).await.unwrap();
    let found = answer.kvs.iter().filter(|kv| kv.key().starts_with(b"key-"));
    let found: Vec<_> = found
        .map(|kv| (kv.key().to_vec(), kv.value().to_vec()))
        .collect();
    assert_eq!(found, newest);
}

async fn newest(node: &Running) -> Vec<(Vec<u8>, Vec<u8>)> {
    let answer = node.kv().range(all(0)).await.unwrap();
    let found = answer.kvs.iter().filter(|kv| kv.key().starts_with(b"key-"));
    found
        .map(|kv| (kv.key().to_vec(), kv.value().to_vec()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_goes_and_what_is_live_stays_over_restart_and_restore() {
    let place = Place::new();
    let node = compacting(place.node("one")).start().await;
    node.healthy().await;
    let last = update(&node.kv(), 50, 20).await;
    write(&node.kv(), delete("key-007")).await;
    let newest = newest(&node).await;
    assert_eq!(newest.len(), 49);
    until_floor(&node, last + 2).await;
    is_compacted(&node, &newest).await;
    let before = floor(&node).await;
    node.stop().await.unwrap();

    let node = compacting(place.node("one")).start().await;
    node.healthy().await;
    assert!(floor(&node).await >= before, "the floor is in the log");
    is_compacted(&node, &newest).await;
    node.stop().await.unwrap();

    // No Snapshot was made: every Chunk of the chain is there, and so is the floor.
    let judge = place.judge("one").await;
    is_compacted(&judge, &newest).await;
    judge.kill().await;
}

/// What the newest Snapshot holds.
#[derive(Default)]
struct Inside {
    at: Revision,
    records: usize,
    bytes: usize,
    /// What the floors in it rose to, in order.
    floors: Vec<Revision>,
    /// Where the Records with a key stand.
    visible: Vec<Revision>,
}

impl Inside {
    /// How many Records stand below `floor`, and how many may stand from there on.
    fn around(&self, floor: Revision) -> (usize, usize) {
        let old = self.visible.iter().filter(|revision| **revision < floor);
        (old.count(), self.at.since(floor) as usize + 1)
    }
}

async fn newest_snapshot(place: &Place) -> Inside {
    let bucket = place.bucket();
    let at = *bucket.list_snapshots().await.unwrap().last().unwrap();
    let source = netsy::bucket::snapshots::Source::At(at);
    let mut snapshot = bucket.restore(source).await.unwrap().unwrap();
    let mut inside = Inside {
        at,
        ..Inside::default()
    };
    while let Some(more) = snapshot.next().await.unwrap() {
        for encoded in more {
            inside.records += 1;
            inside.bytes += encoded.bytes.len();
            if encoded.record.kind == Kind::Compaction {
                inside.floors.push(encoded.record.prev_revision);
            }
            if encoded.record.is_visible() {
                inside.visible.push(encoded.record.revision);
            }
        }
    }
    inside.floors.sort_unstable();
    inside
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_holds_what_is_live_and_what_is_young_and_is_enough_to_start_from() {
    let place = Place::new();
    let setup = compacting(place.node("one"));
    let setup = setup.with(|config| config.snapshots.records = Some(500));
    let node = setup.start().await;
    node.healthy().await;
    let last = update(&node.kv(), 50, 30).await;
    let newest = newest(&node).await;
    until_floor(&node, last).await;
    let bucket = place.bucket();
    until("a snapshot is made of what is left", || async {
        update(&node.kv(), 50, 1).await;
        bucket.list_snapshots().await.unwrap().last() > Some(&Revision(last as u64))
    })
    .await;
    until("the chunks of what is gone are cleaned up", || async {
        update(&node.kv(), 50, 1).await;
        let (chunks, snapshots) = (
            bucket.list_chunks(Revision(1)).await.unwrap(),
            bucket.list_snapshots().await.unwrap(),
        );
        let older = snapshots.iter().rev().nth(1).copied().unwrap_or_default();
        // How many lie above it is a matter of how writes were grouped. The one that opens the epoch stays,
        // and so does the one that reaches beyond it.
        let covered = chunks.iter().filter(|first| **first <= older).count();
        older > Revision(last as u64) && covered <= 2
    })
    .await;
    node.kill().await;

    let inside = newest_snapshot(&place).await;
    // The newest may not have been in effect when the Snapshot was made; the oldest that is left was.
    let floor = inside.floors[0];
    assert!(floor >= Revision(last as u64 - 100), "{floor} of {last}");
    let (old, young) = inside.around(floor);
    assert!(old <= 51, "{old} records below the floor at {floor}");
    assert!(inside.records <= 51 + young + 1, "{}", inside.records);

    let judge = place.judge("one").await;
    is_compacted(&judge, &super::compaction::newest(&judge).await).await;
    assert_eq!(super::compaction::newest(&judge).await.len(), newest.len());
    judge.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_shrinks_to_what_is_kept() {
    let place = Place::new();
    let setup = compacting(place.node("one"));
    // First everything is kept, so that there is something to shrink from.
    let node = setup
        .with(|config| config.compaction.revisions = 3_000)
        .start()
        .await;
    node.healthy().await;
    update(&node.kv(), 100, 30).await;
    node.stop().await.unwrap();
    let file = place.disk("one").join("netsy.db");
    let before = std::fs::metadata(&file).unwrap().len();

    let node = compacting(place.node("one")).start().await;
    node.healthy().await;
    until_floor(&node, 2_900).await;
    until("the database shrinks", || async {
        write(&node.kv(), put("heartbeat", "v")).await;
        node.status().await.db_size < (before / 3) as i64
    })
    .await;
    node.stop().await.unwrap();
    let after = std::fs::metadata(&file).unwrap().len();
    assert!(after < before / 3, "{before} bytes shrank to {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_refuses_puts_and_lets_deletes_through() {
    let place = Place::new();
    let setup = compacting(place.node("one"));
    let node = setup
        .with(|config| config.storage.quota = Some(400_000))
        .start()
        .await;
    node.healthy().await;
    let large = "x".repeat(20_000);
    let fill = |number: usize| TxnRequest {
        success: vec![put(&format!("full-{number}"), &large)],
        ..TxnRequest::default()
    };
    let mut refused = None;
    for number in 0..2_000 {
        match node.kv().txn(fill(number)).await {
            Err(status) if status.code() != Code::Unavailable => {
                refused = Some((number, status));
                break;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (number, status) = refused.expect("the quota is used up some time");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(
        status.message(),
        "etcdserver: mvcc: database space exceeded"
    );
    for number in 0..number {
        write(&node.kv(), delete(&format!("full-{number}"))).await;
    }
    until("there is room again", || async {
        let written = node.kv().txn(fill(0)).await;
        let size = node.status().await.db_size_in_use;
        written
            .inspect_err(|status| println!("{size} bytes in use: {status}"))
            .is_ok()
    })
    .await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_has_the_same_floor_and_the_next_primary_raises_it() {
    let place = Place::new();
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(compacting(place.member(name)).start().await);
    }
    for node in &nodes {
        node.healthy().await;
    }
    let last = update(&nodes[2].kv(), 20, 10).await;
    until_floor(&nodes[0], last).await;
    for node in &nodes {
        until("the floor is everywhere", || async {
            floor(node).await >= last
        })
        .await;
    }
    let leader = nodes[0].status().await.leader;
    let mut primary = 0;
    for (index, node) in nodes.iter().enumerate() {
        let status = node.status().await;
        if status.header.unwrap().member_id == leader {
            primary = index;
        }
    }
    nodes.remove(primary).kill().await;
    let last = update(&nodes[0].kv(), 20, 10).await;
    until_floor(&nodes[0], last).await;
    let newest = newest(&nodes[0]).await;
    for node in &nodes {
        until("the floor is everywhere", || async {
            floor(node).await >= last
        })
        .await;
        is_compacted(node, &newest).await;
    }
    for node in nodes {
        node.kill().await;
    }
}

/// A number from the environment.
pub(crate) fn given(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Many updates of few keys end with a small file: within twice what is live and retained. As it stands, half an
/// hour and a few GiB of disk:
///
/// `cargo test --release -p netsy --test it -- --ignored --nocapture ten_million`
///
/// `UPDATES`, `KEYS` and `RETENTION` (seconds) scale it down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn ten_million_updates_of_ten_thousand_keys_end_with_a_small_file() {
    let (updates, keys) = (given("UPDATES", 10_000_000), given("KEYS", 10_000));
    let retention = given("RETENTION", 600);
    let place = Place::on_files();
    let setup = place.node("one").with(|config| {
        config.elector.timeout = Duration::from_secs(6);
        config.compaction.retention = Some(Duration::from_secs(retention));
        config.compaction.revisions = keys;
        config.compaction.interval = Duration::from_secs(retention.div_ceil(20));
        config.snapshots.records = Some(updates / 20);
        config.limits.drain_timeout = Duration::from_secs(20);
        config.snapshots.retention = Duration::ZERO;
    });
    let node = setup.start().await;
    node.healthy().await;
    let value = "v".repeat(512);
    let began = Instant::now();
    let next = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let writers = (0..64).map(|_| {
        let (kv, next, value) = (node.kv(), next.clone(), value.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= updates {
                    return;
                }
                write(&kv, put(&format!("key-{:08}", number % keys), &value)).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let file = place.disk("one").join("netsy.db");
    let mut looks = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) || looks < 3 {
        tokio::time::sleep(Duration::from_secs(retention.div_ceil(4))).await;
        let status = node.status().await;
        let last = status.header.unwrap().revision;
        let kept = last - floor(&node).await + keys as i64;
        let size = std::fs::metadata(&file).unwrap().len();
        println!(
            "{:>5} s: revision {last}, live and retained {kept} of about 640 bytes, file {} MiB, in use {} MiB",
            began.elapsed().as_secs(),
            size >> 20,
            status.db_size_in_use >> 20
        );
        looks += u64::from(writers.iter().all(tokio::task::JoinHandle::is_finished)) as usize;
    }
    let last = node.status().await.header.unwrap().revision;
    let kept = (last - floor(&node).await) as u64 + keys;
    node.stop().await.unwrap();
    let size = std::fs::metadata(&file).unwrap().len();
    let wanted = kept * 640;
    println!(
        "at the end {kept} records live and retained, {size} bytes, {wanted} expected at the least"
    );
    assert!(size <= 2 * wanted + (1 << 20), "{size} bytes for {wanted}");
    let inside = newest_snapshot(&place).await;
    // The newest may not have been in effect when the Snapshot was made, half a minute after the one before.
    let floor = inside.floors[inside.floors.len() - 2];
    let (old, young) = inside.around(floor);
    let (at, records, bytes) = (inside.at, inside.records, inside.bytes);
    println!(
        "the newest snapshot, of {at} with the floor at {floor} or the next: {records} records, {bytes} bytes"
    );
    assert!(old as u64 <= keys, "{old}");
    assert!(
        records as u64 <= keys + young as u64 + 1,
        "{records}, {young}"
    );
}
