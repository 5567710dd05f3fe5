//! Twins: the view equals a plain list of Records that filters everything on every question.
//!
//! Random histories of appends, releases, truncations, floors and restarts, under budgets from nothing to
//! plenty, with blocks and strides small enough (see the `cfg!(test)` constants) that every seam is met.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use rules::key::KeyRange;
use rules::record::{Kind, Record};
use rules::refusal::Refusal;
use rules::revision::{Epoch, Revision};
use rules::txn::{self, Meta, Newest};

use super::*;

/// The naive twin, and the store behind the clever one.
#[derive(Default)]
struct Log {
    records: Vec<Record>,
    committed: Revision,
    floor: Revision,
    /// Up to here the store is sure to have the Records.
    durable: Revision,
}

struct Store(Mutex<Log>);

impl Log {
    fn last(&self) -> Revision {
        self.records
            .last()
            .map_or(Revision::ZERO, |record| record.revision)
    }

    /// The Record that makes the state of `key` as of `revision`, if the key is live then.
    fn live(&self, key: &[u8], revision: Revision) -> Option<&Record> {
        let records = self
            .records
            .iter()
            .filter(|record| record.is_visible() && record.key == key);
        let newest = records.filter(|record| record.revision <= revision).last();
        newest.filter(|record| !record.deleted)
    }

    fn live_in(&self, range: &KeyRange, revision: Revision) -> Vec<&Record> {
        let mut keys: Vec<&Bytes> = self.records.iter().map(|record| &record.key).collect();
        keys.sort();
        keys.dedup();
        let keys = keys.into_iter().filter(|key| range.contains(key));
        keys.filter_map(|key| self.live(key, revision)).collect()
    }

    fn range(&self, query: &RangeQuery, current: Revision) -> Result<RangeAnswer, Refusal> {
        let revision = Revision(u64::try_from(query.revision).unwrap_or(0));
        let revision = if revision == Revision::ZERO {
            current
        } else {
            revision
        };
        if revision > current {
            return Err(Refusal::FutureRevision);
        }
        if revision < self.floor {
            return Err(Refusal::Compacted { floor: self.floor });
        }
        let mut found = self.live_in(&query.range, revision);
        let count = found.len() as i64;
        if query.count_only {
            return Ok(RangeAnswer {
                kvs: Vec::new(),
                count,
                more: false,
            });
        }
        found.retain(|record| {
            let (modified, created) = (record.revision.wire(), record.create_revision.wire());
            (query.min_mod_revision == 0 || modified >= query.min_mod_revision)
                && (query.max_mod_revision == 0 || modified <= query.max_mod_revision)
                && (query.min_create_revision == 0 || created >= query.min_create_revision)
                && (query.max_create_revision == 0 || created <= query.max_create_revision)
        });
        let descend = query.order == SortOrder::Descend;
        let more = query.limit > 0 && found.len() > query.limit as usize;
        let bounds = [query.min_mod_revision, query.max_mod_revision];
        let bounds = bounds
            .iter()
            .chain([&query.min_create_revision, &query.max_create_revision]);
        let plain = query.order == SortOrder::None && bounds.clone().all(|bound| *bound == 0);
        if more && plain && query.target != SortTarget::Key {
            found.truncate(query.limit as usize + 1);
        }
        found.sort_by(|a, b| {
            let (a, b) = if descend { (b, a) } else { (a, b) };
            match query.target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.revision.cmp(&b.revision),
                SortTarget::Value => a.value.cmp(&b.value),
            }
        });
        if more {
            found.truncate(query.limit as usize);
        }
        let show = |record: &Record| {
            let kv = KeyValue::of(record);
            if query.keys_only {
                kv.without_value()
            } else {
                kv
            }
        };
        Ok(RangeAnswer {
            kvs: found.into_iter().map(show).collect(),
            count,
            more,
        })
    }

    fn changes(&self, after: Revision, upto: Revision, max: usize) -> Result<Vec<Change>, Refusal> {
        if after.next() < self.floor {
            return Err(Refusal::Compacted { floor: self.floor });
        }
        let upto = upto.min(self.committed);
        let records = self.records.iter().filter(|record| record.is_visible());
        let wanted = records.filter(|record| record.revision > after && record.revision <= upto);
        let change = |record: &Record| Change {
            revision: record.revision,
            key: record.key.clone(),
            deleted: record.deleted,
            created: record.created,
            kv: KeyValue::of(record),
            prev: self
                .live(&record.key, record.revision.prev())
                .map(KeyValue::of),
        };
        Ok(wanted.take(max).map(change).collect())
    }

    /// The Records a compacted store still has.
    fn kept(&self) -> Vec<Record> {
        let kept = self.records.iter().enumerate().filter(|(index, record)| {
            let mut later = self.records[index + 1..].iter();
            let same = |other: &&Record| other.is_visible() && other.key == record.key;
            let superseded = later
                .find(same)
                .is_some_and(|other| other.revision <= self.floor);
            let buried = record.deleted && record.revision < self.floor;
            !record.is_visible() || !(superseded || buried)
        });
        kept.map(|(_, record)| record.clone()).collect()
    }
}

