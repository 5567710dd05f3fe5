//! Faults: what the weather does to machines. They crash, pause, sleep, lose their disk or the sight of one
//! another, and are told to stop.
//!
//! A disk is lost only where what is promised survives it: fewer than a quorum of the voters' at a time.

use rules::quorum::promises_needed;
use rules::register::Voter;
use rules::step::Input;

use crate::machine::Disk;
use crate::world::{Happening, World};

/// How long a Node that closes is given, milliseconds.
pub(crate) const GRACE: u64 = 15_000;

impl World {
    /// Time passes for a Node, with what else happens to it.
    pub(crate) fn tick(&mut self, index: usize) {
        self.step(index, Input::Tick);
        let now = self.clock(index);
        if let Some(process) = &mut self.nodes[index].process {
            let node = &process.node;
            let alone = node.tenure().epoch().is_none() && node.hears(now).is_none();
            let since = process.alone_since.unwrap_or(now);
            process.alone_since = alone.then_some(since);
        }
        self.flush(index);
        self.housekeeping(index);
        let quiet = self.now < self.quiet_until;
        if !quiet || self.random.chance(5) {
            self.clients(index);
        }
        self.strikes(index);
        let next = if quiet {
            self.random.between(800, 1_000)
        } else {
            self.random.between(40, 60)
        };
        self.at(next, index, Happening::Tick);
    }

    /// Whether something that comes so often per second comes at this tick.
    fn per_second(&mut self, percent: u64) -> bool {
        self.random.word() % 2_000 < percent
    }

    /// The weather strikes, or does not.
    fn strikes(&mut self, index: usize) {
        let weather = self.weather;
        if self.per_second(weather.crash) {
            return self.crash(index, false);
        }
        if self.per_second(weather.pause) {
            let pause = self.random.delay(10, weather.pause_max);
            self.pause(index, pause);
        }
        if self.per_second(weather.close) {
            self.close(index);
        }
        if self.per_second(weather.bad_disk) {
            self.disk_fails(index);
        }
        if self.cluster.jumps && self.per_second(weather.jump) {
            let by = self.random.magnitude(100, 10_000_000);
            let now = self.now;
            self.nodes[index].clock.jump(now, by);
        }
        self.cuts(index);
        if weather.old_disk > 0 && self.random.chance(1) {
            self.nodes[index].image = Some(self.nodes[index].disk.clone());
        }
    }

    /// Now and then a Node loses sight of another, one way or both, or of the bucket, or waits long for it.
    fn cuts(&mut self, index: usize) {
        let weather = self.weather;
        if self.per_second(weather.cut) {
            let other = self.random.below(self.nodes.len());
            let until = self.now + self.random.delay(100, weather.cut_max);
            self.nodes[index].cut_until.insert(other, until);
            if self.random.chance(50) {
                self.nodes[other].cut_until.insert(index, until);
            }
        }
        if self.per_second(weather.bucket_cut) {
            let until = self.now + self.random.delay(100, weather.cut_max);
            self.nodes[index].bucket_cut_until = until;
        }
        if self.per_second(weather.slow) {
            let until = self.now + self.random.delay(1_000, weather.cut_max);
            self.nodes[index].slow_until = until;
        }
    }

    /// The machine stands still for so long.
    pub(crate) fn pause(&mut self, index: usize, milliseconds: u64) {
        let node = &mut self.nodes[index];
        node.paused_at = self.now;
        node.paused_until = node.paused_until.max(self.now.saturating_add(milliseconds));
    }

    /// The Node is told to stop. When it has not after a while, it is killed.
    pub(crate) fn close(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.process.is_none() || std::mem::replace(&mut node.closes, true) {
            return;
        }
        self.at(GRACE, index, Happening::Killed);
        self.step(index, Input::Close);
    }

