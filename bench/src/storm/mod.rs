//! Storms: a cluster under clients on every Node, while a nemesis kills, pauses, stops and cuts off its Nodes;
//! after each round it must come back by itself, and all that anybody was shown must fit one history.
//!
//! What is checked: no acknowledged write lost or there twice, one content per Revision, linearizable answers
//! never behind what was known when they were asked for, no Node ever behind itself, each read exactly what
//! the log says as of its Revision, each watch exactly the log, all Nodes the same, the bucket's chain whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::task::JoinHandle;

mod clients;
mod disks;
mod history;
mod nemesis;
mod shared;
mod watchers;

use crate::chain::Chain;
use crate::cluster::{Cluster, Plan};
use crate::dice::{Dice, fresh_seed};
use crate::kill::ledger::{Content, Violation};
use crate::kill::replay;
use crate::network::Network;
use crate::node::{Place, Timing, disk};
use crate::wire::Client;
use crate::wire::datafile::RecordKind;
use disks::Disks;
use history::Log;
use nemesis::{Arsenal, Nemesis};
use shared::{GROUP, Shared};

/// Clients at work.
type Tasks = Vec<JoinHandle<()>>;

/// Put a cluster under every fault at once; it must keep every promise.
#[derive(Args, Clone, Debug)]
pub(crate) struct Storm {
    /// The netsy binary, sabotaged or not.
    #[arg(long, default_value = "target/release/netsy")]
    netsy: PathBuf,
    /// Nodes in the cluster.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Rounds; each ends with everything put back and judged.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Seconds of faults per round.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where the bucket is. Local files cannot be made to fail; S3 is reached through relays that can.
    #[arg(long, value_enum, default_value_t = Place::Local)]
    bucket: Place,
    /// Timeouts of the Nodes.
    #[arg(long, value_enum, default_value_t = Timing::Dev)]
    timing: Timing,
    /// Clients at once.
    #[arg(long, default_value_t = 24)]
    clients: usize,
    /// Groups of eight keys that they all write.
    #[arg(long, default_value_t = 40)]
    groups: usize,
    /// Longest pause in milliseconds.
    #[arg(long, default_value_t = 15_000)]
    longest: u64,
    /// No disk is ever deleted.
    #[arg(long)]
    keep_disks: bool,
    /// MiB of each Node's disk, which is filled now and then. 0 leaves disks as they are; others need root.
    #[arg(long, default_value_t = 0)]
    small_disks: u64,
    /// No partitions; peers reach one another straight.
    #[arg(long)]
    no_cuts: bool,
    /// Seconds the cluster may take to come back after a round.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// A Snapshot after this many Records.
    #[arg(long, default_value_t = 5000)]
    snapshot: u64,
    /// Go on after a violation, to see what else there is; the run fails all the same.
    #[arg(long)]
    go_on: bool,
    /// Falsify an answer now and then, on this side: the run must fail.
    #[arg(long)]
    sabotage: bool,
    /// The seed; drawn and printed by default. Timing is the machine's, so it repeats choices, not outcomes.
    #[arg(long)]
    seed: Option<u64>,
    /// Where everything lies; a temporary directory by default, kept after a violation.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Everything that lasts over the rounds.
struct Trial {
    options: Storm,
    cluster: Cluster,
    network: Network,
    /// Disks that can be filled, if they can.
    disks: Option<Disks>,
    dice: Dice,
    shared: Arc<Shared>,
    log: Log,
    chain: Chain,
    /// Violations so far, where the run goes on.
    found: usize,
}

impl Storm {
    /// Runs the rounds; an error names the first violations and where everything was kept.
    pub(crate) async fn run(self) -> Result<()> {
        let seed = self.seed.unwrap_or_else(fresh_seed);
        let temporary = tempfile::Builder::new().prefix("netsy-storm-").tempdir()?;
        let dir = self
            .dir
            .clone()
            .unwrap_or_else(|| temporary.path().to_owned());
        std::fs::create_dir_all(&dir)?;
        println!(
            "seed {seed}, {} Nodes, {} rounds of {} s, bucket {:?}, timeouts {:?}, {} clients, in {}",
            self.nodes,
            self.rounds,
            self.seconds,
            self.bucket,
            self.timing,
            self.clients,
            dir.display()
        );
        if self.bucket == Place::Local {
            println!("the bucket is local files: faults of the bucket are left out");
        }
        let mut trial = Trial::new(self, &dir, seed).await?;
        let outcome = trial.run().await;
        trial.tell_logs();
        if outcome.is_err() {
            println!("seed {seed}; kept: {}", dir.display());
            let _ = temporary.keep();
        }
        outcome
    }

