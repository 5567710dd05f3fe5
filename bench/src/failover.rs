//! Failover: how long writes stand still when the Primary, the Elector or both are stopped, killed or paused.
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
}

impl Fault {
    /// The longest gap allowed with default timeouts, in seconds; 0 where writes need not stand still at all.
    fn floor(self) -> Option<f64> {
        match self {
            Fault::Graceful => Some(0.5),
            Fault::Primary => Some(5.0),
            Fault::Both => Some(12.0),
            Fault::Elector | Fault::Pause => None,
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
                Fault::Primary | Fault::Elector | Fault::Pause => primary != elector,
            }
    }

    fn targets(self, roles: &Roles) -> Vec<usize> {
        let (primary, elector) = (roles.primary, roles.elector);
        let mut targets: Vec<usize> = match self {
            Fault::Graceful | Fault::Primary | Fault::Pause => primary.into_iter().collect(),
            Fault::Elector => elector.into_iter().collect(),
            Fault::Both => primary.into_iter().chain(elector).collect(),
        };
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}

const FAULTS: [Fault; 5] = [
    Fault::Graceful,
    Fault::Primary,
    Fault::Elector,
    Fault::Both,
    Fault::Pause,
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
        let plan = Plan {
            binary: &self.netsy,
            dir: dir.path(),
            count: self.nodes,
            place: Place::Local,
            prefix: "failover".to_owned(),
            timing: self.timing,
            more: "",
            network: None,
        };
        let mut cluster = Cluster::lay_out(&plan).await?;
        cluster.start_all(Duration::from_secs(60)).await?;
        let outcome = self.all(&mut cluster).await;
        if outcome.is_err() {
            println!("kept: {}", dir.keep().display());
        }
        outcome
    }

    async fn all(&self, cluster: &mut Cluster) -> Result<()> {
        let acknowledged = Arc::new(Acknowledged::default());
        let clients: Vec<_> = cluster
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
        for fault in FAULTS {
            if !self.only.is_empty() && !self.only.contains(&fault) {
                continue;
            }
            let mut gaps = Vec::new();
            for _ in 0..self.runs {
                gaps.push(self.once(cluster, fault, &acknowledged, &mut dice).await?);
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
        cluster: &mut Cluster,
        fault: Fault,
        acknowledged: &Acknowledged,
        dice: &mut Dice,
    ) -> Result<f64> {
        let roles = self.arrange(cluster, fault).await?;
        // Somewhere between two heartbeats and renewals, and not always at the same place.
        tokio::time::sleep(Duration::from_millis(1500 + dice.below(2500))).await;
        let now = cluster.roles().await?;
        let roles = if fault.suits(&now) { now } else { roles };
        let targets = fault.targets(&roles);
        let last = acknowledged.times(|times| times.last().map(|(_, answered)| *answered));
        let last = last.context("no write was acknowledged before the fault")?;
        let begun = Instant::now();
        for index in &targets {
            match fault {
                Fault::Graceful => cluster.nodes[*index].signal("TERM")?,
                Fault::Pause => cluster.nodes[*index].signal("STOP")?,
                _ => cluster.nodes[*index].kill(),
            }
        }
        let struck = Instant::now();
        let too_many = fault == Fault::Both && targets.len() * 2 >= self.nodes;
        if too_many {
            tokio::time::sleep(SUPERVISED).await;
            for index in &targets {
                cluster.nodes[*index].start()?;
            }
        }
        let gap = self.gap(acknowledged, fault, (last, begun, struck)).await;
        if gap.is_ok() && !too_many {
            self.put_back(cluster, fault, &targets).await?;
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
    async fn arrange(&self, cluster: &mut Cluster, fault: Fault) -> Result<Roles> {
        let patience = Duration::from_secs(self.patience);
        for _ in 0..10 {
            cluster.ready(patience).await?;
            let roles = self.whole(cluster).await?;
            if fault.suits(&roles) {
                return Ok(roles);
            }
            if let Some(index) = roles.primary {
                let node = &mut cluster.nodes[index];
                node.terminate(patience).await?;
                node.start()?;
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

    async fn put_back(&self, cluster: &mut Cluster, fault: Fault, targets: &[usize]) -> Result<()> {
        let patience = Duration::from_secs(self.patience);
        for index in targets {
            let node = &mut cluster.nodes[*index];
            match fault {
                Fault::Pause => node.signal("CONT")?,
                Fault::Graceful => {
                    let deadline = Instant::now() + patience;
                    while node.ended().is_none() {
                        if Instant::now() > deadline {
                            bail!("{} still ran {patience:?} after SIGTERM", node.member.name);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    node.start()?;
                }
                _ => node.start()?,
            }
        }
        cluster.ready(patience).await
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
    }
}
