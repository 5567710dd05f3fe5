//! The world: Nodes with disks, one bucket, clients, and a queue of moments.
//!
//! A Node lives in its own time line: it may be paused (nothing reaches it, then everything does), crash
//! between any two effects, come back with its disk or with an empty one, and lose answers of the bucket.

use std::collections::BTreeMap;

use rules::chain::{Found, first_difference};
use rules::message::Message;
use rules::node::Node;
use rules::primary::Tenure;
use rules::quorum::promises_needed;
use rules::record::Record;
use rules::register::{Identity, Lock, Register, Version, Voter};
use rules::revision::Revision;
use rules::settings::Settings;
use rules::step::Input;

use crate::bucket::SimBucket;
use crate::checks::Checks;
use crate::machine::{Disk, SimNode};
use crate::random::Random;
use crate::weather::Weather;

/// A storm of two minutes on one to five Nodes, then a calm minute, in which somebody must serve again.
///
/// # Panics
/// If a claim is broken.
#[must_use]
pub fn story(seed: u64, traced: bool) -> World {
    let mut world = World::new(seed, 1 + (seed % 5) as usize, Weather::ROUGH);
    world.traced = traced;
    world.run(120_000);
    world.calm();
    world.run(60_000);
    let (disks, needed) = world.promises();
    assert!(
        world.is_writable() || disks < needed,
        "seed {seed}: nobody is active a minute after the faults stopped\n{}",
        world.describe()
    );
    if world.is_writable() {
        world.finish();
    }
    world
}

pub(crate) enum Happening {
    Tick,
    Input(Input),
    DiskDone,
    LockLands(Option<Version>, Lock, bool),
    RegisterLands(Option<Version>, Register, bool),
    LockSettles(Option<Version>, Lock),
    RegisterSettles(Option<Version>, Register),
    ReadsLock,
    ReadsRegister,
    ReadsSlot(Revision),
    ChunkLands(Revision, Vec<Record>),
    ChunkSettles(u64, Revision, Vec<Record>),
    Arrives(Identity, Message),
    Start,
}

/// Nodes, bucket, queue, judges.
pub struct World {
    pub(crate) now: u64,
    turn: u64,
    pub(crate) random: Random,
    pub(crate) weather: Weather,
    pub(crate) bucket: SimBucket,
    pub(crate) nodes: Vec<SimNode>,
    queue: BTreeMap<(u64, u64), (usize, u64, Happening)>,
    pub(crate) checks: Checks,
    /// Every effect and input, as text, hashed: two runs of a seed must agree.
    trace: u64,
    steps: u64,
    pub(crate) written: u64,
    /// Whether everything is printed.
    traced: bool,
    /// The highest start each disk has registered.
    registered: BTreeMap<(usize, u64), u64>,
}

impl World {
    /// `count` Nodes on one bucket.
    #[must_use]
    pub fn new(seed: u64, count: usize, weather: Weather) -> World {
        let nodes = (0..count)
            .map(|index| SimNode::new(format!("node-{index}")))
            .collect();
        let mut world = World {
            now: 1,
            turn: 0,
            random: Random::new(seed),
            weather,
            bucket: SimBucket::default(),
            nodes,
            queue: BTreeMap::new(),
            checks: Checks::default(),
            trace: 0,
            steps: 0,
            written: 0,
            traced: false,
            registered: BTreeMap::new(),
        };
        for index in 0..count {
            let at = world.random.between(1, 3_000);
            world.at(at, index, Happening::Start);
        }
        world
    }

    /// Lets `milliseconds` pass.
    pub fn run(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while let Some(((moment, _), (index, life, happening))) = self.queue.pop_first() {
            if moment > end {
                self.turn += 1;
                self.queue
                    .insert((moment, self.turn), (index, life, happening));
                break;
            }
            self.now = self.now.max(moment);
            self.happen(index, life, happening);
        }
        self.now = end;
    }

    /// From now on nothing goes wrong, and everybody is awake.
    pub fn calm(&mut self) {
        self.weather = Weather::CALM;
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            node.paused_until = 0;
            node.bucket_cut_until = 0;
            node.cut_until.clear();
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

    /// Where every Node stands, for a human.
    #[must_use]
    pub fn describe(&self) -> String {
        let register = self.bucket.register.read();
        let mut text = format!("at {}: {register:?}\n", self.now);
        for node in &self.nodes {
            text += &match &node.node {
                Some(process) => format!(
                    "{}: {:?} promised {} log {:?} following {:?}\n",
                    node.name,
                    process.tenure(),
                    process.promised(),
                    process.log(),
                    process.follows(self.now),
                ),
                None => format!("{}: down\n", node.name),
            };
        }
        text
    }

    /// A number that two runs of one seed share.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn at(&mut self, delay: u64, index: usize, happening: Happening) {
        self.turn += 1;
        let life = self.nodes[index].life;
        self.queue
            .insert((self.now + delay, self.turn), (index, life, happening));
    }

