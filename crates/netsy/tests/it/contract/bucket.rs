//! What Netsy needs of a bucket's documents: conditional writes with one winner, and an outcome that is
//! won, lost or unknown, never guessed. And that the self-test finds out a store that does not give it.

use std::time::Duration;

use bytes::Bytes;
use netsy::bucket::faults::{Fault, Verb};
use netsy::bucket::{Bucket, BucketConfig, Document, Failure, Swapped, Version, fresh_mark, open};

use super::places::{CLUSTER, Place, everywhere, weathered};

/// A body with `seq` and a fresh mark, and that mark.
fn body(seq: u64) -> (Bytes, String) {
    let mark = fresh_mark();
    (
        format!("{{\"seq\":{seq},\"mark\":\"{mark}\"}}").into(),
        mark,
    )
}

async fn put(bucket: &Bucket, document: &Document, expected: Option<&Version>) -> Swapped {
    let (body, mark) = body(1);
    bucket.swap(document, expected, body, &mark).await
}

fn won(swapped: Swapped) -> Version {
    match swapped {
        Swapped::Won(version) => version,
        other => panic!("expected to win: {other:?}"),
    }
}

#[tokio::test]
async fn the_selftest_passes_and_leaves_nothing() {
    for place in everywhere() {
        place
            .bucket
            .selftest()
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", place.what));
        assert!(
            place.bucket.list_nodes().await.expect("lists").is_empty(),
            "{}",
            place.what
        );
    }
}

#[tokio::test]
async fn a_document_is_created_once_and_replaced_by_whoever_knows_it() {
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        let document = Document::Primary;
        assert!(
            bucket.read(&document).await.expect("reads").is_none(),
            "{what}"
        );
        let (first, mark) = body(1);
        let version = won(bucket.swap(&document, None, first.clone(), &mark).await);
        let found = bucket
            .read(&document)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(
            (found.version, found.body),
            (version.clone(), first),
            "{what}"
        );

        match put(&bucket, &document, None).await {
            Swapped::Lost(Some(found)) => assert_eq!(found.mark(), Some(&mark[..]), "{what}"),
            other => panic!("{what}: expected to lose: {other:?}"),
        }
        let second = won(put(&bucket, &document, Some(&version)).await);
        match put(&bucket, &document, Some(&version)).await {
            Swapped::Lost(Some(found)) => assert_eq!(found.version, second, "{what}"),
            other => panic!("{what}: expected to lose: {other:?}"),
        }
        bucket.remove(&document).await.expect("removes");
        bucket
            .remove(&document)
            .await
            .expect("is fine with nothing to remove");
        let gone = put(&bucket, &document, Some(&second)).await;
        assert!(matches!(gone, Swapped::Lost(None)), "{what}: {gone:?}");
    }
}

#[tokio::test]
async fn the_same_body_twice_has_one_winner_who_knows_himself() {
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        let (body, mark) = body(1);
        let version = won(bucket
            .swap(&Document::Elector, None, body.clone(), &mark)
            .await);
        let again = won(bucket.swap(&Document::Elector, None, body, &mark).await);
        assert_eq!(version, again, "{what}");
    }
}

