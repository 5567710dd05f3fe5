//! What Netsy needs of a bucket's Chunks: one winner per slot, who knows himself, and a chain that is
//! read whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use netsy::bucket::faults::{Fault, Verb, seeded};
use netsy::bucket::{Bucket, Failure, Onward, Slot, Timeouts};
use netsy::datafile::{Encoded, Origin, chunk};
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};

use super::places::{CLUSTER, Place, everywhere, weathered};

/// A write at `revision`, whose value tells `writer`s apart.
pub(super) fn record(revision: u64, writer: &str) -> Encoded {
    let mut record = Record::opening(
        Epoch(1),
        Revision(revision),
        Arc::from(writer),
        1_700_000_000_000_000_000,
    );
    record.kind = Kind::Write;
    record.key = Bytes::from(format!("/registry/{revision}"));
    record.value = Bytes::from(format!("{writer} {}", "x".repeat(100)));
    Encoded::new(record)
}

pub(super) fn origin(node_id: &str) -> Origin {
    Origin {
        cluster_id: CLUSTER.into(),
        node_id: node_id.into(),
        epoch: Epoch(1),
        created_at: 7,
    }
}

fn records(first: u64, last: u64, writer: &str) -> Vec<Encoded> {
    (first..=last)
        .map(|revision| record(revision, writer))
        .collect()
}

/// Puts `first ..= last` by `writer`, once.
async fn put(bucket: &Bucket, first: u64, last: u64, writer: &str) -> Slot {
    let records = records(first, last, writer);
    let bytes = chunk::encode(&origin(writer), &records);
    bucket.put_chunk(Revision(first), bytes, &records).await
}

/// Chunks of two Records each, `1..=2`, `3..=4` and so on up to `last`.
async fn chain(bucket: &Bucket, last: u64) {
    for first in (1..last).step_by(2) {
        let slot = put(bucket, first, first + 1, "a").await;
        assert!(matches!(slot, Slot::Won), "{slot:?}");
    }
}

/// Every Revision of the chain from `from`.
async fn walked(bucket: &Bucket, from: u64) -> Result<Vec<u64>, Failure> {
    let chunks: Vec<_> = bucket.fetch_chunks(Revision(from), 3).try_collect().await?;
    let revisions = chunks.iter().flat_map(|chunk| &chunk.records);
    Ok(revisions.map(|one| one.record.revision.0).collect())
}

