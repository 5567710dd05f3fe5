//! Watchers: the hub that hands each released batch to every watch whose range it touches.
//!
//! A watch is either *in step* (it has a seat in the group of its range, and each release puts what it
//! wants into its stream's mailbox) or *behind* (it has none, and its stream reads history on its behalf
//! until it can rejoin). All moves between the two happen under the hub's one lock, at the hub's
//! Revision, so no Change is missed or given twice. Nothing here waits for a stream: a full mailbox
//! only sends that watch behind.
//!
//! Compaction needs nothing of the hub: a watch in step wants nothing below the floor, and one that is
//! behind is refused by the history it reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rules::key::{KeyRange, RangeEnd};
use rules::revision::Revision;

use super::Change;
use super::mailbox::{Batch, Bounds, Delivery, Mailbox, Offered};
use super::ranges::Ranges;

/// More Changes than this are not handed out in one release: whoever wants them reads history.
pub(super) const ONE_RELEASE: usize = 16 * 1024;

/// All watches of a Node.
#[derive(Debug, Default)]
pub struct Hub {
    inner: Mutex<Inner>,
}

/// One watch: its stream's number, and its own. Neither is ever given twice.
type WatcherId = (u64, u64);

#[derive(Debug, Default)]
struct Inner {
    /// Everything up to here has been put into the mailboxes of those in step.
    revision: Revision,
    watchers: BTreeMap<WatcherId, Watcher>,
    ranges: Ranges,
    groups: Vec<Group>,
    /// Numbers of groups that are out of use.
    spare: Vec<u32>,
    /// How many streams there ever were.
    streams: u64,
    /// How many watches there ever were.
    watches: u64,
    /// Groups the current batch has touched. Empty between releases; kept for its memory.
    touched: Vec<u32>,
}

#[derive(Debug)]
struct Watcher {
    range: KeyRange,
    /// No Change before this is wanted; 0 if the watch began with "from now on".
    start: Revision,
    mailbox: Arc<Mailbox>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    InStep,
    /// The first Revision that was not delivered, as far as the hub has been told.
    Behind(Revision),
}

/// The watches in step that have the same range.
#[derive(Debug, Default)]
struct Group {
    seats: BTreeMap<WatcherId, Seat>,
    /// What the current batch has for this group. Empty between releases.
    pending: Vec<Arc<Change>>,
}

#[derive(Debug)]
struct Seat {
    mailbox: Arc<Mailbox>,
    start: Revision,
}

/// How a watch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The number under which the hub speaks of the watch.
    pub watch: u64,
    /// The hub's Revision at that moment: what the watch is told as current.
    pub revision: Revision,
    /// Where history must be read from, if the watch begins behind.
    pub behind: Option<Revision>,
}

/// How the watches of a Node are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All watches.
    pub watches: usize,
    /// Those that read history.
    pub behind: usize,
    /// Distinct ranges of those in step.
    pub ranges: usize,
    /// The lowest Revision a watch still has to read; a compaction may want to wait for it.
    pub slowest: Option<Revision>,
}

impl Hub {
    /// A stream's end of the hub, with an empty mailbox of the given bounds.
    #[must_use]
    pub fn open(self: &Arc<Hub>, bounds: Bounds) -> Stream {
        let mut inner = self.inner.lock();
        let number = inner.streams;
        inner.streams += 1;
        Stream {
            hub: Arc::clone(self),
            number,
            mailbox: Arc::new(Mailbox::new(bounds)),
        }
    }

    /// How the watches are doing. Walks all of them.
    #[must_use]
    pub fn census(&self) -> Census {
        let inner = self.inner.lock();
        let behind = inner
            .watchers
            .values()
            .filter_map(|watcher| match watcher.place {
                Place::InStep => None,
                Place::Behind(from) => Some(from),
            });
        Census {
            watches: inner.watchers.len(),
            behind: behind.clone().count(),
            ranges: inner.groups.len() - inner.spare.len(),
            slowest: behind.min(),
        }
    }

    /// Shuts the door for one release: until it is published, nobody joins, leaves, or is told of
    /// progress, so what readers see and what watches are told rise together.
    pub(super) fn gate(&self) -> Gate<'_> {
        Gate {
            inner: self.inner.lock(),
        }
    }
}

/// A release under way. Holds the hub's lock; look into the view under it, never the other way round.
pub(super) struct Gate<'a> {
    inner: MutexGuard<'a, Inner>,
}

