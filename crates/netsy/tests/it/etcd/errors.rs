//! Refusals: clients match on the exact text, and retry by the code.

use std::time::{Duration, Instant};

use bytes::Bytes;
use netsy::api::Limits;
use netsy::api::proto::etcdserverpb::request_op::Request as Op;
use netsy::api::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use netsy::standing::HealthState;
use rules::refusal::Refusal;
use rules::revision::Revision;
use tonic::{Code, Request, Status};

use super::{Kv, bytes, delete, get, op, put, read};
use crate::fake::{Mood, Node};

fn assert_told(refused: &Status, code: Code, text: &str) {
    assert_eq!((refused.code(), refused.message()), (code, text));
}

#[tokio::test]
async fn ranges_are_refused_in_etcds_words() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for number in 0..5 {
        kv.put("k", &number.to_string()).await;
    }
    node.handle.view.set_floor(Revision(4));
    let at = |revision: i64| RangeRequest {
        revision,
        ..get("k")
    };

    let refused = kv.range(RangeRequest::default()).await.unwrap_err();
    assert_told(
        &refused,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    let refused = kv.range(at(99)).await.unwrap_err();
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert_told(&refused, Code::OutOfRange, future);
    let refused = kv.range(at(3)).await.unwrap_err();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_told(&refused, Code::OutOfRange, compacted);
    assert!(
        kv.range(at(4)).await.is_ok(),
        "the floor itself can be read"
    );
    for request in [
        RangeRequest {
            sort_order: 9,
            ..get("k")
        },
        RangeRequest {
            sort_target: 9,
            ..get("k")
        },
    ] {
        let refused = kv.range(request).await.unwrap_err();
        assert_told(
            &refused,
            Code::InvalidArgument,
            "etcdserver: invalid sort option",
        );
    }
}

#[tokio::test]
async fn txns_are_refused_before_anything_is_looked_at() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let no_key = "etcdserver: key is not provided";
    let value_twice = PutRequest {
        ignore_value: true,
        value: bytes("v"),
        ..a_put()
    };
    let lease_twice = PutRequest {
        ignore_lease: true,
        lease: 7,
        ..a_put()
    };
    for (ops, text) in [
        (vec![put("", "v")], no_key),
        (vec![delete("")], no_key),
        (vec![read(get(""))], no_key),
        (
            vec![put("a", "1"), put("a", "2")],
            "etcdserver: duplicate key given in txn request",
        ),
        (vec![RequestOp::default()], "etcdserver: key not found"),
        (
            vec![op(Op::RequestPut(value_twice))],
            "etcdserver: value is provided",
        ),
        (
            vec![op(Op::RequestPut(lease_twice))],
            "etcdserver: lease is provided",
        ),
        (
            vec![read(get("a")); 129],
            "etcdserver: too many operations in txn request",
        ),
        (
            vec![read(RangeRequest {
                sort_order: 9,
                ..get("a")
            })],
            "etcdserver: invalid sort option",
        ),
    ] {
        // In the branch that is taken and in the one that is not.
        for (success, failure) in [(ops.clone(), vec![]), (vec![], ops)] {
            let request = TxnRequest {
                success,
                failure,
                ..TxnRequest::default()
            };
            let refused = kv.txn(request).await.unwrap_err();
            assert_told(&refused, Code::InvalidArgument, text);
        }
    }
    let request = TxnRequest {
        compare: vec![Compare::default()],
        ..TxnRequest::default()
    };
    assert_told(
        &kv.txn(request).await.unwrap_err(),
        Code::InvalidArgument,
        no_key,
    );
    assert_eq!(
        kv.range(get("a")).await.unwrap().header.unwrap().revision,
        1
    );
}

fn a_put() -> PutRequest {
    PutRequest {
        key: bytes("a"),
        ..PutRequest::default()
    }
}

#[tokio::test]
async fn what_the_subset_leaves_out_is_unimplemented_whatever_the_data() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let range = DeleteRangeRequest {
        range_end: bytes("b"),
        ..DeleteRangeRequest::default()
    };
    let range = op(Op::RequestDeleteRange(DeleteRangeRequest {
        key: bytes("a"),
        ..range
    }));
    for ops in [
        vec![put("a", "1"), put("b", "2")],
        vec![range],
        vec![op(Op::RequestTxn(TxnRequest::default()))],
    ] {
        for (success, failure) in [(ops.clone(), vec![]), (vec![], ops)] {
            let request = TxnRequest {
                success,
                failure,
                ..TxnRequest::default()
            };
            let refused = kv.txn(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
            assert!(!refused.message().is_empty());
        }
    }
}

#[tokio::test]
async fn a_failing_check_on_the_branch_taken_applies_nothing() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let future = read(RangeRequest {
        revision: 50,
        ..get("a")
    });
    let request = TxnRequest {
        success: vec![put("a", "1"), future],
        ..TxnRequest::default()
    };
    assert_eq!(kv.txn(request).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(kv.range(get("a")).await.unwrap().count, 0);
}

