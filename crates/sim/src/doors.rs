//! Doors: how a Node answers its clients, as netsy's driver does it (`driver/asked.rs`, `reads.rs`, `peers.rs`).
//!
//! A write is answered when it is committed; a Txn that writes nothing when what it saw is, and as a
//! linearizable read. Such a read is answered at once while the lease runs, and otherwise when the register,
//! read after it came, still names this process. A Replica passes a Txn on once and never again, and asks the
//! Primary one question for all reads that wait.

use std::collections::VecDeque;

use bytes::Bytes;
use rules::node::Node;
use rules::primary::Tenure;
use rules::record::Record;
use rules::register::{Phase, Register};
use rules::revision::Revision;
use rules::step::Effect;
use rules::txn::Change;

use crate::clients::{Asker, Op, Told, Wish};
use crate::world::{Happening, World};

/// How long a Replica waits for the Primary's word, milliseconds.
const WORD_WITHIN: u64 = 3_000;

/// Those who wait for one question to be answered: those it is under way for, and those that came since.
#[derive(Debug)]
pub(crate) struct Askers<T> {
    asked: Option<Vec<T>>,
    next: Vec<T>,
    /// The number of the question under way; no two processes ask under one.
    number: u64,
}

impl<T> Default for Askers<T> {
    fn default() -> Askers<T> {
        Askers {
            asked: None,
            next: Vec::new(),
            number: 0,
        }
    }
}

impl<T> Askers<T> {
    /// Whether the question is to be asked now: somebody waits, and none is under way.
    fn begin(&mut self) -> bool {
        let begins = self.asked.is_none() && !self.next.is_empty();
        if begins {
            self.asked = Some(std::mem::take(&mut self.next));
        }
        begins
    }

    /// Everybody who waits. The question under way, if there is one, will be answered to nobody.
    fn give_up(&mut self) -> Vec<T> {
        let mut all: Vec<T> = self.asked.iter_mut().flat_map(std::mem::take).collect();
        all.append(&mut self.next);
        all
    }

    fn end(&mut self) -> Vec<T> {
        self.asked.take().unwrap_or_default()
    }

    fn all(&mut self) -> Vec<T> {
        let mut all = self.end();
        all.append(&mut self.next);
        all
    }
}

/// A read that waits for its confirmation.
#[derive(Debug)]
pub(crate) enum Read {
    /// May a read at this Revision be answered?
    Index(Revision, Asker),
    /// May this Txn, which writes nothing and has seen this Record, be answered?
    Txn(Option<Record>, Op),
}

/// What is answered when everything up to a Revision is committed.
#[derive(Debug)]
enum Answer {
    Written(Op),
    Read(Read),
}

/// Everybody who waits on one process.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    waiting: VecDeque<(Revision, Answer)>,
    /// Txns that came while the write gate was shut.
    held: Vec<Op>,
    unconfirmed: Askers<Read>,
    indexes: Askers<Op>,
    /// Clients whose answer leaves when this Node shows that Revision.
    reaching: Vec<(Revision, Op, Told)>,
}

impl Doors {
    /// Everybody whose connection breaks when the process dies.
    pub(crate) fn everybody(&mut self) -> Vec<Op> {
        let mut all = std::mem::take(&mut self.held);
        all.extend(self.indexes.all());
        all.extend(self.reaching.drain(..).map(|(_, op, _)| op));
        for (_, answer) in self.waiting.drain(..) {
            match answer {
                Answer::Written(op) => all.push(op),
                Answer::Read(read) => all.extend(read.asker()),
            }
        }
        all.extend(self.unconfirmed.all().iter().filter_map(Read::asker));
        all
    }
}

impl Read {
    fn asker(&self) -> Option<Op> {
        match self {
            Read::Index(_, Asker::Client(op)) | Read::Txn(_, op) => Some(*op),
            Read::Index(_, Asker::Node(..)) => None,
        }
    }
}

fn is_active(node: &Node) -> bool {
    matches!(node.tenure(), Tenure::Active(_))
}

impl World {
    /// The number of the Primary that this Node follows and has heard lately.
    fn primary_elsewhere(&self, index: usize) -> Option<usize> {
        let name = self.node(index)?.follows(self.clock(index))?;
        self.nodes.iter().position(|node| node.name == *name)
    }

    pub(crate) fn has_lease(&self, index: usize) -> bool {
        let process = self.nodes[index].process.as_ref();
        process.is_some_and(|process| self.clock(index) < process.lease_until)
    }

