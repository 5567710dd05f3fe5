//! Failover: how long writes stand still when the Primary, the Elector or both are stopped, killed, paused or
//! cut off.
//!
//! One client per Node writes all the time with a short rest between; the gap is what they see together: from
//! the last write acknowledged before the fault to the first that was begun and acknowledged after it. Each
//! run ends with the Node back and the cluster whole, so that runs do not add up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};

use crate::cluster::{Cluster, Plan, Roles};
use crate::dice::{Dice, fresh_seed};
use crate::network::{BUCKET, Network};
use crate::node::{Place, Timing};
use crate::report::median;
use crate::server::Target as _;
use crate::wire::{Client, put_if};

/// Measure how long writes stand still at a failover.
#[derive(Args, Clone, Debug)]
pub(crate) struct Failover {
    /// The netsy binary.
    #[arg(long, default_value = "target/release/netsy")]
    netsy: PathBuf,
    /// Nodes in the cluster.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Runs of each fault.
    #[arg(long, default_value_t = 50)]
    runs: usize,
    /// Only these faults; all of them by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Fault>,
    /// Timeouts of the Nodes.
    #[arg(long, value_enum, default_value_t = Timing::Default)]
    timing: Timing,
    /// Where the bucket is.
    #[arg(long, value_enum, default_value_t = Place::Local)]
    bucket: Place,
    /// Milliseconds a client rests between two writes.
    #[arg(long, default_value_t = 5)]
    rest: u64,
    /// Seconds that writes may stand still before it is a failure.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// Exit non-zero when a floor is missed.
    #[arg(long)]
    check: bool,
}

/// A supervisor starts what was killed so long after: where no majority is left, nothing goes on without it.
const SUPERVISED: Duration = Duration::from_secs(1);

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// SIGTERM to the Primary.
    Graceful,
    /// kill -9 of the Primary, while another Node is Elector.
    Primary,
    /// kill -9 of the Elector, while another Node is Primary.
    Elector,
    /// kill -9 of Primary and Elector, be they one Node or two. Where this leaves no majority, as with two of
    /// three, they are started again a second later.
    Both,
    /// SIGSTOP of the Primary, while another Node is Elector.
    Pause,
    /// The Primary is cut off from the other Nodes for ten seconds; it still reaches the bucket and its clients.
    Partition,
    /// The same, and from the bucket, too. Needs a bucket that can be cut off: `--bucket s3`.
    Exile,
}

/// How long the Primary is cut off.
const CUT: Duration = Duration::from_secs(10);

impl Fault {
    /// The longest gap allowed with default timeouts, in seconds; 0 where writes need not stand still at all.
    fn floor(self) -> Option<f64> {
        match self {
            Fault::Graceful => Some(0.5),
            Fault::Primary => Some(5.0),
            Fault::Both => Some(12.0),
            Fault::Elector | Fault::Pause | Fault::Partition | Fault::Exile => None,
        }
    }

    /// Whether roles are as this fault wants them.
    fn suits(self, roles: &Roles) -> bool {
        let (Some(primary), Some(elector)) = (roles.primary, roles.elector) else {
            return false;
        };
        roles.active
            && match self {
                Fault::Graceful | Fault::Both => true,
                _ => primary != elector,
            }
    }