impl Gate<'_> {
    /// Raises the hub's Revision to `committed` and hands out what lies between.
    ///
    /// `changes(after)` is asked only if somebody is in step, for the visible Changes in
    /// `(after, committed]`, ascending. `None` says they are too many or out of reach: then everybody in
    /// step falls behind and reads history.
    pub(super) fn publish<F>(mut self, committed: Revision, changes: F)
    where
        F: FnOnce(Revision) -> Option<Vec<Arc<Change>>>,
    {
        let inner = &mut *self.inner;
        if committed <= inner.revision {
            return;
        }
        let after = std::mem::replace(&mut inner.revision, committed);
        if inner.spare.len() == inner.groups.len() {
            return;
        }
        let mut woken = Vec::new();
        match changes(after) {
            Some(changes) => inner.hand_out(&changes, &mut woken),
            None => inner.outrun(after.next(), &mut woken),
        }
        drop(self.inner);
        for mailbox in woken {
            mailbox.wake();
        }
    }
}

impl Inner {
    /// Sorts `changes` into the groups, then offers each group's share to its seats.
    fn hand_out(&mut self, changes: &[Arc<Change>], woken: &mut Vec<Arc<Mailbox>>) {
        let Inner {
            ranges,
            groups,
            touched,
            revision,
            ..
        } = self;
        for change in changes {
            ranges.holding(&change.key, &mut |number| {
                let group = &mut groups[number as usize];
                if group.pending.is_empty() {
                    touched.push(number);
                }
                group.pending.push(Arc::clone(change));
            });
        }
        let mut behind = Vec::new();
        for number in touched.drain(..) {
            let group = &mut groups[number as usize];
            let batch = Arc::new(Batch::new(std::mem::take(&mut group.pending)));
            for (id, seat) in &group.seats {
                if seat.start > *revision {
                    continue;
                }
                let (offered, note) = seat.mailbox.offer(id.1, &batch);
                if offered == Offered::NoRoom {
                    behind.push((*id, batch.first()));
                }
                if note {
                    woken.push(Arc::clone(&seat.mailbox));
                }
            }
        }
        for (id, from) in behind {
            self.fall_behind(id, from);
        }
    }

    /// Sends everybody in step behind: nothing from `from` on was delivered.
    fn outrun(&mut self, from: Revision, woken: &mut Vec<Arc<Mailbox>>) {
        let in_step: Vec<WatcherId> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.place == Place::InStep && watcher.start <= self.revision)
            .map(|(id, _)| *id)
            .collect();
        for id in in_step {
            let mailbox = &self.watchers[&id].mailbox;
            if woken.last().is_none_or(|last| !Arc::ptr_eq(last, mailbox)) {
                woken.push(Arc::clone(mailbox));
            }
            self.fall_behind(id, from);
        }
    }

    /// Takes `id`'s seat away, and notes in its mailbox where it must read on.
    fn fall_behind(&mut self, id: WatcherId, from: Revision) {
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return;
        };
        let from = from.max(watcher.start);
        watcher.place = Place::Behind(from);
        watcher.mailbox.mark(Delivery::Behind { watch: id.1, from });
        let range = watcher.range.clone();
        self.unseat(id, &range);
    }

    /// Gives `id` a seat in the group of its range.
    fn seat(&mut self, id: WatcherId) {
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return;
        };
        watcher.place = Place::InStep;
        let number = match self.ranges.get(&watcher.range) {
            Some(number) => number,
            None => {
                let group = Group::default();
                let number = match self.spare.pop() {
                    Some(number) => {
                        self.groups[number as usize] = group;
                        number
                    }
                    None => {
                        self.groups.push(group);
                        u32::try_from(self.groups.len() - 1).expect("2^32 ranges do not fit")
                    }
                };
                self.ranges.insert(&watcher.range, number);
                number
            }
        };
        let seat = Seat {
            mailbox: Arc::clone(&watcher.mailbox),
            start: watcher.start,
        };
        self.groups[number as usize].seats.insert(id, seat);
    }

    /// Takes `id`'s seat away, and the group with the last seat.
    fn unseat(&mut self, id: WatcherId, range: &KeyRange) {
        let Some(number) = self.ranges.get(range) else {
            return;
        };
        let group = &mut self.groups[number as usize];
        group.seats.remove(&id);
        if group.seats.is_empty() {
            self.ranges.remove(range);
            self.spare.push(number);
        }
    }

    fn leave(&mut self, id: WatcherId) -> bool {
        let Some(watcher) = self.watchers.remove(&id) else {
            return false;
        };
        if watcher.place == Place::InStep {
            self.unseat(id, &watcher.range);
        }
        true
    }
}

/// A stream's end of the hub: its watches and its mailbox. Dropping it ends its watches.
#[derive(Debug)]
pub struct Stream {
    hub: Arc<Hub>,
    number: u64,
    mailbox: Arc<Mailbox>,
}

