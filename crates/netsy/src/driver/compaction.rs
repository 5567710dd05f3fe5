//! Compaction: when the Primary raises the floor, and what every Node does when it has risen.
//!
//! The Primary keeps what is younger than the retention time, and so many of the newest Revisions; it waits a
//! while for its own watches that are behind, and no longer than once more the retention time. A floor in
//! effect is shown to readers at once; then what is superseded below it goes from memory and disk, step
//! by step, on a thread beside the loop. Snapshots and deletions take turns, so that a Snapshot is never
//! made of a log that is just being pruned.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rules::primary::Tenure;
use rules::revision::Revision;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use super::{Driver, Event, wall_clock};
use crate::standing::now;
use crate::store::{Failure, Pruned, Store};

/// How many moments of the retention time are remembered.
const SAMPLES: u64 = 32;
/// A compaction must free this part of the Revisions that are always kept.
const WORTH: u64 = 10;
/// How long to wait after the disk refused, milliseconds.
const AGAIN: u64 = 1_000;
/// How long a Replica that cannot believe the chain waits for its Primary's welcome, milliseconds.
const WELCOME_WITHIN: u64 = 30_000;
/// How long the disk may take to hold what the bucket does, before it is asked again.
const NOT_YET: Duration = Duration::from_millis(20);

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct CompactionPolicy {
    /// What is younger can be read; `None` keeps everything.
    pub retention: Option<Duration>,
    /// At least so many of the newest Revisions can be read.
    pub revisions: u64,
    /// How often it is looked whether the floor may rise.
    pub interval: Duration,
}

/// What the driver knows of compaction.
pub(super) struct Compaction {
    policy: CompactionPolicy,
    /// (moment, what was committed then), ascending.
    ages: VecDeque<(u64, Revision)>,
    decided_at: u64,
    /// Since when a watch that is behind has held the floor down.
    yields_since: Option<u64>,
    /// The floor in effect.
    floor: Revision,
    /// Everything up to this floor was deleted, in this life.
    pruned: Revision,
    running: bool,
    /// Whether a Snapshot that is due goes before the next deletions.
    gives_way: bool,
    again_at: u64,
    /// Since when this Node is neither Primary nor hears one.
    alone_since: Option<u64>,
    stop: CancellationToken,
    _stops_with_the_loop: DropGuard,
}

impl Compaction {
    pub(super) fn new(policy: CompactionPolicy) -> Compaction {
        let stop = CancellationToken::new();
        Compaction {
            policy,
            ages: VecDeque::new(),
            decided_at: now(),
            yields_since: None,
            floor: Revision::ZERO,
            pruned: Revision::ZERO,
            running: false,
            gives_way: false,
            again_at: 0,
            alone_since: None,
            _stops_with_the_loop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Whether a Snapshot has to wait for what is being deleted, or is about to be.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.running || (self.floor > self.pruned && !self.gives_way)
    }

    /// Whether waiting for a Primary has lasted long enough: it may never welcome this Node's log.
    pub(super) fn is_left_behind(&self) -> bool {
        self.alone_since
            .is_some_and(|since| now() >= since + WELCOME_WITHIN)
    }

    /// A Snapshot had its turn.
    pub(super) fn gave_way(&mut self) {
        self.gives_way = false;
    }

    fn retention(&self) -> Option<u64> {
        let retention = self.policy.retention?;
        Some(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX))
    }

    /// Remembers what is committed at `moment`.
    fn sample(&mut self, moment: u64, committed: Revision) {
        let Some(retention) = self.retention() else {
            return;
        };
        let every = (retention / SAMPLES).max(1);
        let newest = self.ages.back();
        if newest.is_some_and(|(at, known)| moment < at + every || *known == committed) {
            return;
        }
        self.ages.push_back((moment, committed));
        // The newest of those that are old enough is all that is needed of them.
        let old = |(at, _): &(u64, Revision)| at + retention <= moment;
        while self.ages.get(1).is_some_and(old) {
            self.ages.pop_front();
        }
    }