/// Fifty at once; how many won.
async fn race(bucket: &Bucket, document: &Document, expected: Option<&Version>) -> usize {
    let racers = (0..50).map(|_| {
        let (bucket, document) = (bucket.clone(), document.clone());
        let expected = expected.cloned();
        tokio::spawn(async move {
            let (body, mark) = body(1);
            loop {
                match bucket
                    .swap(&document, expected.as_ref(), body.clone(), &mark)
                    .await
                {
                    Swapped::Won(_) => return true,
                    Swapped::Lost(found) => {
                        assert!(found.is_some(), "whoever loses sees the winner");
                        return false;
                    }
                    Swapped::Unknown(_) => {}
                }
            }
        })
    });
    let mut winners = 0;
    for racer in racers.collect::<Vec<_>>() {
        winners += usize::from(racer.await.expect("ends"));
    }
    winners
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_way_races_have_exactly_one_winner() {
    for Place {
        what,
        bucket,
        _folder,
    } in everywhere()
    {
        for round in 0..4 {
            let document = Document::Node(format!("node-{round}"));
            assert_eq!(race(&bucket, &document, None).await, 1, "{what}: create");
            let found = bucket
                .read(&document)
                .await
                .expect("reads")
                .expect("is there");
            let winners = race(&bucket, &document, Some(&found.version)).await;
            assert_eq!(winners, 1, "{what}: replace");
        }
        let nodes = bucket.list_nodes().await.expect("lists");
        assert_eq!(nodes, ["node-0", "node-1", "node-2", "node-3"], "{what}");
    }
}

#[tokio::test]
async fn processes_that_share_a_folder_share_its_lock() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("file://{}", folder.path().display());
    let config = BucketConfig {
        url,
        ..BucketConfig::default()
    };
    let one = open(&config, CLUSTER).expect("opens");
    let two = open(&config, CLUSTER).expect("opens");
    let mut version = won(put(&one, &Document::Elector, None).await);
    for _ in 0..20 {
        let (mine, theirs) = tokio::join!(
            put(&one, &Document::Elector, Some(&version)),
            put(&two, &Document::Elector, Some(&version)),
        );
        version = match (mine, theirs) {
            (Swapped::Won(version), Swapped::Lost(_)) => version,
            (Swapped::Lost(_), Swapped::Won(version)) => version,
            other => panic!("exactly one wins: {other:?}"),
        };
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled_by_reading_back() {
    for fault in [Fault::After, Fault::HangAfter] {
        let (bucket, faults) = weathered();
        faults.once(Verb::Create, fault);
        let version = won(put(&bucket, &Document::Primary, None).await);
        faults.once(Verb::Replace, fault);
        won(put(&bucket, &Document::Primary, Some(&version)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_still_land_is_unknown() {
    for fault in [Fault::Before, Fault::Hang, Fault::Conflict, Fault::Denied] {
        let (bucket, faults) = weathered();
        faults.once(Verb::Create, fault);
        let created = put(&bucket, &Document::Primary, None).await;
        assert!(
            matches!(created, Swapped::Unknown(_)),
            "{fault:?}: {created:?}"
        );
        faults.calm();
        let version = won(put(&bucket, &Document::Primary, None).await);
        faults.once(Verb::Replace, fault);
        let replaced = put(&bucket, &Document::Primary, Some(&version)).await;
        assert!(
            matches!(replaced, Swapped::Unknown(_)),
            "{fault:?}: {replaced:?}"
        );
    }
}

#[tokio::test]
async fn a_document_that_could_not_be_read_again_is_not_written() {
    let (bucket, _) = weathered();
    let version = won(put(&bucket, &Document::Members, None).await);
    let swap = async |expected, bytes: usize| {
        let (start, mark) = body(2);
        let padding = " ".repeat(bytes - start.len());
        let body = [&start[..], padding.as_bytes()].concat();
        bucket
            .swap(&Document::Members, Some(expected), body.into(), &mark)
            .await
    };
    let largest = won(swap(&version, 1 << 20).await);
    let Swapped::Unknown(why) = swap(&largest, (1 << 20) + 1).await else {
        panic!("it was written");
    };
    let why = why.to_string();
    assert!(why.contains("`members.json`"), "{why}");
    assert!(
        why.contains("it would be 1048577 bytes, over 1 MiB"),
        "{why}"
    );
    let found = bucket.read(&Document::Members).await.unwrap().unwrap();
    assert_eq!(found.version, largest);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_swap_is_ours_when_it_lands_and_lost_when_another_came_first() {
    let (bucket, faults) = weathered();
    let version = won(put(&bucket, &Document::Primary, None).await);
    let (body, mark) = body(2);
    faults.once(Verb::Replace, Fault::Late(Duration::from_secs(30)));
    let swap = || bucket.swap(&Document::Primary, Some(&version), body.clone(), &mark);
    assert!(
        matches!(swap().await, Swapped::Unknown(_)),
        "the state is still the old one"
    );
    tokio::time::sleep(Duration::from_secs(31)).await;
    let version = won(swap().await);

    faults.once(Verb::Replace, Fault::Late(Duration::from_secs(30)));
    let late = put(&bucket, &Document::Primary, Some(&version)).await;
    assert!(matches!(late, Swapped::Unknown(_)), "{late:?}");
    let other = won(put(&bucket, &Document::Primary, Some(&version)).await);
    tokio::time::sleep(Duration::from_secs(31)).await;
    let found = bucket
        .read(&Document::Primary)
        .await
        .expect("reads")
        .expect("is there");
    assert_eq!(
        found.version, other,
        "the delayed one found its condition gone"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_cannot_be_read_back_is_unknown() {
    let (bucket, faults) = weathered();
    faults.set(|operation| match operation.verb {
        Verb::Create => Fault::After,
        Verb::Get => Fault::Denied,
        _ => Fault::None,
    });
    match put(&bucket, &Document::Primary, None).await {
        Swapped::Unknown(Failure::Denied { .. }) => {}
        other => panic!("expected unknown: {other:?}"),
    }
    faults.set(|_| Fault::Short(5));
    bucket
        .read(&Document::Primary)
        .await
        .expect_err("a short body is no document");
}

#[tokio::test(start_paused = true)]
async fn the_selftest_refuses_a_store_that_ignores_conditions() {
    for (verb, header) in [(Verb::Create, "If-None-Match"), (Verb::Replace, "If-Match")] {
        let (bucket, faults) = weathered();
        faults.set(move |operation| {
            if operation.verb == verb {
                Fault::Unconditional
            } else {
                Fault::None
            }
        });
        let refused = bucket.selftest().await.expect_err("is refused");
        assert!(matches!(refused, Failure::Unfit(_)), "{refused:?}");
        assert!(refused.to_string().contains(header), "{refused}");
        assert_eq!(
            faults.counts().of(Verb::Delete),
            1,
            "the probe is cleaned up"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_selftest_sees_through_bad_weather() {
    for fault in [Fault::Before, Fault::After, Fault::Conflict] {
        for verb in [Verb::Create, Verb::Replace] {
            let (bucket, faults) = weathered();
            faults.once(verb, fault);
            bucket
                .selftest()
                .await
                .unwrap_or_else(|error| panic!("{verb:?} {fault:?}: {error}"));
        }
    }
    let (bucket, faults) = weathered();
    faults.set(|_| Fault::Denied);
    let denied = bucket.selftest().await.expect_err("cannot be carried out");
    assert!(matches!(denied, Failure::Denied { .. }), "{denied:?}");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_without_its_secrets() {
    for url in [
        "ftp://a/b",
        "nonsense",
        "file://relative/x",
        "s3://user:hunter2@",
    ] {
        let config = BucketConfig {
            url: url.into(),
            ..BucketConfig::default()
        };
        let error = open(&config, CLUSTER).expect_err(url).to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

/// Building a client needs the TLS provider, which `open` sees to.
#[test]
fn cloud_buckets_open_without_a_network() {
    for url in ["s3://bucket/a/prefix", "gs://bucket/a/prefix"] {
        let sse = Some("aws:kms:a-key".to_owned());
        let config = BucketConfig {
            url: url.into(),
            sse,
            ..BucketConfig::default()
        };
        let bucket = open(&config, CLUSTER).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(bucket.name(), url);
    }
}
