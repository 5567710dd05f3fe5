//! Proofs from outside: drives servers as processes, over the wire, and judges what they answer.
//!
//! `load` puts load on one server, `beside` compares Netsy with etcd in one run, `differ` sends both the same
//! random operations and compares every field, `kill` kills Netsy under load and holds it to its promises,
//! `chain` checks a bucket. `storm` and `failover` do the same to a cluster. Nothing here shares code with the product: its own faults cannot hide themselves.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

mod beside;
mod chain;
mod cluster;
mod dice;
mod differ;
mod failover;
mod kill;
mod load;
mod network;
mod node;
mod puts;
mod report;
mod server;
mod storm;
mod wire;

/// Load, comparison and proofs for Netsy and its peers.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Beside(beside::Beside),
    Chain(chain::CheckChain),
    Differ(differ::Differ),
    Failover(failover::Failover),
    Kill(kill::Kill),
    Load(OneLoad),
    Puts(puts::Puts),
    Storm(storm::Storm),
}

/// One load at one server, started here in a temporary directory.
#[derive(clap::Args, Clone, Debug)]
struct OneLoad {
    /// What every client does.
    #[arg(value_enum)]
    shape: load::Shape,
    /// etcd to start.
    #[arg(long, conflicts_with = "netsy")]
    etcd: Option<PathBuf>,
    /// netsy to start, as `netsy dev`.
    #[arg(long)]
    netsy: Option<PathBuf>,
    /// Clients at once.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections they share.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Bytes per value.
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// Keys filled in before gets and lists.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Keys per page of a list.
    #[arg(long, default_value_t = 500)]
    page: i64,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

impl OneLoad {
    async fn run(self) -> Result<()> {
        let kind = match (self.etcd, self.netsy) {
            (Some(binary), _) => server::Kind::Etcd { binary },
            (None, Some(binary)) => server::Kind::Dev { binary },
            (None, None) => anyhow::bail!("say which server to start: --etcd PATH or --netsy PATH"),
        };
        let dir = tempfile::tempdir()?;
        let server = server::Server::start(&kind, dir.path(), Duration::from_secs(60)).await?;
        if !matches!(self.shape, load::Shape::Create | load::Shape::Update) {
            load::fill(&server, self.keys, self.value).await?;
        }
        let load = load::Load {
            shape: self.shape,
            clients: self.clients,
            connections: self.connections,
            value: self.value,
            filled: self.keys,
            page: self.page,
            warm_up: Duration::from_secs(1),
            measure: Duration::from_secs_f64(self.seconds),
            run: "load".to_owned(),
        };
        let measured = load.drive(&server).await?;
        println!("{}\n{}", report::HEAD, report::line(kind.name(), &measured));
        if let Some(error) = &measured.first_error {
            println!("first error: {error}");
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.context("starting the runtime")?.block_on(async {
        match cli.verb {
            Verb::Beside(beside) => beside.run().await,
            Verb::Chain(chain) => chain.run().await,
            Verb::Differ(differ) => differ.run().await,
            Verb::Failover(failover) => failover.run().await,
            Verb::Kill(kill) => kill.run().await,
            Verb::Load(load) => load.run().await,
            Verb::Puts(puts) => puts.run().await,
            Verb::Storm(storm) => storm.run().await,
        }
    })
}