    /// What was committed at `moment`, as far as this life remembers.
    fn committed_at(&self, moment: u64) -> Option<Revision> {
        let past = self.ages.iter().rev().find(|(at, _)| *at <= moment);
        past.map(|(_, committed)| *committed)
    }

    /// How far the floor may rise, `wanted` at most, with a watch that still has to read `slowest`.
    fn yields(&mut self, wanted: Revision, slowest: Option<Revision>, moment: u64) -> Revision {
        let Some(slowest) = slowest.filter(|slowest| *slowest < wanted) else {
            self.yields_since = None;
            return wanted;
        };
        let since = *self.yields_since.get_or_insert(moment);
        if moment < since.saturating_add(self.retention().unwrap_or(0)) {
            return slowest;
        }
        self.yields_since = None;
        wanted
    }
}

impl Driver {
    /// What time brings: the Primary may raise the floor, and everybody deletes below it.
    pub(super) fn tend_compaction(&mut self) {
        self.compaction.sample(now(), self.node.log().committed);
        let alone = self.node.tenure() == Tenure::None && self.node.hears(now()).is_none();
        if !alone {
            self.compaction.alone_since = None;
        } else if self.compaction.alone_since.is_none() {
            self.compaction.alone_since = Some(now());
        }
        self.raise_floor();
        self.prune();
    }

    /// The floor has risen, for good.
    pub(super) fn floor_rose(&mut self, floor: Revision) {
        info!(floor = floor.0, "the compaction floor rises");
        self.view.refuse_below(floor);
        self.compaction.floor = floor;
    }

    /// The Primary's decision.
    fn raise_floor(&mut self) {
        let policy = self.compaction.policy;
        let every = u64::try_from(policy.interval.as_millis()).unwrap_or(u64::MAX);
        let Some(retention) = self.compaction.retention() else {
            return;
        };
        let active = matches!(self.node.tenure(), Tenure::Active(_));
        if !active || now() < self.compaction.decided_at.saturating_add(every) {
            return;
        }
        self.compaction.decided_at = now();
        let log = self.node.log();
        let (known, last) = (log.compactions.newest(), log.last);
        let worth = (policy.revisions / WORTH).max(1);
        let kept = Revision(last.0.saturating_sub(policy.revisions)).min(log.committed);
        if kept.since(known) < worth {
            return;
        }
        let old = now().checked_sub(retention);
        let old = old.and_then(|old| self.compaction.committed_at(old));
        let wanted = kept.min(old.unwrap_or_else(|| self.born_before(known, kept, retention)));
        let slowest = self.view.hub().census().slowest;
        let floor = self.compaction.yields(wanted, slowest, now());
        if floor.since(known) < worth {
            return;
        }
        if let Some(record) = self.node.compact(floor, wall_clock()) {
            debug!(floor = floor.0, revision = record.revision.0, "compacting");
            self.take(record);
        }
    }

    /// The newest Revision in `[low, high]` that is older than `retention` by the clocks of those who
    /// assigned it: after a start, until this life has lasted that long. 0 if there is none.
    fn born_before(&self, low: Revision, high: Revision, retention: u64) -> Revision {
        let nanoseconds = i64::try_from(retention)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let moment = wall_clock().saturating_sub(nanoseconds);
        let (mut old, mut young) = (low.0, high.0 + 1);
        while old + 1 < young {
            let middle = old + (young - old) / 2;
            match self.store.get(Revision(middle)) {
                Ok(Some(found)) if found.record.created_at > moment => young = middle,
                Ok(_) => old = middle,
                Err(failure) => {
                    warn!(%failure, "could not look up the age of records");
                    return Revision::ZERO;
                }
            }
        }
        if old == low.0 {
            Revision::ZERO
        } else {
            Revision(old)
        }
    }

