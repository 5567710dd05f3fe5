//! Twins: what is written cleverly in `rules` equals what is written naively here, on random input.
//!
//! The naive Txn materialises everything it looks at and follows etcd's documentation word by word.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rules::key::KeyRange;
use rules::record::Record;
use rules::refusal::Refusal;
use rules::revision::{Epoch, Revision};
use rules::txn::{
    Change, Compare, CompareResult, Decision, MAX_OPS, Meta, Newest, Op, Put, Refused, Target, Txn,
};

#[derive(Clone, Debug)]
struct World {
    last: u64,
    floor: u64,
    keys: Vec<(Bytes, Bytes, Meta)>,
}

impl Newest for World {
    fn last(&self) -> Revision {
        Revision(self.last)
    }

    fn floor(&self) -> Revision {
        Revision(self.floor)
    }

    fn meta(&self, key: &[u8]) -> Option<Meta> {
        self.keys
            .iter()
            .find(|entry| entry.0 == key)
            .map(|entry| entry.2)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        Ok(self
            .keys
            .iter()
            .find(|entry| entry.0 == key)
            .map(|entry| entry.1.clone()))
    }

    fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Meta) -> bool) {
        for (key, _, meta) in &self.keys {
            if range.contains(key) && !visit(key, *meta) {
                return;
            }
        }
    }
}

fn naive_check(txn: &Txn) -> Result<(), Refusal> {
    for list in [txn.compares.len(), txn.success.len(), txn.failure.len()] {
        if list > MAX_OPS {
            return Err(Refusal::TooManyOps);
        }
    }
    for compare in &txn.compares {
        if compare.range.start.is_empty() {
            return Err(Refusal::EmptyKey);
        }
    }
    for branch in [&txn.success, &txn.failure] {
        for op in branch {
            match op {
                Op::Range { range, .. } if range.start.is_empty() => return Err(Refusal::EmptyKey),
                Op::Delete { range, .. } if range.start.is_empty() => {
                    return Err(Refusal::EmptyKey);
                }
                Op::Put(put) => {
                    if put.key.is_empty() {
                        return Err(Refusal::EmptyKey);
                    }
                    if put.ignore_value && !put.value.is_empty() {
                        return Err(Refusal::ValueProvided);
                    }
                    if put.ignore_lease && put.lease != 0 {
                        return Err(Refusal::LeaseProvided);
                    }
                }
                Op::Empty => return Err(Refusal::KeyNotFound),
                _ => {}
            }
        }
    }
    for branch in [&txn.success, &txn.failure] {
        let mut seen: Vec<&Bytes> = Vec::new();
        for op in branch {
            if let Op::Put(put) = op {
                if seen.contains(&&put.key) {
                    return Err(Refusal::DuplicateKey);
                }
                seen.push(&put.key);
            }
        }
        for op in branch {
            if let Op::Delete { range, .. } = op
                && range.end != rules::key::RangeEnd::Unbounded
                && seen.iter().any(|key| range.contains(key))
            {
                return Err(Refusal::DuplicateKey);
            }
        }
    }
    for branch in [&txn.success, &txn.failure] {
        let puts = branch.iter().filter(|op| matches!(op, Op::Put(_))).count();
        let deletes: Vec<&KeyRange> = branch
            .iter()
            .filter_map(|op| {
                if let Op::Delete { range, .. } = op {
                    Some(range)
                } else {
                    None
                }
            })
            .collect();
        let successor = |key: &Bytes| Bytes::from([&key[..], b"\0"].concat());
        let ranged = deletes.iter().any(|range| match &range.end {
            rules::key::RangeEnd::Single => false,
            rules::key::RangeEnd::Before(end) => *end != successor(&range.start),
            rules::key::RangeEnd::Unbounded => true,
        });
        if ranged || puts + deletes.len() > 1 || branch.contains(&Op::Txn) {
            return Err(Refusal::Unsupported(String::new()));
        }
    }
    Ok(())
}

