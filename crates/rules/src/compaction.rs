//! Compaction: how the floor rises, through the log and never beside it.
//!
//! A compaction is an internal Record that names a floor. Every Node learns of it as it learns of any
//! Record, and forgets it when it is cut away. It takes effect when it is committed **and** durable in the
//! bucket: then Revisions below the floor cannot be read, and what is superseded there may be deleted,
//! because no log that lacks this Record can ever become the log again.

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use crate::node::Node;
use crate::primary::Tenure;
use crate::record::{INTERNAL_KEY, Kind, Record};
use crate::revision::{Epoch, Revision};
use crate::step::Effect;

/// By how many Revisions a compaction must raise the floor. It costs a Revision itself: a cluster that
/// nobody writes to must come to rest.
const WORTH: u64 = 2;

/// The compactions of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compactions {
    /// The floor in effect.
    floor: Revision,
    /// (its Record, its floor): those not in effect yet, ascending.
    pending: Vec<(Revision, Revision)>,
}

impl Compactions {
    /// The compactions among `records`, a log from its beginning; none is in effect yet.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Compactions {
        let mut compactions = Compactions::default();
        for record in records {
            compactions.learn(record);
        }
        compactions
    }

    /// Takes note of `record`, the newest of the log, if it is a compaction.
    pub fn learn(&mut self, record: &Record) {
        let floor = record.prev_revision;
        if record.kind == Kind::Compaction && floor < record.revision {
            self.pending.push((record.revision, floor));
        }
    }

    /// Forgets those that were cut away above `last`.
    pub(crate) fn truncate(&mut self, last: Revision) {
        self.pending.retain(|(record, _)| *record <= last);
    }

    /// Lets take effect what is committed and durable up to `upto`. The floor, if that raised it.
    pub fn settle(&mut self, upto: Revision) -> Option<Revision> {
        let settled = self.pending.partition_point(|(record, _)| *record <= upto);
        let highest = self
            .pending
            .drain(..settled)
            .map(|(_, floor)| floor)
            .max()?;
        let rises = highest > self.floor;
        self.floor = self.floor.max(highest);
        rises.then_some(self.floor)
    }

    /// The floor in effect: the lowest Revision that can be read.
    #[must_use]
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// The highest floor the log names, in effect or not.
    #[must_use]
    pub fn newest(&self) -> Revision {
        let pending = self.pending.iter().map(|(_, floor)| *floor).max();
        pending.unwrap_or_default().max(self.floor)
    }
}

impl Record {
    /// The Record that raises the floor to `floor`.
    #[must_use]
    pub fn compaction(
        floor: Revision,
        revision: Revision,
        epoch: Epoch,
        leader_id: Arc<str>,
        created_at: i64,
    ) -> Record {
        Record {
            revision,
            epoch,
            kind: Kind::Compaction,
            key: Bytes::from_static(INTERNAL_KEY),
            value: Bytes::new(),
            created: false,
            deleted: false,
            create_revision: revision,
            prev_revision: floor,
            version: 1,
            lease: 0,
            created_at,
            leader_id,
        }
    }
}

/// Compaction's part of a Node's step.
impl Node {
    /// Assigns the Record that raises the floor to `floor`, to be appended as any other. `None` if this
    /// Node may not (it is not the Active Primary, or its gate is shut), if `floor` is not committed, or if
    /// there is nothing to gain.
    pub fn compact(&mut self, floor: Revision, created_at: i64) -> Option<Record> {
        let Tenure::Active(epoch) = self.tenure else {
            return None;
        };
        let gain = floor.since(self.log.compactions.newest());
        let waits = self.log.last.since(self.log.committed);
        let refused = self.is_gated()
            || self.closing
            || waits >= self.settings.pending_max
            || floor > self.log.committed
            || gain < WORTH;
        if refused {
            return None;
        }
        let leader_id = self.leader_id.clone();
        let record = Record::compaction(floor, self.log.last.next(), epoch, leader_id, created_at);
        self.log.push(&record);
        Some(record)
    }

    /// Raises the floor when a compaction is committed and in the bucket.
    pub(crate) fn raise_floor(&mut self, effects: &mut Vec<Effect>) {
        let settled = self.log.committed.min(self.log.durable);
        if let Some(floor) = self.log.compactions.settle(settled) {
            effects.push(Effect::Floor(floor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Log;

    fn compaction(revision: u64, floor: u64) -> Record {
        Record::compaction(
            Revision(floor),
            Revision(revision),
            Epoch(1),
            "one".into(),
            0,
        )
    }

    /// A log of `last` Records, the first of which opens the epoch.
    fn log(last: u64, compactions: &[(u64, u64)]) -> Log {
        let mut log = Log::default();
        for revision in 1..=last {
            let floor = compactions.iter().find(|(record, _)| *record == revision);
            let record = match floor {
                Some((_, floor)) => compaction(revision, *floor),
                None if revision == 1 => Record::opening(Epoch(1), Revision(1), "one".into(), 0),
                None => Record {
                    kind: Kind::Write,
                    ..Record::opening(Epoch(1), Revision(revision), "one".into(), 0)
                },
            };
            log.push(&record);
        }
        log
    }

    #[test]
    fn a_compaction_takes_effect_when_its_record_is_settled_and_only_once() {
        let mut log = log(20, &[(10, 5), (15, 12)]);
        let compactions = &mut log.compactions;
        assert_eq!(compactions.floor(), Revision::ZERO);
        assert_eq!(compactions.newest(), Revision(12));
        assert_eq!(compactions.settle(Revision(9)), None);
        assert_eq!(compactions.settle(Revision(10)), Some(Revision(5)));
        assert_eq!(compactions.settle(Revision(14)), None);
        assert_eq!(compactions.settle(Revision(20)), Some(Revision(12)));
        assert_eq!(compactions.settle(Revision(20)), None);
        assert_eq!(
            (compactions.floor(), compactions.newest()),
            (Revision(12), Revision(12))
        );
    }

    #[test]
    fn a_compaction_that_is_cut_away_never_was() {
        let mut log = log(20, &[(10, 5), (15, 12)]);
        log.truncate(Revision(14));
        assert_eq!(log.compactions.newest(), Revision(5));
        assert_eq!(log.compactions.settle(Revision(20)), Some(Revision(5)));
        log.truncate(Revision(9));
        assert_eq!(
            log.compactions.floor(),
            Revision(5),
            "what took effect stays"
        );
    }

    #[test]
    fn several_that_settle_at_once_are_one_rise() {
        let mut log = log(20, &[(10, 5), (15, 12), (16, 3)]);
        assert_eq!(log.compactions.settle(Revision(20)), Some(Revision(12)));
        assert_eq!(log.compactions.settle(Revision(30)), None);
    }
}