/// What the floor passed is gone, and what may not be in the store yet is never asked for.
impl Source for Store {
    fn records(&self, revisions: &[Revision]) -> Result<Vec<Record>, String> {
        let log = self.0.lock();
        assert!(revisions.iter().all(|revision| *revision <= log.durable));
        let kept = log.kept().into_iter();
        Ok(kept
            .filter(|record| revisions.contains(&record.revision))
            .collect())
    }

    fn history(&self, after: Revision, upto: Revision, max: usize) -> Result<Vec<Record>, String> {
        let log = self.0.lock();
        assert!(upto <= log.committed);
        let kept = log.kept().into_iter();
        Ok(kept
            .filter(|r| r.revision > after && r.revision <= upto)
            .take(max)
            .collect())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        value: usize,
        lease: i64,
    },
    Delete {
        key: u8,
    },
    Internal,
    Release {
        behind: u64,
    },
    Truncate {
        behind: u64,
    },
    Floor {
        behind: u64,
    },
    Restart,
    Range {
        query: Box<RangeQuery>,
        back: u64,
        current_back: u64,
    },
    Changes {
        back: u64,
        width: u64,
        max: usize,
    },
    Newest {
        range: KeyRange,
    },
}

/// Keys with nothing in common, with a lot, and some that are the very next of another.
fn key_named(number: u8) -> Bytes {
    let letter = [b'a' + number / 3];
    match number % 3 {
        0 => Bytes::copy_from_slice(&letter),
        1 => [&letter, &b"\0"[..]].concat().into(),
        _ => [&b"/registry/pods/"[..], &letter].concat().into(),
    }
}

const KEYS: Range<u8> = 0..24;

/// A budget that nothing is evicted under.
const PLENTY: usize = 1 << 30;

fn a_range() -> impl Strategy<Value = KeyRange> {
    let end = prop_oneof![
        2 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        4 => KEYS.prop_map(key_named),
    ];
    let start = prop_oneof![1 => Just(Bytes::from_static(b"\0")), 4 => KEYS.prop_map(key_named)];
    (start, end).prop_map(|(start, end)| KeyRange::from_wire(start, end))
}

