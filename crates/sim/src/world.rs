//! The world: Nodes with disks and clocks, one bucket, clients, and a queue of moments.
//!
//! A Node lives in its own time line: it may be paused (nothing reaches it, then everything does), crash
//! between any two effects, come back with its disk or with an empty one, and lose answers of the bucket.
//! [`Happening`] is all that can happen; what is held back (`holds`) waits until a scene lets it go.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use rules::message::Message;
use rules::primary::Tenure;
use rules::record::Record;
use rules::register::{Identity, Lock, Register, Version};
use rules::revision::{Epoch, Revision};
use rules::step::Input;

use crate::bucket::SimBucket;
use crate::checks::Checks;
use crate::clients::{Asker, Op, Told, Waits, Watch};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::machine::SimNode;
use crate::random::Random;
use crate::weather::Weather;

/// Something that happens to one Node, or to the bucket on its behalf.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Its process is started.
    Start,
    /// A process that starts reads on in the chain.
    Restores,
    /// Time passes.
    Tick,
    /// Something has become true.
    Input(Input),
    /// The disk has done one piece of work.
    DiskDone,
    /// A disk that failed is looked at again.
    DiskMends,
    /// A swap of the lock reaches the bucket.
    LockLands(Option<Version>, Lock),
    /// A swap of the register reaches the bucket.
    RegisterLands(Option<Version>, Register),
    /// A Chunk reaches the bucket.
    ChunkLands(Revision, Arc<Vec<Record>>),
    /// A Snapshot reaches the bucket.
    SnapshotLands(Revision, Arc<Vec<Record>>),
    /// The deletion of a Chunk, or of a Snapshot, reaches the bucket.
    DeletionLands(Doomed),
    /// It learns what became of its swap of the lock.
    LockSettles(Option<Version>, Lock),
    /// It learns what became of its swap of the register.
    RegisterSettles(Option<Version>, Register),
    /// It learns what became of its Chunk; the number is its upload's.
    ChunkSettles(u64, Revision, Arc<Vec<Record>>),
    /// It reads the lock.
    ReadsLock,
    /// It reads the register.
    ReadsRegister,
    /// It reads a slot of the chain; perhaps to make sure that nothing is there.
    ReadsSlot(Revision, bool),
    /// It lists the Snapshots, to know whether this Chunk may be believed.
    ListsSnapshots(Revision, Arc<Vec<Record>>),
    /// It lists the Chunks beyond a slot that was empty.
    ListsChunks(Revision),
    /// It reads the register for reads that wait.
    Confirms,
    /// What the register says is there.
    Confirmed(Option<Register>),
    /// It makes sure that it may make a Snapshot, up to here, in this epoch.
    MakesSnapshot(Revision, Epoch),
    /// It reads its Snapshot back, and lists what it covers.
    ListsCovered(Revision, Epoch),
    /// It reads the register, and then deletes these.
    CleansUp(Vec<Doomed>, Epoch),
    /// A message arrives.
    Arrives(Identity, Message),
    /// A client's question arrives.
    Asks(Op),
    /// A client's Txn that another Node passed on arrives.
    PassedOn(Op),
    /// The answer to one that this Node passed on arrives.
    Answered(Op, Told),
    /// Another Node asks what is committed.
    AsksIndex(Asker),
    /// What the Primary says is committed; `None` is no answer.
    IndexKnown(u64, Option<Revision>),
    /// It is told to stop.
    ToldToClose,
    /// It has had its time to close.
    Killed,
}

/// An object that clean-up deletes.
#[derive(Clone, Copy, Debug)]
pub enum Doomed {
    /// A Chunk, by its slot.
    Chunk(Revision),
    /// A Snapshot.
    Snapshot(Revision),
}