    fn happen(&mut self, index: usize, life: u64, happening: Happening) {
        // What lands in the bucket lands, whoever sent it and whatever became of him.
        match happening {
            Happening::LockLands(expected, lock, answers) => {
                self.bucket.lock.apply(expected.as_ref(), &lock);
                if answers && life == self.nodes[index].life {
                    self.at_soon(index, Happening::LockSettles(expected, lock));
                }
                return;
            }
            Happening::RegisterLands(expected, register, answers) => {
                if self.bucket.register.apply(expected.as_ref(), &register) {
                    self.checks.registered(&register);
                }
                if answers && life == self.nodes[index].life {
                    self.at_soon(index, Happening::RegisterSettles(expected, register));
                }
                return;
            }
            Happening::ChunkLands(first, records) => {
                if self.bucket.put_chunk(first, &records) {
                    self.checks.chain(&self.bucket);
                }
                return;
            }
            _ => {}
        }
        let node = &self.nodes[index];
        if life != node.life {
            return;
        }
        if self.now < node.paused_until {
            let wait = node.paused_until - self.now;
            return self.at(wait, index, happening);
        }
        self.happen_to(index, happening);
    }

    pub(crate) fn at_soon(&mut self, index: usize, happening: Happening) {
        let delay = self.random.delay(1, 300);
        self.at(delay, index, happening);
    }

    fn happen_to(&mut self, index: usize, happening: Happening) {
        match happening {
            Happening::Start => self.start(index),
            Happening::Tick => self.tick(index),
            Happening::Input(input) => self.step(index, input),
            Happening::DiskDone => self.disk_done(index),
            Happening::LockSettles(expected, lock) => {
                let outcome = self.bucket.lock.settle(expected.as_ref(), &lock);
                self.step(index, Input::LockSwapped(outcome));
            }
            Happening::RegisterSettles(expected, register) => {
                let outcome = self.bucket.register.settle(expected.as_ref(), &register);
                self.step(index, Input::RegisterSwapped(outcome));
            }
            Happening::ReadsLock => {
                let found = self.bucket.lock.read();
                self.answer(index, Input::LockRead(Ok(found)), Input::LockRead(Err(())));
            }
            Happening::ReadsRegister => {
                let found = self.bucket.register.read();
                self.answer(
                    index,
                    Input::RegisterRead(Ok(found)),
                    Input::RegisterRead(Err(())),
                );
            }
            Happening::ReadsSlot(slot) => {
                let own = &self.nodes[index].disk.records;
                let found = self.bucket.chunks.get(&slot).map(|records| Found {
                    differs: first_difference(
                        records,
                        &own[own.len().min(slot.prev().0 as usize)..],
                    ),
                    records: records.clone(),
                });
                let lost = Input::SlotRead(slot, Err(()));
                self.answer(index, Input::SlotRead(slot, Ok(found)), lost);
            }
            Happening::ChunkSettles(upload, first, records) => {
                self.chunk_settles(index, upload, first, records);
            }
            Happening::Arrives(from, message) => {
                self.step(index, Input::Received(from, message));
            }
            Happening::LockLands(..) | Happening::RegisterLands(..) | Happening::ChunkLands(..) => {
            }
        }
    }

    fn answer(&mut self, index: usize, input: Input, lost: Input) {
        let cut = self.now < self.nodes[index].bucket_cut_until;
        let input = if cut || self.random.chance(self.weather.lost_read) {
            lost
        } else {
            input
        };
        self.at_soon(index, Happening::Input(input));
    }

    /// The fates of a write: landing, then an answer; or no answer, and landing late or never.
    pub(crate) fn write_lands(&mut self, index: usize) -> (Option<u64>, bool) {
        if self.now < self.nodes[index].bucket_cut_until {
            return (None, false);
        }
        if !self.random.chance(self.weather.lost_answer) {
            return (Some(self.random.delay(1, 400)), true);
        }
        let late = self.random.delay(1, self.weather.late_max.max(2));
        (self.random.chance(60).then_some(late), false)
    }

    fn start(&mut self, index: usize) {
        let seed = self.random.word();
        let incarnation = self.random.word();
        let node = &mut self.nodes[index];
        let newest = self.registered.get(&(index, node.disk.incarnation));
        node.disk.boot_seq += 1;
        // A disk that finds a later start of itself registered is an old copy.
        let old = newest.is_some_and(|newest| *newest >= node.disk.boot_seq);
        if node.disk.incarnation == 0 || old {
            node.disk.incarnation = incarnation;
        }
        let key = (index, node.disk.incarnation);
        self.registered.insert(key, node.disk.boot_seq);
        let me = Identity {
            node_id: node.name.clone(),
            incarnation: format!("{:x}", node.disk.incarnation),
            boot: format!("{seed:x}"),
        };
        let log = node.disk.log();
        node.log = node.disk.records.clone();
        node.shown = Revision::ZERO;
        node.recount();
        let promised = node.disk.promised;
        let address = String::new();
        node.node = Some(Node::new(
            me,
            Settings::default(),
            log,
            promised,
            address,
            (node.disk.boot_seq, seed),
        ));
        node.was_active = false;
        self.at(1, index, Happening::Tick);
    }

