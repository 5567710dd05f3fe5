//! Txn as kube-apiserver sends it, and the edges etcd's own tests look at.

use netsy::api::proto::etcdserverpb::response_op::Response as Answer;
use netsy::api::proto::etcdserverpb::{Compare, request_op::Request as Op};
use netsy::api::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, TxnResponse, compare,
};

use super::{Kv, bytes, delete, get, op, put, read, revision, unchanged_since};
use crate::fake::Node;

fn answers(response: &TxnResponse) -> Vec<&Answer> {
    response
        .responses
        .iter()
        .map(|op| op.response.as_ref().unwrap())
        .collect()
}

#[tokio::test]
async fn create_update_and_delete_as_kubernetes_does() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let create = TxnRequest {
        compare: vec![unchanged_since("/r/a", 0)],
        success: vec![put("/r/a", "1")],
        failure: vec![],
    };
    let created = kv.txn(create.clone()).await.unwrap();
    assert!(created.succeeded);
    assert_eq!(revision(&created), 2);
    let [Answer::ResponsePut(answer)] = answers(&created)[..] else {
        panic!("{created:?}")
    };
    let header = answer.header.unwrap();
    assert_eq!(
        (header.revision, header.cluster_id, header.member_id),
        (2, 0, 0)
    );

    let again = kv.txn(create).await.unwrap();
    assert!(!again.succeeded);
    assert_eq!((revision(&again), again.responses.len()), (2, 0));

    let update = |known: i64| TxnRequest {
        compare: vec![unchanged_since("/r/a", known)],
        success: vec![put("/r/a", "2")],
        failure: vec![read(get("/r/a"))],
    };
    assert!(kv.txn(update(2)).await.unwrap().succeeded);
    let stale = kv.txn(update(2)).await.unwrap();
    assert!(!stale.succeeded);
    let [Answer::ResponseRange(found)] = answers(&stale)[..] else {
        panic!("{stale:?}")
    };
    assert_eq!(
        (found.kvs.len(), found.count, found.kvs[0].mod_revision()),
        (1, 1, 3)
    );

    let remove = |known: i64| TxnRequest {
        compare: vec![unchanged_since("/r/a", known)],
        success: vec![delete("/r/a")],
        failure: vec![read(get("/r/a"))],
    };
    let removed = kv.txn(remove(3)).await.unwrap();
    assert_eq!((removed.succeeded, revision(&removed)), (true, 4));
    let [Answer::ResponseDeleteRange(answer)] = answers(&removed)[..] else {
        panic!()
    };
    assert_eq!((answer.deleted, answer.prev_kvs.len()), (1, 0));

    let absent = kv.txn(remove(3)).await.unwrap();
    let [Answer::ResponseRange(found)] = answers(&absent)[..] else {
        panic!()
    };
    assert!(found.kvs.is_empty(), "no zero KeyValue for an absent key");
}

#[tokio::test]
async fn deleting_what_is_not_there_writes_nothing() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let request = TxnRequest {
        success: vec![delete("x")],
        ..TxnRequest::default()
    };
    let answer = kv.txn(request).await.unwrap();
    assert!(answer.succeeded);
    assert_eq!(revision(&answer), 1);
    let [Answer::ResponseDeleteRange(deleted)] = answers(&answer)[..] else {
        panic!()
    };
    assert_eq!(deleted.deleted, 0);
    assert_eq!(
        kv.range(get("x")).await.unwrap().header.unwrap().revision,
        1
    );
}

#[tokio::test]
async fn reads_around_the_mutation_see_their_own_revision() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    kv.put("a", "old").await;
    let with_prev = op(Op::RequestPut(PutRequest {
        key: bytes("a"),
        value: bytes("new"),
        prev_kv: true,
        ..PutRequest::default()
    }));
    let request = TxnRequest {
        success: vec![read(get("a")), with_prev, read(get("a"))],
        ..TxnRequest::default()
    };
    let answer = kv.txn(request).await.unwrap();
    let [
        Answer::ResponseRange(before),
        Answer::ResponsePut(put),
        Answer::ResponseRange(after),
    ] = answers(&answer)[..]
    else {
        panic!("{answer:?}")
    };
    assert_eq!(before.header.unwrap().revision, 2);
    assert_eq!(before.kvs[0].value(), b"old");
    assert_eq!(put.header.unwrap().revision, 3);
    assert_eq!(put.prev_kv.as_ref().unwrap().value(), b"old");
    assert_eq!(after.header.unwrap().revision, 3);
    assert_eq!(after.kvs[0].value(), b"new");
    assert_eq!(after.kvs[0].version(), 2);
}