    /// A Txn that a client, or another Node, brings.
    pub(crate) fn txn(&mut self, index: usize, op: Op, passed_on: bool) {
        let Some(node) = self.node(index) else {
            return;
        };
        if !is_active(node) {
            return match self.primary_elsewhere(index) {
                Some(primary) if !passed_on => self.pass_on(index, primary, op),
                _ => self.answer(index, op, Told::Refused),
            };
        }
        if node.is_gated() {
            let process = self.nodes[index].process.as_mut().expect("it is alive");
            process.doors.held.push(op);
            return;
        }
        match self.wish(op) {
            Some(Wish::Write { key, value }) => self.write(index, op, key, value),
            Some(Wish::Compare) => {
                let process = self.nodes[index].process.as_ref().expect("it is alive");
                let seen = process.log.last().cloned();
                let upto = process.node.log().last;
                self.confirm_when(index, upto, Read::Txn(seen, op));
            }
            _ => {}
        }
    }

    fn write(&mut self, index: usize, op: Op, key: Bytes, value: Option<Bytes>) {
        let process = self.nodes[index].process.as_mut().expect("it is alive");
        let change = Change {
            prev: process.keys.get(&key).copied(),
            key,
            value,
            lease: 0,
        };
        match process.node.assign(&change, 0) {
            Ok(record) => {
                let waits = (record.revision, Answer::Written(op));
                process.doors.waiting.push_back(waits);
                self.perform(index, Effect::Append(vec![record]));
            }
            Err(_) => self.answer(index, op, Told::Refused),
        }
    }

    /// Passes a Txn on to the Primary, once.
    fn pass_on(&mut self, index: usize, primary: usize, op: Op) {
        match self.travels(index, primary) {
            Some(delay) => self.at(delay, primary, Happening::PassedOn(op)),
            None => self.tell(op, Told::Unclear),
        }
    }

    /// What `index` answers an op leaves, if need be through the Node the client asked.
    fn answer(&mut self, index: usize, op: Op, told: Told) {
        let Some(at) = self.asked_at(op) else {
            return;
        };
        if at == index {
            return self.tell(op, told);
        }
        match self.travels(index, at) {
            Some(delay) => self.at(delay, at, Happening::Answered(op, told)),
            None => self.tell(op, Told::Unclear),
        }
    }

    /// An answer is at the Node the client asked: it leaves when that Node shows what it tells of.
    pub(crate) fn answered(&mut self, index: usize, op: Op, told: Told) {
        match told.reaches() {
            Some(upto) => self.reach(index, upto, op, told),
            None => self.tell(op, told),
        }
    }

