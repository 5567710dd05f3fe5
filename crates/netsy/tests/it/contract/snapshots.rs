//! What Netsy needs of a bucket's Snapshots: streamed both ways in parts and ranges, created once, and
//! believed only when they were read back and checked.

use bytes::Bytes;
use futures::{StreamExt, stream};
use netsy::bucket::faults::{Fault, Verb};
use netsy::bucket::snapshots::Source;
use netsy::bucket::{Bucket, Failure, names};
use netsy::datafile::snapshot::Encoder;
use object_store::ObjectStoreExt;
use rules::revision::Revision;

use super::chunks::{origin, record};
use super::places::{Place, everywhere, weathered};

type Piece = Result<Bytes, String>;

/// The bytes of a Snapshot of `1..=last`, in pieces.
fn encoded(last: u64) -> Vec<Piece> {
    let mut encoder = Encoder::new(origin("a"), last, Revision(1));
    let mut pieces = Vec::new();
    for revision in 1..=last {
        encoder.push(&record(revision, "a"));
        pieces.push(Ok(encoder.take()));
    }
    pieces.push(Ok(encoder.finish().expect("as many as announced")));
    pieces
}

/// Bytes that no compression shrinks below one part, as one Snapshot of few large Records.
fn large() -> (u64, Vec<Piece>) {
    let count = 40;
    let mut encoder = Encoder::new(origin("a"), count, Revision(1));
    let (mut pieces, mut word) = (Vec::new(), 1_u64);
    for revision in 1..=count {
        let noise = (0..65_536).flat_map(|_| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word.to_le_bytes()
        });
        let mut one = record(revision, "a").record;
        one.value = noise.collect::<Vec<u8>>().into();
        encoder.push(&netsy::datafile::Encoded::new(one));
        pieces.push(Ok(encoder.take()));
    }
    pieces.push(Ok(encoder.finish().expect("as many as announced")));
    (count, pieces)
}

async fn revisions(bucket: &Bucket, source: Source) -> Vec<u64> {
    let mut restore = bucket
        .restore(source)
        .await
        .expect("opens")
        .expect("is there");
    let mut found = Vec::new();
    while let Some(batch) = restore.next().await.expect("reads") {
        found.extend(batch.iter().map(|one| one.record.revision.0));
    }
    assert_eq!(
        restore.finish().expect("is whole").count,
        found.len() as u64
    );
    found
}