    fn tick(&mut self, index: usize) {
        self.step(index, Input::Tick);
        self.clients(index);
        if self.random.chance(self.weather.crash) && self.random.chance(5) {
            return self.crash(index);
        }
        if self.random.chance(self.weather.pause) && self.random.chance(5) {
            let pause = self.random.delay(10, self.weather.pause_max.max(11));
            self.nodes[index].paused_until = self.now + pause;
        }
        self.cuts(index);
        let next = self.random.between(40, 60);
        self.at(next, index, Happening::Tick);
    }

    /// Now and then a Node loses sight of another, one way, or of the bucket; and its disk is copied.
    fn cuts(&mut self, index: usize) {
        let weather = self.weather;
        let count = self.nodes.len() as u64;
        if self.random.chance(weather.cut) && self.random.chance(5) {
            let other = self.random.between(0, count - 1) as usize;
            let until = self.now + self.random.delay(100, weather.cut_max.max(101));
            self.nodes[index].cut_until.insert(other, until);
            if self.random.chance(50) {
                self.nodes[other].cut_until.insert(index, until);
            }
        }
        if self.random.chance(weather.bucket_cut) && self.random.chance(5) {
            let until = self.now + self.random.delay(100, weather.cut_max.max(101));
            self.nodes[index].bucket_cut_until = until;
        }
        if weather.old_disk > 0 && self.random.chance(1) {
            self.nodes[index].image = Some(self.nodes[index].disk.clone());
        }
    }

    pub(crate) fn crash(&mut self, index: usize) {
        let spare = self.can_lose(index);
        let wipe = self.random.chance(self.weather.wipe) && spare;
        let old = self.random.chance(self.weather.old_disk) && spare;
        let kept = self.random.between(0, 3);
        let node = &mut self.nodes[index];
        for _ in 0..kept {
            node.do_disk_work();
        }
        node.work.clear();
        node.node = None;
        node.life += 1;
        node.lease_until = 0;
        let mut keeps = true;
        if wipe {
            keeps = false;
            node.disk = Disk::default();
        } else if old
            && let Some(image) = node.image.clone()
            // A copy of the very same life cannot be told from the disk itself: H13 has its own scenario.
            && image.boot_seq < node.disk.boot_seq
        {
            keeps = false;
            node.disk = image;
        }
        self.checks.died(index, keeps);
        let back = self.random.delay(100, 20_000);
        self.at(back, index, Happening::Start);
    }

    /// How many promises the next election can get at most, and how many it needs.
    fn promises(&self) -> (usize, usize) {
        let Some(register) = self.bucket.register.read() else {
            return (0, 0);
        };
        let register = register.document;
        let has_disk = |voter: &&Voter| {
            let mut nodes = self.nodes.iter();
            nodes.any(|node| {
                let incarnation = format!("{:x}", node.disk.incarnation);
                node.name == voter.node_id && incarnation == voter.incarnation
            })
        };
        let disks = register.voters.iter().filter(has_disk).count();
        let needed = promises_needed(register.voters.len(), register.quorum);
        (disks, needed)
    }

    /// Whether this disk may be lost: what is promised holds for the loss of fewer than a quorum.
    fn can_lose(&self, index: usize) -> bool {
        let register = self.bucket.register.read();
        let name = &self.nodes[index].name;
        let votes = register.is_some_and(|held| {
            let mut voters = held.document.voters.iter();
            voters.any(|voter| voter.node_id == *name)
        });
        let (disks, needed) = self.promises();
        !votes || disks > needed
    }

    pub(crate) fn flush(&mut self, index: usize) {
        let now = self.now;
        let effects = self.nodes[index].node.as_mut().map(|node| node.flush(now));
        for effect in effects.into_iter().flatten() {
            self.perform(index, effect);
        }
    }

    pub(crate) fn step(&mut self, index: usize, input: Input) {
        let Some(node) = &mut self.nodes[index].node else {
            return;
        };
        self.steps += 1;
        let before = format!("{} {index} {input:?}", self.now);
        let effects = node.step(self.now, 0, input);
        if self.traced {
            println!("{before}\n    {effects:?}");
        }
        for word in before.bytes().chain(format!("{effects:?}").bytes()) {
            self.trace = (self.trace ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
        }
        for effect in effects {
            self.perform(index, effect);
        }
        self.flush(index);
        self.show(index);
        self.look(index);
    }

    /// Claim 2, whenever a Primary begins: its log holds everything that was ever acknowledged.
    fn look(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let active = node
            .node
            .as_ref()
            .is_some_and(|node| matches!(node.tenure(), Tenure::Active(_)));
        if active && !node.was_active {
            self.checks.begins(index, &node.log);
        }
        node.was_active = active;
    }

    /// Whether some Node is Active and everything it assigned gets committed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.nodes.iter().any(|node| {
            node.node
                .as_ref()
                .is_some_and(|node| matches!(node.tenure(), Tenure::Active(_)))
        })
    }

    /// The last word of the judges: what was acknowledged is in the chain.
    pub fn finish(&mut self) {
        let mut logs = self.nodes.iter().filter(|node| node.was_active);
        let log = logs.next().map_or(&[][..], |node| &node.log);
        self.checks.finish(&self.bucket, log);
    }
}
