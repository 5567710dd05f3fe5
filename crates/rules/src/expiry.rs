//! Expiry: keys that are deleted when their time is over, by a Primary that is told to (`leases.expire`).
//!
//! Nothing is stored for a lease that is granted: its [`id`] says that what is written with it expires, and
//! after how long. The Active Primary keeps a [`Schedule`] of the keys whose newest Record carries such an id,
//! from the Records it assigns and from one walk over all keys when its tenure begins. It counts time itself,
//! never faster than time passes, and not while writes do not get through: a key goes late, and never early.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use bytes::Bytes;
use core::fmt;

use crate::chain::Log;
use crate::key::{KeyRange, RangeEnd};
use crate::record::{Kind, Record};
use crate::revision::Revision;
use crate::settings::Moment;
use crate::txn::{Change, Newest};

/// etcd's smallest TTL, in seconds: less is raised to it.
pub const MIN_TTL: i64 = 2;
/// etcd's largest TTL, in seconds. It needs 34 bits.
pub const MAX_TTL: i64 = 9_000_000_000;

/// Where the TTL begins in an id.
const TTL_AT: u32 = 29;
/// Where the seal begins, which is 16 bits wide. Below it, an id is random.
const SEAL_AT: u32 = 13;
const SEAL: u64 = 0xffff << SEAL_AT;

/// The most that is counted of the time between two ticks, milliseconds: a machine that slept, or a process
/// that stood still, kept clients from writing.
const STRIDE: u64 = 1_000;
/// How long writes may wait while none of them is committed, milliseconds. Then time stands still.
const STALL: u64 = 1_000;

/// The id of a lease that expires: it tells its TTL (seconds, `MIN_TTL..=MAX_TTL`), and carries a seal by which
/// it is known for one of ours. `random` tells it from others of that TTL; 13 bits of it are used. Ids are
/// in the log for ever: this layout never changes.
#[must_use]
pub const fn id(ttl: i64, random: u32) -> i64 {
    let open = (ttl as u64) << TTL_AT | (random as u64 & ((1 << SEAL_AT) - 1));
    (open | seal(open)) as i64
}

/// After how many seconds what was written with the lease `id` is to be deleted. `None` for 0, and for every
/// id that [`id`] did not make; one in 65,536 of those that clients make up at random is taken for ours.
#[must_use]
pub const fn ttl(id: i64) -> Option<i64> {
    let ttl = id >> TTL_AT;
    let open = id as u64 & !SEAL;
    if ttl >= MIN_TTL && ttl <= MAX_TTL && id as u64 == open | seal(open) {
        Some(ttl)
    } else {
        None
    }
}

/// The high bits of a product that every bit of `open` has a part in.
const fn seal(open: u64) -> u64 {
    (open.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) << SEAL_AT
}

/// Which keys expire, and when. Of one tenure: the next Primary makes its own, and its keys live their whole TTL
/// once more.
pub struct Schedule {
    /// The time counted so far, milliseconds.
    time: u64,
    /// Up to when it was counted.
    counted: Moment,
    /// The committed Revision, and when it last rose or nothing waited.
    moved: (Revision, Moment),
    /// (the time that ends it, the Revision that wrote it) of every key.
    ends: BTreeMap<(u64, Revision), Box<[u8]>>,
    /// The same ends, by Revision.
    written: BTreeMap<Revision, u64>,
    /// The first key the walk has not looked at; `None` when it is over.
    ahead: Option<Bytes>,
}

impl Schedule {
    /// A tenure begins at `now`: nothing has been looked at.
    #[must_use]
    pub fn new(now: Moment) -> Schedule {
        Schedule {
            time: 0,
            counted: now,
            moved: (Revision::ZERO, now),
            ends: BTreeMap::new(),
            written: BTreeMap::new(),
            ahead: Some(Bytes::new()),
        }
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether no key expires.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Counts the time that has passed up to `now`. It stands still while the gate is shut, and while writes
    /// wait and none of them is committed: nobody could have written a key anew.
    pub fn pass(&mut self, now: Moment, log: &Log, gated: bool) {
        let passed = now.saturating_sub(self.counted);
        self.counted = self.counted.max(now);
        if log.committed > self.moved.0 || log.committed == log.last {
            self.moved = (log.committed, now);
        }
        if !gated && now.saturating_sub(self.moved.1) <= STALL {
            self.time += passed.min(STRIDE);
        }
    }

    /// Takes note of a Record assigned at `now`: it cancels what its predecessor had scheduled.
    pub fn note(&mut self, now: Moment, record: &Record) {
        if record.kind != Kind::Write {
            return;
        }
        self.forget(record.prev_revision);
        if !record.deleted {
            self.insert(now, &record.key, record.revision, record.lease);
        }
    }

    /// Looks at no more than `max` further keys, in order, until it has seen all. Their time begins now.
    pub fn walk(&mut self, now: Moment, newest: &dyn Newest, max: usize) {
        let Some(start) = self.ahead.take() else {
            return;
        };
        let end = RangeEnd::Unbounded;
        let mut left = max;
        newest.visit(&KeyRange { start, end }, &mut |key, meta| {
            if left == 0 {
                self.ahead = Some(Bytes::copy_from_slice(key));
                return false;
            }
            left -= 1;
            self.insert(now, key, meta.mod_revision, meta.lease);
            true
        });
    }

    /// The delete of the key whose time ended first, if it has, decided against the newest state: a key that
    /// was written since is not deleted. Nothing is due that is not `committed` yet. The key stays scheduled
    /// until the Record of its delete is noted.
    pub fn due(&mut self, newest: &dyn Newest, committed: Revision) -> Option<Change> {
        loop {
            let (&(end, revision), key) = self.ends.first_key_value()?;
            if end > self.time || revision > committed {
                return None;
            }
            let prev = newest.meta(key);
            let prev =
                prev.filter(|prev| prev.mod_revision == revision && ttl(prev.lease).is_some());
            if prev.is_some() {
                return Some(Change {
                    key: Bytes::copy_from_slice(key),
                    value: None,
                    lease: 0,
                    prev,
                });
            }
            self.forget(revision);
        }
    }

    fn insert(&mut self, now: Moment, key: &[u8], revision: Revision, lease: i64) {
        let Some(ttl) = ttl(lease) else {
            return;
        };
        if self.written.contains_key(&revision) {
            return;
        }
        // What has passed since the last tick may be counted by the next one.
        let begin = self.time + now.saturating_sub(self.counted);
        let end = begin + ttl.unsigned_abs() * 1_000;
        self.written.insert(revision, end);
        self.ends.insert((end, revision), key.into());
    }

    fn forget(&mut self, revision: Revision) {
        if let Some(end) = self.written.remove(&revision) {
            self.ends.remove(&(end, revision));
        }
    }
}

/// Keys stay out of logs.
impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("time", &self.time)
            .field("keys", &self.ends.len())
            .field("is_whole", &self.ahead.is_none())
            .finish_non_exhaustive()
    }
}