    fn targets(self, roles: &Roles) -> Vec<usize> {
        let (primary, elector) = (roles.primary, roles.elector);
        let mut targets: Vec<usize> = match self {
            Fault::Elector => elector.into_iter().collect(),
            Fault::Both => primary.into_iter().chain(elector).collect(),
            _ => primary.into_iter().collect(),
        };
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// What is cut, when Node `index` of `nodes` is cut off.
    fn ways(self, index: usize, nodes: usize) -> Vec<(usize, usize)> {
        let others = (0..nodes).filter(|other| *other != index);
        let bucket = (self == Fault::Exile).then_some(BUCKET);
        let ends = others.chain(bucket);
        ends.flat_map(|end| [(index, end), (end, index)]).collect()
    }

    fn cuts(self) -> bool {
        matches!(self, Fault::Partition | Fault::Exile)
    }
}

const FAULTS: [Fault; 7] = [
    Fault::Graceful,
    Fault::Primary,
    Fault::Elector,
    Fault::Both,
    Fault::Pause,
    Fault::Partition,
    Fault::Exile,
];

/// When writes were begun and acknowledged, over all clients.
#[derive(Debug, Default)]
struct Acknowledged {
    /// When each that counts was begun and answered, in order of the answers.
    times: Mutex<Vec<(Instant, Instant)>>,
    over: AtomicBool,
}

impl Acknowledged {
    fn times<T>(&self, look: impl FnOnce(&mut Vec<(Instant, Instant)>) -> T) -> T {
        look(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Failover {
    /// Runs every fault and prints what the gaps were.
    pub(crate) async fn run(self) -> Result<()> {
        let dir = tempfile::Builder::new()
            .prefix("netsy-failover-")
            .tempdir()?;
        let faults = self.faults()?;
        // Relays only where something is to be cut: they take their time.
        let cuts = faults.iter().any(|fault| fault.cuts());
        let network = cuts.then(|| Network::new(self.nodes));
        let plan = Plan {
            binary: &self.netsy,
            dir: dir.path(),
            count: self.nodes,
            place: self.bucket,
            prefix: format!("failover-{}", std::process::id()),
            timing: self.timing,
            more: "",
            network: network.as_ref(),
        };
        let mut trial = Trial {
            cluster: Cluster::lay_out(&plan).await?,
            network: network.clone(),
        };
        for index in 0..self.nodes {
            trial.start(index)?;
        }
        trial.cluster.ready(Duration::from_secs(60)).await?;
        let outcome = self.all(&mut trial, &faults).await;
        if outcome.is_err() {
            println!("kept: {}", dir.keep().display());
        }
        outcome
    }

    /// The faults asked for; all that this bucket allows by default.
    fn faults(&self) -> Result<Vec<Fault>> {
        let possible = |fault: &Fault| *fault != Fault::Exile || self.bucket == Place::S3;
        if let Some(fault) = self.only.iter().find(|fault| !possible(fault)) {
            bail!("{fault:?} needs a bucket that can be cut off: --bucket s3, under .ci/s3");
        }
        let wanted = |fault: &Fault| self.only.is_empty() || self.only.contains(fault);
        let faults = FAULTS.into_iter();
        Ok(faults.filter(wanted).filter(possible).collect())
    }

    async fn all(&self, trial: &mut Trial, faults: &[Fault]) -> Result<()> {
        let acknowledged = Arc::new(Acknowledged::default());
        let clients: Vec<_> = trial
            .cluster
            .endpoints()
            .into_iter()
            .enumerate()
            .map(|(number, endpoint)| {
                tokio::spawn(write(number, endpoint, self.rest, acknowledged.clone()))
            })
            .collect();
        let mut dice = Dice::new(fresh_seed());
        let mut missed = Vec::new();
        println!(
            "{} Nodes, timeouts {:?}, gaps in milliseconds",
            self.nodes, self.timing
        );
        println!("fault      runs     p50     p90     max   floor");
        for fault in faults.iter().copied() {
            let mut gaps = Vec::new();
            for _ in 0..self.runs {
                gaps.push(self.once(trial, fault, &acknowledged, &mut dice).await?);
            }
            missed.extend(self.tell(fault, &gaps));
        }
        acknowledged.over.store(true, Ordering::SeqCst);
        for client in clients {
            client.await??;
        }
        for miss in &missed {
            println!("MISSED {miss}");
        }
        if self.check && !missed.is_empty() {
            bail!("{} floors missed", missed.len());
        }
        Ok(())
    }

    fn tell(&self, fault: Fault, gaps: &[f64]) -> Option<String> {
        let mut sorted = gaps.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let p90 = sorted.get(last * 9 / 10).copied().unwrap_or(0.0);
        let max = sorted.last().copied().unwrap_or(0.0);
        let floor = fault.floor().filter(|_| self.timing == Timing::Default);
        println!(
            "{:<9} {:>5} {:>7.0} {p90:>7.0} {max:>7.0} {}",
            format!("{fault:?}").to_lowercase(),
            gaps.len(),
            median(sorted),
            floor.map_or_else(
                || "      -".to_owned(),
                |floor| format!("{:>7.0}", floor * 1000.0)
            ),
        );
        let floor = floor.filter(|floor| max > floor * 1000.0)?;
        Some(format!(
            "{fault:?}: {max:.0} ms, the floor is {:.0}",
            floor * 1000.0
        ))
    }

    /// One fault; the gap in milliseconds.
    async fn once(
        &self,
        trial: &mut Trial,
        fault: Fault,
        acknowledged: &Acknowledged,
        dice: &mut Dice,
    ) -> Result<f64> {
        let roles = self.arrange(trial, fault).await?;
        // Somewhere between two heartbeats and renewals, and not always at the same place.
        tokio::time::sleep(Duration::from_millis(1500 + dice.below(2500))).await;
        let now = trial.cluster.roles().await?;
        let roles = if fault.suits(&now) { now } else { roles };
        let targets = fault.targets(&roles);
        let last = acknowledged.times(|times| times.last().map(|(_, answered)| *answered));
        let last = last.context("no write was acknowledged before the fault")?;
        let begun = Instant::now();
        for index in &targets {
            let node = &mut trial.cluster.nodes[*index];
            match fault {
                Fault::Graceful => node.signal("TERM")?,
                Fault::Pause => node.signal("STOP")?,
                Fault::Partition | Fault::Exile => trial.cut(&fault.ways(*index, self.nodes)),
                _ => node.kill(),
            }
        }
        let struck = Instant::now();
        let too_many = fault == Fault::Both && targets.len() * 2 >= self.nodes;
        if too_many {
            tokio::time::sleep(SUPERVISED).await;
            for index in &targets {
                trial.start(*index)?;
            }
        }
        let gap = self.gap(acknowledged, fault, (last, begun, struck)).await;
        if gap.is_ok() && !too_many {
            self.put_back(trial, fault, &targets).await?;
        }
        gap
    }

    /// Waits for the first write after the fault, then for the longest time without one.
    async fn gap(
        &self,
        acknowledged: &Acknowledged,
        fault: Fault,
        (last, begun, struck): (Instant, Instant, Instant),
    ) -> Result<f64> {
        let patience = Duration::from_secs(self.patience);
        // A Primary that drains goes on for a while: the gap is the longest rest after the fault.
        let settle = match fault {
            Fault::Graceful => Duration::from_secs(3),
            Fault::Elector => Duration::from_secs(1),
            // Who is cut off may go on for a while by way of the bucket.
            Fault::Partition | Fault::Exile => CUT,
            _ => Duration::ZERO,
        };
        loop {
            let answers: Vec<Instant> = acknowledged.times(|times| {
                let after = times.iter().filter(|(_, answered)| *answered >= last);
                after.map(|(_, answered)| *answered).collect()
            });
            let new = acknowledged.times(|times| times.iter().any(|(begun, _)| *begun > struck));
            if new && begun.elapsed() > settle {
                let gaps = answers.windows(2).map(|pair| pair[1] - pair[0]);
                let longest = gaps.max().unwrap_or_default();
                acknowledged.times(|times| {
                    let keep = times.len().saturating_sub(1);
                    times.drain(..keep);
                });
                return Ok(longest.as_secs_f64() * 1000.0);
            }
            if begun.elapsed() > patience {
                bail!("{fault:?}: no write was acknowledged for {patience:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Gets roles as the fault wants them: where Primary and Elector are one Node, it is stopped and started.
    async fn arrange(&self, trial: &mut Trial, fault: Fault) -> Result<Roles> {
        let patience = Duration::from_secs(self.patience);
        for _ in 0..10 {
            trial.cluster.ready(patience).await?;
            let roles = self.whole(&trial.cluster).await?;
            if fault.suits(&roles) {
                return Ok(roles);
            }
            if let Some(index) = roles.primary {
                trial.cluster.nodes[index].terminate(patience).await?;
                trial.start(index)?;
            }
        }
        bail!("{fault:?}: Primary and Elector are always the same Node")
    }

    /// Waits until every Node is a voter again.
    async fn whole(&self, cluster: &Cluster) -> Result<Roles> {
        let deadline = Instant::now() + Duration::from_secs(self.patience);
        loop {
            let roles = cluster.roles().await?;
            if roles.active && roles.elector.is_some() && roles.voters.len() == self.nodes {
                return Ok(roles);
            }
            if Instant::now() > deadline {
                bail!("the cluster is not whole again: {roles:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn put_back(&self, trial: &mut Trial, fault: Fault, targets: &[usize]) -> Result<()> {
        let patience = Duration::from_secs(self.patience);
        for index in targets {
            let node = &mut trial.cluster.nodes[*index];
            match fault {
                Fault::Pause => node.signal("CONT")?,
                Fault::Partition | Fault::Exile => trial.heal(&fault.ways(*index, self.nodes)),
                Fault::Graceful => {
                    let deadline = Instant::now() + patience;
                    while node.ended().is_none() {
                        if Instant::now() > deadline {
                            bail!("{} still ran {patience:?} after SIGTERM", node.member.name);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    trial.start(*index)?;
                }
                _ => trial.start(*index)?,
            }
        }
        trial.cluster.ready(patience).await
    }
}

/// The cluster, and the network that it may be cut off by.
struct Trial {
    cluster: Cluster,
    network: Option<Network>,
}

impl Trial {
    fn start(&mut self, index: usize) -> Result<()> {
        let node = &mut self.cluster.nodes[index];
        node.start()?;
        if let Some(network) = &self.network {
            network.process(index, node.pid());
        }
        Ok(())
    }

    fn cut(&self, ways: &[(usize, usize)]) {
        if let Some(network) = &self.network {
            network.cut(ways);
        }
    }

    fn heal(&self, ways: &[(usize, usize)]) {
        if let Some(network) = &self.network {
            network.heal(ways);
        }
    }
}

/// Writes new keys through one Node for ever.
async fn write(number: usize, endpoint: String, rest: u64, to: Arc<Acknowledged>) -> Result<()> {
    let mut client = Client::new(&endpoint)?;
    for count in 0_u64.. {
        if to.over.load(Ordering::Relaxed) {
            break;
        }
        let key: Bytes = format!("failover/{number}/{count}").into();
        let begun = Instant::now();
        let mut kv = client.kv();
        let txn = kv.txn(put_if(&key, 0, key.clone()));
        match tokio::time::timeout(Duration::from_secs(1), txn).await {
            Ok(Ok(_)) => to.times(|times| times.push((begun, Instant::now()))),
            Ok(Err(_)) => {}
            // A paused Node answers nobody; a connection of its own is not worth keeping.
            Err(_) => client = Client::new(&endpoint)?,
        }
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_find_their_targets() {
        let roles = |primary, elector| Roles {
            primary: Some(primary),
            elector: Some(elector),
            active: true,
            ..Roles::default()
        };
        assert_eq!(Fault::Both.targets(&roles(2, 0)), [0, 2]);
        assert_eq!(Fault::Both.targets(&roles(1, 1)), [1]);
        assert_eq!(Fault::Elector.targets(&roles(2, 0)), [0]);
        assert!(!Fault::Primary.suits(&roles(1, 1)) && Fault::Graceful.suits(&roles(1, 1)));
        assert!(!Fault::Graceful.suits(&Roles::default()));
        assert_eq!(
            Fault::Partition.ways(1, 3),
            [(1, 0), (0, 1), (1, 2), (2, 1)]
        );
        assert!(Fault::Exile.ways(1, 3).contains(&(BUCKET, 1)));
    }
}
