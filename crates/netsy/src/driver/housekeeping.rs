//! Housekeeping: what time alone brings. Snapshots, the Elector's list of members, gauges, and a disk that
//! failed and may work again.

use std::ops::ControlFlow;

use rules::refusal::Refusal;
use rules::step::Input;
use tracing::{info, warn};

use super::{Driver, Event, registration};
use crate::standing::{Member, now};

/// How often the members are looked at, and how long the Elector's word on them is good, milliseconds.
const MEMBERS_EVERY: u64 = 5_000;

impl Driver {
    /// What time alone brings: Snapshots, keys that expire, the Elector's list of members, gauges, a disk that came back.
    pub(super) fn housekeeping(&mut self) {
        self.tend_snapshots();
        self.tend_compaction();
        self.tend_expiry();
        self.learn_addresses();
        self.tend_members();
        self.tend_disk();
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

    /// Every few seconds: the Elector gives every registered Node a member id; others learn the ids.
    fn tend_members(&mut self) {
        let every = if self.members.is_empty() {
            500
        } else {
            MEMBERS_EVERY
        };
        let acts = self.node.elector().is_acting(now());
        // Who became the Elector needs the addresses, too, at once.
        let stale = acts
            && self
                .members
                .iter()
                .any(|member| member.client_urls.is_empty());
        // Who is told by the Elector need not ask the bucket.
        if (!acts && self.is_told()) || now() < self.members_at + if stale { 500 } else { every } {
            return;
        }
        self.members_at = now();
        let (bucket, cluster_id) = (self.bucket.clone(), self.cluster_id.clone());
        let events = self.events.clone();
        self.runtime.spawn(async move {
            let members = if acts {
                registration::tend_members(&bucket, &cluster_id).await
            } else {
                registration::known_members(&bucket).await
            };
            match members {
                Ok(members) => {
                    let _ = events.send(Event::Members(members));
                }
                Err(why) => warn!(why, "could not look after the members; trying again"),
            }
        });
    }

    /// Whether the members are known with their addresses, as only the Elector knows them.
    pub(super) fn has_addresses(&self) -> bool {
        let mut members = self.members.iter();
        !self.members.is_empty() && members.all(|member| !member.client_urls.is_empty())
    }

    /// Whether the Elector has told lately who the members are.
    fn is_told(&self) -> bool {
        now() < self.told_at + MEMBERS_EVERY
    }

    pub(super) fn members_known(&self) -> Result<Vec<Member>, Refusal> {
        if (self.node.elector().is_acting(now()) || self.is_told()) && self.has_addresses() {
            return Ok(self.members.clone());
        }
        Err(Refusal::Unavailable(format!(
            "netsy: node `{}` is not the elector, which alone knows the members",
            self.registration.node_id
        )))
    }

    /// Looks whether a disk that failed works again.
    fn tend_disk(&mut self) {
        if now() < self.disk_at + 1_000 {
            return;
        }
        self.disk_at = now();
        self.gauge_watches();
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
        });
        self.unsent.clear();
        let unsent = &mut self.unsent;
        let read = self.store.scan(meta.durable, meta.last, &mut |encoded| {
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