    /// Begins to delete below the floor, when nothing stands against it.
    fn prune(&mut self) {
        let compaction = &self.compaction;
        let Compaction { floor, pruned, .. } = *compaction;
        let idle = floor > pruned && !compaction.running && now() >= compaction.again_at;
        let active = matches!(self.node.tenure(), Tenure::Active(_));
        let gives_way = compaction.gives_way && active && self.snapshots.may_begin();
        if !idle || gives_way || self.snapshots.is_reading() || self.disk_failed {
            return;
        }
        self.compaction.running = true;
        self.compaction.gives_way = false;
        let (view, store) = (std::sync::Arc::clone(&self.view), self.store.clone());
        let (durable, stop) = (self.node.log().durable, self.compaction.stop.clone());
        let events = self.events.clone();
        self.runtime.spawn_blocking(move || {
            view.set_floor(floor);
            let began = Instant::now();
            let pruned = prune_to(&store, pruned.prev(), (floor, durable), &stop);
            if pruned.is_ok() {
                let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                debug!(floor = floor.0, milliseconds, "pruned the local database");
            }
            let _ = events.send(Event::Pruned(pruned.map(|()| floor)));
        });
    }

    /// The deletions have ended.
    pub(super) fn pruned(&mut self, outcome: Result<Revision, Failure>) {
        self.compaction.running = false;
        self.compaction.gives_way = true;
        match outcome {
            Ok(floor) => self.compaction.pruned = floor,
            Err(failure) => {
                self.compaction.again_at = now() + AGAIN;
                warn!(%failure, "could not delete what was compacted; trying again");
            }
        }
    }
}

/// Deletes below the floor in steps, and gives pages back. Rests as long as it works: others write, too.
fn prune_to(
    store: &Store,
    after: Revision,
    (floor, durable): (Revision, Revision),
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut next = Some(after);
    let mut shrinks = true;
    while (next.is_some() || shrinks) && !stop.is_cancelled() {
        let began = Instant::now();
        match next {
            Some(at) => match store.prune(at, floor, durable)? {
                Pruned::Upto(at) => next = Some(at),
                Pruned::All => next = None,
                Pruned::NotYet => std::thread::sleep(NOT_YET),
            },
            None => shrinks = store.shrink()?,
        }
        std::thread::sleep(began.elapsed());
    }
    if stop.is_cancelled() {
        Err(Failure::Closed)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compaction(retention: u64) -> Compaction {
        Compaction::new(CompactionPolicy {
            retention: Some(Duration::from_millis(retention)),
            revisions: 10,
            interval: Duration::from_millis(1),
        })
    }

    #[test]
    fn what_was_committed_a_while_ago_is_remembered_in_few_samples() {
        let mut compaction = compaction(3_200);
        for moment in 0..10_000 {
            compaction.sample(moment, Revision(moment));
        }
        assert!(
            compaction.ages.len() <= SAMPLES as usize + 3,
            "{}",
            compaction.ages.len()
        );
        let old = compaction.committed_at(10_000 - 3_200).unwrap();
        assert!((6_600..=6_800).contains(&old.0), "{old}");
        assert_eq!(compaction.committed_at(1), None);
    }

    #[test]
    fn an_idle_log_grows_old() {
        let mut compaction = compaction(3_200);
        for moment in 0..10_000 {
            compaction.sample(moment, Revision(7));
        }
        assert_eq!(compaction.committed_at(6_800), Some(Revision(7)));
    }

    #[test]
    fn a_watch_that_is_behind_holds_the_floor_down_for_a_while_only() {
        let mut compaction = compaction(100);
        let behind = Some(Revision(5));
        assert_eq!(compaction.yields(Revision(20), behind, 1_000), Revision(5));
        assert_eq!(compaction.yields(Revision(30), behind, 1_099), Revision(5));
        assert_eq!(compaction.yields(Revision(40), behind, 1_100), Revision(40));
        assert_eq!(compaction.yields(Revision(50), behind, 1_101), Revision(5));
        let near = Some(Revision(60));
        assert_eq!(compaction.yields(Revision(50), near, 1_102), Revision(50));
        assert_eq!(compaction.yields(Revision(50), None, 1_103), Revision(50));
        assert_eq!(compaction.yields(Revision(70), behind, 1_150), Revision(5));
        assert_eq!(compaction.yields(Revision(70), behind, 1_220), Revision(5));
    }
}