impl Stream {
    /// Begins a watch of `range`.
    ///
    /// `start` is the first Revision wanted; `None` wants everything after now. A start in the past
    /// begins behind: the caller reads history from there and then calls [`Stream::rejoin`].
    pub fn watch(&self, range: &KeyRange, start: Option<Revision>) -> Admission {
        let mut inner = self.hub.inner.lock();
        let revision = inner.revision;
        let start = start.unwrap_or(Revision::ZERO);
        let behind = (start > Revision::ZERO && start <= revision).then_some(start);
        let watch = inner.watches;
        inner.watches += 1;
        let id = (self.number, watch);
        let watcher = Watcher {
            range: own(range),
            start,
            mailbox: Arc::clone(&self.mailbox),
            place: behind.map_or(Place::InStep, Place::Behind),
        };
        inner.watchers.insert(id, watcher);
        if behind.is_none() {
            inner.seat(id);
        }
        Admission {
            watch,
            revision,
            behind,
        }
    }

    /// Ends a watch. What already lies in the mailbox for it stays there. False if there was none.
    pub fn cancel(&self, watch: u64) -> bool {
        self.hub.inner.lock().leave((self.number, watch))
    }

    /// Lets a watch that is behind, and has been given everything before `next`, step in again if that
    /// is at most `reach` Revisions away: near enough to read what it lacks in one go.
    ///
    /// `Some(fence)`: it is in step from the fence on, and the caller must deliver its Changes in
    /// `[next, fence]` **before** it takes anything more from the mailbox. `None`: still too far behind.
    pub fn rejoin(&self, watch: u64, next: Revision, reach: u64) -> Option<Revision> {
        let mut inner = self.hub.inner.lock();
        let id = (self.number, watch);
        let revision = inner.revision;
        let watcher = inner.watchers.get_mut(&id)?;
        if revision.since(next.prev()) > reach {
            watcher.place = Place::Behind(next);
            return None;
        }
        inner.seat(id);
        Some(revision)
    }

    /// Puts a progress mark into the mailbox, behind everything that was put there before: for `watch`,
    /// or for the whole stream. Nothing is put, and the answer is false, unless there is such a watch and
    /// all it speaks for are in step and past their start.
    pub fn progress(&self, watch: Option<u64>) -> bool {
        let inner = self.hub.inner.lock();
        let revision = inner.revision;
        let (from, upto) = watch.map_or((u64::MIN, u64::MAX), |watch| (watch, watch));
        let mut spoken_for = inner
            .watchers
            .range((self.number, from)..=(self.number, upto));
        let mut ready = spoken_for.clone().next().is_some();
        ready &= spoken_for.all(|(_, it)| it.place == Place::InStep && it.start <= revision);
        if ready {
            self.mailbox.mark(Delivery::Progress { watch, revision });
            self.mailbox.wake();
        }
        ready
    }

    /// The hub's Revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.hub.inner.lock().revision
    }

    /// Takes the next Delivery out of the mailbox.
    #[must_use]
    pub fn take(&self) -> Option<Delivery> {
        self.mailbox.take()
    }

    /// Takes the next Delivery if it is more Changes for `watch`.
    #[must_use]
    pub fn take_more(&self, watch: u64) -> Option<Arc<Batch>> {
        self.mailbox.take_more(watch)
    }

    /// Waits until something was put into the mailbox since the last wait. Cancel safe.
    pub async fn ready(&self) {
        self.mailbox.ready().await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        let ours = (self.number, u64::MIN)..=(self.number, u64::MAX);
        let watches: Vec<WatcherId> = inner.watchers.range(ours).map(|(id, _)| *id).collect();
        for id in watches {
            inner.leave(id);
        }
    }
}

