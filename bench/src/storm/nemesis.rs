//! The nemesis of a storm: kills, pauses, stops and cuts off Nodes, fills disks, one at a time or several, and puts
//! each back after a while. It aims at roles as often as at Nodes.
//!
//! It deletes disks as the documentation allows it: never so many that voters of the register, or what only
//! they hold, would be gone. Whatever ends without its doing is a violation.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::disks::Disks;
use super::shared::Shared;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::network::{BUCKET, Network};

/// How long a Node that was told to stop may take.
const STOPPING: Duration = Duration::from_secs(90);

/// A Node that was started so recently may end at once when it is told to stop.
const YOUNG: Duration = Duration::from_secs(5);

/// Between two deleted disks; what was written before the first is in the bucket by then.
const BETWEEN_DISKS: Duration = Duration::from_secs(4);

/// What a Node is doing.
#[derive(Clone, Copy, Debug)]
enum State {
    Up,
    Paused {
        until: Instant,
    },
    Down {
        until: Instant,
    },
    /// It was told to stop, and is started again so long after it did.
    Stopping {
        since: Instant,
        rest: Duration,
    },
}

/// What may be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arsenal {
    /// Longest pause in milliseconds.
    pub(super) longest: u64,
    pub(super) wipes: bool,
    pub(super) cuts: bool,
    /// The bucket is reached through relays.
    pub(super) bucket: bool,
}

