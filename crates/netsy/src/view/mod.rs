//! What readers see: an in-memory, multi-version view of the committed log. No I/O of its own.

use rules::revision::Revision;

/// The view. (Its room is being furnished.)
#[derive(Debug)]
pub struct View;

impl View {
    /// Waits until the committed Revision is at least `revision`.
    pub async fn reached(&self, _revision: Revision) {}
}
