//! Scenes: stories told on purpose. Nodes are started, stopped, cut off and put to sleep by name of the moment, and
//! whatever is on its way can be held back until it does the most harm.
//!
//! Nothing goes wrong by itself here, and the judges look on as in any storm. A scene ends with [`Scene::ends_well`]:
//! everything is healed, the cluster must work again, and the judges have their last word.

use rules::node::Node;
use rules::primary::Tenure;
use rules::record::Record;
use rules::register::{Phase, Register, Voter};
use rules::revision::{Epoch, Revision};

use crate::clients::{Op, Told, Wish};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::machine::Disk;
use crate::random::Random;
use crate::weather::Weather;
use crate::world::{Happening, Telling, World};

pub use crate::moments::{
    chain_reads_of, chunk_of, disk_of, lock_of_others, message_to, register_of, register_reads_of,
};

/// The longest anything is waited for, milliseconds.
const PATIENCE: u64 = 120_000;
/// For ever.
const EVER: u64 = u64::MAX / 4;

/// What is held back, until it is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(u64);

/// A cluster under direction. Nodes are called by their number.
pub struct Scene {
    world: World,
    holds: u64,
}

impl Scene {
    /// A cluster of which no Node has been started.
    #[must_use]
    pub fn new(cluster: Cluster) -> Scene {
        let telling = match std::env::var_os("SCENE") {
            Some(_) => Telling::Printed,
            None => Telling::Silent,
        };
        let mut world = World::new(Random::new(1), cluster, Weather::CALM, telling);
        world.keeps_answers = true;
        world.tolerates = true;
        Scene { world, holds: 0 }
    }

    /// The same, with all Nodes started, the first of them Primary and Elector, and all of them voters, unless the
    /// cluster is to have none.
    #[must_use]
    pub fn running(cluster: Cluster) -> Scene {
        let mut scene = Scene::new(cluster);
        scene.start(0);
        scene.until("node 0 is active", |scene| scene.is_active(0));
        scene.others_start(0);
        scene
    }

    /// The same, and the last Node is the Elector.
    #[must_use]
    pub fn with_elector(cluster: Cluster) -> Scene {
        let mut scene = Scene::new(cluster);
        let elector = cluster.nodes - 1;
        let claim = scene.hold(register_of(elector, Phase::Claimed));
        scene.start(elector);
        scene.until("the last node is elector", |scene| {
            scene.is_elector(elector)
        });
        // Of two that know nothing the younger one is named.
        scene.start_and_wait(0);
        scene.run(3_000);
        scene.let_go(claim);
        scene.until("node 0 is active", |scene| scene.is_active(0));
        scene.others_start(elector);
        scene
    }

    fn others_start(&mut self, running: usize) {
        let cluster = self.world.cluster;
        for index in (1..cluster.nodes).filter(|index| *index != running) {
            self.start(index);
        }
        let wanted = if cluster.quorum[0] == 0 || cluster.nodes == 1 {
            0
        } else {
            cluster.nodes
        };
        self.until("everybody follows, and votes if it is to", |scene| {
            let follow = (1..cluster.nodes).all(|index| scene.follows(index));
            follow && scene.register().voters.len() == wanted
        });
    }

    /// Starts a Node.
    pub fn start(&mut self, index: usize) {
        self.world.at(1, index, Happening::Start);
    }

    /// Starts a Node, and lets the world go on to its first moment.
    pub fn start_and_wait(&mut self, index: usize) {
        self.start(index);
        self.until("the node runs", |scene| scene.node(index).is_some());
    }

    /// One more Node; not started.
    pub fn join(&mut self) -> usize {
        self.world.add_node()
    }

    /// The process dies; its disk stays, without what it had not done yet.
    pub fn kill(&mut self, index: usize) {
        self.world.dies(index, 0);
        self.world.checks.committed.died(index, true);
    }

    /// The process dies, and its disk is lost.
    pub fn kill_with_disk(&mut self, index: usize) {
        self.world.dies(index, 0);
        self.world.checks.committed.died(index, false);
        self.world.nodes[index].disk = Disk::default();
    }

    /// The machine is gone for ever.
    pub fn lose(&mut self, index: usize) {
        self.world.leaves(index);
    }

    /// A disk that has promised this epoch, whoever asked for it. The process must not be running.
    pub fn promise_on_disk(&mut self, index: usize, epoch: u64) {
        let node = &mut self.world.nodes[index];
        assert!(node.process.is_none(), "the process runs");
        node.disk.promised = Epoch(epoch);
    }

    /// A word from one Node to another takes so many milliseconds from now on.
    pub fn put_apart(&mut self, milliseconds: u64) {
        self.world.weather.message_min = milliseconds;
    }

