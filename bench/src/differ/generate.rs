//! Random Steps, drawn with what the reference holds in view, so that compares hold about half of the time
//! and reads find something. Few keys and many shapes: edges meet often.
//!
//! Only Netsy's subset is drawn, and shapes outside it that etcd refuses as well. What a reference is known
//! to do wrong is not asked of it.

use bytes::Bytes;

use super::compare::Reference;
use super::drive::STREAMS;
use super::step::Step;
use crate::dice::Dice;
use crate::wire::etcd::compare::TargetUnion;
use crate::wire::etcd::request_op::Request;
use crate::wire::{etcd, mvccpb, prefix_end};

/// What the reference holds when the next Step is drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) revision: i64,
    pub(crate) kvs: Vec<mvccpb::KeyValue>,
    /// Watches that were created: stream and id.
    pub(crate) watches: Vec<(usize, i64)>,
    /// Leases that were granted.
    pub(crate) leases: Vec<i64>,
}

/// The keys of every sequence: neighbours, prefixes of one another, zeros and 0xff at the ends.
const KEYS: &[&[u8]] = &[
    b"a",
    b"a\0",
    b"aa",
    b"b",
    b"k/1",
    b"k/2",
    b"k/3",
    b"k/3\0",
    b"k/\xff",
    b"k0",
    b"\0",
    b"\0\0",
    b"\xff",
    b"\xff\xff",
    b"\xc3\x28",
    b"health",
];

/// etcd's limit on compares and on operations of a branch.
const MAX_OPS: usize = 128;

/// Draws Steps.
pub(crate) struct Generator {
    dice: Dice,
    reference: Reference,
    /// Values written so far: each is another.
    written: u64,
    next_lease: i64,
}

impl Generator {
    pub(crate) fn new(seed: u64, reference: Reference) -> Generator {
        Generator {
            dice: Dice::new(seed),
            reference,
            written: 0,
            next_lease: 1000,
        }
    }

    /// The next Step.
    pub(crate) fn step(&mut self, known: &Known) -> Step {
        let stream = self.dice.below(STREAMS as u64) as usize;
        match self.dice.weighted(&[44, 32, 4, 3, 1, 8, 3, 2, 1, 1]) {
            0 => Step::Txn(self.txn(known)),
            1 => Step::Range(self.range(known)),
            2 if self.reference.range_stream => Step::RangeStream(self.range(known)),
            3 => Step::Grant(self.grant()),
            4 => Step::Alarm(etcd::AlarmRequest::default()),
            5 => Step::Watch(stream, self.watch(known)),
            6 => self.cancel(stream, known),
            7 if self.reference.progress && known.watches.iter().any(|(of, _)| *of == stream) => {
                Step::Progress(stream)
            }
            8 => Step::Txn(self.refused_txn(known)),
            9 => Step::Txn(self.large_txn()),
            _ => Step::Txn(self.txn(known)),
        }
    }

    fn key(&mut self) -> Bytes {
        if self.dice.chance(1) {
            return Bytes::new();
        }
        Bytes::from_static(self.dice.pick::<&[u8]>(KEYS))
    }