    /// It goes on, with everything that waited for it.
    pub(crate) fn wake(&mut self, index: usize) {
        let paused_until = std::mem::take(&mut self.nodes[index].paused_until);
        if self.now < paused_until {
            self.arrives_now(index, paused_until);
        }
    }

    /// The disk refuses to write, for a while. (Where no process uses it, nobody learns of it: a start opens it anew.)
    fn disk_fails(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.disk_failed || node.process.is_none() {
            return;
        }
        let did = self.random.chance(50);
        self.fail_disk(index, did);
        let mends = self.random.between(1_000, 8_000);
        self.at(mends, index, Happening::DiskMends);
    }

    /// The disk refuses to write. What it was just doing may have come to pass all the same.
    pub(crate) fn fail_disk(&mut self, index: usize, did: bool) {
        let node = &mut self.nodes[index];
        node.disk_failed = true;
        if let Some(work) = node.work.front().filter(|_| did) {
            node.disk.apply(work);
        }
        self.step(index, Input::DiskLost("it does not write".to_owned()));
    }

    /// A Node says that something is wrong: in a storm nothing ever is.
    pub(crate) fn complains(&mut self, index: usize, of: String) {
        assert!(self.tolerates, "node {index} complains: {of}");
        self.complaints.push((index, of));
    }

    /// A Node will not run: a namesake is alive, or it has to begin from a Snapshot. It is started again.
    pub(crate) fn refuses_to_run(&mut self, index: usize, reason: &str) {
        let usual = reason.contains("alive elsewhere") || reason.contains("start it again");
        if !usual {
            self.complains(index, reason.to_owned());
        }
        self.crash(index, true);
    }

    /// The process ends, with everything it was about to do: in the middle of anything, or in good `order`.
    pub(crate) fn crash(&mut self, index: usize, order: bool) {
        if self.nodes[index].process.is_none() {
            return;
        }
        let spare = !order && self.can_lose(index);
        let wipe = self.random.chance(self.weather.wipe) && spare;
        let old = self.random.chance(self.weather.old_disk) && spare;
        let done = self.random.between(0, 3);
        self.dies(index, done);
        let node = &mut self.nodes[index];
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
        if self.random.chance(10) {
            node.clock.reboot(self.now);
        }
        self.checks.committed.died(index, keeps);
        let back = self.random.delay(100, 20_000);
        self.at(back, index, Happening::Start);
    }

    /// The process ends; its disk still does the first `done` things it was asked.
    pub(crate) fn dies(&mut self, index: usize, done: u64) {
        let node = &mut self.nodes[index];
        for _ in 0..done {
            if let Some(work) = node.work.pop_front().filter(|_| !node.disk_failed) {
                node.disk.apply(&work);
            }
        }
        node.work.clear();
        node.life += 1;
        node.starts = false;
        node.paused_until = 0;
        let waiting = node
            .process
            .take()
            .map(|mut process| process.doors.everybody());
        for op in waiting.into_iter().flatten() {
            self.tell(op, crate::clients::Told::Unclear);
        }
        self.hang_up(index);
        self.watch_elsewhere(index);
    }

    /// It never comes back.
    pub(crate) fn leaves(&mut self, index: usize) {
        self.dies(index, 0);
        self.nodes[index].is_gone = true;
        self.checks.committed.died(index, false);
    }

    /// How many promises the next election can get at most, and how many it needs.
    pub(crate) fn promises(&self) -> (usize, usize) {
        let Some(register) = self.bucket.register.document() else {
            return (0, 0);
        };
        let has_disk = |voter: &&Voter| {
            let mut nodes = self.nodes.iter().filter(|node| !node.is_gone);
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
    pub(crate) fn can_lose(&self, index: usize) -> bool {
        let name = &self.nodes[index].name;
        let votes = self.bucket.register.document().is_some_and(|register| {
            let mut voters = register.voters.iter();
            voters.any(|voter| voter.node_id == *name)
        });
        let (disks, needed) = self.promises();
        !votes || disks > needed
    }
}
