//! Mailbox: the one bounded queue between the hub and one stream of watches.
//!
//! The hub puts Deliveries in while it releases a batch and never waits; the stream's own task takes them
//! out in the order they went in. That order carries the promises: a progress mark stands behind every
//! Change it speaks of, and the note that a watch has fallen behind stands behind the last Change it got.
//! Changes count against the bounds; marks and notes do not, there is at most one of each per watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rules::revision::Revision;
use tokio::sync::Notify;

use super::Change;

/// How much may be in one place.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Changes, each counted once per watch.
    pub changes: usize,
    /// Bytes of keys and values (shared with everybody else who looks at the same Change).
    pub bytes: usize,
}

/// What the hub tells a stream.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Changes of this watch's range, ascending, the next after all that were delivered before.
    Changes {
        /// The watch's number.
        watch: u64,
        /// Shared by every watch of the same range.
        batch: Arc<Batch>,
    },
    /// The watch has fallen behind: from `from` on it must read history, and then rejoin.
    Behind {
        /// The watch's number.
        watch: u64,
        /// The first Revision it has not been given.
        from: Revision,
    },
    /// Everything up to `revision` that the watch (or, without one, every watch of the stream) wants
    /// has been delivered before this.
    Progress {
        /// The watch that is told; `None` tells the whole stream.
        watch: Option<u64>,
        /// How far.
        revision: Revision,
    },
}

/// The Changes of one released batch that lie in one range; ascending, never empty.
#[derive(Debug)]
pub struct Batch {
    /// The Changes.
    pub changes: Vec<Arc<Change>>,
    bytes: usize,
}

impl Batch {
    /// A batch of `changes`, which must be ascending and not empty.
    pub(super) fn new(changes: Vec<Arc<Change>>) -> Batch {
        let bytes = changes.iter().map(|change| change.weight()).sum();
        Batch { changes, bytes }
    }

    pub(super) fn first(&self) -> Revision {
        self.changes
            .first()
            .map_or(Revision::ZERO, |change| change.revision)
    }
}

/// Both ends of a mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    queue: Mutex<Queue>,
    ready: Notify,
    /// Whether the current round of the hub has already noted this mailbox down to be woken.
    noted: AtomicBool,
    bounds: Bounds,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<Delivery>,
    changes: usize,
    bytes: usize,
}

/// What became of a batch that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is in the mailbox.
    Taken,
    /// There was no room: nothing of it is in the mailbox.
    NoRoom,
}

impl Mailbox {
    pub(super) fn new(bounds: Bounds) -> Mailbox {
        Mailbox {
            queue: Mutex::default(),
            ready: Notify::new(),
            noted: AtomicBool::new(false),
            bounds,
        }
    }

    /// Offers `batch` to `watch`. The second answer is whether this mailbox is to be noted down for
    /// [`Mailbox::wake`]: true once per round.
    pub(super) fn offer(&self, watch: u64, batch: &Arc<Batch>) -> (Offered, bool) {
        let mut queue = self.queue.lock();
        let changes = queue.changes + batch.changes.len();
        let bytes = queue.bytes + batch.bytes;
        let note = !self.noted.swap(true, Ordering::Relaxed);
        if changes > self.bounds.changes || bytes > self.bounds.bytes {
            return (Offered::NoRoom, note);
        }
        queue.changes = changes;
        queue.bytes = bytes;
        queue.deliveries.push_back(Delivery::Changes {
            watch,
            batch: Arc::clone(batch),
        });
        (Offered::Taken, note)
    }

    /// Puts a mark or a note behind everything that is here; [`Mailbox::wake`] is up to the caller.
    pub(super) fn mark(&self, delivery: Delivery) {
        self.queue.lock().deliveries.push_back(delivery);
    }

    /// Wakes the stream. Ends the round.
    pub(super) fn wake(&self) {
        self.noted.store(false, Ordering::Relaxed);
        self.ready.notify_one();
    }

    /// Takes the next Delivery.
    pub(super) fn take(&self) -> Option<Delivery> {
        let mut queue = self.queue.lock();
        let delivery = queue.deliveries.pop_front()?;
        queue.forget(&delivery);
        Some(delivery)
    }

    /// Takes the next Delivery if it is Changes of `watch`.
    pub(super) fn take_more(&self, watch: u64) -> Option<Arc<Batch>> {
        let mut queue = self.queue.lock();
        let batch = match queue.deliveries.front()? {
            Delivery::Changes { watch: next, batch } if *next == watch => Arc::clone(batch),
            _ => return None,
        };
        if let Some(delivery) = queue.deliveries.pop_front() {
            queue.forget(&delivery);
        }
        Some(batch)
    }

    /// Waits until the hub has put something in since the last wait.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }
}

impl Queue {
    fn forget(&mut self, delivery: &Delivery) {
        if let Delivery::Changes { batch, .. } = delivery {
            self.changes -= batch.changes.len();
            self.bytes -= batch.bytes;
        }
    }
}
