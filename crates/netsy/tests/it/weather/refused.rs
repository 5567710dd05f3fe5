//! Txns that are refused for what the data says, while what it says may still be cut (H11): the refusal waits, as
//! the answer to a failed compare does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netsy::api::proto::etcdserverpb::request_op::Request as Op;
use netsy::api::proto::etcdserverpb::{
    PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use netsy::bucket::faults::{Fault, Verb};
use netsy::bucket::names;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::node::{PATIENCE, Place, Running, until};
use crate::etcd::{bytes, delete, get, op, put, read};

type Answer = JoinHandle<Result<TxnResponse, Status>>;

fn asks(node: &Running, success: Vec<RequestOp>) -> Answer {
    let kv = node.kv();
    let request = TxnRequest {
        success,
        ..TxnRequest::default()
    };
    tokio::spawn(async move { kv.txn(request).await })
}

/// A put that keeps the value: refused if there is no such key.
fn keeps_value(key: &str) -> RequestOp {
    op(Op::RequestPut(PutRequest {
        key: bytes(key),
        ignore_value: true,
        ..PutRequest::default()
    }))
}

/// A read of a Revision that nothing but the delete under way may reach, after which there is none yet.
fn reads_at(revision: i64) -> RequestOp {
    read(RangeRequest {
        revision,
        ..get("k")
    })
}

/// Deletes `k` on a Primary whose Chunks hang, and asks what is refused for it: nobody is answered.
async fn refused_for_a_delete(node: &Running) -> (Arc<AtomicBool>, Answer, Vec<Answer>) {
    let written = node.kv().put("k", "v").await;
    let (hung, lands) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let seen = (Arc::clone(&hung), Arc::clone(&lands));
    node.sky.set(move |operation| {
        let chunk = operation.object.starts_with(names::chunks().as_ref());
        if !chunk || operation.verb != Verb::Create || seen.1.load(Ordering::SeqCst) {
            return Fault::None;
        }
        seen.0.store(true, Ordering::SeqCst);
        Fault::Hang
    });
    let deleted = asks(node, vec![delete("k")]);
    until("the delete is on its way", || async {
        hung.load(Ordering::SeqCst)
    })
    .await;
    let refused = vec![
        asks(node, vec![keeps_value("k")]),
        asks(node, vec![reads_at(written + 2)]),
    ];
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!deleted.is_finished(), "nothing has landed");
    for refused in &refused {
        assert!(!refused.is_finished(), "told of what may never be");
    }
    (lands, deleted, refused)
}

async fn told(answer: Answer) -> Result<TxnResponse, Status> {
    let told = tokio::time::timeout(PATIENCE, answer).await;
    told.expect("an answer comes in time").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h11_a_refusal_answers_when_what_it_saw_is_committed() {
    let place = Place::new();
    let node = place.node("one").start().await;
    node.healthy().await;
    let (lands, deleted, refused) = refused_for_a_delete(&node).await;
    lands.store(true, Ordering::SeqCst);
    told(deleted).await.unwrap();
    let texts = [
        (Code::InvalidArgument, "etcdserver: key not found"),
        (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ];
    for (refused, (code, text)) in refused.into_iter().zip(texts) {
        let refused = told(refused).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, text));
    }
    // What does not look at data is refused at once, whatever hangs.
    lands.store(false, Ordering::SeqCst);
    let hangs = asks(&node, vec![put("other", "v")]);
    let twice = vec![put("k", "1"), put("k", "2")];
    let refused = told(asks(&node, twice)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    hangs.abort();
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h11_a_refusal_is_unknown_when_the_tenure_ends() {
    let place = Place::new();
    let one = place.node("one").start().await;
    one.healthy().await;
    let (_, deleted, refused) = refused_for_a_delete(&one).await;
    let two = place.node("two").start().await;
    one.sky.set(|_| Fault::Hang);
    two.healthy().await;
    for refused in refused {
        let refused = told(refused).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }
    assert_eq!(told(deleted).await.unwrap_err().code(), Code::Unavailable);
    let there = two.kv().range(get("k")).await.unwrap();
    assert_eq!(there.kvs.len(), 1, "the delete was cut");
    one.kill().await;
    two.kill().await;
}