    fn reach(&mut self, index: usize, upto: Revision, op: Op, told: Told) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        if process.shown < upto {
            process.doors.reaching.push((upto, op, told));
        } else {
            let shown = process.shown;
            self.tell(op, told.at(shown));
        }
    }

    /// This Node shows more: whoever waited for that is answered.
    pub(crate) fn reached(&mut self, index: usize) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        let shown = process.shown;
        let (there, waits) = std::mem::take(&mut process.doors.reaching)
            .into_iter()
            .partition(|(upto, _, _)| *upto <= shown);
        process.doors.reaching = waits;
        for (_, op, told) in Vec::from_iter::<Vec<(Revision, Op, Told)>>(there) {
            self.tell(op, told.at(shown));
        }
    }

    /// A client's linearizable read.
    pub(crate) fn linearize(&mut self, index: usize, op: Op) {
        let (now, lease) = (self.clock(index), self.has_lease(index));
        let Some(node) = self.node(index) else {
            return;
        };
        if lease && now < node.reads_wait_from() {
            return self.answered(index, op, Told::Read(Revision::ZERO));
        }
        self.read_index(index, Asker::Client(op));
    }

    /// A linearizable read: answered here, or by the Primary's word.
    pub(crate) fn read_index(&mut self, index: usize, asker: Asker) {
        let now = self.clock(index);
        let Some(node) = self.node(index) else {
            return;
        };
        let active = is_active(node);
        let committed = node.log().committed;
        let upto = node.reads_wait_for(now).unwrap_or(committed);
        match asker {
            Asker::Node(..) if !active => self.grant(index, Read::Index(upto, asker), false),
            Asker::Client(op) if !active && self.primary_elsewhere(index).is_some() => {
                let process = self.nodes[index].process.as_mut().expect("it is alive");
                process.doors.indexes.next.push(op);
                self.ask_primary(index);
            }
            _ => self.confirm_when(index, upto, Read::Index(upto, asker)),
        }
    }

    /// Asks the Primary what is committed, for all reads that wait.
    fn ask_primary(&mut self, index: usize) {
        let process = self.nodes[index].process.as_mut().expect("it is alive");
        if !process.doors.indexes.begin() {
            return;
        }
        self.questions += 1;
        let number = self.questions;
        process.doors.indexes.number = number;
        let Some(primary) = self.primary_elsewhere(index) else {
            return self.index_known(index, number, None);
        };
        if let Some(delay) = self.travels(index, primary) {
            let asker = Asker::Node(index, number);
            self.at(delay, primary, Happening::AsksIndex(asker));
        }
        self.at(WORD_WITHIN, index, Happening::IndexKnown(number, None));
    }

    /// The Primary's word came, or did not.
    pub(crate) fn index_known(&mut self, index: usize, number: u64, upto: Option<Revision>) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        if process.doors.indexes.number != number || process.doors.indexes.asked.is_none() {
            return;
        }
        for op in process.doors.indexes.end() {
            let told = upto.map_or(Told::Refused, Told::Read);
            self.answered(index, op, told);
        }
        self.ask_primary(index);
    }

    /// Confirms `read` as soon as everything up to `upto` is committed.
    fn confirm_when(&mut self, index: usize, upto: Revision, read: Read) {
        let process = self.nodes[index].process.as_mut().expect("it is alive");
        if upto > process.node.log().committed {
            let waits = (upto, Answer::Read(read));
            process.doors.waiting.push_back(waits);
        } else {
            self.confirm(index, read);
        }
    }

    /// Answers `read` now if the lease runs, or when it is confirmed, or refuses it.
    fn confirm(&mut self, index: usize, read: Read) {
        if self.has_lease(index) {
            return self.grant(index, read, true);
        }
        let process = self.nodes[index].process.as_mut().expect("it is alive");
        if !is_active(&process.node) {
            return self.grant(index, read, false);
        }
        process.doors.unconfirmed.next.push(read);
        self.ask_register(index);
    }

    fn ask_register(&mut self, index: usize) {
        let process = self.nodes[index].process.as_mut().expect("it is alive");
        if process.doors.unconfirmed.begin() {
            self.at_bucket(index, Happening::Confirms);
        }
    }

    /// The register was read: the reads it was asked for are answered, and the next ones asked for.
    pub(crate) fn confirmed(&mut self, index: usize, register: Option<Register>) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        let node = &process.node;
        let holds = register.is_some_and(|register| {
            register.phase == Phase::Active
                && register.primary.as_ref() == Some(node.me())
                && node.tenure() == Tenure::Active(register.epoch)
        });
        for read in process.doors.unconfirmed.end() {
            self.grant(index, read, holds);
        }
        self.ask_register(index);
    }

    /// A read is answered, or refused.
    fn grant(&mut self, index: usize, read: Read, granted: bool) {
        match read {
            Read::Txn(seen, op) => {
                let told = if granted {
                    Told::Compared(seen)
                } else {
                    Told::Refused
                };
                self.answer(index, op, told);
            }
            Read::Index(upto, Asker::Client(op)) => {
                let told = if granted {
                    Told::Read(upto)
                } else {
                    Told::Refused
                };
                self.answered(index, op, told);
            }
            Read::Index(upto, Asker::Node(to, number)) => {
                if let Some(delay) = self.travels(index, to) {
                    let word = granted.then_some(upto);
                    self.at(delay, to, Happening::IndexKnown(number, word));
                }
            }
        }
    }

    /// Everything up to `committed` is: whoever waited for that is answered.
    pub(crate) fn settle_waiting(&mut self, index: usize, committed: Revision) {
        while let Some(process) = &mut self.nodes[index].process {
            let waiting = &mut process.doors.waiting;
            let Some((upto, answer)) = waiting.pop_front_if(|(upto, _)| *upto <= committed) else {
                return;
            };
            match answer {
                Answer::Written(op) => self.answer(index, op, Told::Done(upto)),
                Answer::Read(read) => self.confirm(index, read),
            }
        }
    }

    /// The gate is open again: what was held goes on.
    pub(crate) fn open_gate(&mut self, index: usize) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        if process.doors.held.is_empty() || process.node.is_gated() {
            return;
        }
        for op in std::mem::take(&mut process.doors.held) {
            self.txn(index, op, true);
        }
    }

    /// The tenure has ended: what waits has an unknown outcome, what was held none.
    pub(crate) fn fail_pending(&mut self, index: usize) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        let held = std::mem::take(&mut process.doors.held);
        let waiting = std::mem::take(&mut process.doors.waiting);
        let unconfirmed = process.doors.unconfirmed.give_up();
        for read in unconfirmed {
            self.grant(index, read, false);
        }
        for op in held {
            self.answer(index, op, Told::Refused);
        }
        for (_, answer) in waiting {
            match answer {
                Answer::Written(op) => self.answer(index, op, Told::Unclear),
                Answer::Read(read) => self.grant(index, read, false),
            }
        }
    }
}
