//! A story: one seed, one cluster, one storm of two minutes or more, and how it recovers.
//!
//! When the faults have stopped, some Nodes may stay dead for ever, as many as the protocol allows. What is left
//! must be writable within a bounded time, and whole soon after; then the judges have their last word.

use rules::primary::Tenure;
use rules::quorum::{DISABLED, voters_needed};
use rules::register::Voter;
use rules::revision::Revision;
use rules::settings::Moment;

use crate::checks::recovery::WRITABLE_WITHIN;
use crate::clients::{Told, Wish};
use crate::cluster::Cluster;
use crate::random::Random;
use crate::weather::Weather;
use crate::world::{Happening, Telling, World};

/// How long a storm lasts, not counting the time that some sleep.
const STORM: u64 = 120_000;
/// The most machines there ever are.
const NODES_MAX: usize = 9;
/// How often a Node is asked for a read that it may not answer in time.
const READS: usize = 4;
/// How long clients go on writing while those who are behind catch up.
const BUSY: u64 = 30_000;
/// How far the world goes between two looks at it.
const STRIDE: u64 = 100;

/// The story of `seed`.
///
/// # Panics
/// If a claim is broken.
#[must_use]
pub fn story(seed: u64, telling: Telling) -> World {
    let mut random = Random::new(seed);
    let cluster = Cluster::any(&mut random);
    let weather = Weather::any(&mut random);
    let mut world = World::new(random, cluster, weather, telling);
    if telling == Telling::Printed {
        println!("{cluster:?}\n{weather:?}");
    }
    for index in 0..cluster.nodes {
        let at = world.random.between(1, 3_000);
        world.at(at, index, Happening::Start);
    }
    let mut left = STORM;
    while left > 0 {
        world.run(1_000);
        world.befalls();
        if world.now() >= world.quiet_until {
            left -= 1_000;
        }
    }
    world.calm();
    world.run(2_000);
    world.lose_for_good();
    world.recover();
    world.finish();
    world
}

impl World {
    /// What befalls the cluster as a whole, once a second.
    fn befalls(&mut self) {
        if self.now() < self.quiet_until {
            return;
        }
        if self.random.chance(self.weather.sleep) {
            self.sleeps();
        }
        if self.random.rarely(self.weather.moves) && self.nodes.len() < NODES_MAX {
            let joined = self.add_node();
            self.at(1, joined, Happening::Start);
        }
        if self.random.rarely(self.weather.moves) {
            let index = self.random.below(self.nodes.len());
            let others = self.nodes.iter().filter(|node| !node.is_gone).count();
            if others > 1 && !self.nodes[index].is_gone && self.can_lose(index) {
                self.leaves(index);
            }
        }
        if self.random.rarely(self.weather.rolling) {
            for index in 0..self.nodes.len() {
                let at = index as u64 * self.random.between(1_000, 10_000);
                self.at(1 + at, index, Happening::ToldToClose);
            }
        }
    }

    /// Some machines, or all, sleep. Where some watch, the others sleep for hours at most: every second of theirs is
    /// lived through.
    fn sleeps(&mut self) {
        let all = self.random.chance(40);
        let longest = if all {
            5 * 24 * 3_600_000
        } else if self.random.chance(5) {
            6 * 3_600_000
        } else {
            600_000
        };
        let length = self.random.magnitude(30_000, longest);
        for index in 0..self.nodes.len() {
            if all || self.random.chance(40) {
                let wakes = length + self.random.delay(0, 20_000);
                self.pause(index, wakes);
            }
        }
        self.quiet_until = self.now() + length;
    }

    /// From now on nothing goes wrong, everybody is awake, and what is on its way lands.
    pub fn calm(&mut self) {
        self.weather = Weather::CALM;
        // Who is behind must be able to keep pace with the floor.
        self.cluster.kept = [20_000; 2];
        self.quiet_until = 0;
        self.land_within(1_000);
        for index in 0..self.nodes.len() {
            self.wake(index);
            let node = &mut self.nodes[index];
            node.bucket_cut_until = 0;
            node.slow_until = 0;
            node.cut_until.clear();
            let (down, failed) = (node.process.is_none(), node.disk_failed);
            if down {
                self.at(1, index, Happening::Start);
            }
            if failed {
                self.at(1, index, Happening::DiskMends);
            }
        }
    }

    /// Some never come back, where the protocol allows it: the last faults there are.
    fn lose_for_good(&mut self) {
        if self.random.chance(50) {
            return;
        }
        let start = self.random.below(self.nodes.len());
        for place in 0..self.nodes.len() {
            let index = (start + place) % self.nodes.len();
            let others = self.nodes.iter().filter(|node| !node.is_gone).count();
            let spare = others > 1 && !self.nodes[index].is_gone && self.can_lose(index);
            if spare && self.random.chance(50) {
                self.leaves(index);
            }
        }
    }