/// A copy of `range` that does not pin the request it came in.
fn own(range: &KeyRange) -> KeyRange {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    KeyRange {
        start: copy(&range.start),
        end: match &range.end {
            RangeEnd::Before(end) => RangeEnd::Before(copy(end)),
            end => end.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use rules::record::{Kind, Record};
    use rules::revision::Epoch;

    use super::*;
    use crate::view::{KeyValue, Source, View};

    fn change(revision: u64, key: &str) -> Arc<Change> {
        let at = Revision(revision);
        Arc::new(Change {
            revision: at,
            key: Bytes::copy_from_slice(key.as_bytes()),
            deleted: false,
            created: true,
            kv: KeyValue::new(key.as_bytes(), b"value", at, at, 1, 0),
            prev: None,
        })
    }

    /// Publishes one Record per key, from the Revision after the hub's.
    fn publish(hub: &Hub, keys: &[&str]) {
        let first = hub.inner.lock().revision.0 + 1;
        let changes = (first..)
            .zip(keys)
            .map(|(revision, key)| change(revision, key))
            .collect();
        hub.gate()
            .publish(Revision(first + keys.len() as u64 - 1), |_| Some(changes));
    }

    fn prefix(prefix: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(
            Bytes::from_static(prefix.as_bytes()),
            Bytes::from_static(end.as_bytes()),
        )
    }

    /// Everything in the mailbox, as `id: revisions`, `id behind from`, `id progress revision`.
    fn told(stream: &Stream) -> Vec<String> {
        std::iter::from_fn(|| stream.take())
            .map(|delivery| match delivery {
                Delivery::Changes { watch, batch } => {
                    let revisions: Vec<u64> = batch
                        .changes
                        .iter()
                        .map(|change| change.revision.0)
                        .collect();
                    format!("{watch}: {revisions:?}")
                }
                Delivery::Behind { watch, from } => format!("{watch} behind {from}"),
                Delivery::Progress {
                    watch: Some(watch),
                    revision,
                } => {
                    format!("{watch} progress {revision}")
                }
                Delivery::Progress {
                    watch: None,
                    revision,
                } => format!("all progress {revision}"),
            })
            .collect()
    }

    fn large() -> Bounds {
        Bounds {
            changes: 1000,
            bytes: 1 << 20,
        }
    }

    fn small() -> Bounds {
        Bounds {
            changes: 3,
            bytes: 1 << 20,
        }
    }

    #[test]
    fn each_watch_gets_what_its_range_holds() {
        let hub = Arc::new(Hub::default());
        let stream = hub.open(large());
        assert_eq!(stream.watch(&prefix("a", "b"), None).behind, None);
        stream.watch(&prefix("ab", ""), None);
        stream.watch(&prefix("\0", "\0"), None);
        let other = hub.open(large());
        other.watch(&prefix("a", "b"), None);
        publish(&hub, &["aa", "ab", "b"]);
        publish(&hub, &["c"]);
        let mut first = told(&stream);
        first.sort();
        assert_eq!(first, ["0: [1, 2]", "1: [2]", "2: [1, 2, 3]", "2: [4]"]);
        assert_eq!(told(&other), ["3: [1, 2]"]);
        assert_eq!(hub.census().ranges, 3);
        drop(other);
        assert_eq!(hub.census().watches, 3);
        drop(stream);
        assert_eq!(hub.census(), Census::default());
        publish(&hub, &["aa"]);
    }

    #[test]
    fn a_start_in_the_future_hears_nothing_before_it() {
        let hub = Arc::new(Hub::default());
        publish(&hub, &["a"]);
        let stream = hub.open(large());
        let range = prefix("a", "b");
        let admission = stream.watch(&range, Some(Revision(4)));
        assert_eq!(
            admission,
            Admission {
                watch: 0,
                revision: Revision(1),
                behind: None
            }
        );
        publish(&hub, &["a"]);
        assert!(!stream.progress(None), "not past its start");
        assert_eq!(told(&stream), [""; 0]);
        publish(&hub, &["a", "a"]);
        assert!(stream.progress(None));
        // Revision 3 shares the batch with 4: the stream filters by the start it asked for.
        assert_eq!(told(&stream), ["0: [3, 4]", "all progress 4"]);
    }

    #[test]
    fn a_full_mailbox_sends_only_that_watch_behind() {
        let hub = Arc::new(Hub::default());
        let (slow, quick) = (hub.open(small()), hub.open(small()));
        let range = prefix("a", "b");
        slow.watch(&range, None);
        slow.watch(&prefix("z", ""), None);
        quick.watch(&range, None);
        for _ in 0..2 {
            publish(&hub, &["a", "a"]);
            assert_eq!(told(&quick).len(), 1);
        }
        assert!(!slow.progress(None));
        assert!(!slow.progress(Some(0)));
        assert!(slow.progress(Some(1)));
        assert_eq!(hub.census().slowest, Some(Revision(3)));
        assert_eq!(told(&slow), ["0: [1, 2]", "0 behind 3", "1 progress 4"]);
        assert_eq!(slow.rejoin(0, Revision(5), 0), Some(Revision(4)));
        publish(&hub, &["a"]);
        assert!(slow.progress(None));
        assert_eq!(told(&slow), ["0: [5]", "all progress 5"]);
    }

    #[test]
    fn a_start_in_the_past_rejoins_when_it_is_near() {
        let hub = Arc::new(Hub::default());
        for _ in 0..30 {
            publish(&hub, &["a"; 100]);
        }
        let stream = hub.open(large());
        let admission = stream.watch(&prefix("a", "b"), Some(Revision(1)));
        assert_eq!(admission.behind, Some(Revision(1)));
        assert_eq!(stream.rejoin(0, Revision(1001), 999), None);
        assert_eq!(hub.census().slowest, Some(Revision(1001)));
        assert_eq!(stream.rejoin(0, Revision(2001), 1000), Some(Revision(3000)));
        assert_eq!(stream.rejoin(1, Revision(1), 9), None, "nobody");
    }

    #[test]
    fn a_release_out_of_reach_sends_everybody_behind() {
        let hub = Arc::new(Hub::default());
        let stream = hub.open(large());
        stream.watch(&prefix("a", "b"), None);
        stream.watch(&prefix("a", "b"), Some(Revision(70)));
        stream.watch(&prefix("c", "d"), Some(Revision(100_000)));
        hub.gate().publish(Revision(90), |after| {
            assert_eq!(after, Revision::ZERO);
            None
        });
        assert_eq!(told(&stream), ["0 behind 1", "1 behind 70"]);
        assert_eq!(hub.census().behind, 2);
    }

    #[test]
    fn a_canceled_watch_hears_nothing_more() {
        let hub = Arc::new(Hub::default());
        let stream = hub.open(large());
        stream.watch(&prefix("a", "b"), None);
        assert!(stream.cancel(0));
        assert!(!stream.cancel(0));
        assert!(!stream.progress(None), "silent without watches");
        publish(&hub, &["a"]);
        assert_eq!(told(&stream), [""; 0]);
        assert_eq!(hub.census(), Census::default());
    }

    #[test]
    fn nobody_is_asked_for_changes_nobody_wants() {
        let hub = Arc::new(Hub::default());
        hub.gate()
            .publish(Revision(5), |_| unreachable!("no watch is in step"));
        hub.gate()
            .publish(Revision(3), |_| unreachable!("never goes back"));
        assert_eq!(hub.open(small()).revision(), Revision(5));
    }

    #[tokio::test]
    async fn one_release_is_one_wake_up() {
        use futures::FutureExt;
        let hub = Arc::new(Hub::default());
        let stream = hub.open(large());
        stream.watch(&prefix("a", "b"), None);
        stream.watch(&prefix("a", "c"), None);
        assert!(stream.ready().now_or_never().is_none());
        for _ in 0..2 {
            publish(&hub, &["a", "b", "a"]);
            assert!(stream.ready().now_or_never().is_some());
            assert!(stream.ready().now_or_never().is_none());
        }
    }

    /// What a released Record costs with 1,000 watches on 100 ranges, ten of which it touches.
    ///
    /// `cargo test -p netsy --lib --release cost_of_release -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_release() {
        let view = View::new(Arc::new(Nothing), 1 << 30);
        let bounds = Bounds {
            changes: 1 << 20,
            bytes: 1 << 30,
        };
        let streams: Vec<Stream> = (0..1000)
            .map(|number| {
                let stream = view.hub().open(bounds);
                let start = Bytes::from(format!("/registry/kind{:03}/", number % 100));
                let end = Bytes::from(format!("/registry/kind{:03}0", number % 100));
                stream.watch(&KeyRange::from_wire(start, end), None);
                stream
            })
            .collect();
        let value = Bytes::from(vec![7; 1024]);
        let mut last = 0;
        for batch in [1, 8, 64, 512] {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..8192 / batch {
                for _ in 0..batch {
                    last += 1;
                    let key = format!("/registry/kind{:03}/default/{last}", last * 37 % 100);
                    view.append(&record(last, key.into(), value.clone()));
                }
                let begun = std::time::Instant::now();
                view.release(Revision(last));
                spent += begun.elapsed();
                for stream in &streams {
                    while stream.take().is_some() {}
                }
            }
            println!(
                "batches of {batch}: {} ns for a Record",
                spent.as_nanos() / 8192
            );
        }
    }

    fn record(revision: u64, key: Bytes, value: Bytes) -> Record {
        let opening = Record::opening(Epoch(1), Revision(revision), "node".into(), 0);
        Record {
            kind: Kind::Write,
            created: true,
            key,
            value,
            ..opening
        }
    }

    struct Nothing;

    impl Source for Nothing {
        fn records(&self, _: &[Revision]) -> Result<Vec<Record>, String> {
            Err("nothing is evicted".into())
        }

        fn history(&self, _: Revision, _: Revision, _: usize) -> Result<Vec<Record>, String> {
            Err("nothing is evicted".into())
        }
    }
}