#[tokio::test]
async fn a_small_snapshot_goes_up_once_and_comes_down() {
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        let at = Revision(100);
        assert!(
            bucket
                .restore(Source::At(at))
                .await
                .expect("looks")
                .is_none(),
            "{what}"
        );
        let summary = bucket
            .put_snapshot(at, stream::iter(encoded(100)))
            .await
            .expect("goes up");
        assert_eq!((summary.count, summary.last), (100, at), "{what}");
        let unneeded = stream::once(async { Err("nobody asked".to_owned()) });
        let again = bucket
            .put_snapshot(at, unneeded)
            .await
            .expect("is there already");
        assert_eq!(again, summary, "{what}");
        assert_eq!(
            revisions(&bucket, Source::At(at)).await,
            (1..=100).collect::<Vec<_>>()
        );
        bucket
            .put_snapshot(Revision(7), stream::iter(encoded(7)))
            .await
            .expect("goes up");
        let listed = bucket.list_snapshots().await.expect("lists");
        assert_eq!(listed, [Revision(7), at], "{what}");
        bucket
            .delete_snapshots(&[Revision(7), Revision(8)])
            .await
            .expect("deletes");
        assert_eq!(
            bucket.list_snapshots().await.expect("lists"),
            [at],
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_large_snapshot_goes_up_in_parts_and_comes_down_in_ranges() {
    let (count, pieces) = large();
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        let at = Revision(count);
        let summary = bucket.put_snapshot(at, stream::iter(pieces.clone())).await;
        let summary = summary.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(summary.count, count, "{what}");
        assert_eq!(
            revisions(&bucket, Source::At(at)).await,
            (1..=count).collect::<Vec<_>>()
        );
        let raw = bucket
            .get_snapshot(Source::At(at))
            .await
            .expect("opens")
            .expect("is there");
        let ranges = raw
            .map(|piece| piece.expect("reads").len())
            .collect::<Vec<_>>()
            .await;
        assert!(ranges.len() > 1, "{what}: {ranges:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_leaves_no_snapshot() {
    let (count, pieces) = large();
    for (verb, fault) in [
        (Verb::Begin, Fault::Before),
        (Verb::Part, Fault::Before),
        (Verb::Part, Fault::Hang),
    ] {
        let (bucket, faults) = weathered();
        faults.once(verb, fault);
        let failure = bucket
            .put_snapshot(Revision(count), stream::iter(pieces.clone()))
            .await;
        assert!(
            matches!(failure, Err(Failure::TryAgain { .. })),
            "{verb:?}: {failure:?}"
        );
        assert!(bucket.list_snapshots().await.expect("lists").is_empty());
    }
    let (bucket, _) = weathered();
    let mut broken = encoded(5);
    broken[3] = Err("the disk is gone".to_owned());
    let failure = bucket
        .put_snapshot(Revision(5), stream::iter(broken))
        .await
        .expect_err("fails");
    assert!(
        failure.to_string().contains("the disk is gone"),
        "{failure}"
    );
    assert!(bucket.list_snapshots().await.expect("lists").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_out_at_the_next_attempt() {
    let (count, pieces) = large();
    for verb in [Verb::Complete, Verb::Create] {
        let (bucket, faults) = weathered();
        let (at, pieces) = match verb {
            Verb::Create => (Revision(5), encoded(5)),
            _ => (Revision(count), pieces.clone()),
        };
        faults.once(verb, Fault::After);
        bucket
            .put_snapshot(at, stream::iter(pieces))
            .await
            .expect_err("an answer was lost");
        let nothing = stream::iter([Err("not needed".to_owned())]);
        bucket
            .put_snapshot(at, nothing)
            .await
            .unwrap_or_else(|error| panic!("{verb:?}: {error}"));
    }
}

#[tokio::test(start_paused = true)]
async fn damage_is_found_when_it_is_read_back() {
    let (bucket, faults) = weathered();
    bucket
        .put_snapshot(Revision(50), stream::iter(encoded(50)))
        .await
        .expect("goes up");
    faults.once(Verb::Get, Fault::Flip(900));
    bucket
        .verify_snapshot(Source::At(Revision(50)))
        .await
        .expect("was a bad cable");
    faults.set(|_| Fault::Flip(900));
    let failure = bucket
        .verify_snapshot(Source::At(Revision(50)))
        .await
        .expect_err("is damaged");
    assert!(
        failure
            .to_string()
            .contains("snapshots/0000000000000000050.netsy"),
        "{failure}"
    );
    assert!(matches!(failure, Failure::Damaged { .. }), "{failure:?}");
}

#[tokio::test]
async fn bootstrap_is_promoted_to_the_first_snapshot() {
    let (bucket, faults) = weathered();
    assert!(bucket.promote_bootstrap().await.expect("looks").is_none());
    let bytes: Bytes = encoded(12)
        .into_iter()
        .flat_map(|piece| piece.expect("no failure"))
        .collect();
    faults
        .put(&names::bootstrap(), bytes.into())
        .await
        .expect("an operator puts it");
    for _ in 0..2 {
        let summary = bucket
            .promote_bootstrap()
            .await
            .expect("is promoted")
            .expect("is there");
        assert_eq!(summary.last, Revision(12));
    }
    assert_eq!(
        bucket.list_snapshots().await.expect("lists"),
        [Revision(12)]
    );
    assert_eq!(
        revisions(&bucket, Source::At(Revision(12))).await,
        (1..=12).collect::<Vec<_>>()
    );
}
