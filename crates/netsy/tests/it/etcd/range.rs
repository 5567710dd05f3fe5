//! Range and RangeStream as kube-apiserver and etcdctl use them.

use futures::TryStreamExt;
use netsy::api::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use netsy::api::proto::etcdserverpb::{RangeRequest, RangeResponse};
use tonic::Code;

use super::{Kv, bytes, get, prefix};
use crate::fake::{EPOCH, MEMBER, Node};

fn keys(response: &RangeResponse) -> Vec<String> {
    let keys = response.kvs.iter().map(|kv| kv.key().to_vec());
    keys.map(|key| String::from_utf8(key).unwrap()).collect()
}

#[tokio::test]
async fn an_empty_store_is_at_revision_one() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let answer = kv.range(get("/registry/health")).await.unwrap();
    assert!(answer.kvs.is_empty());
    assert_eq!((answer.count, answer.more), (0, false));
    let header = answer.header.unwrap();
    assert_eq!(header.revision, 1);
    assert_eq!(header.member_id, MEMBER);
    assert_eq!(header.raft_term, EPOCH.0);
    assert_ne!(header.cluster_id, 0);
    let pinned = RangeRequest {
        revision: 1,
        ..get("a")
    };
    assert!(kv.range(pinned).await.is_ok());
}

#[tokio::test]
async fn keys_carry_their_history() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    assert_eq!(kv.put("a", "1").await, 2);
    assert_eq!(kv.put("a", "2").await, 3);
    let answer = kv.range(get("a")).await.unwrap();
    let found = &answer.kvs[0];
    assert_eq!((found.key(), found.value()), (&b"a"[..], &b"2"[..]));
    assert_eq!(
        (
            found.create_revision(),
            found.mod_revision(),
            found.version()
        ),
        (2, 3, 2)
    );
    assert_eq!(kv.delete("a").await, 4);
    assert_eq!(kv.put("a", "3").await, 5);
    let answer = kv.range(get("a")).await.unwrap();
    let found = &answer.kvs[0];
    assert_eq!(
        (
            found.create_revision(),
            found.mod_revision(),
            found.version()
        ),
        (5, 5, 1)
    );
}

#[tokio::test]
async fn pages_count_what_remains_and_are_pinned() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for name in ["a", "b", "c", "d"] {
        kv.put(&format!("/registry/pods/{name}"), name).await;
    }
    let first = RangeRequest {
        limit: 2,
        ..prefix("/registry/pods/")
    };
    let answer = kv.range(first.clone()).await.unwrap();
    assert_eq!((answer.count, answer.more, answer.kvs.len()), (4, true, 2));
    let pinned = answer.header.unwrap().revision;
    kv.put("/registry/pods/e", "late").await;

    let mut key = answer.kvs[1].key().to_vec();
    key.push(0);
    let next = RangeRequest {
        key: key.into(),
        revision: pinned,
        ..first
    };
    let answer = kv.range(next).await.unwrap();
    assert_eq!(keys(&answer), ["/registry/pods/c", "/registry/pods/d"]);
    assert_eq!((answer.count, answer.more), (2, false));
    assert_eq!(
        answer.header.unwrap().revision,
        pinned + 1,
        "the newest, not the pinned one"
    );
}

#[tokio::test]
async fn every_form_of_range_end() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for key in ["a", "b", "c"] {
        kv.put(key, "v").await;
    }
    let asked = async |key: &str, end: &str| {
        let (key, range_end) = (bytes(key), bytes(end));
        kv.range(RangeRequest {
            key,
            range_end,
            ..RangeRequest::default()
        })
        .await
        .unwrap()
    };
    assert_eq!(keys(&asked("b", "").await), ["b"]);
    assert_eq!(keys(&asked("b", "\0").await), ["b", "c"]);
    assert_eq!(keys(&asked("\0", "\0").await), ["a", "b", "c"]);
    assert_eq!(keys(&asked("a", "c").await), ["a", "b"]);
    let backwards = asked("c", "a").await;
    assert_eq!(
        (backwards.count, backwards.more, backwards.kvs.len()),
        (0, false, 0)
    );
}

