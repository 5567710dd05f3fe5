//! Expiry beside its naive twin: any order of writes, ticks and standstills, any pace of the walk.
//!
//! The twin remembers of each key when it was written and for how long, and adds up every tick since. Beside
//! it runs a real clock, by which no key may ever go early.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rules::chain::Log;
use rules::expiry::{MAX_TTL, MIN_TTL, Schedule, id, ttl};
use rules::key::KeyRange;
use rules::record::Record;
use rules::refusal::Refusal;
use rules::revision::{Epoch, Revision};
use rules::txn::{Change, Meta, Newest};

const KEYS: [&str; 4] = ["a", "b", "b\0", "c"];

#[test]
fn an_id_is_positive_and_tells_its_ttl() {
    for seconds in [MIN_TTL, 15, 3660, MAX_TTL] {
        for random in [0, 1, 4711, u32::MAX] {
            let id = id(seconds, random);
            assert!(id > 0);
            assert_eq!(ttl(id), Some(seconds));
        }
    }
    assert_ne!(id(15, 1), id(15, 2));
}

#[test]
fn ids_of_released_versions_are_known_for_ever() {
    assert_eq!(id(MIN_TTL, 0), 1_274_691_584);
    assert_eq!(id(3660, 4711), 1_965_237_973_607);
    assert_eq!(id(MAX_TTL, 8191), 4_831_838_208_324_501_503);
    assert_eq!(ttl(1_965_237_973_607), Some(3660));
}

/// Of every kind of ids that clients make up, few are taken for ours.
#[test]
fn foreign_ids_tell_nothing() {
    for plain in [0, 1, 7, 3660, -1, i64::MIN, i64::MAX, 1 << 62] {
        assert_eq!(ttl(plain), None, "{plain}");
    }
    let kinds: [fn(i64) -> i64; 5] = [
        |n| n,
        // Milliseconds since 1970, and a counter below them.
        |n| ((1_790_000_000_000 + n / 256) << 8) | (n % 256),
        // etcd's own: a member, a time and a counter.
        |n| 0x694d << 48 | (n << 8),
        // The ids a Node gives out that has the setting off.
        |n| 3660 << 29 | n,
        |n| n.wrapping_mul(0x5851_f42d_4c95_7f2d) & i64::MAX,
    ];
    for (kind, make) in kinds.iter().enumerate() {
        let taken = (0..1 << 20).filter(|n| ttl(make(*n)).is_some()).count();
        assert!(taken <= 64, "{taken} of kind {kind}");
    }
}

/// The keys of a Primary, and its log.
#[derive(Debug, Default)]
struct World {
    keys: BTreeMap<Bytes, Meta>,
    log: Log,
}

impl Newest for World {
    fn last(&self) -> Revision {
        self.log.last
    }

    fn floor(&self) -> Revision {
        Revision::ZERO
    }

    fn meta(&self, key: &[u8]) -> Option<Meta> {
        self.keys.get(key).copied()
    }

    fn value(&self, _: &[u8]) -> Result<Option<Bytes>, Refusal> {
        Ok(None)
    }

    fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Meta) -> bool) {
        for (key, meta) in &self.keys {
            if range.contains(key) && !visit(key, *meta) {
                return;
            }
        }
    }
}

impl World {
    fn write(&mut self, change: &Change) -> Record {
        let revision = self.log.last.next();
        let record = Record::write(change, revision, Epoch(1), Arc::from("n"), 0);
        self.log.push(&record);
        let meta = Meta {
            create_revision: record.create_revision,
            mod_revision: revision,
            version: record.version,
            lease: record.lease,
        };
        if record.deleted {
            self.keys.remove(&record.key);
        } else {
            self.keys.insert(record.key.clone(), meta);
        }
        record
    }

    fn put(&mut self, key: &str, lease: i64) -> Record {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let prev = self.meta(&key);
        self.write(&Change {
            key,
            value: Some(Bytes::new()),
            lease,
            prev,
        })
    }

    fn delete(&mut self, key: &str) -> Option<Record> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let prev = Some(self.meta(&key)?);
        Some(self.write(&Change {
            key,
            value: None,
            lease: 0,
            prev,
        }))
    }

    fn commit(&mut self, max: u64) {
        let committed = Revision(self.log.committed.0.saturating_add(max));
        self.log.committed = committed.min(self.log.last);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A client writes a key with a lease of so many seconds; 0 is none, 1 a foreign one.
    Put(usize, i64),
    Delete(usize),
    /// So many Records are committed, if there are.
    Commit(u64),
    /// So much time passes, and the Primary looks.
    Tick(u64, bool),
    /// So much time passes, and nobody looks.
    Sleep(u64),
    /// The walk goes on by so many keys.
    Walk(usize),
}

