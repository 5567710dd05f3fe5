//! etcd's API as this crate speaks it: plain generated clients, and the few requests everybody sends.
//! A Client is one HTTP/2 connection, cheap to clone; messages may be of any size.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
pub(crate) mod mvccpb {
    tonic::include_proto!("mvccpb");
}
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
pub(crate) mod authpb {
    tonic::include_proto!("authpb");
}
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::all
)]
pub(crate) mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
pub(crate) mod datafile {
    tonic::include_proto!("netsy");
}

use etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd::kv_client::KvClient;
use etcd::lease_client::LeaseClient;
use etcd::maintenance_client::MaintenanceClient;
use etcd::request_op::Request;
use etcd::watch_client::WatchClient;
use etcd::watch_request::RequestUnion;
pub(crate) use etcdserverpb as etcd;

/// One connection to one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects lazily to `endpoint`, such as `http://127.0.0.1:2379`.
    pub(crate) fn new(endpoint: &str) -> Result<Client> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .with_context(|| format!("`{endpoint}` is not an endpoint"))?
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(32 << 20)
            .connect_lazy();
        Ok(Client { channel })
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// One watch on a stream of its own: what it is answered. It lasts as long as the answers are kept.
    pub(crate) async fn open_watch(
        &self,
        create: etcd::WatchCreateRequest,
    ) -> Result<Streaming<etcd::WatchResponse>, Status> {
        let request = etcd::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // The stream of requests stays open: its end would end the watch.
        let requests = futures::StreamExt::chain(
            tokio_stream::once(request),
            futures::stream::pending::<etcd::WatchRequest>(),
        );
        Ok(self.watch().watch(requests).await?.into_inner())
    }

    pub(crate) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }
}

/// `key`'s last change was at `revision` (0: it is not there).
pub(crate) fn changed_at(key: &Bytes, revision: i64) -> etcd::Compare {
    etcd::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

/// kube's write: put `value` if `key` was last changed at `revision`, else read it.
pub(crate) fn put_if(key: &Bytes, revision: i64, value: Bytes) -> etcd::TxnRequest {
    let put = etcd::PutRequest {
        key: key.clone(),
        value,
        ..Default::default()
    };
    guarded(key, revision, Request::RequestPut(put))
}

/// kube's delete: delete `key` if it was last changed at `revision`, else read it.
pub(crate) fn delete_if(key: &Bytes, revision: i64) -> etcd::TxnRequest {
    let delete = etcd::DeleteRangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    guarded(key, revision, Request::RequestDeleteRange(delete))
}

fn guarded(key: &Bytes, revision: i64, request: Request) -> etcd::TxnRequest {
    let read = etcd::RangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    etcd::TxnRequest {
        compare: vec![changed_at(key, revision)],
        success: vec![etcd::RequestOp {
            request: Some(request),
        }],
        failure: vec![etcd::RequestOp {
            request: Some(Request::RequestRange(read)),
        }],
    }
}

/// One key, as of now; linearizable.
pub(crate) fn get(key: &Bytes) -> etcd::RangeRequest {
    etcd::RangeRequest {
        key: key.clone(),
        ..Default::default()
    }
}

/// The first key after every key that starts with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// The Revision in a response header; 0 without one.
pub(crate) fn revision(header: &Option<etcd::ResponseHeader>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}
