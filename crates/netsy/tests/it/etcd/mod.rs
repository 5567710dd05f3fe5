//! What etcd's clients see, through generated clients over a real port.

mod calls;
mod compatibility;
mod differential;
mod errors;
mod etcdctl;
mod oracle;
mod port;
mod range;
mod txn;
mod watch;

use bytes::Bytes;
use netsy::api::proto::etcdserverpb::kv_client::KvClient;
use netsy::api::proto::etcdserverpb::request_op::Request as Op;
use netsy::api::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse, compare,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::fake::Node;

/// A KV client, with the few calls the tests are made of.
#[derive(Clone)]
pub(crate) struct Kv(pub(crate) KvClient<Channel>);

impl Kv {
    pub(crate) async fn to(node: &Node) -> Kv {
        let client = KvClient::new(node.channel().await);
        Kv(client
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX))
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.0.clone().range(request).await?.into_inner())
    }

    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.0.clone().txn(request).await?.into_inner())
    }

    /// Puts without compares; the Revision it was given.
    pub(crate) async fn put(&self, key: &str, value: &str) -> i64 {
        let request = TxnRequest {
            success: vec![put(key, value)],
            ..TxnRequest::default()
        };
        revision(&self.txn(request).await.unwrap())
    }

    /// Deletes without compares; the Revision of the answer.
    pub(crate) async fn delete(&self, key: &str) -> i64 {
        let request = TxnRequest {
            success: vec![delete(key)],
            ..TxnRequest::default()
        };
        revision(&self.txn(request).await.unwrap())
    }
}

pub(crate) fn revision(response: &TxnResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// One key.
pub(crate) fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        ..RangeRequest::default()
    }
}

/// Every key that begins with `prefix` (which does not end in 0xff).
pub(crate) fn prefix(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    RangeRequest {
        key: bytes(prefix),
        range_end: end.into(),
        ..RangeRequest::default()
    }
}

pub(crate) fn op(request: Op) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

pub(crate) fn put(key: &str, value: &str) -> RequestOp {
    op(Op::RequestPut(PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..PutRequest::default()
    }))
}

pub(crate) fn delete(key: &str) -> RequestOp {
    op(Op::RequestDeleteRange(DeleteRangeRequest {
        key: bytes(key),
        ..DeleteRangeRequest::default()
    }))
}

pub(crate) fn read(request: RangeRequest) -> RequestOp {
    op(Op::RequestRange(request))
}

/// `mod_revision(key) == revision`.
pub(crate) fn unchanged_since(key: &str, revision: i64) -> Compare {
    Compare {
        key: bytes(key),
        target: compare::CompareTarget::Mod as i32,
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
        ..Compare::default()
    }
}
