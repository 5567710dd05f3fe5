//! What Netsy needs of a bucket, on memory, on local files, and on a real S3-compatible server.
//!
//! The server is the one that NETSY_TEST_S3_ENDPOINT and NETSY_TEST_S3_BUCKET name (`.ci/s3` starts one);
//! without them that part is left out, and says so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use netsy::bucket::faults::{Fault, Faults, Verb};
use netsy::bucket::{
    AccessKey, Bucket, BucketConfig, Document, Failure, Swapped, Timeouts, Version, fresh_mark,
    install_crypto, open,
};
use object_store::memory::InMemory;

/// A bucket of its own for one test, with what keeps it alive.
struct Place {
    what: &'static str,
    bucket: Bucket,
    _folder: Option<tempfile::TempDir>,
}

const CLUSTER: &str = "contract";

fn memory() -> Place {
    let bucket = Bucket::over(Arc::new(InMemory::new()), "memory", CLUSTER);
    Place { what: "memory", bucket, _folder: None }
}

fn files() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("file://{}", folder.path().join("bucket").display());
    let bucket = open(&BucketConfig { url, ..BucketConfig::default() }, CLUSTER).expect("opens");
    Place { what: "local files", bucket, _folder: Some(folder) }
}

/// A fresh prefix on the real server, if there is one.
fn server() -> Option<Place> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(endpoint) = variable("NETSY_TEST_S3_ENDPOINT") else {
        eprintln!("\n==== NOT RUN on a real S3 server: set NETSY_TEST_S3_ENDPOINT, or use .ci/s3 ====\n");
        return None;
    };
    let name = variable("NETSY_TEST_S3_BUCKET").expect("NETSY_TEST_S3_BUCKET goes with the endpoint");
    let key = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    let config = BucketConfig {
        url: format!("s3://{name}/{}/a prefix", fresh_mark()),
        endpoint: Some(endpoint),
        region: Some("us-east-1".into()),
        access_key: key.map(|(id, secret)| AccessKey { id, secret, token: None }),
        allow_http: true,
        timeouts: Timeouts { document: Duration::from_secs(30), ..Timeouts::default() },
        ..BucketConfig::default()
    };
    Some(Place { what: "S3", bucket: open(&config, CLUSTER).expect("opens"), _folder: None })
}

fn everywhere() -> Vec<Place> {
    install_crypto();
    [Some(memory()), Some(files()), server()].into_iter().flatten().collect()
}