/// What the twin knows of a key that will expire.
#[derive(Clone, Copy, Debug)]
struct Known {
    revision: Revision,
    /// By the real clock.
    since: u64,
    ttl: u64,
    /// What was counted since, less what had passed before it since the tick before.
    counted: i64,
}

struct Twins {
    world: World,
    schedule: Schedule,
    /// The real clock.
    now: u64,
    ticked: u64,
    moved: (Revision, u64),
    known: BTreeMap<Bytes, Known>,
    /// Every write there was: by the real clock, and for how long.
    writes: BTreeMap<Revision, (u64, u64)>,
}

impl Twins {
    fn known(&self, ttl: i64, revision: Revision) -> Known {
        Known {
            revision,
            since: self.now,
            ttl: ttl as u64 * 1_000,
            counted: -((self.now - self.ticked) as i64),
        }
    }

    fn noted(&mut self, record: &Record, ttl: i64) {
        self.schedule.note(self.now, record);
        self.known.remove(&record.key);
        if ttl > 1 {
            let known = self.known(ttl, record.revision);
            self.writes.insert(known.revision, (self.now, known.ttl));
            self.known.insert(record.key.clone(), known);
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put(key, ttl) => {
                let lease = if *ttl > 1 { id(*ttl, 9) } else { *ttl };
                let record = self.world.put(KEYS[*key], lease);
                self.noted(&record, *ttl);
            }
            Step::Delete(key) => {
                if let Some(record) = self.world.delete(KEYS[*key]) {
                    self.noted(&record, 0);
                }
            }
            Step::Commit(max) => self.world.commit(*max),
            Step::Sleep(time) => self.now += time,
            Step::Walk(max) => self.walk(*max),
            Step::Tick(time, gated) => {
                self.now += time;
                self.tick(*gated);
                self.expire()?;
            }
        }
        Ok(())
    }

    /// The twin looks at everything; the walk must come to the same by and by. It may find a key only after
    /// the twin did, so what it adds is told to the twin.
    fn walk(&mut self, max: usize) {
        let before = self.schedule.len();
        self.schedule.walk(self.now, &self.world, max);
        let found = self.schedule.len() - before;
        let mut added = 0;
        for (key, meta) in &self.world.keys {
            if let Some(ttl) = ttl(meta.lease)
                && !self.known.contains_key(key)
                && added < found
            {
                added += 1;
                let known = self.known(ttl, meta.mod_revision);
                self.known.insert(key.clone(), known);
            }
        }
        assert_eq!(added, found);
    }

    fn tick(&mut self, gated: bool) {
        self.schedule.pass(self.now, &self.world.log, gated);
        let log = &self.world.log;
        if log.last == log.committed || log.committed != self.moved.0 {
            self.moved = (log.committed, self.now);
        }
        let stands = gated || self.now > self.moved.1 + 1_000;
        let passed = if stands {
            0
        } else {
            (self.now - self.ticked).min(1_000)
        };
        self.ticked = self.now;
        for known in self.known.values_mut() {
            known.counted += passed as i64;
        }
    }

    fn expire(&mut self) -> Result<(), TestCaseError> {
        let committed = self.world.log.committed;
        let mut expired = Vec::new();
        while let Some(change) = self.schedule.due(&self.world, committed) {
            let revision = change.prev.expect("what is deleted was there").mod_revision;
            let (since, ttl) = self.writes[&revision];
            prop_assert!(self.now >= since + ttl, "{revision} went early");
            prop_assert!(change.value.is_none());
            expired.push(change.key.clone());
            let record = self.world.write(&change);
            self.schedule.note(self.now, &record);
        }
        let mut naive = Vec::new();
        let mut due: Vec<_> = self.known.clone().into_iter().collect();
        due.sort_by_key(|(_, known)| (known.ttl as i64 - known.counted, known.revision));
        for (key, known) in due {
            if known.counted < known.ttl as i64 || known.revision > committed {
                break;
            }
            prop_assert!(self.now >= known.since + known.ttl);
            self.known.remove(&key);
            naive.push(key);
        }
        prop_assert_eq!(expired, naive);
        prop_assert_eq!(self.schedule.len(), self.known.len());
        Ok(())
    }
}

