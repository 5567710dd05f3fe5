//! History: what a watch that is behind has missed, read from the view in bounded portions.

use std::sync::Arc;

use rules::refusal::Refusal;
use rules::revision::Revision;

use super::wanted::Wanted;
use crate::view::{Bounds, Change, View};

/// Changes taken from the view at a time: what may be in memory beyond the bounds.
const STEP: usize = 64;
/// Changes looked at in one go, wanted or not.
const LOOKS: usize = 16 * 1024;

/// A portion of history.
#[derive(Debug)]
pub(super) struct Portion {
    /// What the watch wants of it, ascending.
    pub(super) changes: Vec<Arc<Change>>,
    /// Everything the watch wants up to here is in this portion or one before.
    pub(super) upto: Revision,
}

/// Reads what `wanted` wants in `[next, upto]`, or its beginning: until `bounds` are reached.
///
/// May wait for the disk.
///
/// # Errors
/// `Compacted` if `next` lies below the floor, `Unavailable` when history cannot be fetched.
pub(super) fn read(
    view: &View,
    wanted: &Wanted,
    next: Revision,
    upto: Revision,
    bounds: Bounds,
) -> Result<Portion, Refusal> {
    let mut portion = Portion {
        changes: Vec::new(),
        upto: next.prev(),
    };
    let (mut bytes, mut looks) = (0, 0);
    let step = STEP.min(bounds.changes);
    while portion.changes.len() < bounds.changes && bytes < bounds.bytes && looks < LOOKS {
        let seen = match view.changes(portion.upto, upto, step) {
            Ok(seen) => seen,
            // The floor rose past us: what we have is whole, and the next look will say so.
            Err(Refusal::Compacted { .. }) if looks > 0 => return Ok(portion),
            Err(refusal) => return Err(refusal),
        };
        looks += step;
        let whole = seen.len() < step;
        portion.upto = match seen.last() {
            Some(last) if !whole => last.revision,
            _ => upto,
        };
        let ours = seen.into_iter().filter(|change| wanted.wants(change));
        portion
            .changes
            .extend(ours.inspect(|change| bytes += change.weight()));
        if whole {
            break;
        }
    }
    Ok(portion)
}
