//! Snapshots: made on the way, verified, what they replace cleaned up, and enough to start from.

use std::collections::BTreeSet;
use std::sync::Arc;

use netsy::bucket::names;
use object_store::ObjectStoreExt;
use parking_lot::Mutex;
use rules::record::Kind;
use rules::revision::Revision;

use super::load::{Ledger, Load, history, is_one_chain};
use super::node::{Place, Setup, until};
use std::time::Duration;

/// Snapshots after every 30 Records, and nothing kept for longer than it is needed.
fn snapshotting(place: &Place) -> Setup {
    place.node("one").with(|config| {
        config.snapshots.records = Some(30);
        config.snapshots.bytes = None;
        config.snapshots.age = None;
        config.snapshots.retention = Duration::ZERO;
    })
}

/// Load until `count` Snapshots have been seen, those from before included, and all is cleaned up.
async fn until_snapshots(place: &Place, ledger: &Arc<Ledger>, count: usize) {
    let node = snapshotting(place).start().await;
    node.healthy().await;
    let load = Load::start(ledger, &[node.clients], 6);
    let bucket = place.bucket();
    let seen = Mutex::new(BTreeSet::new());
    until("snapshots are made", || async {
        let found = bucket.list_snapshots().await.unwrap();
        let mut seen = seen.lock();
        seen.extend(found);
        seen.len() >= count
    })
    .await;
    until("what is covered is cleaned up", || async {
        let snapshots = bucket.list_snapshots().await.unwrap();
        let (fences, kept) = covered(place, snapshots[snapshots.len() - 2]).await;
        // With each fence the Chunk before it stays, too.
        kept.len() <= 2 * fences && snapshots.len() <= 3
    })
    .await;
    load.finish().await;
    node.kill().await;
}

/// The Chunks that end at or below `revision`, and how many epoch Records they hold.
async fn covered(place: &Place, revision: Revision) -> (usize, Vec<Revision>) {
    let (bucket, mut fences, mut kept) = (place.bucket(), 0, Vec::new());
    for first in bucket.list_chunks(Revision(1)).await.unwrap() {
        let Some(chunk) = bucket.get_chunk(first).await.unwrap() else {
            continue;
        };
        if chunk.records.last().unwrap().record.revision <= revision {
            fences += chunk
                .records
                .iter()
                .filter(|one| one.record.kind == Kind::Epoch)
                .count();
            kept.push(first);
        }
    }
    (fences, kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_disk_starts_from_a_snapshot_and_the_chunks_after_it() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    until_snapshots(&place, &ledger, 2).await;
    // A second tenure, so that there is a fence in the middle.
    std::fs::remove_dir_all(place.disk("one")).unwrap();
    until_snapshots(&place, &ledger, 5).await;

    let bucket = place.bucket();
    let snapshots = bucket.list_snapshots().await.unwrap();
    let older = snapshots[snapshots.len() - 2];
    let (fences, kept) = covered(&place, older).await;
    assert!(
        fences >= 2,
        "the chunks that hold epoch records stay: {fences} of {kept:?}"
    );
    is_one_chain(&place, first_after(&place, older).await).await;

    let node = place.judge("one").await;
    ledger.judge(&history(&node, 1).await);
    let late = ledger.acknowledged() / 2;
    let part = history(&node, late).await;
    assert!(part.iter().all(|written| written.revision >= late) && !part.is_empty());
    node.kill().await;
}

/// Flips one bit of a Snapshot.
async fn spoil(place: &Place, revision: Revision) {
    let location = names::snapshot(revision);
    let bytes = place
        .store
        .get(&location)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    place.store.put(&location, bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_no_reason_to_clean_up() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    until_snapshots(&place, &ledger, 2).await;
    let bucket = place.bucket();
    let good = bucket.list_snapshots().await.unwrap();
    spoil(&place, *good.last().unwrap()).await;
    let node = snapshotting(&place).start().await;
    node.healthy().await;
    let load = Load::start(&ledger, &[node.clients], 6);
    until("another is made", || async {
        bucket.list_snapshots().await.unwrap().last() > good.last()
    })
    .await;
    // Time for a clean-up that must not reach further.
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.sky.set(|_| netsy::bucket::faults::Fault::Hang);
    load.finish().await;
    node.kill().await;
    // Without the newest, everything must still be there.
    spoil(
        &place,
        *bucket.list_snapshots().await.unwrap().last().unwrap(),
    )
    .await;
    let node = place.judge("one").await;
    ledger.judge(&history(&node, 1).await);
    node.kill().await;
}

/// The first Chunk above `revision`.
async fn first_after(place: &Place, revision: Revision) -> Revision {
    let chunks = place.bucket().list_chunks(revision.next()).await.unwrap();
    chunks[0]
}