    fn arsenal(&self) -> Arsenal {
        Arsenal {
            longest: self.longest,
            wipes: !self.keep_disks,
            cuts: !self.no_cuts,
            bucket: self.bucket == Place::S3,
        }
    }
}

impl Trial {
    async fn new(options: Storm, dir: &Path, seed: u64) -> Result<Trial> {
        let network = Network::new(options.nodes);
        let snapshots = format!(
            "[snapshots]\nrecords = {}\ncheck_interval = \"500ms\"\n[watch]\nprogress_interval = \"1s\"\n",
            options.snapshot
        );
        let relayed = !options.no_cuts || options.bucket == Place::S3;
        let plan = Plan {
            binary: &options.netsy,
            dir,
            count: options.nodes,
            place: options.bucket,
            prefix: format!("storm-{seed}"),
            timing: options.timing,
            more: &snapshots,
            network: relayed.then_some(&network),
        };
        let cluster = Cluster::lay_out(&plan).await?;
        let places = cluster.nodes.iter().map(|node| disk(&node.member.dir));
        let small = options.small_disks;
        let disks = (small > 0).then(|| Disks::mount(places.collect(), small));
        let disks = disks.transpose()?;
        let shared = Shared::new(options.nodes, options.groups * GROUP, options.sabotage);
        Ok(Trial {
            options,
            cluster,
            network,
            disks,
            dice: Dice::new(seed),
            shared,
            log: Log::default(),
            chain: Chain::default(),
            found: 0,
        })
    }

    async fn run(&mut self) -> Result<()> {
        let patience = Duration::from_secs(self.options.patience);
        for node in &mut self.cluster.nodes {
            node.start()?;
        }
        self.tell_network();
        self.cluster.ready(patience).await?;
        for round in 1..=self.options.rounds {
            self.round(round).await?;
        }
        self.close().await
    }

    fn tell_network(&self) {
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            self.network.process(index, node.pid());
        }
    }

    /// Clients and faults, then peace, then judgement.
    async fn round(&mut self, round: u64) -> Result<()> {
        println!("round {round}");
        let clients = self.clients()?;
        let span = Duration::from_secs(self.options.seconds);
        let dice = Dice::new(self.dice.next());
        let arsenal = self.options.arsenal();
        let mut nemesis = Nemesis::new(
            &mut self.cluster,
            &self.network,
            self.disks.as_ref(),
            &self.shared,
            dice,
            arsenal,
        );
        nemesis.rage(span).await?;
        let calm = Instant::now();
        self.come_back().await?;
        let back = calm.elapsed();
        self.shared.over.store(true, Ordering::SeqCst);
        for client in clients.0 {
            client.await?;
        }
        let end = self.replay(round).await?;
        self.shared.goal.store(end, Ordering::SeqCst);
        for watch in clients.1 {
            watch.await?;
        }
        self.judge("under way", self.shared.violations())?;
        let judged = self.judge_answers()?;
        self.compare_nodes(end).await?;
        self.chain
            .extend(&self.cluster.bucket)
            .await
            .context("the chain in the bucket")?;
        println!(
            "  back in {} ms; the log ends at {end}; {judged}",
            back.as_millis()
        );
        println!("  {}", self.counted());
        Ok(())
    }

    /// Waits until every Node answers. One that ends by itself meanwhile is a violation, and started again.
    async fn come_back(&mut self) -> Result<()> {
        let patience = Duration::from_secs(self.options.patience);
        let deadline = Instant::now() + patience;
        for index in 0..self.options.nodes {
            let node = &mut self.cluster.nodes[index];
            while let Err(error) = node.ready(deadline - Instant::now()).await {
                let name = node.member.name.clone();
                if node.ended().is_none() || Instant::now() > deadline {
                    let error = error.context(format!("{name} did not come back in {patience:?}"));
                    let roles = self.cluster.roles().await;
                    self.judge("while it was under way", self.shared.violations())?;
                    return Err(error.context(format!("{roles:?}")));
                }
                self.shared
                    .accuse(format!("{name} ended by itself: {}", node.last_words()));
                node.kill();
                tokio::time::sleep(Duration::from_secs(1)).await;
                node.start()?;
                self.network.process(index, node.pid());
            }
        }
        Ok(())
    }

    /// Starts clients and watches.
    fn clients(&mut self) -> Result<(Tasks, Tasks)> {
        self.shared.over.store(false, Ordering::SeqCst);
        self.shared.goal.store(0, Ordering::SeqCst);
        let mut connections: Vec<Vec<Client>> = Vec::new();
        let mut watched = Vec::new();
        for node in &self.cluster.nodes {
            connections.push((0..3).map(|_| node.client()).collect::<Result<_>>()?);
            watched.push(node.client()?);
        }
        let clients = clients::clients(
            &connections,
            &self.shared,
            self.options.clients,
            &mut self.dice,
        );
        let watches = watchers::watchers(&watched, &self.shared, self.log.end + 1, &mut self.dice);
        Ok((clients, watches))
    }