    /// Claim 7: writable within a bounded time, not counting the time in which somebody who is alone has more of the
    /// chain to read; and whole soon after.
    pub(crate) fn recover(&mut self) {
        let mut reading = (self.now(), self.read_alone());
        self.keeps_answers = true;
        let first = self.next_op;
        let written = loop {
            let written = self.answers.iter().find_map(|(op, told)| match told {
                Told::Done(at) if *op >= first => Some(*at),
                _ => None,
            });
            let after = self.now() - self.reads_on(&mut reading);
            if let Some(written) = written {
                self.checks.recovery.writable(after);
                break written;
            }
            let (disks, needed) = self.promises();
            if disks < needed && after > WRITABLE_WITHIN {
                self.checks.recovery.give_up();
                return;
            }
            assert!(
                after <= WRITABLE_WITHIN,
                "claim 7: nothing is acknowledged {after} ms after the last fault, or after the chain was read\n{}",
                self.describe()
            );
            self.answers.clear();
            for index in 0..self.nodes.len() {
                self.ask_write(index, "probe".to_owned(), false);
            }
            self.run(STRIDE);
        };
        self.keeps_answers = false;
        self.answers.clear();
        self.until_whole(written);
        self.reads_everywhere();
        self.cluster.writes = 0;
        self.run(5_000);
    }

    /// Every Node becomes part of the cluster. One that is far behind may read as long as there is something to read;
    /// after a while nobody writes any more, for Chunks may come as fast as one alone can read them.
    fn until_whole(&mut self, written: Revision) {
        let busy_until = self.now() + BUSY;
        let mut reading = (self.now(), self.read_alone());
        loop {
            if self.now() >= busy_until {
                self.cluster.writes = 0;
            }
            let lacks = self.lacks(written);
            let after = self.now() - self.reads_on(&mut reading);
            self.checks.recovery.whole(after, lacks.as_deref());
            if lacks.is_none() {
                return;
            }
            self.run(STRIDE);
        }
    }

    /// When somebody who follows nobody last read further in the chain than before, as `reading`, which is kept up, has
    /// seen. Whoever reads the same over and over gets nowhere.
    fn reads_on(&self, reading: &mut (Moment, Vec<u64>)) -> Moment {
        let (since, read) = reading;
        for (more, read) in self.read_alone().into_iter().zip(read) {
            if more > *read {
                (*since, *read) = (self.now(), more);
            }
        }
        *since
    }

    /// How far each of those who follow nobody has read the chain.
    fn read_alone(&self) -> Vec<u64> {
        let read = |index: usize| {
            let node = self.node(index)?;
            let alone = node.follows(self.clock(index)).is_none();
            alone.then_some(node.log().durable.0)
        };
        (0..self.nodes.len())
            .map(|index| read(index).unwrap_or(0))
            .collect()
    }

    /// What is still missing until every Node is part of the cluster.
    fn lacks(&self, written: Revision) -> Option<String> {
        let register = self.bucket.register.document()?;
        for (index, node) in self.nodes.iter().enumerate() {
            if node.is_gone {
                continue;
            }
            let Some(process) = &node.process else {
                return Some(format!("{} has not started", node.name));
            };
            if process.shown < written {
                return Some(format!("{} is behind\n{}", node.name, self.describe()));
            }
            let active = matches!(process.node.tenure(), Tenure::Active(_));
            if !active && process.node.follows(self.clock(index)).is_none() {
                return Some(format!("{} follows nobody\n{}", node.name, self.describe()));
            }
            let living = self.nodes.iter().filter(|node| !node.is_gone).count();
            let wanted = process.node.settings().quorum;
            let votes = register.voters.contains(&Voter::of(process.node.me()));
            if active && wanted != register.quorum {
                return Some(format!("the quorum is {}, not {wanted}", register.quorum));
            }
            let to_vote = register.quorum != DISABLED && living >= voters_needed(register.quorum);
            if to_vote != votes {
                return Some(format!(
                    "{} {} a voter\n{}",
                    node.name,
                    if votes { "is" } else { "is not" },
                    self.describe()
                ));
            }
        }
        None
    }

    /// Every Node answers a linearizable read: if not the first, one of the next.
    fn reads_everywhere(&mut self) {
        self.keeps_answers = true;
        let living = (0..self.nodes.len()).filter(|index| !self.nodes[*index].is_gone);
        let mut mute: Vec<usize> = living.collect();
        for _ in 0..READS {
            let asked: Vec<(u64, usize)> = mute
                .iter()
                .map(|index| (self.ask(*index, Wish::Read), *index))
                .collect();
            self.run(5_000);
            mute = asked
                .into_iter()
                .filter(|(op, _)| !matches!(self.answers.get(op), Some(Told::Read(_))))
                .map(|(_, index)| index)
                .collect();
        }
        assert!(
            mute.is_empty(),
            "claim 7: nodes {mute:?} answer no read\n{}",
            self.describe()
        );
        self.keeps_answers = false;
        self.answers.clear();
    }

    /// The last word of the judges.
    pub(crate) fn finish(&mut self) {
        let mut processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let primary = processes.find(|process| process.was_active);
        let log = primary.map_or(&[][..], |process| &process.log);
        if !self.checks.recovery.is_hopeless() {
            self.checks.finish(&self.bucket, log);
        }
    }
}
