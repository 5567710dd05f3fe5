//! kill -9 rounds: a server under load is killed at a random moment, perhaps loses its disk, starts again,
//! and must have kept every promise it ever made; then the bucket's chain is checked without it.
//!
//! The bucket is a local directory, or an S3 server that `.ci/s3` describes in the environment. Any netsy
//! binary can be put to it: one that was sabotaged on purpose must fail here.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

mod clients;
pub(crate) mod ledger;
pub(crate) mod replay;

use crate::chain::{Bucket, Chain};
use crate::dice::{Dice, fresh_seed};
use crate::node::{Place, Placed, disk, s3_endpoint};
use crate::server::{Kind, Server, free_port};
use crate::wire::datafile::RecordKind;
use clients::Shared;
use ledger::Content;

/// Kill a server again and again; it must keep every promise.
#[derive(Args, Clone, Debug)]
pub(crate) struct Kill {
    /// The netsy binary, sabotaged or not.
    #[arg(long, default_value = "target/debug/netsy")]
    netsy: PathBuf,
    /// How often it is killed.
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// Where the bucket is.
    #[arg(long, value_enum, default_value_t = Place::Local)]
    bucket: Place,
    /// What happens to the Node's disk between rounds.
    #[arg(long, value_enum, default_value_t = Disk::Mixed)]
    disk: Disk,
    /// Writers at once.
    #[arg(long, default_value_t = 24)]
    clients: u64,
    /// Longest load before a kill, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    longest: u64,
    /// Seconds a start may take.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Rounds between replays of the whole log; the rounds between read what is new.
    #[arg(long, default_value_t = 10)]
    full: u64,
    /// A Snapshot after this many Records.
    #[arg(long, default_value_t = 4000)]
    snapshot: u64,
    /// The seed; drawn and printed by default. Timing is the machine's, so it repeats choices, not outcomes.
    #[arg(long)]
    seed: Option<u64>,
    /// Where everything lies; a temporary directory by default, kept after a violation.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What happens to the Node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Disk {
    Keep,
    Delete,
    /// Either, by chance.
    Mixed,
}

/// Everything that lasts over the rounds.
struct Trial {
    options: Kill,
    dir: PathBuf,
    kind: Kind,
    port: u16,
    bucket: Bucket,
    dice: Dice,
    shared: std::sync::Arc<Shared>,
    chain: Chain,
}

impl Kill {
    /// Runs the rounds; an error names the first violations and where everything was kept.
    pub(crate) async fn run(self) -> Result<()> {
        let seed = self.seed.unwrap_or_else(fresh_seed);
        let temporary = tempfile::Builder::new().prefix("netsy-kill-").tempdir()?;
        let dir = self
            .dir
            .clone()
            .unwrap_or_else(|| temporary.path().to_owned());
        std::fs::create_dir_all(&dir)?;
        println!(
            "seed {seed}, {} rounds, bucket {:?}, disk {:?}, in {}",
            self.rounds,
            self.bucket,
            self.disk,
            dir.display()
        );
        let mut trial = Trial::new(self, dir, seed)?;
        let outcome = trial.run().await;
        if outcome.is_err() {
            println!("kept: {}", temporary.keep().display());
        }
        outcome
    }
}

impl Trial {
    fn new(options: Kill, dir: PathBuf, seed: u64) -> Result<Trial> {
        let port = free_port()?;
        let placed = match options.bucket {
            Place::Local => Placed::local(&dir)?,
            Place::S3 => Placed::s3(&format!("kill-{seed}"), &s3_endpoint()?)?,
        };
        let snapshots = format!(
            "[snapshots]\nrecords = {}\ncheck_interval = \"500ms\"\n",
            options.snapshot
        );
        let kind = placed.serve(&options.netsy, &dir, port, &snapshots)?;
        let bucket = placed.bucket;
        let (dice, chain) = (Dice::new(seed), Chain::default());
        Ok(Trial {
            options,
            dir,
            kind,
            port,
            bucket,
            dice,
            shared: Shared::new(),
            chain,
        })
    }

    async fn run(&mut self) -> Result<()> {
        for round in 1..=self.options.rounds {
            let start = Instant::now();
            let (mut server, kills) = self.start().await?;
            let ready = start.elapsed();
            let whole = round % self.options.full == 0;
            let replayed = self.replay(&server, round, whole).await?;
            let ended = self.load(&mut server, round, replayed).await?;
            let chained = self.check_chain().await?;
            let disk = self.treat_disk()?;
            let (acknowledged, unknown) = self
                .shared
                .ledger(|ledger| (ledger.acknowledged, ledger.unknown));
            println!(
                "round {round:>3}: ready in {:>5} ms after {kills} kills while starting; {ended}; {acknowledged} \
                 acknowledged, {unknown} unknown so far; {chained}; {disk}",
                ready.as_millis(),
            );
        }
        let (server, _) = self.start().await?;
        let end = self.replay(&server, self.options.rounds + 1, true).await?;
        drop(server);
        self.check_chain().await?;
        self.chain.verify(&self.bucket).await?;
        println!(
            "{} rounds, the log up to {end} is whole, every promise was kept",
            self.options.rounds
        );
        Ok(())
    }

