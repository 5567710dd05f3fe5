//! What a Node restores where its disk, the Snapshots and the chain say different things.

use netsy::bucket::faults::{Fault, Verb};
use netsy::bucket::{Bucket, Slot};
use netsy::datafile::snapshot::Encoder;
use netsy::datafile::{Encoded, chunk};
use netsy::driver::{RestoreFailure, restore};
use netsy::store::{Batch, Store, StoreIdentity};
use rules::record::Record;
use rules::revision::{Epoch, Revision};

use super::chunks::{origin, record};
use super::places::{CLUSTER, weathered};

/// Records `first ..= last` by `writer`; the first of all opens the epoch.
fn records(first: u64, last: u64, writer: &str) -> Vec<Encoded> {
    let opens = |revision| {
        let opening = Record::opening(Epoch(1), Revision(revision), "a".into(), 0);
        Encoded::new(opening)
    };
    (first..=last)
        .map(|revision| match revision {
            1 => opens(revision),
            _ => record(revision, writer),
        })
        .collect()
}

/// An empty disk.
fn store() -> Store {
    let identity = StoreIdentity {
        cluster_id: CLUSTER.into(),
        node_id: "one".into(),
    };
    Store::open(None, &identity).unwrap()
}

async fn put_chunk(bucket: &Bucket, records: Vec<Encoded>, writer: &str) {
    let first = records[0].record.revision;
    let bytes = chunk::encode(&origin(writer), &records);
    let put = bucket.put_chunk(first, bytes, &records).await;
    assert!(matches!(put, Slot::Won), "{put:?}");
}

#[tokio::test]
async fn a_chain_that_grows_while_it_is_listed_is_no_damage() {
    let (bucket, faults) = weathered();
    put_chunk(&bucket, records(1, 2, "a"), "a").await;
    put_chunk(&bucket, records(3, 4, "a"), "a").await;
    faults.once(Verb::List, Fault::Lacking);
    let restored = restore(&bucket, &store(), 1 << 20).await.unwrap();
    assert_eq!(restored.log.last, Revision(4));
}

#[tokio::test]
async fn a_chunk_that_contradicts_what_was_committed_beyond_a_snapshot_is_named() {
    let (bucket, _) = weathered();
    let store = store();
    let held = Batch {
        append: records(1, 10, "a"),
        committed: Some(Revision(10)),
        durable: Some(Revision(3)),
        ..Batch::default()
    };
    let (sender, done) = tokio::sync::oneshot::channel();
    store.submit(held, Box::new(|held| sender.send(held).unwrap()));
    done.await.unwrap().unwrap();
    // The Chunk after Revision 3 was cleaned up: a Snapshot stands for it.
    let mut encoder = Encoder::new(origin("a"), 5, Revision(1));
    for record in records(1, 5, "a") {
        encoder.push(&record);
    }
    let mut pieces = vec![Ok(encoder.take())];
    pieces.push(Ok(encoder.finish().expect("as many as announced")));
    let pieces = futures::stream::iter(pieces);
    bucket.put_snapshot(Revision(5), pieces).await.unwrap();
    put_chunk(&bucket, records(6, 7, "b"), "b").await;

    let Err(RestoreFailure::Damaged(why)) = restore(&bucket, &store, 1 << 20).await else {
        panic!("it is no damage");
    };
    assert_eq!(
        why,
        "chunk 6: the chain differs from a record that was committed here"
    );
}