pub(super) struct Nemesis<'a> {
    pub(super) cluster: &'a mut Cluster,
    network: &'a Network,
    disks: Option<&'a Disks>,
    shared: &'a Shared,
    dice: Dice,
    arsenal: Arsenal,
    states: Vec<State>,
    started: Vec<Instant>,
    cuts: Vec<(Instant, Vec<(usize, usize)>)>,
    /// Full disks.
    full: Vec<(Instant, usize)>,
    /// When each Node's disk was given room again.
    freed: Vec<Instant>,
    /// Disks that are gone.
    gone: HashSet<String>,
    wiped: Option<Instant>,
    /// How often each fault was done.
    pub(super) done: BTreeMap<&'static str, u64>,
    began: Instant,
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(
        cluster: &'a mut Cluster,
        network: &'a Network,
        disks: Option<&'a Disks>,
        shared: &'a Shared,
        dice: Dice,
        arsenal: Arsenal,
    ) -> Nemesis<'a> {
        let nodes = cluster.nodes.len();
        let states = vec![State::Up; nodes];
        Nemesis {
            cluster,
            network,
            disks,
            shared,
            dice,
            arsenal,
            states,
            started: vec![Instant::now(); nodes],
            cuts: Vec::new(),
            full: Vec::new(),
            freed: vec![Instant::now(); nodes],
            gone: HashSet::new(),
            wiped: None,
            done: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Rages for a while, then puts everything back.
    pub(super) async fn rage(&mut self, span: Duration) -> Result<()> {
        self.began = Instant::now();
        let end = self.began + span;
        let mut next = self.began;
        while Instant::now() < end {
            self.tend()?;
            if Instant::now() >= next {
                self.strike().await?;
                let pause = 300 + self.dice.below(2500);
                next = Instant::now() + Duration::from_millis(pause);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        self.put_back().await
    }

    async fn put_back(&mut self) -> Result<()> {
        let now = Instant::now();
        for state in &mut self.states {
            match state {
                State::Paused { until } | State::Down { until } => *until = now,
                State::Stopping { rest, .. } => *rest = Duration::ZERO,
                State::Up => {}
            }
        }
        for (until, _) in &mut self.cuts {
            *until = now;
        }
        for (until, _) in &mut self.full {
            *until = now;
        }
        while !self.is_peaceful() {
            self.tend()?;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    fn is_peaceful(&self) -> bool {
        let up = self.states.iter().all(|state| matches!(state, State::Up));
        up && self.cuts.is_empty() && self.full.is_empty()
    }

    /// Ends what has lasted long enough, and looks after those who ended by themselves.
    fn tend(&mut self) -> Result<()> {
        let now = Instant::now();
        self.tend_nodes(now)?;
        self.tend_cuts(now);
        if let Some(disks) = self.disks {
            for (_, index) in self.full.extract_if(.., |(until, _)| now >= *until) {
                disks.free(index)?;
                self.freed[index] = now;
            }
        }
        Ok(())
    }

    fn tend_nodes(&mut self, now: Instant) -> Result<()> {
        for index in 0..self.states.len() {
            let node = &mut self.cluster.nodes[index];
            match self.states[index] {
                State::Up => {
                    if let Some(status) = node.ended() {
                        let (name, why) = (&node.member.name, node.last_words());
                        // Nobody can start on a full disk, or on one that was full as it tried.
                        let freed = self.freed[index];
                        let full = self.full.iter().any(|(_, full)| *full == index)
                            || freed > self.started[index] && now < freed + YOUNG;
                        if !full {
                            self.shared
                                .accuse(format!("{name} ended by itself with {status}: {why}"));
                        }
                        node.kill();
                        // Once told, it is given time: one that cannot start would be all we hear of.
                        let until = now + Duration::from_secs(2);
                        self.states[index] = State::Down { until };
                    }
                }
                State::Paused { until } if now >= until => {
                    node.signal("CONT")?;
                    self.states[index] = State::Up;
                }
                State::Down { until } if now >= until => {
                    node.start()?;
                    self.started[index] = now;
                    self.network.process(index, node.pid());
                    self.states[index] = State::Up;
                }
                State::Stopping { since, rest } => {
                    let name = node.member.name.clone();
                    let ended = node.ended();
                    // One that was only just started may not have been listening yet.
                    let young = self.started[index] + YOUNG > since;
                    let fine = |status: &ExitStatus| {
                        status.success() || young && status.signal() == Some(15)
                    };
                    if let Some(status) = ended.filter(|status| !fine(status)) {
                        self.shared
                            .accuse(format!("SIGTERM ended {name} with {status}"));
                    }
                    let late = now > since + STOPPING;
                    if late {
                        self.shared
                            .accuse(format!("{name} still ran {STOPPING:?} after SIGTERM"));
                    }
                    if ended.is_some() || late {
                        node.kill();
                        self.states[index] = State::Down { until: now + rest };
                    }
                }
                State::Paused { .. } | State::Down { .. } => {}
            }
        }
        Ok(())
    }

    fn tend_cuts(&mut self, now: Instant) {
        let due = self.cuts.extract_if(.., |(until, _)| now >= *until);
        for (_, ways) in due.collect::<Vec<_>>() {
            self.network.heal(&ways);
            // A way that another cut holds, too, stays cut.
            for (_, ways) in &self.cuts {
                self.network.cut(ways);
            }
        }
    }

    /// Does one thing to one Node or several.
    async fn strike(&mut self) -> Result<()> {
        let busy = self
            .states
            .iter()
            .filter(|state| !matches!(state, State::Up))
            .count();
        if (busy > 0 || !self.cuts.is_empty()) && self.dice.chance(60) {
            return Ok(());
        }
        let (aim, targets) = self.aim().await?;
        if targets.is_empty() {
            return Ok(());
        }
        let cuts = u64::from(self.arsenal.cuts) * 25;
        let bucket = u64::from(self.arsenal.bucket) * 15;
        let disks = u64::from(self.disks.is_some()) * 12;
        match self.dice.weighted(&[35, 25, 12, cuts, bucket, disks]) {
            0 => self.kill(aim, &targets).await?,
            1 => self.pause(aim, &targets)?,
            2 => self.stop(aim, &targets)?,
            3 => self.cut_off(aim, targets[0]),
            4 => self.take_bucket(&targets),
            _ => self.fill_disks(aim, &targets)?,
        }
        Ok(())
    }

    /// Some Nodes that are up, and how they were chosen.
    async fn aim(&mut self) -> Result<(&'static str, Vec<usize>)> {
        let roles = self.cluster.roles().await?;
        let nodes = self.states.len();
        let random = self.dice.below(nodes as u64) as usize;
        let (aim, mut targets) = match self.dice.weighted(&[30, 30, 20, 12, 8]) {
            0 => ("a Node", vec![random]),
            1 => ("the Primary", roles.primary.into_iter().collect()),
            2 => ("the Elector", roles.elector.into_iter().collect()),
            3 => (
                "Primary and Elector",
                roles.primary.into_iter().chain(roles.elector).collect(),
            ),
            _ => ("all Nodes", (0..nodes).collect()),
        };
        targets.sort_unstable();
        targets.dedup();
        targets.retain(|index| matches!(self.states[*index], State::Up));
        Ok((aim, targets))
    }

    async fn kill(&mut self, aim: &'static str, targets: &[usize]) -> Result<()> {
        let wipe = if self.arsenal.wipes && targets.len() == 1 && self.dice.chance(30) {
            self.may_wipe(targets[0]).await?
        } else {
            None
        };
        for index in targets {
            self.cluster.nodes[*index].kill();
            let until = Instant::now() + Duration::from_millis(self.dice.below(5000));
            self.states[*index] = State::Down { until };
        }
        let what = if let Some(incarnation) = wipe {
            self.cluster.nodes[targets[0]].wipe()?;
            self.shared.forget(targets[0]);
            self.gone.insert(incarnation);
            self.wiped = Some(Instant::now());
            "kill -9 and a deleted disk"
        } else {
            "kill -9"
        };
        self.tell(what, aim, targets, "");
        Ok(())
    }

    /// The disk of `index`, if it may be deleted: every voter still has its disk, so this is a minority of one.
    async fn may_wipe(&self, index: usize) -> Result<Option<String>> {
        if self
            .wiped
            .is_some_and(|wiped| wiped.elapsed() < BETWEEN_DISKS)
        {
            return Ok(None);
        }
        let roles = self.cluster.roles().await?;
        let whole = roles.voters.iter().all(|voter| !self.gone.contains(voter));
        if !whole || !roles.active {
            return Ok(None);
        }
        self.cluster.incarnation(index).await
    }

    fn pause(&mut self, aim: &'static str, targets: &[usize]) -> Result<()> {
        let bound = if self.dice.chance(70) {
            self.arsenal.longest.min(3000)
        } else {
            self.arsenal.longest
        };
        let span = 500 + self.dice.below(bound.saturating_sub(500).max(1));
        for index in targets {
            self.cluster.nodes[*index].signal("STOP")?;
            let until = Instant::now() + Duration::from_millis(span);
            self.states[*index] = State::Paused { until };
        }
        self.tell("SIGSTOP", aim, targets, &format!(" for {span} ms"));
        Ok(())
    }

    fn stop(&mut self, aim: &'static str, targets: &[usize]) -> Result<()> {
        for index in targets {
            self.cluster.nodes[*index].signal("TERM")?;
            self.states[*index] = State::Stopping {
                since: Instant::now(),
                rest: Duration::from_millis(self.dice.below(3000)),
            };
        }
        self.tell("SIGTERM", aim, targets, "");
        Ok(())
    }

    /// Cuts one Node off from all others: both ways, or what it sends, or what it is sent.
    fn cut_off(&mut self, aim: &'static str, node: usize) {
        let others = (0..self.states.len()).filter(|other| *other != node);
        let way = self.dice.below(4);
        let mut ways = Vec::new();
        for other in others {
            if way != 1 {
                ways.push((node, other));
            }
            if way != 2 {
                ways.push((other, node));
            }
        }
        let with_bucket = self.arsenal.bucket && self.dice.chance(40);
        if with_bucket {
            ways.extend([(node, BUCKET), (BUCKET, node)]);
        }
        let span = self.hold(ways);
        let what = match way {
            1 => "a Node that hears nothing",
            2 => "a Node that is not heard",
            _ => "a partition",
        };
        let bucket = if with_bucket { " and the bucket" } else { "" };
        self.tell(what, aim, &[node], &format!("{bucket} for {span} ms"));
    }

    /// Cuts Nodes off from the bucket; what they send may arrive and its answer not.
    fn take_bucket(&mut self, targets: &[usize]) {
        let targets = if self.dice.chance(50) {
            (0..self.states.len()).collect()
        } else {
            targets.to_vec()
        };
        let answers_only = self.dice.chance(50);
        let mut ways: Vec<_> = targets.iter().map(|node| (BUCKET, *node)).collect();
        if !answers_only {
            ways.extend(targets.iter().map(|node| (*node, BUCKET)));
        }
        let span = self.hold(ways);
        let what = if answers_only {
            "no answers from the bucket"
        } else {
            "no bucket"
        };
        self.tell(what, "Nodes", &targets, &format!(" for {span} ms"));
    }

    fn fill_disks(&mut self, aim: &'static str, targets: &[usize]) -> Result<()> {
        let Some(disks) = self.disks else {
            return Ok(());
        };
        let span = 500 + self.dice.below(6000);
        for index in targets {
            disks.fill(*index)?;
            let until = Instant::now() + Duration::from_millis(span);
            self.full.push((until, *index));
        }
        self.tell("a full disk", aim, targets, &format!(" for {span} ms"));
        Ok(())
    }

    fn hold(&mut self, ways: Vec<(usize, usize)>) -> u64 {
        let span = 500 + self.dice.below(8000);
        self.network.cut(&ways);
        let until = Instant::now() + Duration::from_millis(span);
        self.cuts.push((until, ways));
        span
    }

    fn tell(&mut self, what: &'static str, aim: &str, targets: &[usize], more: &str) {
        *self.done.entry(what).or_default() += 1;
        let names: Vec<String> = targets
            .iter()
            .map(|index| (index + 1).to_string())
            .collect();
        println!(
            "  {:>6} ms  {what}: {aim} (node {}){more}",
            self.began.elapsed().as_millis(),
            names.join(", ")
        );
    }
}
