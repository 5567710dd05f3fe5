//! Voters: how the Active Primary changes who counts, and how it goes between quorum and bucket path.
//!
//! Always in this order: the write gate shut; every assigned Record durable in the bucket and on the own
//! disk; the swap of the register; its outcome *known*; the gate open. Because everything before is in the
//! bucket, the old and the new quorums need not overlap.

use alloc::vec::Vec;

use crate::node::Node;
use crate::primary::Tenure;
use crate::quorum::{DISABLED, voters_needed, writes_needed};
use crate::register::Voter;
use crate::settings::Moment;
use crate::step::Effect;

/// A change of voters that is under way: the gate is shut.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    voters: Vec<Voter>,
    /// Whether the swap was sent.
    pub(crate) swapping: bool,
}

/// The Primary's part of a Node's step, towards the register.
impl Node {
    /// Whether writes wait for a change of voters to settle.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        self.change.is_some()
    }

    /// Begins a change of voters when one is wanted, and moves on the one under way. While the bucket does not answer
    /// none is begun, and one that was not sent is dropped: writes would wait for the bucket, and need not.
    pub(crate) fn tend_voters(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if !matches!(self.tenure, Tenure::Active(_)) || self.closing {
            return;
        }
        if !self.bucket_answers {
            self.change.take_if(|change| !change.swapping);
        } else if self.change.is_none()
            && let Some(voters) = self.wanted_voters(now)
        {
            self.change = Some(Change {
                voters,
                swapping: false,
            });
        }
        let settled = self.log.durable == self.log.last && self.log.appended == self.log.last;
        let Some(change) = &mut self.change else {
            return;
        };
        if change.swapping || !settled || self.uploading || self.elector.is_swapping() {
            return;
        }
        change.swapping = true;
        let (voters, quorum) = (change.voters.clone(), self.settings.quorum);
        let mark = Self::mark(&mut self.marks);
        effects.extend(self.elector.swap_register(now, mark, |register| {
            register.voters = voters;
            register.quorum = quorum;
        }));
    }

    /// Whom the register should name instead; `None` if all is well.
    fn wanted_voters(&self, now: Moment) -> Option<Vec<Voter>> {
        let mut healthy = self.healthy(now);
        let quorum = self.settings.quorum;
        if healthy.len() < voters_needed(quorum) || quorum == DISABLED {
            healthy.clear();
        }
        if self.quorum != quorum {
            return Some(healthy);
        }
        let needed = writes_needed(self.voters.len(), self.quorum);
        let too_few = !self.voters.is_empty() && self.reachable(now) < needed;
        if too_few || self.has_distrusted_voter() {
            // Fewer than a quorum of the old ones would make the next loss worse: the bucket then.
            let enough = healthy.len() >= needed;
            return Some(if enough { healthy } else { Vec::new() });
        }
        let newcomer = healthy.iter().any(|voter| !self.voters.contains(voter));
        let settled = now >= self.voters_changed_at + 2 * self.settings.heartbeat_interval;
        let better = newcomer || self.has_forgotten_voter(now);
        (better && healthy.len() >= needed && settled).then_some(healthy)
    }

    /// Whether everything goes to the bucket at once: without voters, while they change, when too few of
    /// them answer, and when their Receipts are late.
    #[must_use]
    pub fn is_on_bucket_path(&self, now: Moment) -> bool {
        let active = matches!(self.tenure, Tenure::Active(_));
        if !active || self.voters.is_empty() || self.change.is_some() {
            return true;
        }
        let waits = self.uncommitted_since;
        let late = waits.is_some_and(|since| now >= since + self.settings.receipt_timeout);
        late || self.reachable(now) < writes_needed(self.voters.len(), self.quorum)
    }
}
