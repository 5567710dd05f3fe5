//! Objects of the bucket that are damaged, missing, foreign or strange when a Node starts.

use std::sync::Arc;

use netsy::bucket::faults::{Fault, Verb};
use netsy::bucket::names;
use netsy::exit::Exit;
use object_store::{ObjectStoreExt, PutPayload};
use rules::revision::Revision;

use super::load::{Ledger, Load, history};
use super::node::{Place, until};
use super::process::Process;

/// A place with some Chunks in its bucket, and Snapshots if so configured; the Node is gone.
async fn lived_in(place: &Place, ledger: &Arc<Ledger>, snapshots: usize) {
    let node = place.node("one").with(|config| {
        config.snapshots.records = (snapshots > 0).then_some(20);
        config.snapshots.bytes = None;
        config.snapshots.age = None;
    });
    let node = node.start().await;
    node.healthy().await;
    let load = Load::start(ledger, &[node.clients], 4);
    until("there is some load", || async {
        let made = place.bucket().list_snapshots().await.unwrap().len();
        let chunks = place.bucket().list_chunks(Revision(1)).await.unwrap().len();
        ledger.done() >= 40 && made >= snapshots && chunks > 8
    })
    .await;
    load.finish().await;
    node.kill().await;
}

async fn chunk_in_the_middle(place: &Place) -> Revision {
    let chunks = place.bucket().list_chunks(Revision(1)).await.unwrap();
    chunks[chunks.len() / 2]
}

/// Flips one bit in the middle of an object.
async fn flip(place: &Place, location: &object_store::path::Path) {
    let bytes = place
        .store
        .get(location)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    place
        .store
        .put(location, PutPayload::from(bytes))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_falls_back_to_the_older_one() {
    let place = Place::new();
    let ledger = Arc::new(Ledger::default());
    lived_in(&place, &ledger, 2).await;
    let snapshots = place.bucket().list_snapshots().await.unwrap();
    flip(&place, &names::snapshot(*snapshots.last().unwrap())).await;
    // So that the older one is wanted: the chain no longer begins at its beginning.
    let first = place.bucket().list_chunks(Revision(1)).await.unwrap()[0];
    place.bucket().delete_chunks(&[first]).await.unwrap();
    let node = place.judge("one").await;
    ledger.judge(&history(&node, 1).await);
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_chunk_is_named() {
    let place = Place::new();
    lived_in(&place, &Arc::default(), 0).await;
    let gone = chunk_in_the_middle(&place).await;
    place.bucket().delete_chunks(&[gone]).await.unwrap();
    let refused = place.node_on("one", "empty").refused().await;
    let said = refused.to_string();
    assert!(
        said.contains(&format!("no chunk that starts at revision {gone}")),
        "{said}"
    );
    // The page has a section of that name.
    let page = include_str!("../../../../../docs/OPERATING.md");
    let (_, section) = said.rsplit_once("see `").unwrap();
    let section = section.strip_suffix("` in docs/OPERATING.md").unwrap();
    assert!(page.contains(&format!("\n## {section}\n")), "{section}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_knows_more_than_the_bucket_holds_does_not_go_on_there() {
    let place = Place::new();
    lived_in(&place, &Arc::default(), 0).await;
    // As when the bucket's file system is not mounted.
    let elsewhere = Place::new();
    let disk = place.disk("one");
    let there = elsewhere.node("one").with(|config| config.data_dir = disk);
    let said = there.refused().await.to_string();
    assert!(said.contains("no chunk that reaches it"), "{said}");
    let nothing = elsewhere.bucket().list_chunks(Revision(1)).await.unwrap();
    assert!(nothing.is_empty(), "{nothing:?}");
    // An older copy of the bucket.
    let middle = chunk_in_the_middle(&place).await;
    let newer = place.bucket().list_chunks(middle).await.unwrap();
    let mut gone = Vec::new();
    for location in newer.iter().map(|first| names::chunk(*first)) {
        let chunk = place.store.get(&location).await.unwrap();
        gone.push((location, chunk.bytes().await.unwrap()));
    }
    place.bucket().delete_chunks(&newer).await.unwrap();
    let said = place.node("one").refused().await.to_string();
    assert!(said.contains("no chunk that reaches it"), "{said}");
    for (location, chunk) in gone {
        place.store.put(&location, chunk.into()).await.unwrap();
    }
    let node = place.node("one").start().await;
    node.healthy().await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_chunk_is_named_with_the_place() {
    let place = Place::new();
    lived_in(&place, &Arc::default(), 0).await;
    let damaged = names::chunk(chunk_in_the_middle(&place).await);
    flip(&place, &damaged).await;
    let said = place.node_on("one", "empty").refused().await.to_string();
    assert!(
        said.contains(damaged.as_ref()) && said.contains("at byte"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_bucket_is_refused() {
    let place = Place::new();
    lived_in(&place, &Arc::default(), 0).await;
    let stranger = place.node_on("one", "empty").with(|config| {
        "other".clone_into(&mut config.cluster_id);
    });
    let refused = stranger.refused().await;
    assert_eq!(refused.exit, Exit::Setup);
    let said = refused.to_string();
    assert!(
        said.contains("belongs to cluster `weather`") && said.contains("`other`"),
        "{said}"
    );
    let disk = place
        .node("one")
        .with(|config| "other".clone_into(&mut config.cluster_id));
    let said = disk.refused().await.to_string();
    assert!(
        said.contains("belongs to Node `one` of cluster `weather`"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_ignores_conditions_is_refused() {
    for ignored in [Verb::Create, Verb::Replace] {
        let setup = Place::new();
        let setup = setup.node("one");
        setup.sky.set(move |operation| {
            if operation.verb == ignored {
                Fault::Unconditional
            } else {
                Fault::None
            }
        });
        let refused = setup.refused().await;
        assert_eq!(refused.exit, Exit::Setup);
        let said = refused.to_string();
        assert!(
            said.contains("self-test") && said.contains("ignores If-"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_objects_are_ignored_and_named() {
    let place = Place::on_files();
    let ledger = Arc::new(Ledger::default());
    lived_in(&place, &ledger, 0).await;
    let strange = names::chunks().join("readme.txt");
    place.store.put(&strange, "hello".into()).await.unwrap();
    let chunks = place.bucket().fetch_chunks(Revision(1), 1);
    let chunks: Vec<_> = tokio_stream::StreamExt::collect(chunks).await;
    let long = chunks
        .iter()
        .flatten()
        .find(|chunk| chunk.records.len() > 1);
    let inside = names::chunk(long.expect("some chunk has two").records[1].record.revision);
    place.store.put(&inside, "what?".into()).await.unwrap();
    std::fs::remove_dir_all(place.disk("one")).unwrap();
    let process = Process::start(&place, "one");
    process.ready().await;
    let said = process.logged();
    for object in [&strange, &inside] {
        assert!(
            said.contains(object.as_ref()),
            "`{object}` is not named:\n{said}"
        );
    }
    process.signal(rustix::process::Signal::KILL);
    process.ended().await;
    let node = place.judge("one").await;
    ledger.judge(&history(&node, 1).await);
    node.kill().await;
}