#[tokio::test]
async fn options_do_what_etcd_does() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for key in ["a", "b", "c"] {
        kv.put(key, "value").await;
    }
    let all = RangeRequest {
        key: bytes("\0"),
        range_end: bytes("\0"),
        ..RangeRequest::default()
    };

    let counted = kv
        .range(RangeRequest {
            count_only: true,
            limit: 1,
            ..all.clone()
        })
        .await;
    let counted = counted.unwrap();
    assert_eq!(
        (counted.count, counted.kvs.len(), counted.more),
        (3, 0, false)
    );

    let bare = kv
        .range(RangeRequest {
            keys_only: true,
            ..all.clone()
        })
        .await
        .unwrap();
    assert!(
        bare.kvs
            .iter()
            .all(|kv| kv.value().is_empty() && kv.version() == 1)
    );

    let newest = RangeRequest {
        sort_order: SortOrder::Descend as i32,
        sort_target: SortTarget::Mod as i32,
        limit: 1,
        ..all.clone()
    };
    let newest = kv.range(newest).await.unwrap();
    assert_eq!(
        (keys(&newest), newest.count, newest.more),
        (vec!["c".into()], 3, true)
    );

    let recent = kv
        .range(RangeRequest {
            min_mod_revision: 4,
            ..all.clone()
        })
        .await
        .unwrap();
    assert_eq!(
        (keys(&recent), recent.count),
        (vec!["c".into()], 3),
        "count stays unfiltered"
    );

    let past = kv
        .range(RangeRequest {
            revision: -5,
            ..all
        })
        .await
        .unwrap();
    assert_eq!(past.count, 3, "a negative revision is the newest");
}

#[tokio::test]
async fn a_stream_of_pages_merges_to_the_answer_of_range() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let value = "v".repeat(20_000);
    for number in 0..250 {
        kv.put(&format!("/p/{number:03}"), &value).await;
    }
    for request in [
        prefix("/p/"),
        RangeRequest {
            limit: 130,
            ..prefix("/p/")
        },
        RangeRequest {
            revision: 20,
            ..prefix("/p/")
        },
        RangeRequest {
            keys_only: true,
            ..prefix("/p/")
        },
        RangeRequest {
            count_only: true,
            ..prefix("/p/")
        },
        prefix("/nothing/"),
        get("/p/007"),
    ] {
        let whole = kv.range(request.clone()).await.unwrap();
        let stream =
            kv.0.clone()
                .range_stream(request)
                .await
                .unwrap()
                .into_inner();
        let pages: Vec<_> = stream.try_collect().await.unwrap();
        let pages: Vec<_> = pages
            .into_iter()
            .map(|page| page.range_response.unwrap())
            .collect();
        let (last, others) = pages.split_last().unwrap();
        assert!(
            others
                .iter()
                .all(|page| page.header.is_none() && page.count == 0 && !page.more)
        );
        let kvs: Vec<_> = pages.iter().flat_map(|page| page.kvs.clone()).collect();
        assert_eq!(
            RangeResponse {
                kvs,
                ..last.clone()
            },
            whole
        );
    }
}

#[tokio::test]
async fn a_stream_refuses_what_it_cannot_stream() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    kv.put("a", "1").await;
    let descending = RangeRequest {
        sort_order: SortOrder::Descend as i32,
        ..prefix("a")
    };
    let filtered = RangeRequest {
        max_mod_revision: 2,
        ..prefix("a")
    };
    for request in [descending, filtered] {
        let refused = kv.0.clone().range_stream(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains("RangeStream"), "{refused}");
    }
    let future = RangeRequest {
        revision: 99,
        ..prefix("a")
    };
    let stream = kv.0.clone().range_stream(future).await;
    let refused = match stream {
        Ok(stream) => stream
            .into_inner()
            .try_collect::<Vec<_>>()
            .await
            .unwrap_err(),
        Err(refused) => refused,
    };
    assert_eq!(refused.code(), Code::OutOfRange);
}
