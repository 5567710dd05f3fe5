//! Claim 4: what a Node shows only rises, over restarts, too, and no client sees beyond it.
//!
//! A Node that starts shows nothing at first; then, if it has kept its disk, no less than in the life before.

use std::collections::BTreeMap;

use rules::revision::Revision;

/// What each Node has shown in its present life, and what it has to begin with in its next one.
#[derive(Debug, Default)]
pub struct Committed {
    shown: BTreeMap<usize, Shown>,
    /// How many serializable reads were answered.
    local_reads: u64,
}

#[derive(Debug, Default)]
struct Shown {
    now: Revision,
    before: Revision,
}

impl Committed {
    /// How many serializable reads were answered.
    #[must_use]
    pub fn local_reads(&self) -> u64 {
        self.local_reads
    }

    /// A Node shows this Revision, and all below it.
    ///
    /// # Panics
    /// If it showed it before in this life.
    pub fn shows(&mut self, node: usize, revision: Revision) {
        let shown = self.shown.entry(node).or_default();
        assert!(
            revision > shown.now,
            "claim 4: node {node} went back to {revision} from {}",
            shown.now
        );
        shown.now = revision;
    }

    /// A serializable read on this Node is answered as of `revision`.
    ///
    /// # Panics
    /// If that is more than it shows, or less than it showed in the life before.
    pub fn read(&mut self, node: usize, revision: Revision) {
        self.local_reads += 1;
        let shown = self.shown.entry(node).or_default();
        assert!(
            revision == shown.now && revision >= shown.before,
            "claim 4: node {node} answers at {revision}, it shows {} and showed {} in the life before",
            shown.now,
            shown.before
        );
    }

    /// A life ended; the disk stays, or not.
    pub fn died(&mut self, node: usize, keeps_disk: bool) {
        let shown = self.shown.remove(&node).unwrap_or_default();
        if keeps_disk {
            let next = Shown {
                now: Revision::ZERO,
                before: shown.now.max(shown.before),
            };
            self.shown.insert(node, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn showing(upto: u64) -> Committed {
        let mut committed = Committed::default();
        committed.shows(0, Revision(upto));
        committed
    }

    #[test]
    fn a_node_without_its_disk_begins_anew() {
        let mut committed = showing(9);
        committed.died(0, false);
        committed.shows(0, Revision(3));
        committed.read(0, Revision(3));
        assert_eq!(committed.local_reads(), 1);
    }

    #[test]
    #[should_panic(expected = "node 0 went back to 9")]
    fn what_is_shown_twice_is_noticed() {
        showing(9).shows(0, Revision(9));
    }

    #[test]
    #[should_panic(expected = "node 0 answers at 8")]
    fn a_read_of_the_past_is_noticed() {
        showing(9).read(0, Revision(8));
    }

    #[test]
    #[should_panic(expected = "showed 9 in the life before")]
    fn less_than_in_the_life_before_is_noticed() {
        let mut committed = showing(9);
        committed.died(0, true);
        committed.shows(0, Revision(8));
        committed.read(0, Revision(8));
    }
}
