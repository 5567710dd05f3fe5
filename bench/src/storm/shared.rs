//! What all clients of a storm know together: the ledger, what has been shown to anybody, and what each Node
//! has shown. Freshness is judged here, the moment an answer comes.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::history::{Read, Seen};
use crate::kill::ledger::{Ledger, Try, Violation};

/// Keys per group; a group is read in one list.
pub(super) const GROUP: usize = 8;

/// What the clients share.
#[derive(Debug)]
pub(super) struct Shared {
    ledger: Mutex<Ledger>,
    violations: Mutex<Vec<Violation>>,
    /// The clients shall stop.
    pub(super) over: AtomicBool,
    /// The watches shall end here, if it is not 0.
    pub(super) goal: AtomicI64,
    /// The highest Revision that anybody was shown, on any Node.
    known: AtomicI64,
    /// What each Node has shown.
    nodes: Vec<Mutex<Shown>>,
    /// Where somebody last saw each key: the Revision of its last change, 0 if it is not there.
    pub(super) beliefs: Vec<AtomicI64>,
    reads: Mutex<Vec<Read>>,
    seen: Mutex<Vec<Seen>>,
    tries: AtomicU64,
    pub(super) counts: Counts,
    /// Answers are falsified now and then, to see this harness find it.
    pub(super) sabotage: bool,
}

/// Operations so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) refused: AtomicU64,
    pub(super) linearizable: AtomicU64,
    pub(super) serializable: AtomicU64,
    pub(super) lists: AtomicU64,
    pub(super) failed_reads: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) resumed: AtomicU64,
}

/// The highest Revision that a Node has shown, as long as it keeps its disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    disk: u64,
    revision: i64,
}

/// What was known when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) known: i64,
    node: usize,
    shown: Shown,
}

impl Before {
    /// The same, binding nothing above `revision`: an event may be old news when it is shown.
    pub(super) fn capped(mut self, revision: i64) -> Before {
        self.shown.revision = self.shown.revision.min(revision);
        self
    }
}

impl Shared {
    pub(super) fn new(nodes: usize, keys: usize, sabotage: bool) -> Arc<Shared> {
        Arc::new(Shared {
            ledger: Mutex::default(),
            violations: Mutex::default(),
            over: AtomicBool::new(false),
            goal: AtomicI64::new(0),
            known: AtomicI64::new(0),
            nodes: (0..nodes).map(|_| Mutex::default()).collect(),
            beliefs: (0..keys).map(|_| AtomicI64::new(0)).collect(),
            reads: Mutex::default(),
            seen: Mutex::default(),
            tries: AtomicU64::new(0),
            counts: Counts::default(),
            sabotage,
        })
    }

    /// Looks into the ledger.
    pub(super) fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut locked(&self.ledger))
    }

    /// Notes a broken promise.
    pub(super) fn accuse(&self, violation: Violation) {
        locked(&self.violations).push(violation);
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        std::mem::take(&mut *locked(&self.violations))
    }

    pub(super) fn note(&self, tried: Try) {
        if let Err(violation) = self.ledger(|ledger| ledger.note(tried)) {
            self.accuse(violation);
        }
    }

    /// A number that no other write has.
    pub(super) fn number(&self) -> u64 {
        self.tries.fetch_add(1, Ordering::Relaxed)
    }

    /// What is known before a request to `node`.
    pub(super) fn before(&self, node: usize) -> Before {
        Before {
            known: self.known.load(Ordering::SeqCst),
            node,
            shown: *locked(&self.nodes[node]),
        }
    }

    /// `revision` was shown by the Node of `before`: it must not lie behind what that Node had shown then.
    pub(super) fn local(&self, before: &Before, revision: i64, what: &str) {
        let mut shown = locked(&self.nodes[before.node]);
        if shown.disk == before.shown.disk {
            if revision < before.shown.revision {
                self.accuse(format!(
                    "node-{} answered a {what} as of {revision}, and had shown {} before",
                    before.node + 1,
                    before.shown.revision
                ));
            }
            shown.revision = shown.revision.max(revision);
        }
        drop(shown);
        self.known.fetch_max(revision, Ordering::SeqCst);
    }

    /// A linearizable answer: it must not lie behind anything anybody was shown before it was asked for.
    pub(super) fn fresh(&self, before: &Before, revision: i64, what: &str) {
        if revision < before.known {
            self.accuse(format!(
                "node-{} answered a {what} as of {revision}, and {} was known before it was asked",
                before.node + 1,
                before.known
            ));
        }
        self.known.fetch_max(revision, Ordering::SeqCst);
    }

    /// The Node lost its disk: it need not remember what it had shown.
    pub(super) fn forget(&self, node: usize) {
        let mut shown = locked(&self.nodes[node]);
        *shown = Shown {
            disk: shown.disk + 1,
            revision: 0,
        };
    }

    pub(super) fn read(&self, read: Read) {
        locked(&self.reads).push(read);
    }

    pub(super) fn reads(&self) -> Vec<Read> {
        std::mem::take(&mut *locked(&self.reads))
    }

    pub(super) fn watched(&self, seen: Seen) {
        locked(&self.seen).push(seen);
    }

    pub(super) fn watches(&self) -> Vec<Seen> {
        std::mem::take(&mut *locked(&self.seen))
    }
}

/// The name of a key.
pub(super) fn key(index: usize) -> Bytes {
    format!("s/{:03}/{}", index / GROUP, index % GROUP).into()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_answer_is_found() {
        let shared = Shared::new(2, 8, false);
        let early = shared.before(0);
        shared.fresh(&early, 7, "Txn");
        shared.fresh(&early, 5, "read");
        assert!(
            shared.violations().is_empty(),
            "it was asked before 7 was known"
        );
        shared.fresh(&shared.before(1), 6, "read");
        assert_eq!(shared.violations().len(), 1);
    }

    #[test]
    fn a_node_that_goes_back_is_found_unless_it_lost_its_disk() {
        let shared = Shared::new(2, 8, false);
        shared.local(&shared.before(0), 7, "read");
        shared.local(&shared.before(1), 3, "read");
        assert!(shared.violations().is_empty(), "another Node may be behind");
        let across = shared.before(0);
        shared.local(&across, 6, "read");
        assert_eq!(shared.violations().len(), 1);
        shared.forget(0);
        shared.local(&across, 5, "read");
        shared.local(&shared.before(0), 2, "read");
        assert!(shared.violations().is_empty());
    }
}
