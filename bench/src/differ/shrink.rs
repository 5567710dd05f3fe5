//! Shrinking: the shortest sequence that still shows a difference, found greedily on fresh servers.
//! First whole stretches are dropped, halving their length; then steps ask less. Any difference counts,
//! for the smallest one is the one worth reading.

use anyhow::Result;

use super::pair::{Difference, replay};
use super::step::Step;
use crate::server::Kind;
use crate::wire::etcd;
use crate::wire::etcd::request_op::Request;

/// Shrinks `steps`, which showed `difference`, with at most `budget` replays.
pub(crate) async fn shrink(
    kinds: &[Kind; 2],
    mut steps: Vec<Step>,
    difference: Difference,
    budget: usize,
) -> Result<(Vec<Step>, Difference)> {
    let mut best = difference;
    let mut replays = Replays {
        kinds,
        left: budget,
    };
    steps.truncate(best.at + 1);
    let mut stretch = steps.len().div_ceil(2);
    while stretch > 0 && replays.left > 0 {
        // From the end: late steps are rarely what a difference needs.
        let mut end = steps.len();
        while end > 0 && replays.left > 0 {
            let start = end.saturating_sub(stretch);
            let mut less = steps[..start].to_vec();
            less.extend_from_slice(&steps[end..]);
            if let Some(found) = replays.of(&less).await? {
                less.truncate(found.at + 1);
                (steps, best) = (less, found);
            }
            end = start.min(steps.len());
        }
        stretch /= 2;
    }
    simplify(&mut replays, &mut steps, &mut best).await?;
    Ok((steps, best))
}

/// Replaces steps by simpler ones while the difference stays.
async fn simplify(
    replays: &mut Replays<'_>,
    steps: &mut Vec<Step>,
    best: &mut Difference,
) -> Result<()> {
    let mut at = 0;
    while at < steps.len() && replays.left > 0 {
        let mut changed = false;
        for simpler in steps[at].simpler() {
            let mut less = steps.clone();
            less[at] = simpler;
            if let Some(found) = replays.of(&less).await? {
                less.truncate(found.at + 1);
                (*steps, *best, changed) = (less, found, true);
                break;
            }
        }
        if !changed {
            at += 1;
        }
    }
    Ok(())
}

/// Whether every lease a put names was granted before it: what is never granted is not compared.
fn leases_are_granted(steps: &[Step]) -> bool {
    let mut granted = vec![0];
    let named = |op: &etcd::RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => put.lease,
        _ => 0,
    };
    steps.iter().all(|step| match step {
        Step::Grant(grant) => {
            granted.push(grant.id);
            true
        }
        Step::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .all(|op| granted.contains(&named(op))),
        _ => true,
    })
}

/// Replays on fresh servers, counted.
struct Replays<'a> {
    kinds: &'a [Kind; 2],
    left: usize,
}

impl Replays<'_> {
    async fn of(&mut self, steps: &[Step]) -> Result<Option<Difference>> {
        if self.left == 0 || steps.is_empty() || !leases_are_granted(steps) {
            return Ok(None);
        }
        self.left -= 1;
        replay(self.kinds, steps).await
    }
}
