//! The same random requests to a real etcd and to us: the answers must be equal, refusals included.
//!
//! Only what the subset holds is asked, and nothing whose answer etcd leaves open (ties in a sort).

use netsy::api::proto::etcdserverpb::request_op::Request as Op;
use netsy::api::proto::etcdserverpb::response_op::Response as Answer;
use netsy::api::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RequestOp, ResponseHeader, TxnRequest, compare::TargetUnion, lease_client::LeaseClient,
};
use netsy::api::proto::etcdserverpb::{kv_client::KvClient, range_request::SortTarget};
use rules::revision::Revision;
use tonic::{Code, Status};

use super::oracle::Oracle;
use super::{Kv, bytes, get, op};
use crate::fake::Node;

const LEASE: i64 = 4242;

/// SplitMix64: the same requests for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn key(&mut self) -> &'static str {
        if self.one_in(60) {
            ""
        } else {
            self.pick(&["a", "b", "b/1", "b/2", "c", "\0", "b/", "d"])
        }
    }

    /// A Revision near the newest, mostly 0.
    fn revision(&mut self, newest: i64) -> i64 {
        match self.below(6) {
            0 => newest - self.below(12) as i64,
            1 => newest + self.below(3) as i64 - 1,
            2 => -1,
            _ => 0,
        }
    }

    fn bound(&mut self, newest: i64) -> i64 {
        if self.one_in(6) {
            newest - self.below(10) as i64
        } else {
            0
        }
    }

    fn range(&mut self, newest: i64) -> RangeRequest {
        let targets = [SortTarget::Key, SortTarget::Create, SortTarget::Mod];
        let target = self.pick(&targets);
        let order = self.pick(&[0, 0, 1, 2]);
        // Without an order etcd cuts at the limit first and sorts what is left; we sort first.
        let cuts_first = order == 0 && target != SortTarget::Key;
        RangeRequest {
            key: bytes(self.key()),
            range_end: bytes(self.pick(&["", "", "\0", "b0", "c", "a"])),
            limit: if cuts_first {
                0
            } else {
                self.pick(&[0, 0, 0, 1, 2, 3, -1])
            },
            revision: self.revision(newest),
            sort_order: order,
            sort_target: target as i32,
            serializable: self.one_in(4),
            keys_only: self.one_in(4),
            count_only: self.one_in(6),
            min_mod_revision: self.bound(newest),
            max_mod_revision: self.bound(newest),
            min_create_revision: self.bound(newest),
            max_create_revision: self.bound(newest),
        }
    }

    fn compare(&mut self, newest: i64) -> Compare {
        let number = self.pick(&[0, 1, 2, newest, newest - 1, newest - 3]);
        let union = match self.below(7) {
            0 => None,
            1 => Some(TargetUnion::Version(number.min(4))),
            2 => Some(TargetUnion::CreateRevision(number)),
            3 => Some(TargetUnion::ModRevision(number)),
            4 => Some(TargetUnion::Value(bytes(self.pick(&["", "v1", "v2"])))),
            5 => Some(TargetUnion::Lease(self.pick(&[0, LEASE]))),
            _ => Some(TargetUnion::Version(1)),
        };
        Compare {
            result: self.below(4) as i32,
            target: self.below(5) as i32,
            key: bytes(self.key()),
            range_end: bytes(self.pick(&["", "", "", "\0", "c"])),
            target_union: union,
        }
    }

    fn mutation(&mut self) -> RequestOp {
        if self.one_in(4) {
            let (key, prev_kv) = (bytes(self.key()), self.one_in(2));
            let delete = DeleteRangeRequest {
                key,
                prev_kv,
                ..DeleteRangeRequest::default()
            };
            return op(Op::RequestDeleteRange(delete));
        }
        op(Op::RequestPut(PutRequest {
            key: bytes(self.key()),
            value: bytes(self.pick(&["", "v1", "v2", "v3"])),
            lease: self.pick(&[0, 0, LEASE]),
            prev_kv: self.one_in(2),
            ignore_value: self.one_in(8),
            ignore_lease: self.one_in(8),
        }))
    }

    /// At most one mutation, among reads.
    fn branch(&mut self, newest: i64) -> Vec<RequestOp> {
        let mut branch = Vec::new();
        for _ in 0..self.below(3) {
            let mut range = self.range(newest);
            // Below 0 etcd says "compacted" inside a Txn and reads the newest outside; we always do the latter.
            range.revision = range.revision.max(0);
            branch.push(op(Op::RequestRange(range)));
        }
        if !self.one_in(4) {
            let place = self.below(branch.len() as u64 + 1) as usize;
            branch.insert(place, self.mutation());
        }
        if self.one_in(50) {
            branch.push(RequestOp::default());
        }
        branch
    }

    fn txn(&mut self, newest: i64) -> TxnRequest {
        TxnRequest {
            compare: (0..self.below(3)).map(|_| self.compare(newest)).collect(),
            success: self.branch(newest),
            failure: self.branch(newest),
        }
    }
}