    /// The clock counts so many thousandths of a millisecond per millisecond from now on.
    pub fn set_clock(&mut self, index: usize, speed: u64) {
        let now = self.world.now;
        let clock = &mut self.world.nodes[index].clock;
        *clock = Clock::new(now, clock.at(now), speed);
    }

    /// Notes what the disk holds.
    pub fn copy_disk(&mut self, index: usize) {
        self.world.nodes[index].image = Some(self.world.nodes[index].disk.clone());
    }

    /// The disk holds again what it held when it was copied. The process must not be running.
    pub fn restore_disk(&mut self, index: usize) {
        let node = &mut self.world.nodes[index];
        assert!(node.process.is_none(), "the process runs");
        node.disk = node.image.clone().expect("it was copied");
        self.world.checks.committed.died(index, false);
    }

    /// The same, but its number of starts is that of the disk it replaces: a copy that cannot be told by it.
    pub fn restore_disk_unnoticed(&mut self, index: usize) {
        let boot_seq = self.world.nodes[index].disk.boot_seq;
        self.restore_disk(index);
        self.world.nodes[index].disk.boot_seq = boot_seq;
    }

    /// The process is told to stop.
    pub fn close(&mut self, index: usize) {
        self.world.close(index);
        self.world.flush(index);
    }

    /// The machine stands still until it is woken.
    pub fn pause(&mut self, index: usize) {
        self.world.pause(index, EVER);
    }

    /// It goes on, with everything that has arrived meanwhile.
    pub fn wake(&mut self, index: usize) {
        self.world.wake(index);
    }

    /// The disk refuses to write until it is mended.
    pub fn break_disk(&mut self, index: usize) {
        self.world.fail_disk(index, false);
        self.world.flush(index);
    }

    /// The same, but what it was just doing came to pass all the same.
    pub fn break_disk_after_all(&mut self, index: usize) {
        self.world.fail_disk(index, true);
        self.world.flush(index);
    }

    /// The disk works again.
    pub fn mend_disk(&mut self, index: usize) {
        self.world.disk_mends(index);
        self.world.flush(index);
    }