/// A body with `seq` and a fresh mark, and that mark.
fn body(seq: u64) -> (Bytes, String) {
    let mark = fresh_mark();
    (format!("{{\"seq\":{seq},\"mark\":\"{mark}\"}}").into(), mark)
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

/// A bucket in memory under a sky of its own.
fn weathered() -> (Bucket, Faults) {
    let faults = Faults::new(Arc::new(InMemory::new()));
    let timeouts = Timeouts { document: Duration::from_secs(1), ..Timeouts::default() };
    (Bucket::over(Arc::new(faults.clone()), "memory", CLUSTER).with_timeouts(timeouts), faults)
}

#[tokio::test]
async fn the_selftest_passes_and_leaves_nothing() {
    for place in everywhere() {
        place.bucket.selftest().await.unwrap_or_else(|error| panic!("{}: {error}", place.what));
        assert!(place.bucket.list_nodes().await.expect("lists").is_empty(), "{}", place.what);
    }
}

#[tokio::test]
async fn a_document_is_created_once_and_replaced_by_whoever_knows_it() {
    for Place { what, bucket, _folder } in everywhere() {
        let document = Document::Primary;
        assert!(bucket.read(&document).await.expect("reads").is_none(), "{what}");
        let (first, mark) = body(1);
        let version = won(bucket.swap(&document, None, first.clone(), &mark).await);
        let found = bucket.read(&document).await.expect("reads").expect("is there");
        assert_eq!((found.version, found.body), (version.clone(), first), "{what}");

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
        bucket.remove(&document).await.expect("is fine with nothing to remove");
        let gone = put(&bucket, &document, Some(&second)).await;
        assert!(matches!(gone, Swapped::Lost(None)), "{what}: {gone:?}");
    }
}

#[tokio::test]
async fn the_same_body_twice_has_one_winner_who_knows_himself() {
    for Place { what, bucket, _folder } in everywhere() {
        let (body, mark) = body(1);
        let version = won(bucket.swap(&Document::Elector, None, body.clone(), &mark).await);
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
                match bucket.swap(&document, expected.as_ref(), body.clone(), &mark).await {
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
    for Place { what, bucket, _folder } in everywhere() {
        for round in 0..4 {
            let document = Document::Node(format!("node-{round}"));
            assert_eq!(race(&bucket, &document, None).await, 1, "{what}: create");
            let found = bucket.read(&document).await.expect("reads").expect("is there");
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
    let config = BucketConfig { url, ..BucketConfig::default() };
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
        assert!(matches!(created, Swapped::Unknown(_)), "{fault:?}: {created:?}");
        faults.calm();
        let version = won(put(&bucket, &Document::Primary, None).await);
        faults.once(Verb::Replace, fault);
        let replaced = put(&bucket, &Document::Primary, Some(&version)).await;
        assert!(matches!(replaced, Swapped::Unknown(_)), "{fault:?}: {replaced:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_swap_is_ours_when_it_lands_and_lost_when_another_came_first() {
    let (bucket, faults) = weathered();
    let version = won(put(&bucket, &Document::Primary, None).await);
    let (body, mark) = body(2);
    faults.once(Verb::Replace, Fault::Late(Duration::from_secs(30)));
    let swap = || bucket.swap(&Document::Primary, Some(&version), body.clone(), &mark);
    assert!(matches!(swap().await, Swapped::Unknown(_)), "the state is still the old one");
    tokio::time::sleep(Duration::from_secs(31)).await;
    let version = won(swap().await);

    faults.once(Verb::Replace, Fault::Late(Duration::from_secs(30)));
    let late = put(&bucket, &Document::Primary, Some(&version)).await;
    assert!(matches!(late, Swapped::Unknown(_)), "{late:?}");
    let other = won(put(&bucket, &Document::Primary, Some(&version)).await);
    tokio::time::sleep(Duration::from_secs(31)).await;
    let found = bucket.read(&Document::Primary).await.expect("reads").expect("is there");
    assert_eq!(found.version, other, "the delayed one found its condition gone");
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
    bucket.read(&Document::Primary).await.expect_err("a short body is no document");
}

#[tokio::test(start_paused = true)]
async fn the_selftest_refuses_a_store_that_ignores_conditions() {
    for (verb, header) in [(Verb::Create, "If-None-Match"), (Verb::Replace, "If-Match")] {
        let (bucket, faults) = weathered();
        faults.set(move |operation| {
            if operation.verb == verb { Fault::Unconditional } else { Fault::None }
        });
        let refused = bucket.selftest().await.expect_err("is refused");
        assert!(matches!(refused, Failure::Unfit(_)), "{refused:?}");
        assert!(refused.to_string().contains(header), "{refused}");
        assert_eq!(faults.counts().of(Verb::Delete), 1, "the probe is cleaned up");
    }
}

#[tokio::test(start_paused = true)]
async fn the_selftest_sees_through_bad_weather() {
    for fault in [Fault::Before, Fault::After, Fault::Conflict] {
        for verb in [Verb::Create, Verb::Replace] {
            let (bucket, faults) = weathered();
            faults.once(verb, fault);
            bucket.selftest().await.unwrap_or_else(|error| panic!("{verb:?} {fault:?}: {error}"));
        }
    }
    let (bucket, faults) = weathered();
    faults.set(|_| Fault::Denied);
    let denied = bucket.selftest().await.expect_err("cannot be carried out");
    assert!(matches!(denied, Failure::Denied { .. }), "{denied:?}");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_without_its_secrets() {
    for url in ["ftp://a/b", "nonsense", "file://relative/x", "s3://user:hunter2@"] {
        let config = BucketConfig { url: url.into(), ..BucketConfig::default() };
        let error = open(&config, CLUSTER).expect_err(url).to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
