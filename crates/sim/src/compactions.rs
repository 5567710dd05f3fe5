//! Compactions in the weather: Primaries ask for them, and a judge looks at every floor that rises.
//!
//! A floor may rise only by a Record that is committed and that the bucket holds: whoever deletes below it
//! must never find that it was not true.

use rules::record::Kind;
use rules::revision::Revision;
use rules::step::Effect;

use crate::world::World;

impl World {
    /// Now and then the Primary compacts.
    pub(crate) fn compacts(&mut self, index: usize) {
        if !self.random.chance(5) {
            return;
        }
        let kept = self.random.between(0, 30);
        let Some(process) = &mut self.nodes[index].node else {
            return;
        };
        let floor = Revision(process.log().committed.0.saturating_sub(kept));
        if let Some(record) = process.compact(floor, 0) {
            self.perform(index, Effect::Append(vec![record]));
        }
    }

    /// A Node may delete below `floor`: the Record that says so is committed and in the chain.
    pub(crate) fn floor_rose(&mut self, index: usize, floor: Revision) {
        let node = &self.nodes[index];
        let process = node.node.as_ref();
        let committed = process.map_or(Revision::ZERO, |process| process.log().committed);
        let mut says = node.log[..committed.0 as usize]
            .iter()
            .filter(|record| record.kind == Kind::Compaction && record.prev_revision == floor);
        let record = says.next().unwrap_or_else(|| {
            panic!("node {index} raises its floor to {floor}, and no committed record says so")
        });
        assert!(floor < record.revision, "a floor above its own record");
        let chain = self.bucket.chain();
        assert_eq!(
            chain.get(record.revision.0 as usize - 1),
            Some(&record),
            "node {index} raises its floor to {floor} by a record that is not in the bucket"
        );
        self.checks.floors += 1;
    }

    /// What a Replica is sent must still be there.
    pub(crate) fn is_above_the_floor(&self, index: usize, after: Revision, upto: Revision) {
        let node = self.nodes[index].node.as_ref();
        let floor = node.map_or(Revision::ZERO, |node| node.log().compactions.floor());
        assert!(
            upto == after || after.next() >= floor,
            "node {index} sends records from {} on, and its floor is {floor}",
            after.next()
        );
    }
}