    /// Nothing that `from` says reaches `to` any more.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.world.nodes[from].cut_until.insert(to, EVER);
    }

    /// Neither hears the other any more.
    pub fn part(&mut self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// `from` reaches `to` again.
    pub fn heal(&mut self, from: usize, to: usize) {
        self.world.nodes[from].cut_until.remove(&to);
    }

    /// The Node does not reach the bucket any more.
    pub fn cut_bucket(&mut self, index: usize) {
        self.world.nodes[index].bucket_cut_until = EVER;
    }

    /// It reaches it again.
    pub fn heal_bucket(&mut self, index: usize) {
        self.world.nodes[index].bucket_cut_until = 0;
    }

    /// Holds back whatever is so, from now on, until it is let go.
    pub fn hold(&mut self, what: impl Fn(usize, &Happening) -> bool + 'static) -> Held {
        self.holds += 1;
        self.world.holds.push((self.holds, Box::new(what)));
        Held(self.holds)
    }

    /// What was held back happens now, and nothing more is held.
    pub fn let_go(&mut self, held: Held) {
        self.world.let_go(held.0);
    }

    /// What was held back never happens, if it is a write or a message, and nothing more is held. What a Node waits for
    /// comes back.
    pub fn drop_held(&mut self, held: Held) {
        self.world.drop_held(held.0);
    }

    /// How much is held back.
    #[must_use]
    pub fn held(&self, held: Held) -> usize {
        let all = self.world.held.iter();
        all.filter(|(number, _)| *number == held.0).count()
    }

    /// Lets `milliseconds` pass.
    pub fn run(&mut self, milliseconds: u64) {
        self.world.run(milliseconds);
    }

    /// Goes on until something has come true.
    ///
    /// # Panics
    /// If it does not.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Scene) -> bool) {
        let end = self.world.now + PATIENCE;
        while !is_so(self) {
            assert!(
                self.world.run_once(end),
                "it never comes to pass that {what}\n{}",
                self.world.describe()
            );
        }
    }

    /// A client asks a Node to write.
    pub fn write(&mut self, index: usize) -> Op {
        let key = format!("key-{}", self.world.next_op);
        self.world.ask_write(index, key, false)
    }

    /// A client asks a Node to write, and is answered before the world goes on.
    pub fn write_and_wait(&mut self, index: usize) -> Revision {
        let op = self.write(index);
        self.until("the write is answered", |scene| scene.told(op).is_some());
        self.done(op).expect("the write is done")
    }

    /// A client asks a Node for a linearizable read.
    pub fn read(&mut self, index: usize) -> Op {
        self.world.ask(index, Wish::Read)
    }

    /// A client asks a Node for a Txn that writes nothing.
    pub fn compare(&mut self, index: usize) -> Op {
        self.world.ask(index, Wish::Compare)
    }

    /// A client reads what a Node shows, whatever that is.
    pub fn read_locally(&mut self, index: usize) {
        self.world.reads_locally(index);
    }

    /// A client watches from `start` on, at this Node for as long as it lives.
    pub fn watch(&mut self, index: usize, start: Revision) {
        self.world.watch(index, start);
    }

    /// How many Records watches have seen.
    #[must_use]
    pub fn watched(&self) -> u64 {
        self.world.checks.watches.delivered()
    }

    /// What a client was told, if it has an answer.
    #[must_use]
    pub fn told(&self, op: Op) -> Option<&Told> {
        self.world.answers.get(&op)
    }

    /// Where a write is, if its client was told.
    #[must_use]
    pub fn done(&self, op: Op) -> Option<Revision> {
        match self.told(op)? {
            Told::Done(at) => Some(*at),
            _ => None,
        }
    }

    /// The Primary compacts, and keeps so many Revisions.
    pub fn compact(&mut self, index: usize, kept: u64) {
        self.world.compact(index, kept);
    }

    /// From now on the Primary makes a Snapshot after so many Records.
    pub fn snapshot_every(&mut self, records: u64) {
        self.world.cluster.snapshot_every = records;
    }

    /// Whether there is such a machine.
    #[must_use]
    pub fn knows(&self, index: usize) -> bool {
        index < self.world.nodes.len()
    }

    /// The running Node.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&Node> {
        self.world.node(index)
    }

    /// How far its tenure has come; none if it does not run.
    #[must_use]
    pub fn tenure(&self, index: usize) -> Tenure {
        self.node(index).map_or(Tenure::None, Node::tenure)
    }

    /// Whether it accepts writes.
    #[must_use]
    pub fn is_active(&self, index: usize) -> bool {
        matches!(self.tenure(index), Tenure::Active(_))
    }

    /// Whether it follows a Primary.
    #[must_use]
    pub fn follows(&self, index: usize) -> bool {
        let now = self.world.clock(index);
        self.node(index)
            .is_some_and(|node| node.follows(now).is_some())
    }

    /// Whether it acts as Elector.
    #[must_use]
    pub fn is_elector(&self, index: usize) -> bool {
        let now = self.world.clock(index);
        self.node(index)
            .is_some_and(|node| node.elector().is_acting(now))
    }

    /// Whether it may answer linearizable reads by its lease.
    #[must_use]
    pub fn has_lease(&self, index: usize) -> bool {
        self.world.has_lease(index)
    }

    /// What it shows.
    #[must_use]
    pub fn shown(&self, index: usize) -> Revision {
        let process = self.world.nodes[index].process.as_ref();
        process.map_or(Revision::ZERO, |process| process.shown)
    }

    /// Whether a write was acknowledged.
    #[must_use]
    pub fn is_done(&self, op: Op) -> bool {
        self.done(op).is_some()
    }

    /// What its disk holds.
    #[must_use]
    pub fn disk(&self, index: usize) -> &[Record] {
        &self.world.nodes[index].disk.records
    }

    /// What its disk has promised.
    #[must_use]
    pub fn promised(&self, index: usize) -> Epoch {
        self.world.nodes[index].disk.promised
    }

    /// The register.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn register(&self) -> &Register {
        let register = self.world.bucket.register.document();
        register.expect("there is a register")
    }

    /// Whether the register is in this epoch and phase.
    #[must_use]
    pub fn stands_at(&self, epoch: u64, phase: Phase) -> bool {
        let register = self.world.bucket.register.document();
        register.is_some_and(|register| register.epoch.0 == epoch && register.phase == phase)
    }

    /// Whether a Node's disk votes.
    #[must_use]
    pub fn votes(&self, index: usize) -> bool {
        let node = self.node(index);
        node.is_some_and(|node| self.register().voters.contains(&Voter::of(node.me())))
    }

    /// The slots of the chain that are there.
    #[must_use]
    pub fn slots(&self) -> Vec<u64> {
        let slots = self.world.bucket.chunks.keys();
        slots.map(|slot| slot.0).collect()
    }

    /// The Revisions there are Snapshots of.
    #[must_use]
    pub fn snapshots(&self) -> Vec<u64> {
        let snapshots = self.world.bucket.snapshots.keys();
        snapshots.map(|last| last.0).collect()
    }

    /// What Nodes said is wrong.
    #[must_use]
    pub fn complaints(&self) -> &[(usize, String)] {
        &self.world.complaints
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.world.now
    }

    /// Where every Node stands, for a human.
    #[must_use]
    pub fn describe(&self) -> String {
        self.world.describe()
    }

    /// Everything is healed and let go, every Node runs, and the cluster must be writable and whole again. What is
    /// held back never happens.
    ///
    /// # Panics
    /// If it is not, or if a claim is broken.
    pub fn ends_well(mut self) {
        self.world.drop_all_held();
        self.world.calm();
        self.world.recover();
        self.world.finish();
    }
}