impl Happening {
    /// Whether it takes effect whatever became of who sent it.
    fn is_in_the_bucket(&self) -> bool {
        matches!(
            self,
            Happening::LockLands(..)
                | Happening::RegisterLands(..)
                | Happening::ChunkLands(..)
                | Happening::SnapshotLands(..)
                | Happening::DeletionLands(_)
        )
    }
}

impl Happening {
    /// Whether it may never come to pass.
    fn may_get_lost(&self) -> bool {
        self.is_in_the_bucket() || matches!(self, Happening::Arrives(..))
    }
}

/// What is told of a story while it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Nothing.
    Silent,
    /// Every input and effect goes into the trace.
    Traced,
    /// Every input and effect is printed.
    Printed,
}

/// What a scene holds back: a happening of this Node.
pub(crate) type Hold = (u64, Box<dyn Fn(usize, &Happening) -> bool>);

/// Nodes, bucket, queue, judges.
pub struct World {
    pub(crate) now: u64,
    turn: u64,
    pub(crate) random: Random,
    pub(crate) cluster: Cluster,
    pub(crate) weather: Weather,
    pub(crate) bucket: SimBucket,
    pub(crate) nodes: Vec<SimNode>,
    queue: BTreeMap<(u64, u64), (usize, u64, Happening)>,
    pub(crate) checks: Checks,
    /// Every step, hashed: two runs of a seed must agree.
    trace: u64,
    telling: Telling,
    steps: u64,
    /// Until when nobody does much, because some sleep for long.
    pub(crate) quiet_until: u64,
    /// The highest start each disk has registered.
    pub(crate) registered: BTreeMap<(usize, u64), u64>,
    pub(crate) ops: BTreeMap<Op, Waits>,
    pub(crate) next_op: Op,
    /// How many questions Replicas asked their Primaries.
    pub(crate) questions: u64,
    pub(crate) watches: Vec<Watch>,
    pub(crate) watches_begun: u64,
    /// What clients were told, if somebody wants to know.
    pub(crate) answers: BTreeMap<Op, Told>,
    pub(crate) keeps_answers: bool,
    /// What Nodes said is wrong, where that is not the end of the story.
    pub(crate) complaints: Vec<(usize, String)>,
    pub(crate) tolerates: bool,
    pub(crate) holds: Vec<Hold>,
    pub(crate) held: Vec<(u64, (usize, u64, Happening))>,
}

impl World {
    /// A cluster in its weather. Its Nodes are not started yet.
    #[must_use]
    pub fn new(random: Random, cluster: Cluster, weather: Weather, telling: Telling) -> World {
        let mut world = World {
            now: 1,
            turn: 0,
            random,
            cluster,
            weather,
            bucket: SimBucket::default(),
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            checks: Checks::new(&cluster),
            trace: 0,
            telling,
            steps: 0,
            quiet_until: 0,
            registered: BTreeMap::new(),
            ops: BTreeMap::new(),
            next_op: 1,
            questions: 0,
            watches: Vec::new(),
            watches_begun: 0,
            answers: BTreeMap::new(),
            keeps_answers: false,
            complaints: Vec::new(),
            tolerates: false,
            holds: Vec::new(),
            held: Vec::new(),
        };
        for _ in 0..cluster.nodes {
            world.add_node();
        }
        world
    }

    /// One more machine.
    pub(crate) fn add_node(&mut self) -> usize {
        let index = self.nodes.len();
        let speed = self.cluster.speed(&mut self.random);
        let shown = self.random.between(1, 1_000_000_000);
        let clock = Clock::new(self.now, shown, speed);
        self.nodes
            .push(SimNode::new(format!("node-{index}"), clock));
        index
    }

    /// Lets `milliseconds` pass.
    pub fn run(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.run_once(end) {}
        self.now = end;
    }

