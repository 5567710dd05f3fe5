//! Claim 5: a linearizable read never misses an acknowledged write, nor what any Node has shown to anybody, before it
//! began.

use rules::revision::Revision;

/// The judge of linearizable reads.
#[derive(Debug, Default)]
pub struct Reads {
    answered: u64,
}

impl Reads {
    /// How many were answered.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.answered
    }

    /// A read that began when `floor` was the newest is answered as of `shown`.
    ///
    /// # Panics
    /// If it misses something.
    pub fn answered(&mut self, node: usize, floor: Revision, shown: Revision) {
        self.answered += 1;
        assert!(
            shown >= floor,
            "claim 5: node {node} answers a linearizable read at {shown}, {floor} was acknowledged or shown before"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_later_need_not_be_seen() {
        let mut reads = Reads::default();
        reads.answered(0, Revision(3), Revision(3));
        assert_eq!(reads.count(), 1);
    }

    #[test]
    #[should_panic(expected = "answers a linearizable read at 2")]
    fn a_stale_read_is_noticed() {
        Reads::default().answered(0, Revision(3), Revision(2));
    }
}