#[tokio::test]
async fn a_slot_is_won_once_and_recognised_by_its_records() {
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        assert!(
            bucket
                .get_chunk(Revision(1))
                .await
                .expect("reads")
                .is_none(),
            "{what}"
        );
        assert!(matches!(put(&bucket, 1, 2, "a").await, Slot::Won), "{what}");
        let ours = records(1, 2, "a");
        let another_header = chunk::encode(&origin("b"), &ours);
        let again = bucket.put_chunk(Revision(1), another_header, &ours).await;
        assert!(matches!(again, Slot::Won), "{what}: {again:?}");
        match put(&bucket, 1, 3, "b").await {
            Slot::Taken(chunk) => assert_eq!(chunk.records, ours, "{what}"),
            other => panic!("{what}: expected a taken slot: {other:?}"),
        }
        let longer = put(&bucket, 1, 3, "a").await;
        assert!(
            matches!(longer, Slot::Taken(_)),
            "{what}: a larger batch is another chunk"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_writers_of_one_slot_agree_on_one() {
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        let writers = (0..50).map(|number| {
            let bucket = bucket.clone();
            tokio::spawn(async move {
                loop {
                    match put(&bucket, 1, 2, &format!("writer-{number}")).await {
                        Slot::Won => return true,
                        Slot::Taken(_) => return false,
                        Slot::Unknown(_) => {}
                        Slot::Damaged(damaged) => panic!("{damaged}"),
                    }
                }
            })
        });
        let mut winners = 0;
        for writer in writers.collect::<Vec<_>>() {
            winners += usize::from(writer.await.expect("ends"));
        }
        assert_eq!(winners, 1, "{what}");
    }
}

#[tokio::test]
async fn a_slot_that_a_list_lacks_is_read_before_it_is_called_a_gap() {
    let (bucket, faults) = weathered();
    chain(&bucket, 6).await;
    let on = async |slot| bucket.look_on(Revision(slot)).await.expect("looks");
    assert_eq!(on(3).await, Onward::GoesOn);
    faults.once(Verb::List, Fault::Lacking);
    assert_eq!(on(3).await, Onward::GoesOn);
    assert_eq!(on(7).await, Onward::End);
    bucket.delete_chunks(&[Revision(3)]).await.expect("deletes");
    assert_eq!(on(3).await, Onward::Gap(Revision(5)));
}

#[tokio::test]
async fn the_chain_is_listed_read_and_deleted() {
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        assert_eq!(
            walked(&bucket, 1).await.expect("walks"),
            [0; 0],
            "{what}: nothing there"
        );
        chain(&bucket, 20).await;
        let listed = bucket.list_chunks(Revision(8)).await.expect("lists");
        assert_eq!(listed, [9, 11, 13, 15, 17, 19].map(Revision), "{what}");
        assert_eq!(
            bucket.list_chunks(Revision(9)).await.expect("lists"),
            listed,
            "{what}"
        );
        assert_eq!(
            walked(&bucket, 1).await.expect("walks"),
            (1..=20).collect::<Vec<_>>(),
            "{what}"
        );
        assert_eq!(
            walked(&bucket, 15).await.expect("walks"),
            (15..=20).collect::<Vec<_>>()
        );

        // Objects that start inside another Chunk, and strangers, are no part of the chain.
        assert!(matches!(put(&bucket, 4, 9, "stray").await, Slot::Won));
        assert_eq!(
            walked(&bucket, 1).await.expect("walks"),
            (1..=20).collect::<Vec<_>>(),
            "{what}"
        );

        bucket
            .delete_chunks(&[4, 5, 7, 7].map(Revision))
            .await
            .expect("deletes, missing ones too");
        match walked(&bucket, 1).await {
            Err(Failure::Gap { missing, found, .. }) => {
                assert_eq!((missing, found), (Revision(5), Revision(9)), "{what}");
            }
            other => panic!("{what}: expected a gap: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_settled_whatever_the_weather() {
    for fault in [Fault::After, Fault::HangAfter] {
        let (bucket, faults) = weathered();
        faults.once(Verb::Create, fault);
        let slot = put(&bucket, 1, 2, "a").await;
        assert!(matches!(slot, Slot::Won), "{fault:?}: {slot:?}");
    }
    for fault in [Fault::Before, Fault::Hang, Fault::Conflict, Fault::Denied] {
        let (bucket, faults) = weathered();
        faults.once(Verb::Create, fault);
        let slot = put(&bucket, 1, 2, "a").await;
        assert!(matches!(slot, Slot::Unknown(_)), "{fault:?}: {slot:?}");
    }
    let (bucket, faults) = weathered();
    faults.once(Verb::Create, Fault::Late(Duration::from_secs(600)));
    assert!(matches!(put(&bucket, 1, 2, "a").await, Slot::Unknown(_)));
    assert!(matches!(put(&bucket, 1, 2, "b").await, Slot::Won));
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert!(
        matches!(put(&bucket, 1, 2, "a").await, Slot::Taken(_)),
        "the late one is lost"
    );
}

#[tokio::test(start_paused = true)]
async fn damage_is_read_twice_and_then_told_with_its_place() {
    let (bucket, faults) = weathered();
    chain(&bucket, 2).await;
    faults.once(Verb::Get, Fault::Flip(500));
    assert!(
        bucket
            .get_chunk(Revision(1))
            .await
            .expect("was a bad cable")
            .is_some()
    );
    faults.once(Verb::Get, Fault::Short(50));
    assert!(
        bucket
            .get_chunk(Revision(1))
            .await
            .expect("was cut off")
            .is_some()
    );

    faults.set(|_| Fault::Flip(500));
    let failure = bucket.get_chunk(Revision(1)).await.expect_err("is damaged");
    assert!(matches!(failure, Failure::Damaged { .. }), "{failure:?}");
    assert!(
        failure
            .to_string()
            .contains("chunks/0000000000000000001.netsy"),
        "{failure}"
    );
    let slot = put(&bucket, 1, 2, "b").await;
    assert!(matches!(slot, Slot::Damaged(_)), "{slot:?}");
    assert!(matches!(
        walked(&bucket, 1).await,
        Err(Failure::Damaged { .. })
    ));

    faults.set(|_| Fault::Short(50));
    let failure = bucket
        .get_chunk(Revision(1))
        .await
        .expect_err("never comes whole");
    assert!(matches!(failure, Failure::TryAgain { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_chunk_of_another_cluster_is_damaged() {
    let (bucket, _) = weathered();
    let records = records(1, 2, "a");
    let stranger = Origin {
        cluster_id: "another".into(),
        ..origin("a")
    };
    let bytes = chunk::encode(&stranger, &records);
    assert!(matches!(
        bucket.put_chunk(Revision(1), bytes, &records).await,
        Slot::Won
    ));
    let failure = bucket
        .get_chunk(Revision(1))
        .await
        .expect_err("is not ours");
    assert!(matches!(failure, Failure::Damaged { .. }), "{failure:?}");
}

/// Two writers in a storm: each slot has one content, and whoever was told that he won, did.
#[tokio::test(start_paused = true)]
async fn in_a_storm_each_slot_has_one_winner() {
    let late = Fault::Late(Duration::from_secs(200));
    let storm = vec![
        Fault::Before,
        Fault::After,
        Fault::Conflict,
        Fault::HangAfter,
        Fault::Hang,
        Fault::Short(9),
        late,
    ];
    for seed in 0..20 {
        let (bucket, faults) = weathered();
        let mut weather = seeded(seed, 400, storm.clone());
        faults.set(move |operation| weather(operation));
        let mut won = Vec::new();
        for slot in (1..40).step_by(2) {
            let (a, b) = tokio::join!(settled(&bucket, slot, "a"), settled(&bucket, slot, "b"));
            assert!(a != b, "seed {seed}, slot {slot}: exactly one wins");
            won.push(if a { "a" } else { "b" });
        }
        faults.calm();
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let chunks: Vec<_> = bucket
            .fetch_chunks(Revision(1), 4)
            .try_collect()
            .await
            .expect("walks");
        let writers = chunks
            .iter()
            .map(|chunk| &*chunk.records[0].record.leader_id);
        assert_eq!(writers.collect::<Vec<_>>(), won, "seed {seed}");
    }
}

/// Sends the same until the outcome is known; whether it won.
async fn settled(bucket: &Bucket, first: u64, writer: &str) -> bool {
    loop {
        match put(bucket, first, first + 1, writer).await {
            Slot::Won => return true,
            Slot::Taken(_) => return false,
            Slot::Unknown(_) => {}
            Slot::Damaged(damaged) => panic!("{damaged}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_chunk_is_given_more_time() {
    let (bucket, faults) = weathered();
    let limits = Timeouts {
        chunk: Duration::from_secs(1),
        file: Duration::from_secs(1),
        ..Timeouts::default()
    };
    let bucket = bucket.with_timeouts(limits);
    // Noise, as values that do not get smaller.
    let mut noise = 1_u64;
    let mut large = record(1, "a").record;
    let words = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005) ^ (noise >> 29);
        noise.to_le_bytes()
    });
    large.value = words.take((3 << 20) / 8).flatten().collect();
    let large = [Encoded::new(large)];
    let bytes = chunk::encode(&origin("a"), &large);
    assert!(bytes.len() > 3 << 20, "{}", bytes.len());
    faults.set(|_| Fault::Delay(Duration::from_secs(2)));
    let small = put(&bucket, 2, 2, "a").await;
    assert!(
        matches!(small, Slot::Unknown(_)),
        "a second is over: {small:?}"
    );
    let slot = bucket.put_chunk(Revision(1), bytes, &large).await;
    assert!(matches!(slot, Slot::Won), "{slot:?}");
}