    /// Reads the log at one Node and judges it by the ledger. Returns where it ends.
    async fn replay(&mut self, round: u64) -> Result<i64> {
        let client = self.cluster.nodes[round as usize % self.options.nodes].client()?;
        let start = (self.log.end - 500).max(1);
        let mut ledger = self.shared.ledger(std::mem::take);
        let replayed =
            replay::replay(&client, &mut ledger, start, &format!("marker/{round}")).await;
        ledger.keep_open();
        self.shared.ledger(|empty| *empty = ledger);
        let replayed = replayed?;
        let mut violations = replayed.violations;
        violations.extend(self.log.extend(&replayed.log, replayed.end));
        self.judge("in the log", violations)?;
        Ok(replayed.end)
    }

    /// Holds reads and watches against the log. Returns how many there were, in words.
    fn judge_answers(&mut self) -> Result<String> {
        let (reads, watches) = (self.shared.reads(), self.shared.watches());
        let mut violations: Vec<Violation> = Vec::new();
        violations.extend(reads.iter().filter_map(|read| self.log.judge_read(read)));
        violations.extend(watches.iter().filter_map(|seen| self.log.judge_watch(seen)));
        self.judge("in what was shown", violations)?;
        Ok(format!(
            "{} keys in answers and {} watches fit it",
            reads.len(),
            watches.len()
        ))
    }

    /// Every Node must have the same log and the same state.
    async fn compare_nodes(&mut self, end: i64) -> Result<()> {
        let start = (end - 20_000).max(1);
        let mut violations = Vec::new();
        for node in &self.cluster.nodes {
            let (name, client) = (&node.member.name, node.client()?);
            let events = replay::read_log(&client, start, end).await;
            let events = events.with_context(|| format!("reading the log of {name}"))?;
            violations.extend(self.log.judge_events(name, start, &events));
            let held = replay::listed(&client, end).await;
            let held = held.with_context(|| format!("listing {name}"))?;
            violations.extend(self.log.judge_state(name, &held));
        }
        self.judge("between the Nodes", violations)
    }

    /// Stops all Nodes as an operator would; the bucket must hold everything then.
    async fn close(&mut self) -> Result<()> {
        for node in &mut self.cluster.nodes {
            let status = node.terminate(Duration::from_secs(90)).await?;
            ensure!(
                status.success(),
                "SIGTERM ended {} with {status}",
                node.member.name
            );
        }
        self.chain
            .extend(&self.cluster.bucket)
            .await
            .context("the chain in the bucket")?;
        self.chain.verify(&self.cluster.bucket).await?;
        let mut violations = Vec::new();
        self.shared.ledger(|ledger| {
            for (revision, content) in ledger.promised() {
                let record = self.chain.records.get(revision);
                let held = record.filter(|record| record.kind() == RecordKind::RecordWrite);
                let held = held.map(|record| Content {
                    key: record.key.clone(),
                    value: (!record.deleted).then(|| record.value.clone()),
                });
                if held.as_ref() != Some(content) {
                    violations.push(format!(
                        "Revision {revision} is not in the bucket as promised"
                    ));
                }
            }
        });
        self.judge("in the bucket, all Nodes stopped", violations)?;
        ensure!(self.found == 0, "{} violations, see above", self.found);
        println!(
            "no violation: every promise was kept; the chain to {} in {} Chunks is whole",
            self.chain.end,
            self.chain.chunk_count()
        );
        Ok(())
    }

    fn judge(&mut self, when: &str, violations: Vec<Violation>) -> Result<()> {
        if violations.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = violations.iter().take(12).map(String::as_str).collect();
        let told = format!(
            "{} violations {when}:\n  {}",
            violations.len(),
            shown.join("\n  ")
        );
        ensure!(self.options.go_on, "{told}\n{}", self.counted());
        println!("{told}");
        self.found += violations.len();
        Ok(())
    }

    /// Operations so far.
    fn counted(&self) -> String {
        let (acknowledged, unknown) = self
            .shared
            .ledger(|ledger| (ledger.acknowledged, ledger.unknown));
        let counts = &self.shared.counts;
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let reads = of(&counts.linearizable) + of(&counts.serializable) + of(&counts.lists);
        format!(
            "so far {} operations: {acknowledged} writes acknowledged, {} refused, {unknown} unknown; {} linearizable \
             and {} serializable reads, {} lists, {} reads failed; {} events, {} streams resumed",
            acknowledged + of(&counts.refused) + unknown + reads,
            of(&counts.refused),
            of(&counts.linearizable),
            of(&counts.serializable),
            of(&counts.lists),
            of(&counts.failed_reads),
            of(&counts.events),
            of(&counts.resumed),
        )
    }

    /// Names what the Nodes' logs say of trouble that should never be.
    fn tell_logs(&self) {
        for node in &self.cluster.nodes {
            let log = node.log();
            let bad = |line: &&str| {
                ["panicked", "\"ERROR\"", "CORRUPT", "assertion"]
                    .iter()
                    .any(|word| line.contains(word))
            };
            let lines: Vec<&str> = log.lines().filter(bad).collect();
            for line in lines.iter().take(4) {
                println!("{}: {line}", node.member.name);
            }
            if lines.len() > 4 {
                println!(
                    "{}: and {} more such lines",
                    node.member.name,
                    lines.len() - 4
                );
            }
        }
    }
}