#[tokio::test]
async fn sizes_are_bounded_as_in_etcd() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let sized = |bytes: usize| TxnRequest {
        success: vec![op(Op::RequestPut(PutRequest {
            key: Bytes::from_static(b"k"),
            value: vec![7; bytes].into(),
            ..PutRequest::default()
        }))],
        ..TxnRequest::default()
    };
    let limit = 3 << 19;
    assert!(kv.txn(sized(limit - 100)).await.is_ok());
    let refused = kv.txn(sized(limit)).await.unwrap_err();
    assert_told(
        &refused,
        Code::InvalidArgument,
        "etcdserver: request is too large",
    );
    let refused = kv.txn(sized(3 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let text = refused.message();
    assert!(
        text.starts_with("grpc: received message larger than max (3145"),
        "{text}"
    );
    assert!(text.ends_with(" vs. 2097152)"), "{text}");
    assert_eq!(
        kv.range(get("k")).await.unwrap().kvs[0].value().len(),
        limit - 100
    );
}

#[tokio::test]
async fn refusals_of_the_driver_keep_their_code_and_text() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for (refusal, code) in [
        (Refusal::NoLeader, Code::Unavailable),
        (Refusal::LeaderChanged, Code::Unavailable),
        (Refusal::NoSpace, Code::ResourceExhausted),
        (Refusal::TooManyRequests, Code::ResourceExhausted),
        (
            Refusal::Unavailable("the write gate is shut".into()),
            Code::Unavailable,
        ),
    ] {
        node.set_mood(Mood::Refusing(refusal.clone()));
        let request = TxnRequest {
            success: vec![put("a", "1")],
            ..TxnRequest::default()
        };
        assert_told(
            &kv.txn(request).await.unwrap_err(),
            code,
            &refusal.to_string(),
        );
        assert_told(
            &kv.range(get("a")).await.unwrap_err(),
            code,
            &refusal.to_string(),
        );
        let local = RangeRequest {
            serializable: true,
            ..get("a")
        };
        assert!(
            kv.range(local).await.is_ok(),
            "a serializable read asks nobody"
        );
    }
}

#[tokio::test]
async fn what_is_never_answered_is_unavailable_never_a_clean_failure() {
    let limits = Limits {
        answer_within: Duration::from_millis(80),
        ..Limits::default()
    };
    let node = Node::start_with(limits, None).await;
    let kv = Kv::to(&node).await;
    let request = TxnRequest {
        success: vec![put("a", "1")],
        ..TxnRequest::default()
    };
    node.set_mood(Mood::Silent);
    let begun = Instant::now();
    let refused = kv.txn(request.clone()).await.unwrap_err();
    assert_told(&refused, Code::Unavailable, "etcdserver: request timed out");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let refused = kv.range(get("a")).await.unwrap_err();
    assert_told(&refused, Code::Unavailable, "etcdserver: request timed out");
    node.set_mood(Mood::Gone);
    let refused = kv.txn(request).await.unwrap_err();
    assert_told(&refused, Code::Unavailable, "etcdserver: leader changed");
}

#[tokio::test]
async fn a_loading_node_shows_nothing() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    node.change(|standing| standing.health = HealthState::Loading);
    let local = RangeRequest {
        serializable: true,
        ..get("a")
    };
    for request in [get("a"), local] {
        let refused = kv.range(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        let told = refused.message();
        assert!(
            told.starts_with("netsy: node `") && told.contains("is loading"),
            "{refused}"
        );
    }
    let refused = kv.txn(TxnRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn whoever_insists_on_a_leader_is_refused_without_one() {
    let mut limits = Limits::default();
    limits.watch.leaderless_for = Duration::from_millis(50);
    let node = Node::start_with(limits, None).await;
    let mut kv = Kv::to(&node).await.0;
    let insisting = |request: RangeRequest| {
        let mut request = Request::new(request);
        request
            .metadata_mut()
            .insert("hasleader", "true".parse().unwrap());
        request
    };
    assert!(kv.range(insisting(get("a"))).await.is_ok());
    node.change(|standing| standing.leader = 0);
    let refused = kv.range(insisting(get("a"))).await.unwrap_err();
    assert_told(&refused, Code::Unavailable, "etcdserver: no leader");
    let refused = kv.range_stream(insisting(get("a"))).await.unwrap_err();
    assert_told(&refused, Code::Unavailable, "etcdserver: no leader");
    assert!(kv.range(get("a")).await.is_ok());
    // Until it is loaded it may be that there is a Primary: `no leader` would make watches hammer at the door.
    node.change(|standing| standing.health = HealthState::Loading);
    let refused = kv.range_stream(insisting(get("a"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("loading"), "{refused}");
}

#[tokio::test]
async fn more_than_can_wait_is_refused_at_once() {
    let limits = Limits {
        waiting_bytes: 1000,
        ..Limits::default()
    };
    let node = Node::start_with(limits, None).await;
    let kv = Kv::to(&node).await;
    let request = TxnRequest {
        success: vec![put("a", &"v".repeat(700))],
        ..TxnRequest::default()
    };
    assert!(kv.txn(request.clone()).await.is_ok());
    assert!(
        kv.txn(request.clone()).await.is_ok(),
        "the room of an answered txn is free again"
    );
    node.set_mood(Mood::Silent);
    // One of the two takes the room and is never answered; the other is refused.
    let answer = tokio::select! {
        answer = kv.txn(request.clone()) => answer,
        answer = kv.txn(request) => answer,
    };
    let refused = answer.unwrap_err();
    assert_told(
        &refused,
        Code::ResourceExhausted,
        "etcdserver: too many requests",
    );
}