fn step() -> impl Strategy<Value = Step> {
    let ttl = prop_oneof![Just(0), Just(1), 2..6_i64];
    prop_oneof![
        6 => (0..KEYS.len(), ttl).prop_map(|(key, ttl)| Step::Put(key, ttl)),
        2 => (0..KEYS.len()).prop_map(Step::Delete),
        6 => prop_oneof![Just(1), Just(u64::MAX)].prop_map(Step::Commit),
        8 => (0..900_u64, prop::bool::weighted(0.1)).prop_map(|(time, gated)| Step::Tick(time, gated)),
        1 => (0..20_000_u64).prop_map(|time| Step::Tick(time, false)),
        3 => (0..900_u64).prop_map(Step::Sleep),
        3 => (0..3_usize).prop_map(Step::Walk),
    ]
}

/// A tenure that begins with some keys there.
fn twins(before: &[(usize, i64)]) -> Twins {
    let mut twins = Twins {
        world: World::default(),
        schedule: Schedule::new(5_000),
        now: 5_000,
        ticked: 5_000,
        moved: (Revision::ZERO, 5_000),
        known: BTreeMap::new(),
        writes: BTreeMap::new(),
    };
    for (key, ttl) in before {
        let lease = if *ttl > 1 { id(*ttl, 3) } else { *ttl };
        let record = twins.world.put(KEYS[*key], lease);
        twins
            .writes
            .insert(record.revision, (5_000, ttl.unsigned_abs() * 1_000));
    }
    twins.world.commit(u64::MAX);
    twins
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1024,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn expiry_equals_its_naive_twin_and_nothing_goes_early(
        before in prop::collection::vec((0..KEYS.len(), 0..6_i64), 0..6),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut twins = twins(&before);
        for step in &steps {
            twins.take(step)?;
        }
        // In calm weather everything goes that should, and nothing else.
        twins.walk(usize::MAX);
        for _ in 0..80 {
            twins.world.commit(u64::MAX);
            twins.take(&Step::Tick(100, false))?;
        }
        let left = twins.world.keys.values();
        prop_assert_eq!(left.filter(|meta| ttl(meta.lease).is_some()).count(), 0);
        prop_assert!(twins.schedule.is_empty());
    }
}

/// Time passes in ticks of 50 ms.
fn pass(schedule: &mut Schedule, now: &mut u64, world: &World, gated: bool, time: u64) {
    let end = *now + time;
    while *now < end {
        *now += 50;
        schedule.pass(*now, &world.log, gated);
    }
}

#[test]
fn time_stands_still_while_nobody_could_write() {
    let (mut world, mut schedule, mut now) = (World::default(), Schedule::new(0), 0);
    let record = world.put("a", id(5, 0));
    schedule.note(0, &record);
    world.commit(u64::MAX);
    pass(&mut schedule, &mut now, &world, false, 1_900);
    // The machine sleeps for an hour: a second of it counts.
    now += 3_600_000;
    schedule.pass(now, &world.log, false);
    // The gate is shut for a minute, then a write waits as long for its commit: a second counts before
    // that is noticed.
    pass(&mut schedule, &mut now, &world, true, 60_000);
    world.put("b", 0);
    pass(&mut schedule, &mut now, &world, false, 60_000);
    assert!(schedule.due(&world, world.log.committed).is_none());
    world.commit(u64::MAX);
    pass(&mut schedule, &mut now, &world, false, 1_000);
    assert!(schedule.due(&world, world.log.committed).is_none());
    pass(&mut schedule, &mut now, &world, false, 200);
    let due = schedule.due(&world, world.log.committed);
    assert_eq!(due.map(|change| change.key), Some("a".into()));
}

#[test]
fn a_compaction_cancels_nothing() {
    let (mut world, mut schedule) = (World::default(), Schedule::new(0));
    let record = world.put("a", id(5, 0));
    schedule.note(0, &record);
    let compaction = Record::compaction(record.revision, Revision(2), Epoch(1), "n".into(), 0);
    schedule.note(0, &compaction);
    assert_eq!(schedule.len(), 1);
}

#[test]
fn a_key_that_was_written_since_is_not_deleted_even_if_nobody_told() {
    let (mut world, mut schedule, mut now) = (World::default(), Schedule::new(0), 0);
    for lease in [id(5, 0), 0] {
        let record = world.put("a", id(2, 0));
        schedule.note(now, &record);
        world.put("a", lease);
        world.commit(u64::MAX);
        pass(&mut schedule, &mut now, &world, false, 2_500);
        assert!(schedule.due(&world, world.log.committed).is_none());
        assert!(schedule.is_empty());
    }
}