    /// Starts the server, now and then killing it before it is ready. Returns how often.
    async fn start(&mut self) -> Result<(Server, u32)> {
        let mut kills = 0;
        loop {
            let mut server = Server::spawn(&self.kind, &self.dir, self.port)?;
            if kills < 3 && self.dice.chance(25) {
                tokio::time::sleep(Duration::from_millis(self.dice.below(700))).await;
                server.kill();
                kills += 1;
                continue;
            }
            server
                .ready(Duration::from_secs(self.options.patience))
                .await?;
            return Ok((server, kills));
        }
    }

    /// Reads the log and judges it. Returns where it ends.
    async fn replay(&mut self, server: &Server, round: u64, whole: bool) -> Result<i64> {
        let settled = self.shared.ledger(|ledger| ledger.settled_through);
        // What is new, and some of what was settled before it.
        let start = if whole { 1 } else { (settled - 500).max(1) };
        let mut ledger = self.shared.ledger(std::mem::take);
        let replayed = replay::replay(
            &server.client()?,
            &mut ledger,
            start,
            &format!("marker/{round}"),
        )
        .await;
        self.shared.ledger(|empty| *empty = ledger);
        let replayed = replayed?;
        self.judge(
            &format!(
                "after the start of round {round}, {} events",
                replayed.events
            ),
            replayed.violations,
        )?;
        Ok(replayed.end)
    }

    /// Puts load on the server and ends it. Returns how it ended, in words.
    async fn load(&mut self, server: &mut Server, round: u64, end: i64) -> Result<String> {
        self.shared.over.store(false, Ordering::SeqCst);
        let tasks = clients::writers(
            server,
            &self.shared,
            self.options.clients,
            round,
            &mut self.dice,
        )?;
        let watcher = clients::watcher(server.client()?, self.shared.clone(), end + 1);
        let load = self.dice.below(self.options.longest);
        tokio::time::sleep(Duration::from_millis(load)).await;
        ensure!(
            server.ended().is_none(),
            "the server ended by itself:\n{}",
            server.log_end()
        );
        let gentle = self.dice.chance(10);
        if gentle {
            let status = server.terminate(Duration::from_secs(40)).await?;
            ensure!(
                status.success(),
                "SIGTERM ended the server with {status}:\n{}",
                server.log_end()
            );
        } else {
            server.kill();
        }
        self.shared.over.store(true, Ordering::SeqCst);
        for task in tasks {
            task.await?;
        }
        watcher.abort();
        let violations = std::mem::take(
            &mut *self
                .shared
                .violations
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        self.judge(&format!("under the load of round {round}"), violations)?;
        Ok(format!(
            "{} after {load} ms",
            if gentle { "SIGTERM" } else { "kill -9" }
        ))
    }

    /// Reads the bucket without the server: everything promised must be in the chain already.
    async fn check_chain(&mut self) -> Result<String> {
        self.chain
            .extend(&self.bucket)
            .await
            .context("the chain in the bucket")?;
        let mut violations = Vec::new();
        self.shared.ledger(|ledger| {
            for (revision, content) in ledger.promised() {
                let held = self
                    .chain
                    .records
                    .get(revision)
                    .filter(|record| record.kind() == RecordKind::RecordWrite);
                let held = held.map(|record| Content {
                    key: record.key.clone(),
                    value: (!record.deleted).then(|| record.value.clone()),
                });
                if held.as_ref() != Some(content) {
                    let what = if held.is_none() { "missing" } else { "another" };
                    violations.push(format!(
                        "Revision {revision} was promised and is {what} in the bucket"
                    ));
                }
            }
        });
        self.judge("in the bucket, right after the kill", violations)?;
        Ok(format!(
            "chain to {} in {} Chunks",
            self.chain.end,
            self.chain.chunk_count()
        ))
    }

    fn treat_disk(&mut self) -> Result<&'static str> {
        let delete = match self.options.disk {
            Disk::Keep => false,
            Disk::Delete => true,
            Disk::Mixed => self.dice.chance(50),
        };
        if !delete {
            return Ok("disk kept");
        }
        remove(&disk(&self.dir))?;
        Ok("disk deleted")
    }

    fn judge(&self, when: &str, violations: Vec<String>) -> Result<()> {
        if violations.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = violations.iter().take(12).map(String::as_str).collect();
        bail!(
            "{} violations {when}:\n  {}",
            violations.len(),
            shown.join("\n  ")
        );
    }
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("deleting {}", dir.display()))
        }
        _ => Ok(()),
    }
}