    /// Lets the next thing happen, if it does before `end`. Whether one did.
    pub(crate) fn run_once(&mut self, end: u64) -> bool {
        let Some(next) = self.queue.first_entry() else {
            return false;
        };
        if next.key().0 > end {
            return false;
        }
        let ((moment, _), (index, life, happening)) = next.remove_entry();
        self.now = self.now.max(moment);
        let hold = self
            .holds
            .iter()
            .find(|(_, matches)| matches(index, &happening));
        if let Some((number, _)) = hold {
            self.held.push((*number, (index, life, happening)));
        } else {
            self.happen(index, life, happening);
        }
        true
    }

    /// What was held back happens now.
    pub(crate) fn let_go(&mut self, hold: u64) {
        self.holds.retain(|(number, _)| *number != hold);
        let (free, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(number, _)| *number == hold);
        self.held = held;
        for (_, what) in Vec::from_iter::<Vec<(u64, (usize, u64, Happening))>>(free) {
            self.turn += 1;
            self.queue.insert((self.now, self.turn), what);
        }
    }

    /// What was held back, or was just about to be, never happens, if it is a write or a message; everything else comes
    /// back to a Node sooner or later, and does so now.
    pub(crate) fn drop_held(&mut self, hold: u64) {
        self.held
            .retain(|(number, (_, _, happening))| *number != hold || !happening.may_get_lost());
        if let Some((_, is_such)) = self.holds.iter().find(|(number, _)| *number == hold) {
            self.queue.retain(|_, (index, _, happening)| {
                !is_such(*index, happening) || !happening.may_get_lost()
            });
        }
        self.let_go(hold);
    }

    /// The same for everything.
    pub(crate) fn drop_all_held(&mut self) {
        while let Some((hold, _)) = self.holds.first() {
            self.drop_held(*hold);
        }
    }

    /// What was put off for a Node until `moment` or later arrives now, in its order.
    pub(crate) fn arrives_now(&mut self, index: usize, moment: u64) {
        let put_off: Vec<(u64, u64)> = self
            .queue
            .range((moment, 0)..)
            .filter(|(_, (to, _, happening))| *to == index && !happening.is_in_the_bucket())
            .map(|(at, _)| *at)
            .collect();
        for at in put_off {
            let what = self.queue.remove(&at).expect("it was there just now");
            self.turn += 1;
            self.queue.insert((self.now, self.turn), what);
        }
    }

    /// Writes that are on their way land within `milliseconds`.
    pub(crate) fn land_within(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        let late: Vec<(u64, u64)> = self
            .queue
            .range((end, 0)..)
            .filter(|(_, (_, _, happening))| happening.is_in_the_bucket())
            .map(|(at, _)| *at)
            .collect();
        for at in late {
            let what = self.queue.remove(&at).expect("it was there just now");
            self.turn += 1;
            let at = self.now + self.random.between(1, milliseconds);
            self.queue.insert((at, self.turn), what);
        }
    }

    /// The judges' notes.
    #[must_use]
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// How many steps the Nodes made.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// A number that two runs of one seed share.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// What a Node's clock shows.
    pub(crate) fn clock(&self, index: usize) -> u64 {
        self.nodes[index].clock.at(self.now)
    }

    /// Where every Node stands, for a human.
    #[must_use]
    pub fn describe(&self) -> String {
        let register = self.bucket.register.document();
        let lock = self.bucket.lock.document();
        let mut text = format!("at {}: {register:?}\n{lock:?}\n", self.now);
        for (index, node) in self.nodes.iter().enumerate() {
            let paused = self.now < node.paused_until;
            let _ = match &node.process {
                Some(process) => writeln!(
                    text,
                    "{}: {:?} promised {} log {:?} following {:?} paused {paused} trouble {:?}",
                    node.name,
                    process.node.tenure(),
                    process.node.promised(),
                    process.node.log(),
                    process.node.follows(self.clock(index)),
                    process.node.trouble(),
                ),
                None => writeln!(text, "{}: down, gone {}", node.name, node.is_gone),
            };
        }
        text
    }

