//! Claim 7: once faults stop, the cluster is writable again within a bounded time, without an operator, whenever
//! enough voters survive, or the bucket alone if there are none; and soon after every Node is part of it again.
//!
//! The bounds are what the timeouts of [`rules::settings::Settings`] add up to. WRITABLE_WITHIN: the Elector lock of
//! one that died counts as free after `elector_timeout`; a Primary that was named and died before it became Active is
//! given five of them; in between and after that come the lease and some words to and from the bucket.

/// Milliseconds from the last fault to the first write that is acknowledged.
pub const WRITABLE_WITHIN: u64 = 45_000;
/// Milliseconds from then on until every Node shows that write, answers linearizable reads, and votes if it is to.
pub const WHOLE_WITHIN: u64 = 90_000;

/// How long clusters took to recover.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Milliseconds from the last fault to the first write, if there was to be one.
    writable_after: Option<u64>,
    /// Milliseconds from there until everybody was part of it.
    whole_after: Option<u64>,
    hopeless: bool,
}

impl Recovery {
    /// How long it took to be writable again; `None` if too few have survived.
    #[must_use]
    pub fn writable_after(&self) -> Option<u64> {
        self.writable_after
    }

    /// How long it took from then on until every Node was part of it.
    #[must_use]
    pub fn whole_after(&self) -> Option<u64> {
        self.whole_after
    }

    /// Too few have survived: nothing is promised.
    pub fn give_up(&mut self) {
        self.hopeless = true;
    }

    /// Whether too few have survived.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    /// A write was acknowledged so long after the last fault.
    ///
    /// # Panics
    /// If that is too long.
    pub fn writable(&mut self, after: u64) {
        assert!(
            after <= WRITABLE_WITHIN,
            "claim 7: nothing was acknowledged for {after} ms after the last fault"
        );
        self.writable_after = Some(after);
    }

    /// Every Node has been part of it since so long after that; `lacks` is what is still missing.
    ///
    /// # Panics
    /// If something is, and that is too long.
    pub fn whole(&mut self, after: u64, lacks: Option<&str>) {
        if let Some(lacks) = lacks {
            assert!(
                after <= WHOLE_WITHIN,
                "claim 7: {after} ms after the first write {lacks}"
            );
        } else {
            self.whole_after = Some(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_time_is_noted() {
        let mut recovery = Recovery::default();
        recovery.writable(WRITABLE_WITHIN);
        recovery.whole(WHOLE_WITHIN, Some("node-1 is behind"));
        recovery.whole(WHOLE_WITHIN + 1, None);
        assert_eq!(recovery.writable_after(), Some(WRITABLE_WITHIN));
        assert_eq!(recovery.whole_after(), Some(WHOLE_WITHIN + 1));
    }

    #[test]
    #[should_panic(expected = "nothing was acknowledged for")]
    fn a_cluster_that_is_not_writable_is_noticed() {
        Recovery::default().writable(WRITABLE_WITHIN + 1);
    }

    #[test]
    #[should_panic(expected = "node-1 is behind")]
    fn a_node_that_stays_behind_is_noticed() {
        Recovery::default().whole(WHOLE_WITHIN + 1, Some("node-1 is behind"));
    }
}
