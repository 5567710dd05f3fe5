//! Clients: they write, compare and read at any Node, watch from anywhere on, and remember every answer.
//!
//! Every value that is written is unique, so each write can be told in the log for ever. A client whose
//! connection breaks knows nothing of its write.

use bytes::Bytes;
use rules::node::Node;
use rules::record::Record;
use rules::revision::Revision;

use crate::world::{Happening, World};

/// How many clients wait at a Node before no more come.
const PATIENT: usize = 30;

/// The number of what a client asked.
pub type Op = u64;

/// Who wants to know how far is committed.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    /// A client's read.
    Client(Op),
    /// Another Node, by its number, and the number of its question.
    Node(usize, u64),
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// A put of this value, or a delete.
    Write { key: Bytes, value: Option<Bytes> },
    /// A Txn that writes nothing, as one whose compare fails.
    Compare,
    /// A linearizable read.
    Read,
}

/// What a client is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// The write is done, at this Revision.
    Done(Revision),
    /// The read is as of this Revision.
    Read(Revision),
    /// The compare saw this Record as the newest one.
    Compared(Option<Record>),
    /// Nothing was done.
    Refused,
    /// Nothing is known of it.
    Unclear,
}

impl Told {
    /// What the Node must show before this answer leaves.
    pub(crate) fn reaches(&self) -> Option<Revision> {
        match self {
            Told::Done(at) | Told::Read(at) => Some(*at),
            Told::Compared(seen) => Some(revision(seen)),
            Told::Refused | Told::Unclear => None,
        }
    }

    /// A read is as of what the Node shows when it answers.
    pub(crate) fn at(self, shown: Revision) -> Told {
        match self {
            Told::Read(_) => Told::Read(shown),
            other => other,
        }
    }
}

fn revision(seen: &Option<Record>) -> Revision {
    seen.as_ref()
        .map_or(Revision::ZERO, |record| record.revision)
}

/// What a client waits for.
#[derive(Debug)]
pub(crate) struct Waits {
    /// The Node that was asked.
    at: usize,
    wish: Wish,
    /// What the answer must not be older than; known when the question arrives.
    floor: Revision,
}

/// A client's watch: it goes on at another Node when its own dies.
#[derive(Debug)]
pub(crate) struct Watch {
    number: u64,
    at: usize,
    /// What it has to see next.
    next: Revision,
}

impl World {
    /// What clients do while the Node ticks.
    pub(crate) fn clients(&mut self, index: usize) {
        let most = self.cluster.writes;
        if most == 0 || self.nodes[index].clients >= PATIENT {
            return;
        }
        for _ in 0..self.random.between(0, most) {
            let key = format!("key-{}", self.random.between(0, 9));
            let deletes = self.random.chance(10);
            self.ask_write(index, key, deletes);
        }
        if self.random.chance(30) {
            self.ask(index, Wish::Read);
        }
        if self.random.chance(10) {
            self.ask(index, Wish::Compare);
        }
        if self.random.chance(10) {
            self.reads_locally(index);
        }
        if self.random.rarely(5) {
            self.watches_anew(index);
        }
    }

    /// A write of a value that was never written before.
    pub(crate) fn ask_write(&mut self, index: usize, key: String, deletes: bool) -> Op {
        let value = (!deletes).then(|| Bytes::from(self.next_op.to_string()));
        let key = Bytes::from(key);
        self.ask(index, Wish::Write { key, value })
    }

    /// A client asks a Node.
    pub(crate) fn ask(&mut self, index: usize, wish: Wish) -> Op {
        let op = self.next_op;
        self.next_op += 1;
        let waits = Waits {
            at: index,
            wish,
            floor: Revision::ZERO,
        };
        self.ops.insert(op, waits);
        self.nodes[index].clients += 1;
        if self.nodes[index].process.is_some() {
            let delay = self.random.between(1, 5);
            self.at(delay, index, Happening::Asks(op));
        } else {
            self.tell(op, Told::Refused);
        }
        op
    }