fn naive_number(target: &Target, meta: Meta) -> (i64, i64) {
    match target {
        Target::Version(want) => (meta.version as i64, *want),
        Target::Create(want) => (meta.create_revision.0 as i64, *want),
        Target::Mod(want) => (meta.mod_revision.0 as i64, *want),
        Target::Lease(want) => (meta.lease, *want),
        Target::Value(_) => unreachable!("a value is no number"),
    }
}

fn naive_compare(compare: &Compare, world: &World) -> bool {
    let found: Vec<_> = world
        .keys
        .iter()
        .filter(|key| compare.range.contains(&key.0))
        .collect();
    if let Target::Value(want) = &compare.target {
        return !found.is_empty()
            && found.iter().all(|(_, value, _)| match compare.result {
                CompareResult::Equal => value == want,
                CompareResult::NotEqual => value != want,
                CompareResult::Greater => value > want,
                CompareResult::Less => value < want,
            });
    }
    let mut metas: Vec<Meta> = found.iter().map(|key| key.2).collect();
    if metas.is_empty() {
        metas.push(Meta::default());
    }
    metas.iter().all(|meta| {
        let (have, want) = naive_number(&compare.target, *meta);
        match compare.result {
            CompareResult::Equal => have == want,
            CompareResult::NotEqual => have != want,
            CompareResult::Greater => have > want,
            CompareResult::Less => have < want,
        }
    })
}

