//! Snapshots: made on the way, verified, what they replace cleaned up, and enough to start from.

use std::sync::Arc;

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

/// Load until at least `count` Snapshots are there.
async fn until_snapshots(place: &Place, ledger: &Arc<Ledger>, count: usize) {
    let node = snapshotting(place).start().await;
    node.healthy().await;
    let load = Load::start(ledger, &[node.clients], 6);
    let bucket = place.bucket();
    until("snapshots are made", || async {
        bucket.list_snapshots().await.unwrap().len() >= count
    })
    .await;
    load.finish().await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_disk_starts_from_a_snapshot_and_the_chunks_after_it() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    until_snapshots(&place, &ledger, 2).await;
    // A second tenure, so that there is a fence in the middle.
    std::fs::remove_dir_all(place.disk("one")).unwrap();
    let before = place.bucket().list_snapshots().await.unwrap().len();
    until_snapshots(&place, &ledger, before + 3).await;

    let bucket = place.bucket();
    let snapshots = bucket.list_snapshots().await.unwrap();
    let older = snapshots[snapshots.len() - 2];
    let chunks = bucket.list_chunks(Revision(1)).await.unwrap();
    let covered: Vec<Revision> =
        chunks.iter().copied().filter(|first| *first <= older).collect();
    let mut fences = 0;
    for first in &covered {
        let chunk = bucket.get_chunk(*first).await.unwrap().unwrap();
        fences += chunk.records.iter().filter(|one| one.record.kind == Kind::Epoch).count();
    }
    assert!(fences >= 2, "the chunks that hold epoch records stay: {fences} of {covered:?}");
    assert!(covered.len() <= 2 * fences + 2, "what is covered is cleaned up: {covered:?}");
    is_one_chain(&place, first_after(&place, older).await).await;

    let node = place.judge("one").await;
    ledger.judge(&history(&node, 1).await);
    let late = ledger.acknowledged() / 2;
    let part = history(&node, late).await;
    assert!(part.iter().all(|written| written.revision >= late) && !part.is_empty());
    node.kill().await;
}

/// The first Chunk above `revision`.
async fn first_after(place: &Place, revision: Revision) -> Revision {
    let chunks = place.bucket().list_chunks(revision.next()).await.unwrap();
    chunks[0]
}