    /// A client's question arrives.
    pub(crate) fn asks(&mut self, index: usize, op: Op) {
        let floor = self.checks.newest();
        let Some(waits) = self.ops.get_mut(&op) else {
            return;
        };
        waits.floor = floor;
        match waits.wish {
            Wish::Read => self.linearize(index, op),
            _ => self.txn(index, op, false),
        }
    }

    pub(crate) fn wish(&self, op: Op) -> Option<Wish> {
        self.ops.get(&op).map(|waits| waits.wish.clone())
    }

    /// The Node a client asked, if it still waits.
    pub(crate) fn asked_at(&self, op: Op) -> Option<usize> {
        self.ops.get(&op).map(|waits| waits.at)
    }

    /// A client has its answer.
    pub(crate) fn tell(&mut self, op: Op, told: Told) {
        let Some(waits) = self.ops.remove(&op) else {
            return;
        };
        self.nodes[waits.at].clients -= 1;
        match &told {
            Told::Read(shown) => self.checks.read(waits.at, waits.floor, *shown),
            Told::Compared(seen) => {
                self.checks.seen(seen.as_ref());
                self.checks.read(waits.at, waits.floor, revision(seen));
            }
            _ => {}
        }
        if let Wish::Write { value, .. } = waits.wish {
            self.checks.writes.told(op, value, &told);
        }
        if self.keeps_answers {
            self.answers.insert(op, told);
        }
    }

    /// Every connection to this Node breaks.
    pub(crate) fn hang_up(&mut self, index: usize) {
        let open: Vec<Op> = self
            .ops
            .iter()
            .filter(|(_, waits)| waits.at == index)
            .map(|(op, _)| *op)
            .collect();
        for op in open {
            self.tell(op, Told::Unclear);
        }
    }

    /// A serializable read: whatever this Node shows.
    pub(crate) fn reads_locally(&mut self, index: usize) {
        let Some(process) = &self.nodes[index].process else {
            return;
        };
        if process.node.is_settled() {
            self.checks.committed.read(index, process.shown);
        }
    }

    /// A client begins to watch, from the past, from now or from the future on; one that is enough ends.
    fn watches_anew(&mut self, index: usize) {
        let Some(process) = &self.nodes[index].process else {
            return;
        };
        let floor = process.node.log().compactions.newest().next();
        let next = self.random.between(1, process.shown.0 + 5);
        let next = Revision(next).max(floor);
        if self.watches.len() >= 8 {
            let ends = self.random.below(self.watches.len());
            self.watches.swap_remove(ends);
        }
        self.watch(index, next);
    }

    /// A client watches from `next` on.
    pub(crate) fn watch(&mut self, index: usize, next: Revision) {
        self.watches_begun += 1;
        let watch = Watch {
            number: self.watches_begun,
            at: index,
            next,
        };
        self.checks.watches.begin(watch.number, next);
        self.watches.push(watch);
        self.deliver(index);
    }

    /// What this Node shows goes to everybody who watches it.
    pub(crate) fn deliver(&mut self, index: usize) {
        let Some(process) = &self.nodes[index].process else {
            return;
        };
        for watch in self.watches.iter_mut().filter(|watch| watch.at == index) {
            while watch.next <= process.shown {
                let record = &process.log[watch.next.prev().0 as usize];
                self.checks.watches.saw(watch.number, record);
                watch.next = watch.next.next();
            }
        }
    }

    /// Those who watched a Node that died go to others.
    pub(crate) fn watch_elsewhere(&mut self, index: usize) {
        for at in 0..self.watches.len() {
            if self.watches[at].at == index {
                self.watches[at].at = self.random.below(self.nodes.len());
            }
        }
    }

    pub(crate) fn node(&self, index: usize) -> Option<&Node> {
        let process = self.nodes[index].process.as_ref();
        process.map(|process| &process.node)
    }
}