/// Only the Revision is the same on both sides.
fn plain(header: Option<ResponseHeader>) -> Option<ResponseHeader> {
    header.map(|header| ResponseHeader {
        revision: header.revision,
        ..ResponseHeader::default()
    })
}

/// An answer or a refusal as text. Keys and values are the test's own.
fn told<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(refused) => format!("{:?} {}", refused.code(), refused.message()),
    }
}

async fn ask_range(kv: &Kv, request: &RangeRequest) -> String {
    told(kv.range(request.clone()).await.map(|mut answer| {
        answer.header = plain(answer.header);
        let values: Vec<_> = answer
            .kvs
            .iter()
            .map(|kv| (kv.key().to_vec(), kv.value().to_vec()))
            .collect();
        (answer, values)
    }))
}

async fn ask_txn(kv: &Kv, request: &TxnRequest) -> (String, Option<i64>) {
    let answer = kv.txn(request.clone()).await;
    let revision = answer.as_ref().ok().map(super::revision);
    let answer = answer.map(|mut answer| {
        answer.header = plain(answer.header);
        let mut values = Vec::new();
        for op in &answer.responses {
            let kvs = match op.response.as_ref() {
                Some(Answer::ResponseRange(found)) => found.kvs.clone(),
                Some(Answer::ResponsePut(put)) => put.prev_kv.iter().cloned().collect(),
                Some(Answer::ResponseDeleteRange(deleted)) => deleted.prev_kvs.clone(),
                Some(Answer::ResponseTxn(_)) | None => Vec::new(),
            };
            values.extend(
                kvs.iter()
                    .map(|kv| (kv.key().to_vec(), kv.value().to_vec())),
            );
        }
        (answer, values)
    });
    (told(answer), revision)
}

/// Drops history below `floor` on both sides.
async fn compact(etcd: &Kv, node: &Node, floor: i64) {
    let request = CompactionRequest {
        revision: floor,
        physical: true,
    };
    if etcd.0.clone().compact(request).await.is_ok() {
        node.handle.view.set_floor(Revision(floor as u64));
    }
}

#[tokio::test]
async fn answers_are_those_of_a_real_etcd() {
    let Some(oracle) = Oracle::start().await else {
        return;
    };
    let node = Node::start().await;
    let lease = LeaseGrantRequest {
        ttl: 1_000_000,
        id: LEASE,
    };
    LeaseClient::new(oracle.channel.clone())
        .lease_grant(lease)
        .await
        .unwrap();
    let etcd = Kv(KvClient::new(oracle.channel.clone()));
    let ours = Kv::to(&node).await;
    let seed = std::env::var("NETSY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let mut dice = Dice(seed);
    let mut newest = 1;
    for step in 0..1500 {
        if dice.one_in(3) {
            let request = dice.range(newest);
            let expected = ask_range(&etcd, &request).await;
            let got = ask_range(&ours, &request).await;
            assert_eq!(got, expected, "seed {seed}, step {step}: {request:?}");
        } else {
            let request = dice.txn(newest);
            let (expected, revision) = ask_txn(&etcd, &request).await;
            let (got, _) = ask_txn(&ours, &request).await;
            assert_eq!(got, expected, "seed {seed}, step {step}: {request:?}");
            newest = revision.unwrap_or(newest);
        }
        if step % 150 == 149 {
            compact(&etcd, &node, newest - 6).await;
        }
    }
    assert!(newest > 200, "the dice wrote something");
}

#[tokio::test]
async fn sizes_are_refused_where_a_real_etcd_refuses_them() {
    let Some(oracle) = Oracle::start().await else {
        return;
    };
    let node = Node::start().await;
    let etcd = Kv(KvClient::new(oracle.channel.clone()));
    let ours = Kv::to(&node).await;
    let limit = 3 << 19;
    for size in [1000, limit - 100, limit, limit + 1000, 3 << 20] {
        let value = vec![1; size].into();
        let put = PutRequest {
            key: bytes("k"),
            value,
            ..PutRequest::default()
        };
        let success = vec![op(Op::RequestPut(put))];
        let request = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        let expected = etcd
            .txn(request.clone())
            .await
            .err()
            .map(|refused| (refused.code(), refused.message().to_owned()));
        let got = ours
            .txn(request)
            .await
            .err()
            .map(|refused| (refused.code(), refused.message().to_owned()));
        assert_eq!(got, expected, "a value of {size} bytes");
    }
    assert_eq!(
        ours.range(get("")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
