//! Housekeeping: what time alone brings. Gauges, a disk that failed and may work again, and a turn for all
//! those who look at the clock.

use std::ops::ControlFlow;

use rules::step::Input;
use tracing::{info, warn};

use super::{Answer, Driver, Event};
use crate::standing::now;

impl Driver {
    /// What time alone brings: Snapshots, keys that expire, a look at the members, gauges, a disk that came back.
    pub(super) fn housekeeping(&mut self) {
        self.tend_snapshots();
        self.tend_compaction();
        self.tend_expiry();
        self.learn_addresses();
        self.tend_members();
        self.tend_disk();
        self.measure();
        let log = self.node.log();
        self.metrics.latest_revision.set(log.last.wire());
        self.metrics.bucket_revision.set(log.durable.wire());
        self.metrics.pending_writes.set(self.waiting.len() as i64);
    }

    fn gauge_watches(&self) {
        let census = self.view.hub().census();
        self.metrics.watches.set(census.watches as i64);
        self.metrics.watches_lagging.set(census.behind as i64);
        self.metrics
            .compaction_revision
            .set(self.view.floor().wire());
    }

    /// Txns held back, and reads that wait for a commit, whose clients have given up are of no use to anybody: while the
    /// bucket is away they would gather for as long as that lasts.
    fn forget_given_up(&mut self) {
        self.held.tidy();
        self.waiting.retain(|waiting| match &waiting.answer {
            Answer::Read(read) => !read.is_given_up(),
            Answer::Written(..) | Answer::Expired => true,
        });
    }

    /// Looks whether a disk that failed works again.
    fn tend_disk(&mut self) {
        if now() < self.disk_at + 1_000 {
            return;
        }
        self.disk_at = now();
        self.gauge_watches();
        self.forget_given_up();
        if let Ok(sizes) = self.store.sizes() {
            self.board.set_sizes(sizes);
        }
        if !self.disk_failed || self.recovering {
            return;
        }
        self.recovering = true;
        let (store, events) = (self.store.clone(), self.events.clone());
        self.runtime.spawn_blocking(move || {
            let event = match store.recover() {
                Ok(_) => Event::DiskBack,
                Err(failure) => Event::DiskStillLost(failure.to_string()),
            };
            let _ = events.send(event);
        });
    }

    /// The disk works again: what it holds is the log, and Records beyond the chain wait for a Chunk.
    pub(super) fn disk_back(&mut self) {
        self.recovering = false;
        self.disk_failed = false;
        self.generation += 1;
        let meta = self.store.meta();
        info!(last = meta.last.0, "the local database works again");
        self.step(Input::DiskBack {
            last: meta.last,
            durable: meta.durable,
            epochs: meta.epochs,
        });
        self.unsent.clear();
        self.window.recount();
        // The disk may still hold more, which the rules have just cut.
        let last = self.node.log().last;
        let unsent = &mut self.unsent;
        let read = self.store.scan(meta.durable, last, &mut |encoded| {
            unsent.push_back(encoded);
            ControlFlow::Continue(())
        });
        if let Err(failure) = read {
            self.disk_lost(&failure.to_string());
        }
    }

    pub(super) fn disk_lost(&mut self, why: &str) {
        if !self.disk_failed {
            warn!(
                why,
                "the local database failed: this node accepts no writes until it works again"
            );
        }
        self.disk_failed = true;
        self.step(Input::DiskLost(why.to_owned()));
    }
}