fn a_query() -> impl Strategy<Value = RangeQuery> {
    let order = prop_oneof![
        4 => Just(SortOrder::None),
        1 => Just(SortOrder::Ascend),
        2 => Just(SortOrder::Descend),
    ];
    let target = prop_oneof![
        6 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Mod),
        1 => Just(SortTarget::Value),
    ];
    let bound = || prop_oneof![12 => Just(0_i64), 1 => 1..60_i64];
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let bounds = (bound(), bound(), bound(), bound());
    (a_range(), -1..8_i64, order, target, flags, bounds).prop_map(
        |(range, limit, order, target, (keys_only, count_only), bounds)| RangeQuery {
            range,
            revision: 0,
            limit,
            order,
            target,
            keys_only,
            count_only,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => (KEYS, 0..40_usize, 0..3_i64)
            .prop_map(|(key, value, lease)| Step::Put { key, value, lease }),
        8 => KEYS.prop_map(|key| Step::Delete { key }),
        1 => Just(Step::Internal),
        8 => (0..4_u64).prop_map(|behind| Step::Release { behind }),
        2 => (0..4_u64).prop_map(|behind| Step::Truncate { behind }),
        2 => (0..30_u64).prop_map(|behind| Step::Floor { behind }),
        1 => Just(Step::Restart),
        12 => (a_query(), 0..40_u64, 0..4_u64).prop_map(|(query, back, current_back)| Step::Range {
            query: Box::new(query),
            back,
            current_back,
        }),
        6 => (0..60_u64, 0..60_u64, 0..20_usize)
            .prop_map(|(back, width, max)| Step::Changes { back, width, max }),
        2 => a_range().prop_map(|range| Step::Newest { range }),
    ]
}

/// The view and its twin.
struct Pair {
    store: Arc<Store>,
    view: View,
    budget: usize,
    /// Whether the view has been there from the start, so that it knows every predecessor.
    old: bool,
}

impl Pair {
    fn new(budget: usize) -> Pair {
        let store = Arc::new(Store(Mutex::new(Log::default())));
        Pair {
            view: View::new(store.clone(), budget),
            store,
            budget,
            old: true,
        }
    }

    fn write(&self, key: Bytes, value: Option<Bytes>, lease: i64) {
        let record = {
            let log = self.store.0.lock();
            let prev = log.live(&key, log.last()).map(|record| Meta {
                create_revision: record.create_revision,
                mod_revision: record.revision,
                version: record.version,
                lease: record.lease,
            });
            if value.is_none() && prev.is_none() {
                return;
            }
            let change = txn::Change {
                key,
                value,
                lease,
                prev,
            };
            Record::write(&change, log.last().next(), Epoch(1), Arc::from("n"), 0)
        };
        self.append(record);
        self.view.state.read().assert_within_budget();
    }

    fn append(&self, record: Record) {
        self.view.append(&record);
        self.store.0.lock().records.push(record);
    }

    fn restart(&mut self) {
        let mut log = self.store.0.lock();
        log.durable = log.last();
        self.old = false;
        self.view = View::new(self.store.clone(), self.budget);
        // A store may not yet have deleted all that the floor passed.
        let records = if log.last().0.is_multiple_of(2) {
            log.kept()
        } else {
            log.records.clone()
        };
        records.iter().for_each(|record| self.view.load(record));
        self.view.release(log.committed);
        self.view.set_floor(log.floor);
    }

    /// Whatever is in memory or not, every newest value can be had.
    fn compare_all_newest(&self) {
        for key in KEYS {
            self.compare_newest(&KeyRange::single(key_named(key)));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put { key, value, lease } => {
                let value = Bytes::from(vec![b'a' + (value % 7) as u8; value]);
                self.write(key_named(key), Some(value), lease);
            }
            Step::Delete { key } => self.write(key_named(key), None, 0),
            Step::Internal => {
                let revision = self.view.last().next();
                let mut record = Record::opening(Epoch(1), revision, Arc::from("n"), 0);
                record.kind = Kind::Compaction;
                self.append(record);
            }
            Step::Release { behind } => {
                let committed = Revision(self.view.last().0.saturating_sub(behind));
                self.view.release(committed);
                let mut log = self.store.0.lock();
                log.committed = log.committed.max(committed);
                log.durable = log.durable.max(committed);
            }
            Step::Truncate { behind } => {
                let mut log = self.store.0.lock();
                let last = Revision(log.last().0.saturating_sub(behind)).max(log.committed);
                self.view.truncate(last);
                log.records.retain(|record| record.revision <= last);
                log.durable = log.durable.min(last);
                drop(log);
                self.compare_all_newest();
            }
            Step::Floor { behind } => {
                let floor = Revision(self.store.0.lock().committed.0.saturating_sub(behind));
                self.view.set_floor(floor);
                let mut log = self.store.0.lock();
                log.floor = log.floor.max(floor);
                self.view.state.read().assert_pruned();
            }
            Step::Restart => self.restart(),
            Step::Range {
                query,
                back,
                current_back,
            } => self.compare_range(*query, back, current_back),
            Step::Changes { back, width, max } => self.compare_changes(back, width, max),
            Step::Newest { range } => {
                self.compare_newest(&range);
                self.compare_all_newest();
            }
        }
    }