fn naive_decide(txn: &Txn, world: &World) -> Result<Decision, Refusal> {
    let succeeded = txn
        .compares
        .iter()
        .all(|compare| naive_compare(compare, world));
    let branch = if succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    let find = |key: &Bytes| world.keys.iter().find(|entry| entry.0 == *key);
    for op in branch {
        if let Op::Put(put) = op
            && (put.ignore_value || put.ignore_lease)
            && find(&put.key).is_none()
        {
            return Err(Refusal::KeyNotFound);
        }
    }
    for op in branch {
        if let Op::Range { revision, .. } = op {
            if *revision > world.last as i64 {
                return Err(Refusal::FutureRevision);
            }
            let lowest = if world.floor == 0 {
                -1
            } else {
                world.floor as i64
            };
            if *revision != 0 && *revision < lowest {
                return Err(Refusal::Compacted {
                    floor: Revision(world.floor),
                });
            }
        }
    }
    let mut change = None;
    for (index, op) in branch.iter().enumerate() {
        match op {
            Op::Put(put) => {
                let old = find(&put.key);
                let mut new = Change {
                    key: put.key.clone(),
                    value: Some(put.value.clone()),
                    lease: put.lease,
                    prev: old.map(|old| old.2),
                };
                if put.ignore_value {
                    new.value = old.map(|old| old.1.clone());
                }
                if put.ignore_lease {
                    new.lease = old.map_or(0, |old| old.2.lease);
                }
                change = Some((index, new));
            }
            Op::Delete { range, .. } => {
                if let Some(old) = find(&range.start) {
                    let key = range.start.clone();
                    change = Some((
                        index,
                        Change {
                            key,
                            value: None,
                            lease: 0,
                            prev: Some(old.2),
                        },
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(Decision {
        succeeded,
        base: Revision(world.last),
        change,
    })
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        1 => Just(&b""[..]),
        8 => Just(&b"a"[..]),
        4 => Just(&b"a\0"[..]),
        8 => Just(&b"b"[..]),
        4 => Just(&b"c"[..]),
    ]
    .prop_map(Bytes::from_static)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(&b""[..]), Just(&b"x"[..]), Just(&b"y"[..])].prop_map(Bytes::from_static)
}

fn range() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![
        8 => Just(&b""[..]),
        1 => Just(&b"\0"[..]),
        2 => Just(&b"a\0"[..]),
        2 => Just(&b"b"[..]),
        1 => Just(&b"z"[..]),
    ];
    (key(), end).prop_map(|(key, end)| KeyRange::from_wire(key, Bytes::from_static(end)))
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (0..4_i64).prop_map(Target::Version),
        (0..12_i64).prop_map(Target::Create),
        (0..12_i64).prop_map(Target::Mod),
        value().prop_map(Target::Value),
        (0..3_i64).prop_map(Target::Lease),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual),
    ];
    (range(), target(), result).prop_map(|(range, target, result)| Compare {
        range,
        target,
        result,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let put = (key(), value(), 0..3_i64, any::<bool>(), 0..8_u8).prop_map(
        |(key, value, lease, prev_kv, ignore)| {
            let (ignore_value, ignore_lease) = (ignore & 5 == 5, ignore & 6 == 6);
            Op::Put(Put {
                key,
                value,
                lease,
                prev_kv,
                ignore_value,
                ignore_lease,
            })
        },
    );
    prop_oneof![
        12 => (range(), -2..13_i64, any::<bool>())
            .prop_map(|(range, revision, serializable)| Op::Range { range, revision, serializable }),
        8 => put,
        6 => (range(), any::<bool>()).prop_map(|(range, prev_kv)| Op::Delete { range, prev_kv }),
        1 => Just(Op::Txn),
        1 => Just(Op::Empty),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let ops = || prop::collection::vec(op(), 0..4);
    (prop::collection::vec(compare(), 0..3), ops(), ops()).prop_map(
        |(compares, success, failure)| Txn {
            compares,
            success,
            failure,
        },
    )
}

fn world() -> impl Strategy<Value = World> {
    let entry = |key: &'static [u8]| {
        let made = (value(), 1..10_u64, 0..3_u64, 1..4_u64, 0..3_i64).prop_map(
            move |(value, create, later, version, lease)| {
                let (create_revision, mod_revision) = (Revision(create), Revision(create + later));
                let meta = Meta {
                    create_revision,
                    mod_revision,
                    version,
                    lease,
                };
                (Bytes::from_static(key), value, meta)
            },
        );
        prop::option::of(made)
    };
    (
        entry(b"a"),
        entry(b"a\0"),
        entry(b"b"),
        10..12_u64,
        0..10_u64,
    )
        .prop_map(|(one, two, three, last, floor)| {
            let keys = [one, two, three].into_iter().flatten().collect();
            World { last, floor, keys }
        })
}

/// Drops what `check` refuses: operations that do not pass alone, and all but the first mutation.
fn make_pass(txn: &mut Txn) {
    txn.compares
        .retain(|compare| !compare.range.start.is_empty());
    for branch in [&mut txn.success, &mut txn.failure] {
        let mut mutated = false;
        branch.retain(|op| {
            let alone = Txn {
                success: vec![op.clone()],
                ..Txn::default()
            };
            let mutates = matches!(op, Op::Put(_) | Op::Delete { .. });
            let keep = alone.check().is_ok() && !(mutates && mutated);
            mutated |= mutates && keep;
            keep
        });
    }
}

/// Texts of `Unsupported` are for people, not for twins.
fn without_text(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Unsupported(_) => Refusal::Unsupported(String::new()),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4096,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn txn_check_equals_its_naive_twin(txn in txn()) {
        prop_assert_eq!(txn.check().map_err(without_text), naive_check(&txn));
    }

    #[test]
    fn txn_decide_equals_its_naive_twin(mut txn in txn(), world in world()) {
        make_pass(&mut txn);
        prop_assert_eq!(txn.check(), Ok(()));
        let decided = txn.decide(&world);
        let base = Revision(world.last);
        let naive = naive_decide(&txn, &world).map_err(|refusal| Refused { base, refusal });
        prop_assert_eq!(&decided, &naive);
        let Ok(Decision { change: Some((_, change)), base, .. }) = decided else { return Ok(()) };
        let record = Record::write(&change, base.next(), Epoch(1), Arc::from("n"), 7);
        let live = change.prev.is_some();
        prop_assert_eq!(record.created, !record.deleted && !live);
        prop_assert_eq!(record.version == 1, record.created);
        prop_assert_eq!(record.version == 0, record.deleted);
        prop_assert_eq!(record.prev_revision == Revision::ZERO, !live);
        prop_assert_eq!(record.create_revision == record.revision, !live);
        prop_assert_eq!(record.deleted, change.value.is_none());
    }
}

fn put(key: &'static str) -> Op {
    Op::Put(Put {
        key: Bytes::from_static(key.as_bytes()),
        ..Put::default()
    })
}

fn delete(key: &'static str, end: &'static str) -> Op {
    let range = KeyRange::from_wire(key.into(), end.into());
    Op::Delete {
        range,
        prev_kv: false,
    }
}

#[test]
fn what_the_subset_leaves_out_is_refused_with_the_way_out() {
    for (op, words) in [
        (
            delete("b", "c"),
            "the failure branch deletes a range: send one txn for each key",
        ),
        (
            delete("b", "\0"),
            "the failure branch deletes a range: send one txn for each key",
        ),
        (
            Op::Txn,
            "the failure branch holds one: send it as a txn of its own",
        ),
        (
            put("b"),
            "the failure branch holds 2 puts and deletes: send one txn for each key",
        ),
        (
            delete("b", ""),
            "the failure branch holds 2 puts and deletes: send one txn for each key",
        ),
    ] {
        let txn = Txn {
            failure: vec![put("a"), op],
            ..Txn::default()
        };
        let Err(Refusal::Unsupported(text)) = txn.check() else {
            panic!("{words}")
        };
        assert!(text.ends_with(words), "{text}");
    }
    let txn = Txn {
        success: vec![delete("a", "a\0")],
        failure: vec![put("a")],
        ..Txn::default()
    };
    assert_eq!(txn.check(), Ok(()));
}

#[test]
fn etcds_own_validation_wins_over_the_subset() {
    let twice = Txn {
        success: vec![Op::Txn],
        failure: vec![put("a"), put("a")],
        ..Txn::default()
    };
    assert_eq!(twice.check(), Err(Refusal::DuplicateKey));
    let many = Txn {
        success: vec![Op::Empty; MAX_OPS + 1],
        ..Txn::default()
    };
    assert_eq!(many.check(), Err(Refusal::TooManyOps));
    let reads = Op::Range {
        range: KeyRange::single("a".into()),
        revision: 0,
        serializable: false,
    };
    let full = Txn {
        success: vec![reads; MAX_OPS],
        ..Txn::default()
    };
    assert_eq!(full.check(), Ok(()));
}

#[test]
fn puts_are_judged_before_reads_and_reads_as_of_before_the_put() {
    let world = World {
        last: 9,
        floor: 5,
        keys: Vec::new(),
    };
    let read = |revision| Op::Range {
        range: KeyRange::single("a".into()),
        revision,
        serializable: false,
    };
    let keep = Put {
        key: "a".into(),
        ignore_value: true,
        ..Put::default()
    };
    let decide = |success| {
        Txn {
            success,
            ..Txn::default()
        }
        .decide(&world)
        .map_err(Refusal::from)
    };
    assert_eq!(
        decide(vec![read(99), Op::Put(keep)]),
        Err(Refusal::KeyNotFound)
    );
    assert_eq!(
        decide(vec![put("a"), read(10)]),
        Err(Refusal::FutureRevision)
    );
    assert_eq!(
        decide(vec![read(4)]),
        Err(Refusal::Compacted { floor: Revision(5) })
    );
    assert_eq!(
        decide(vec![read(-1)]),
        Err(Refusal::Compacted { floor: Revision(5) })
    );
    assert!(decide(vec![read(5), read(0), put("a")]).is_ok());
}