#[tokio::test]
async fn previous_values_come_only_where_there_were_any() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let put = |value: &str| TxnRequest {
        success: vec![op(Op::RequestPut(PutRequest {
            key: bytes("k"),
            value: bytes(value),
            prev_kv: true,
            ..PutRequest::default()
        }))],
        ..TxnRequest::default()
    };
    let first = kv.txn(put("1")).await.unwrap();
    let [Answer::ResponsePut(answer)] = answers(&first)[..] else {
        panic!()
    };
    assert_eq!(answer.prev_kv, None);
    let second = kv.txn(put("2")).await.unwrap();
    let [Answer::ResponsePut(answer)] = answers(&second)[..] else {
        panic!()
    };
    assert_eq!(answer.prev_kv.as_ref().unwrap().value(), b"1");

    let remove = TxnRequest {
        success: vec![op(Op::RequestDeleteRange(DeleteRangeRequest {
            key: bytes("k"),
            prev_kv: true,
            ..DeleteRangeRequest::default()
        }))],
        ..TxnRequest::default()
    };
    let removed = kv.txn(remove.clone()).await.unwrap();
    let [Answer::ResponseDeleteRange(answer)] = answers(&removed)[..] else {
        panic!()
    };
    assert_eq!(answer.deleted, 1);
    assert_eq!(answer.prev_kvs[0].value(), b"2");
    let absent = kv.txn(remove).await.unwrap();
    let [Answer::ResponseDeleteRange(answer)] = answers(&absent)[..] else {
        panic!()
    };
    assert_eq!((answer.deleted, answer.prev_kvs.len()), (0, 0));
}

#[tokio::test]
async fn compares_follow_etcds_edges() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    kv.put("a", "m").await;
    let holds = async |compare: Compare| {
        let request = TxnRequest {
            compare: vec![compare],
            ..TxnRequest::default()
        };
        kv.txn(request).await.unwrap().succeeded
    };
    use compare::{CompareResult as R, CompareTarget as T, TargetUnion as U};
    let of = |key: &str, target: T, result: R, union: Option<U>| Compare {
        key: bytes(key),
        target: target as i32,
        result: result as i32,
        target_union: union,
        ..Compare::default()
    };
    assert!(holds(of("a", T::Version, R::Equal, Some(U::Version(1)))).await);
    assert!(holds(of("a", T::Create, R::Less, Some(U::CreateRevision(3)))).await);
    assert!(holds(of("a", T::Value, R::Greater, Some(U::Value(bytes("l"))))).await);
    assert!(holds(of("a", T::Lease, R::Equal, None)).await);
    assert!(
        holds(of("a", T::Mod, R::NotEqual, None)).await,
        "unset is 0"
    );
    assert!(
        holds(of("none", T::Mod, R::Equal, Some(U::Version(7)))).await,
        "mismatched is 0"
    );
    for result in [R::Equal, R::NotEqual, R::Less, R::Greater] {
        let absent = of("none", T::Value, result, Some(U::Value(bytes(""))));
        assert!(
            !holds(absent).await,
            "a value that is not there never compares"
        );
    }
    let everything = Compare {
        range_end: bytes("\0"),
        ..of("\0", T::Mod, R::Greater, Some(U::ModRevision(0)))
    };
    assert!(holds(everything).await);
    assert_eq!(
        kv.range(get("a")).await.unwrap().header.unwrap().revision,
        2
    );
}

#[tokio::test]
async fn a_put_of_the_same_value_is_a_new_revision_and_clears_the_lease() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let leased = op(Op::RequestPut(PutRequest {
        key: bytes("k"),
        value: bytes("v"),
        lease: 77,
        ..PutRequest::default()
    }));
    kv.txn(TxnRequest {
        success: vec![leased],
        ..TxnRequest::default()
    })
    .await
    .unwrap();
    assert_eq!(kv.range(get("k")).await.unwrap().kvs[0].lease(), 77);
    assert_eq!(kv.put("k", "v").await, 3);
    assert_eq!(kv.range(get("k")).await.unwrap().kvs[0].lease(), 0);
}

#[tokio::test]
async fn an_empty_txn_succeeds_and_writes_nothing() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let answer = kv.txn(TxnRequest::default()).await.unwrap();
    assert!(answer.succeeded && answer.responses.is_empty());
    assert_eq!(revision(&answer), 1);
}

#[tokio::test]
async fn a_page_inside_a_txn_is_a_range_like_any_other() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for key in ["a", "b", "c"] {
        kv.put(key, "v").await;
    }
    let page = RangeRequest {
        range_end: bytes("\0"),
        limit: 2,
        ..get("a")
    };
    let request = TxnRequest {
        success: vec![read(page)],
        ..TxnRequest::default()
    };
    let answer = kv.txn(request).await.unwrap();
    let [Answer::ResponseRange(found)] = answers(&answer)[..] else {
        panic!()
    };
    assert_eq!((found.kvs.len(), found.count, found.more), (2, 3, true));
}