    fn compare_range(&self, mut query: RangeQuery, back: u64, current_back: u64) {
        let committed = self.view.committed();
        let current = Revision(committed.0.saturating_sub(current_back));
        query.revision = if back == 0 {
            -5
        } else {
            committed.wire() + 2 - back as i64
        };
        let naive = self.store.0.lock().range(&query, current);
        let clever = self.view.range(&query, current);
        assert_eq!(clever, naive, "{query:?} at {current}");
    }

    fn compare_changes(&self, back: u64, width: u64, max: usize) {
        let after = Revision((self.view.last().0 + 2).saturating_sub(back));
        let upto = Revision(after.0 + width);
        let clever = self.view.changes(after, upto, max);
        let log = self.store.0.lock();
        let naive = log.changes(after, upto, max);
        let mut clever = clever.map(|changes| {
            changes
                .iter()
                .map(|change| Change::clone(change))
                .collect::<Vec<_>>()
        });
        if let (Ok(clever), Ok(naive)) = (&mut clever, &naive)
            && (!self.old || self.budget < PLENTY)
        {
            forgive_at_the_floor(clever, naive, log.floor);
        }
        assert_eq!(clever, naive, "after {after} up to {upto}");
    }

    fn compare_newest(&self, range: &KeyRange) {
        let log = self.store.0.lock();
        let meta = |record: &Record| Meta {
            create_revision: record.create_revision,
            mod_revision: record.revision,
            version: record.version,
            lease: record.lease,
        };
        let expected: Vec<(Bytes, Meta)> = log
            .live_in(range, log.last())
            .into_iter()
            .map(|record| (record.key.clone(), meta(record)))
            .collect();
        let value = log
            .live(&range.start, log.last())
            .map(|record| record.value.clone());
        let last = (log.last(), log.floor);
        drop(log);
        let newest = self.view.newest();
        let mut visited = Vec::new();
        newest.visit(range, &mut |key, meta| {
            visited.push((Bytes::copy_from_slice(key), meta));
            true
        });
        assert_eq!(visited, expected);
        assert_eq!(newest.value(&range.start), Ok(value));
        assert_eq!(
            newest.meta(&range.start).is_some(),
            newest.value(&range.start) != Ok(None)
        );
        assert_eq!((newest.last(), newest.floor()), last);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_view_equals_its_naive_twin(
        budget in prop_oneof![Just(0), Just(300), Just(3000), Just(PLENTY)],
        steps in prop::collection::vec(a_step(), 1..160),
    ) {
        let mut pair = Pair::new(budget);
        for step in steps {
            pair.step(step);
            pair.view.state.read().assert_sound();
        }
    }
}

/// Where the log begins, the predecessor may be gone from the store.
fn forgive_at_the_floor(clever: &mut [Change], naive: &[Change], floor: Revision) {
    if let (Some(first), Some(other)) = (clever.first_mut(), naive.first())
        && first.revision <= floor
        && first.prev.is_none()
    {
        first.prev = other.prev.clone();
    }
}

/// Reads at Revisions of its own choice while the writer goes on: all of it, or `Compacted`.
fn read_beside_the_writer(pair: &Pair, done: &AtomicBool) -> [u64; 2] {
    let everything = KeyRange::from_wire(Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
    let mut answers = [0, 0];
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        number += 1;
        let current = pair.view.committed();
        let revision = Revision(current.0.saturating_sub(number % 40).max(1));
        if revision > current {
            continue;
        }
        let limit = (number % 9) as i64;
        let query = RangeQuery {
            revision: revision.wire(),
            limit,
            ..RangeQuery::all(everything.clone())
        };
        let clever = pair.view.range(&query, current);
        let changes = pair.view.changes(revision, current, 30);
        let mut log = pair.store.0.lock();
        let floor = std::mem::take(&mut log.floor);
        let naive = (
            log.range(&query, current),
            log.changes(revision, current, 30),
        );
        log.floor = floor;
        drop(log);
        match clever {
            Ok(answer) => assert_eq!(Ok(answer), naive.0, "at {revision}"),
            refused => {
                let floor = pair.view.floor();
                assert!(matches!(refused, Err(Refusal::Compacted { .. })) && revision < floor);
            }
        }
        match changes {
            Ok(changes) => {
                let naive = naive.1.expect("nothing is compacted here");
                let mut clever: Vec<_> = changes.iter().map(|c| Change::clone(c)).collect();
                forgive_at_the_floor(&mut clever, &naive, pair.view.floor());
                assert_eq!(clever, naive, "after {revision}");
            }
            Err(refusal) => assert!(matches!(refusal, Refusal::Compacted { .. }), "{refusal}"),
        }
        answers[usize::from(revision < floor)] += 1;
    }
    answers
}

#[test]
fn readers_beside_the_writer_see_all_or_nothing() {
    let pair = Pair::new(600);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| scope.spawn(|| read_beside_the_writer(&pair, &done)));
        for number in 0..4_000_u64 {
            let key = key_named((number * 7 % u64::from(KEYS.end)) as u8);
            let value = Bytes::from(vec![b'v'; (number % 30) as usize]);
            pair.write(key, (!number.is_multiple_of(3)).then_some(value), 0);
            if number.is_multiple_of(4) {
                let committed = pair.view.last();
                let mut log = pair.store.0.lock();
                (log.committed, log.durable) = (committed, committed);
                drop(log);
                pair.view.release(committed);
            }
            if number.is_multiple_of(16) {
                let floor = Revision(pair.view.committed().0.saturating_sub(20));
                pair.view.set_floor(floor);
                pair.store.0.lock().floor = floor;
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let [read, refused] = reader.join().expect("the reader found no difference");
            assert!(read > 0, "{read} read, {refused} refused");
        }
    });
}

#[test]
fn the_change_at_the_floor_keeps_its_predecessor() {
    let pair = Pair::new(16_000);
    for key in ["a", "a", "a"].into_iter().chain(["b"; 20]) {
        pair.write(key.into(), Some(Bytes::from_static(&[7; 100])), 0);
        let mut log = pair.store.0.lock();
        (log.committed, log.durable) = (log.last(), log.last());
        pair.view.release(log.committed);
    }
    let last = pair.view.last();
    pair.store.0.lock().floor = Revision(3);
    pair.view.set_floor(Revision(3));
    assert!(
        pair.view.state.read().recent.after() >= Revision(3),
        "no longer in the ring"
    );
    let changes = pair
        .view
        .changes(Revision(2), last, 1)
        .expect("at the floor");
    let prev = changes[0].prev.as_ref().map(KeyValue::mod_revision);
    assert_eq!(prev, Some(2));
    let below = pair.view.changes(Revision(1), last, 1);
    assert_eq!(below, Err(Refusal::Compacted { floor: Revision(3) }));
}
