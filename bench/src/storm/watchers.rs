//! The watchers of a storm: each sees everything, and goes on where it stood when its stream ends, at the
//! same Node or at another. They run on until they have been shown the goal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::history::Seen;
use super::shared::Shared;
use crate::dice::Dice;
use crate::kill::replay::everything;
use crate::wire::{Client, etcd, revision};

/// A stream that shows nothing for so long is given up; the Node may be paused.
const SILENCE: Duration = Duration::from_secs(5);

/// Starts one watcher that stays with each Node and one that moves about, all from `start`.
pub(super) fn watchers(
    nodes: &[Client],
    shared: &Arc<Shared>,
    start: i64,
    dice: &mut Dice,
) -> Vec<JoinHandle<()>> {
    let mut watch = |node: usize, moves: bool| {
        let mut watcher = Watcher {
            nodes: nodes.to_vec(),
            node,
            moves,
            shared: shared.clone(),
            dice: Dice::new(dice.next()),
            seen: Seen {
                name: format!(
                    "the watch {}{}",
                    node + 1,
                    if moves { " that moves" } else { "" }
                ),
                start,
                through: start - 1,
                events: Vec::new(),
            },
        };
        tokio::spawn(async move {
            watcher.run().await;
            watcher.shared.watched(std::mem::take(&mut watcher.seen));
        })
    };
    let staying: Vec<_> = (0..nodes.len()).map(|node| watch(node, false)).collect();
    staying
        .into_iter()
        .chain(
            (0..nodes.len())
                .map(|node| watch(node, true))
                .collect::<Vec<_>>(),
        )
        .collect()
}

/// How long a watcher may take from the moment the goal is known.
pub(super) const LAST: Duration = Duration::from_secs(60);

struct Watcher {
    nodes: Vec<Client>,
    node: usize,
    moves: bool,
    shared: Arc<Shared>,
    dice: Dice,
    seen: Seen,
}

impl Watcher {
    async fn run(&mut self) {
        let mut last_call: Option<Instant> = None;
        while !self.done() {
            if self.shared.goal.load(Ordering::SeqCst) > 0 {
                let since = *last_call.get_or_insert_with(Instant::now);
                if since.elapsed() > LAST {
                    self.shared.accuse(format!(
                        "{} stands at {} and never reaches {}",
                        self.seen.name,
                        self.seen.through,
                        self.shared.goal.load(Ordering::SeqCst)
                    ));
                    return;
                }
            }
            let budget = if self.moves {
                200 + self.dice.below(2000)
            } else {
                u64::MAX
            };
            self.stream(budget).await;
            self.shared.counts.resumed.fetch_add(1, Ordering::Relaxed);
            if self.moves {
                self.node = self.dice.below(self.nodes.len() as u64) as usize;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn done(&self) -> bool {
        let goal = self.shared.goal.load(Ordering::SeqCst);
        goal > 0 && self.seen.through >= goal
    }

    /// One stream, until it ends, falls silent, or has shown `budget` events.
    async fn stream(&mut self, mut budget: u64) -> Option<()> {
        let create = etcd::WatchCreateRequest {
            start_revision: self.seen.through + 1,
            progress_notify: true,
            fragment: self.dice.chance(30),
            ..everything()
        };
        let watch = self.nodes[self.node].open_watch(create);
        let opened = tokio::time::timeout(SILENCE, watch).await;
        let mut stream = opened.ok()?.ok()?;
        while !self.done() && budget > 0 {
            let before = self.shared.before(self.node);
            let response = tokio::time::timeout(SILENCE, stream.message()).await;
            let response = response.ok()?.ok()??;
            let header = revision(&response.header);
            if response.compact_revision > 0 {
                self.shared.accuse(format!(
                    "{} was told of a compaction at {}, and nobody compacts",
                    self.seen.name, response.compact_revision
                ));
            }
            if response.canceled {
                return None;
            }
            if response.created {
                continue;
            }
            if response.events.is_empty() {
                self.progress(header);
                continue;
            }
            for event in &response.events {
                budget = budget.saturating_sub(1);
                if let Some(violation) = self.seen.event(event) {
                    self.shared.accuse(violation);
                }
            }
            let count = response.events.len() as u64;
            self.shared
                .counts
                .events
                .fetch_add(count, Ordering::Relaxed);
            if header < self.seen.through {
                self.shared.accuse(format!(
                    "{} was shown {} in a response as of {header}",
                    self.seen.name, self.seen.through
                ));
            }
            // An event may be old news: what the Node has shown before does not bind it.
            let through = self.seen.through;
            self.shared.local(&before.capped(through), through, "watch");
        }
        Some(())
    }

    fn progress(&mut self, header: i64) {
        if header < self.seen.through {
            self.shared.accuse(format!(
                "{} was told of progress to {header} after {}",
                self.seen.name, self.seen.through
            ));
        }
        self.seen.through = self.seen.through.max(header);
    }
}