    /// A `range_end` of every form: none, to the end, half-open, a prefix, and an empty range.
    fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.dice.weighted(&[30, 20, 30, 15, 5]) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            2 => self.key(),
            3 => prefix_end(&key[..key.len().min(1)]),
            _ => key.clone(),
        }
    }

    fn value(&mut self, known: &Known) -> Bytes {
        self.written += 1;
        match self.dice.weighted(&[80, 8, 8, 4]) {
            0 => format!("v{}", self.written).into(),
            1 => Bytes::new(),
            2 if !known.kvs.is_empty() => self.dice.pick(&known.kvs).value.clone(),
            _ => crate::load::value(3000, self.written),
        }
    }

    /// A Revision to read or watch at: mostly none, then the past, sometimes the future.
    fn revision(&mut self, known: &Known) -> i64 {
        match self.dice.weighted(&[60, 30, 4, 4, 2]) {
            0 => 0,
            1 => 1 + self.dice.below(known.revision.max(1) as u64) as i64,
            2 => -5,
            3 => known.revision + 1 + self.dice.below(3) as i64,
            _ => i64::MAX,
        }
    }

    /// A bound for a filter: near what keys carry.
    fn bound(&mut self, known: &Known) -> i64 {
        if self.dice.chance(80) {
            0
        } else {
            self.dice.below(known.revision.max(1) as u64 + 2) as i64
        }
    }

    fn range(&mut self, known: &Known) -> etcd::RangeRequest {
        let key = self.key();
        let mut sort_order = if self.dice.chance(65) {
            0
        } else {
            self.dice.below(3) as i32
        };
        let mut sort_target = if self.dice.chance(65) {
            0
        } else {
            self.dice.below(5) as i32
        };
        if self.reference.sort_checked && self.dice.chance(1) {
            (sort_order, sort_target) = (self.dice.below(5) as i32, self.dice.below(8) as i32);
        }
        let limit = match self.dice.weighted(&[60, 36, 2, 2]) {
            0 => 0,
            1 => 1 + self.dice.below(5) as i64,
            2 => -1,
            _ => i64::MAX,
        };
        etcd::RangeRequest {
            range_end: self.range_end(&key),
            key,
            limit,
            revision: self.revision(known),
            sort_order,
            sort_target,
            serializable: self.dice.chance(25),
            keys_only: self.dice.chance(12),
            count_only: self.dice.chance(8),
            min_mod_revision: self.bound(known),
            max_mod_revision: self.bound(known),
            min_create_revision: self.bound(known),
            max_create_revision: self.bound(known),
        }
    }

    fn txn(&mut self, known: &Known) -> etcd::TxnRequest {
        let compares = self.dice.weighted(&[20, 55, 20, 5]);
        etcd::TxnRequest {
            compare: (0..compares).map(|_| self.compare(known)).collect(),
            success: self.branch(known),
            failure: self.branch(known),
        }
    }

    /// Up to three reads and at most one mutation among them.
    fn branch(&mut self, known: &Known) -> Vec<etcd::RequestOp> {
        let reads = self.dice.weighted(&[45, 35, 15, 5]);
        let mut ops: Vec<_> = (0..reads)
            .map(|_| Request::RequestRange(self.range(known)))
            .collect();
        if self.dice.chance(65) {
            let mutation = self.mutation(known);
            ops.insert(self.dice.below(ops.len() as u64 + 1) as usize, mutation);
        }
        ops.into_iter()
            .map(|request| etcd::RequestOp {
                request: Some(request),
            })
            .collect()
    }

    fn mutation(&mut self, known: &Known) -> Request {
        let key = self.key();
        let prev_kv = self.dice.chance(40);
        if self.dice.chance(25) {
            return Request::RequestDeleteRange(etcd::DeleteRangeRequest {
                key,
                prev_kv,
                ..Default::default()
            });
        }
        let leased = !known.leases.is_empty() && self.dice.chance(20);
        let lease = if leased {
            *self.dice.pick(&known.leases)
        } else {
            0
        };
        let (ignore_value, ignore_lease) = (self.dice.chance(6), self.dice.chance(6));
        // Both together with what they replace are refused; that is drawn too, but seldom.
        let careless = self.dice.chance(10);
        Request::RequestPut(etcd::PutRequest {
            key,
            value: if ignore_value && !careless {
                Bytes::new()
            } else {
                self.value(known)
            },
            lease: if ignore_lease && !careless { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        })
    }

    fn compare(&mut self, known: &Known) -> etcd::Compare {
        let known_kv = if known.kvs.is_empty() || self.dice.chance(25) {
            mvccpb::KeyValue {
                key: self.key(),
                ..Default::default()
            }
        } else {
            self.dice.pick(&known.kvs).clone()
        };
        let range_end = if self.dice.chance(20) {
            self.range_end(&known_kv.key)
        } else {
            Bytes::new()
        };
        let target = self.dice.below(5) as i32;
        let wrong_union = self.dice.chance(3);
        let spoken = if wrong_union {
            self.dice.below(5) as i32
        } else {
            target
        };
        let nudge = *self.dice.pick(&[0, 0, 0, 1, -1]);
        let union = match spoken {
            0 => TargetUnion::Version(known_kv.version + nudge),
            1 => TargetUnion::CreateRevision(known_kv.create_revision + nudge),
            2 => TargetUnion::ModRevision(known_kv.mod_revision + nudge),
            3 if nudge == 0 => TargetUnion::Value(known_kv.value.clone()),
            3 => TargetUnion::Value(known_kv.value.slice(..known_kv.value.len() / 2)),
            _ => TargetUnion::Lease(known_kv.lease + nudge),
        };
        etcd::Compare {
            result: self.dice.below(4) as i32,
            target,
            key: known_kv.key,
            range_end,
            target_union: (!self.dice.chance(2)).then_some(union),
        }
    }

    fn grant(&mut self) -> etcd::LeaseGrantRequest {
        let ttl = match self.dice.weighted(&[70, 10, 10, 10]) {
            0 => 100_000 + self.dice.below(1000) as i64,
            1 => 9_000_000_000,
            2 => 9_000_000_001,
            _ => i64::MAX,
        };
        self.next_lease += 1;
        let id = if self.dice.chance(50) {
            self.next_lease
        } else {
            0
        };
        etcd::LeaseGrantRequest { ttl, id }
    }

    fn watch(&mut self, known: &Known) -> etcd::WatchCreateRequest {
        let key = self.key();
        let mut start_revision = self.revision(known);
        let past = start_revision >= 0 || self.reference.negative_watch;
        if !past || (start_revision > known.revision && !self.reference.future_watch) {
            start_revision = 0;
        }
        let filters = match self.dice.weighted(&[70, 12, 12, 6]) {
            0 => vec![],
            1 => vec![0],
            2 => vec![1],
            _ => vec![0, 1],
        };
        etcd::WatchCreateRequest {
            range_end: self.range_end(&key),
            key,
            start_revision,
            progress_notify: self.dice.chance(20),
            filters,
            prev_kv: self.dice.chance(60),
            watch_id: if self.dice.chance(75) {
                0
            } else {
                1 + self.dice.below(6) as i64
            },
            fragment: self.dice.chance(20),
        }
    }

    /// Cancels a watch; one that is not there is met with silence.
    fn cancel(&mut self, stream: usize, known: &Known) -> Step {
        if known.watches.is_empty() || self.dice.chance(15) {
            return Step::Cancel(stream, etcd::WatchCancelRequest { watch_id: 77 });
        }
        let (stream, watch_id) = *self.dice.pick(&known.watches);
        Step::Cancel(stream, etcd::WatchCancelRequest { watch_id })
    }

    /// A Txn that etcd refuses, whatever it holds.
    fn refused_txn(&mut self, known: &Known) -> etcd::TxnRequest {
        let mut txn = self.txn(known);
        let taken = self.dice.chance(50);
        let mut broken = Vec::new();
        match self.dice.below(5) {
            0 => broken.push(etcd::RequestOp { request: None }),
            1 => {
                let key = Bytes::from_static(b"k/1");
                let put = etcd::PutRequest {
                    key,
                    ..Default::default()
                };
                let put = etcd::RequestOp {
                    request: Some(Request::RequestPut(put)),
                };
                broken.extend([put.clone(), put]);
            }
            2 => {
                let read = etcd::RangeRequest {
                    key: b"a"[..].into(),
                    ..Default::default()
                };
                let read = etcd::RequestOp {
                    request: Some(Request::RequestRange(read)),
                };
                broken.extend(vec![read; MAX_OPS + 1]);
            }
            3 => {
                let one = crate::wire::changed_at(&Bytes::from_static(b"a"), 0);
                txn.compare = vec![one; MAX_OPS + 1];
            }
            _ => {
                let put = etcd::PutRequest {
                    value: b"v"[..].into(),
                    ..Default::default()
                };
                broken.push(etcd::RequestOp {
                    request: Some(Request::RequestPut(put)),
                });
            }
        }
        if !broken.is_empty() {
            *(if taken {
                &mut txn.success
            } else {
                &mut txn.failure
            }) = broken;
        }
        txn
    }

    /// A Txn near the limit of 1.5 MiB, or beyond what a message may hold.
    fn large_txn(&mut self) -> etcd::TxnRequest {
        let limit = 1_572_864;
        let length = *self
            .dice
            .pick(&[limit - 400, limit + 1, limit + 100_000, 2_200_000]);
        let value = Bytes::from(vec![b'x'; length]);
        let put = etcd::PutRequest {
            key: b"b"[..].into(),
            value,
            ..Default::default()
        };
        let put = etcd::RequestOp {
            request: Some(Request::RequestPut(put)),
        };
        etcd::TxnRequest {
            success: vec![put],
            ..Default::default()
        }
    }
}
