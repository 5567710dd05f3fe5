//! Doubt: between the moment a Chunk lies in the bucket and the moment its Primary knows, somebody else may read it.
//!
//! A Replica that hears no Primary reads the chain by itself, and so may learn of Records before the Primary
//! calls them committed. Were it to show them at once, a client could see a change there, ask the Primary, and be told
//! it never happened. So the Replica waits a while before it shows what it read, and a Primary whose upload
//! takes half as long lets linearizable reads wait for it. Like the lease this leans on clocks that run about
//! equally fast, and on nothing else: either end may sleep as long as it likes.

use alloc::collections::VecDeque;

use crate::node::Node;
use crate::primary::Tenure;
use crate::revision::Revision;
use crate::settings::Moment;

/// Uploads under way whose Records are committed when they have landed: where each ends, and since when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubts(VecDeque<(Revision, Moment)>);

impl Doubts {
    pub(crate) fn begin(&mut self, last: Revision, now: Moment) {
        self.0.push_back((last, now));
    }

    pub(crate) fn settle(&mut self, committed: Revision) {
        while self.0.front().is_some_and(|(last, _)| *last <= committed) {
            self.0.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// How far a Replica that reads the chain by itself shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ripening {
    /// Shown up to here.
    ripe: Revision,
    /// Shown up to there, from then on.
    next: Option<(Revision, Moment)>,
}

impl Ripening {
    /// How far the chain, known up to `durable`, is shown at `now`, if it takes `wait` to ripen.
    fn ripe(&mut self, durable: Revision, now: Moment, wait: Moment) -> Revision {
        if let Some((upto, _)) = self.next.take_if(|(_, at)| now >= *at) {
            self.ripe = upto;
        }
        if self.next.is_none() && durable > self.ripe {
            self.next = Some((durable, now + wait));
        }
        self.ripe
    }
}

impl Node {
    /// From when on linearizable reads may have to wait on this Primary; a moment that never comes if nothing
    /// is on its way.
    #[must_use]
    pub fn reads_wait_from(&self) -> Moment {
        let first = self.doubts.0.front();
        first.map_or(Moment::MAX, |(_, since)| since + self.doubt_after())
    }

    /// What a linearizable read that arrives at `now` must wait for; `None` if for nothing.
    #[must_use]
    pub fn reads_wait_for(&self, now: Moment) -> Option<Revision> {
        let after = self.doubt_after();
        let mut late = self.doubts.0.iter().rev();
        late.find(|(_, since)| now >= since + after)
            .map(|(last, _)| *last)
    }

    /// Without a lease no clock is relied on: every upload under way is waited for.
    fn doubt_after(&self) -> Moment {
        if self.settings.lease == 0 {
            0
        } else {
            self.settings.upload_doubt
        }
    }

    /// How far the chain commits. Whoever has been named need not wait: nobody else answers reads by then.
    pub(crate) fn chain_committed(&mut self, now: Moment) -> Revision {
        let durable = self.log.durable;
        if self.tenure == Tenure::None {
            let wait = 2 * self.settings.upload_doubt;
            return self.ripening.ripe(durable, now, wait);
        }
        self.ripening = Ripening {
            ripe: durable,
            next: None,
        };
        durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_ripens_in_steps_and_waits_twice_its_time_at_most() {
        let mut ripening = Ripening::default();
        let mut at = |durable, now| ripening.ripe(Revision(durable), now, 10).0;
        assert_eq!(at(5, 0), 0);
        assert_eq!(at(6, 9), 0);
        assert_eq!(at(7, 10), 5);
        assert_eq!(at(8, 19), 5);
        assert_eq!(at(8, 20), 7);
        assert_eq!(at(8, 30), 8);
        assert_eq!(at(8, 99), 8);
        assert_eq!(at(9, 99), 8);
    }

    #[test]
    fn an_upload_is_in_doubt_until_what_it_carries_is_committed() {
        let mut doubts = Doubts::default();
        doubts.begin(Revision(5), 10);
        doubts.begin(Revision(9), 20);
        doubts.settle(Revision(4));
        assert_eq!(doubts.0.len(), 2);
        doubts.settle(Revision(5));
        assert_eq!(doubts.0.front(), Some(&(Revision(9), 20)));
    }
}