    pub(crate) fn at(&mut self, delay: u64, index: usize, happening: Happening) {
        self.turn += 1;
        let life = self.nodes[index].life;
        self.queue
            .insert((self.now + delay, self.turn), (index, life, happening));
    }

    fn happen(&mut self, index: usize, life: u64, happening: Happening) {
        // What lands in the bucket lands, whoever sent it and whatever became of him.
        if happening.is_in_the_bucket() {
            return self.lands(happening);
        }
        let node = &self.nodes[index];
        // What waits on the way to a Node may reach its next process.
        let finds_anybody = matches!(happening, Happening::Arrives(..));
        if life != node.life && !finds_anybody {
            return;
        }
        if self.now < node.paused_until {
            let wait = node.paused_until - self.now;
            return self.at(wait, index, happening);
        }
        self.happen_to(index, happening);
    }

    fn happen_to(&mut self, index: usize, happening: Happening) {
        if self.telling == Telling::Printed
            && !matches!(
                happening,
                Happening::Input(_) | Happening::Arrives(..) | Happening::Tick
            )
        {
            println!("{} {index} {happening:?}", self.now);
        }
        match happening {
            Happening::Start => self.start(index),
            Happening::Restores => self.restores(index),
            Happening::Tick => self.tick(index),
            Happening::Input(input) => self.step(index, input),
            Happening::DiskDone => self.disk_done(index),
            Happening::DiskMends => self.disk_mends(index),
            Happening::Arrives(from, message) => self.step(index, Input::Received(from, message)),
            Happening::Asks(op) => self.asks(index, op),
            Happening::PassedOn(op) => self.txn(index, op, true),
            Happening::Answered(op, told) => self.answered(index, op, told),
            Happening::AsksIndex(asker) => self.read_index(index, asker),
            Happening::IndexKnown(number, upto) => self.index_known(index, number, upto),
            Happening::Confirmed(register) => self.confirmed(index, register),
            // A rolling change ends with the storm it is part of.
            Happening::ToldToClose if self.weather.rolling == 0 => {}
            Happening::ToldToClose => self.close(index),
            Happening::Killed => self.crash(index, false),
            errand => self.errand(index, errand),
        }
        self.flush(index);
    }

    pub(crate) fn flush(&mut self, index: usize) {
        let now = self.clock(index);
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        for effect in process.node.flush(now) {
            self.perform(index, effect);
        }
        let process = self.nodes[index].process.as_mut();
        let sent_less = process.map(|process| std::mem::take(&mut process.sent_less));
        for input in sent_less.into_iter().flatten() {
            self.step(index, input);
        }
        self.open_gate(index);
        self.send_batch(index);
        self.show(index);
        self.look(index);
    }

    pub(crate) fn step(&mut self, index: usize, input: Input) {
        let now = self.clock(index);
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        self.steps += 1;
        let before = (self.telling != Telling::Silent).then(|| format!("{index} {input:?}"));
        let effects = process.node.step(now, 0, input);
        let log = process.node.log();
        for word in [
            self.now,
            index as u64,
            log.last.0,
            log.committed.0,
            log.durable.0,
        ] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(before) = before {
            self.narrate(&format!("{} {before}\n    {effects:?}", self.now));
        }
        for effect in effects {
            self.perform(index, effect);
        }
    }

    /// What happens, in words.
    pub(crate) fn narrate(&mut self, words: &str) {
        if self.telling == Telling::Printed {
            println!("{words}");
        }
        for word in words.bytes() {
            self.trace = (self.trace ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Claim 2, whenever a Primary begins: its log holds everything that was ever acknowledged.
    fn look(&mut self, index: usize) {
        let Some(process) = &mut self.nodes[index].process else {
            return;
        };
        let active = match process.node.tenure() {
            Tenure::Active(epoch) => Some(epoch),
            _ => None,
        };
        if let Some(epoch) = active.filter(|_| !process.was_active) {
            self.checks.begins(index, epoch, &process.log);
        }
        process.was_active = active.is_some();
    }
}
