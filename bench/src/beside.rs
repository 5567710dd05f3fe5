//! Netsy beside etcd: both up at once, the same loads at each in turn, in one run.
//!
//! Runs are interleaved shape by shape and the order flips from run to run, so that a noisy neighbour
//! disturbs both. Ratios are medians of the runs' own ratios. `--check` holds the floors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::cluster::{Cluster, Plan};
use crate::load::{Load, Measured, Shape, fill};
use crate::node::{Place, Timing};
use crate::report::{HEAD, Raw, Row, line, median, spread};
use crate::server::{Kind, Server, Target, etcd_cluster};

/// Side by side with etcd, in one run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Beside {
    /// The netsy binary.
    #[arg(long, default_value = "target/release/netsy")]
    netsy: PathBuf,
    /// The etcd binary.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Nodes of each: a cluster of Netsy beside a cluster of etcd, and only create loads.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// How often each load is driven at each server.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds measured per load.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of warm-up per load.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Keys filled in before gets and lists.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes per value.
    #[arg(long, default_value_t = 1024)]
    value: usize,
    /// Only these loads, such as `create@64`; all of them by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the servers keep their data; a temporary directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The file for raw results, one line of JSON each.
    #[arg(long, default_value = "target/bench/beside.jsonl")]
    raw: PathBuf,
    /// Exit non-zero when a floor is missed.
    #[arg(long)]
    check: bool,
}

/// The loads, in the order they are driven.
const LOADS: &[(Shape, usize)] = &[
    (Shape::Create, 1),
    (Shape::Create, 64),
    (Shape::Create, 256),
    (Shape::Update, 64),
    (Shape::Get, 64),
    (Shape::GetSerializable, 64),
    (Shape::List, 1),
    (Shape::List, 16),
];

/// The loads for clusters.
const CLUSTER_LOADS: &[(Shape, usize)] = &[
    (Shape::Create, 1),
    (Shape::Create, 16),
    (Shape::Create, 64),
    (Shape::Create, 256),
];

/// The two that are compared, each with its name.
type Both = [(&'static str, Box<dyn Target + Sync>); 2];

/// What --check demands of Netsy beside etcd.
struct Floor {
    shape: Shape,
    clients: usize,
    /// At least this many times etcd's operations per second.
    ops: f64,
    /// At most this part of etcd's CPU per operation.
    cpu: Option<f64>,
}

const FLOORS: &[Floor] = &[
    Floor {
        shape: Shape::Create,
        clients: 64,
        ops: 1.5,
        cpu: Some(0.5),
    },
    Floor {
        shape: Shape::List,
        clients: 1,
        ops: 20.0,
        cpu: None,
    },
    Floor {
        shape: Shape::List,
        clients: 16,
        ops: 20.0,
        cpu: None,
    },
];

/// Both servers' measurements of one load in one run: etcd, netsy.
type Pair = (Measured, Measured);

/// A load, and its pairs over the runs.
type Series = (Shape, usize, Vec<Pair>);

impl Beside {
    /// Runs everything and prints the table.
    pub(crate) async fn run(self) -> Result<()> {
        let temporary = tempfile::tempdir()?;
        let dir = self
            .dir
            .clone()
            .unwrap_or_else(|| temporary.path().to_owned());
        let loads = self.loads()?;
        let mut raw = Raw::open(&self.raw)?;
        let servers = self.start(&dir).await?;
        println!(
            "data in {}; every acknowledged write is fsync'd by both servers",
            dir.display()
        );
        if loads
            .iter()
            .any(|(shape, _)| !matches!(shape, Shape::Create | Shape::Update))
        {
            for (name, server) in &servers {
                let start = std::time::Instant::now();
                fill(&**server, self.keys, self.value).await?;
                println!(
                    "filled {} keys into {name} in {:.1?}",
                    self.keys,
                    start.elapsed()
                );
            }
        }
        let mut series: Vec<Series> = loads
            .iter()
            .map(|(shape, clients)| (*shape, *clients, Vec::new()))
            .collect();
        println!("\n{HEAD}");
        for run in 0..self.runs {
            for (shape, clients, pairs) in &mut series {
                let pair = self.pair(run, *shape, *clients, &servers, &mut raw).await?;
                pairs.push(pair);
            }
        }
        self.verdict(&series)
    }

    /// Starts both.
    async fn start(&self, dir: &Path) -> Result<Both> {
        let patience = Duration::from_secs(120);
        let (a, b) = (dir.join("a"), dir.join("b"));
        let (etcd, netsy): (Box<dyn Target + Sync>, Box<dyn Target + Sync>) = if self.nodes > 1 {
            let plan = Plan {
                binary: &self.netsy,
                dir: &b,
                count: self.nodes,
                place: Place::Local,
                prefix: String::new(),
                timing: Timing::Default,
                more: "",
                network: None,
            };
            let mut netsy = Cluster::lay_out(&plan).await?;
            netsy.start_all(patience).await?;
            let etcd = etcd_cluster(&self.etcd, &a, self.nodes, patience).await?;
            (Box::new(etcd), Box::new(netsy))
        } else {
            let etcd = Kind::Etcd {
                binary: self.etcd.clone(),
            };
            let netsy = Kind::Dev {
                binary: self.netsy.clone(),
            };
            (
                Box::new(Server::start(&etcd, &a, patience).await?),
                Box::new(Server::start(&netsy, &b, patience).await?),
            )
        };
        Ok([("etcd", etcd), ("netsy", netsy)])
    }

    fn loads(&self) -> Result<Vec<(Shape, usize)>> {
        let name = |(shape, clients): &(Shape, usize)| {
            let shape = clap::ValueEnum::to_possible_value(shape);
            format!(
                "{}@{clients}",
                shape.map_or(String::new(), |value| value.get_name().to_owned())
            )
        };
        let wanted =
            |load: &(Shape, usize)| self.only.is_empty() || self.only.contains(&name(load));
        let all = if self.nodes > 1 { CLUSTER_LOADS } else { LOADS };
        let loads: Vec<_> = all.iter().copied().filter(wanted).collect();
        if loads.len() < self.only.len() {
            let known: Vec<String> = all.iter().map(name).collect();
            bail!("--only takes {}", known.join(", "));
        }
        Ok(loads)
    }

    async fn pair(
        &self,
        run: usize,
        shape: Shape,
        clients: usize,
        servers: &Both,
        raw: &mut Raw,
    ) -> Result<Pair> {
        let load = Load {
            shape,
            clients,
            connections: clients.div_ceil(16).min(16).max(self.nodes),
            value: self.value,
            filled: self.keys,
            page: 500,
            warm_up: Duration::from_secs_f64(self.warm_up),
            measure: Duration::from_secs_f64(self.seconds),
            run: format!("run-{run}-{clients}"),
        };
        let mut measured = [None, None];
        let order = if run.is_multiple_of(2) {
            [0, 1]
        } else {
            [1, 0]
        };
        for which in order {
            let (server, handle) = &servers[which];
            let result = load.drive(&**handle).await?;
            println!("{}", line(server, &result));
            raw.write(&Row {
                server,
                run,
                measured: result.clone(),
            })?;
            measured[which] = Some(result);
        }
        match measured {
            [Some(etcd), Some(netsy)] => Ok((etcd, netsy)),
            _ => bail!("a server was not measured"),
        }
    }

    /// Prints the ratios and, with --check, fails below a floor.
    fn verdict(&self, series: &[Series]) -> Result<()> {
        println!(
            "\nnetsy / etcd, medians of {} runs (least..most)",
            self.runs
        );
        println!("shape             clients      ops/s              p50     p99     CPU/op");
        let mut missed = Vec::new();
        for (shape, clients, pairs) in series {
            let ratios = |of: fn(&Measured) -> f64| -> Vec<f64> {
                pairs
                    .iter()
                    .map(|(etcd, netsy)| of(netsy) / of(etcd).max(1e-9))
                    .collect()
            };
            let ops = ratios(|measured| measured.ops_per_second);
            let cpu = median(ratios(|measured| measured.cpu_micros_per_op));
            let (least, most) = spread(&ops);
            let name = format!("{shape:?}").to_lowercase();
            println!(
                "{name:<17} {clients:>7} {:>8.2}x ({least:.2}..{most:.2}) {:>8.2}x {:>6.2}x {cpu:>8.2}x",
                median(ops.clone()),
                median(ratios(|measured| measured.p50_micros as f64)),
                median(ratios(|measured| measured.p99_micros as f64)),
            );
            let errors: u64 = pairs.iter().map(|(_, netsy)| netsy.errors).sum();
            if errors > 0 {
                missed.push(format!("{name}@{clients}: netsy answered {errors} errors"));
            }
            // How much CPU a write may take is promised of a single server.
            let cpu = if self.nodes > 1 { 0.0 } else { cpu };
            missed.extend(missed_floors(*shape, *clients, median(ops), cpu));
        }
        println!("raw results: {}", self.raw.display());
        for miss in &missed {
            println!("MISSED {miss}");
        }
        if self.check && !missed.is_empty() {
            bail!("{} floors missed", missed.len());
        }
        Ok(())
    }
}

/// The floors a load has missed, in words.
fn missed_floors(shape: Shape, clients: usize, ops: f64, cpu: f64) -> Vec<String> {
    let mut missed = Vec::new();
    for floor in FLOORS
        .iter()
        .filter(|floor| floor.shape == shape && floor.clients == clients)
    {
        let name = format!("{shape:?}@{clients}").to_lowercase();
        if ops < floor.ops {
            missed.push(format!(
                "{name}: {ops:.2} times etcd's rate, the floor is {}",
                floor.ops
            ));
        }
        if let Some(limit) = floor.cpu.filter(|limit| cpu > *limit) {
            missed.push(format!(
                "{name}: {cpu:.2} of etcd's CPU per write, the limit is {limit}"
            ));
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_hold() {
        assert!(missed_floors(Shape::Create, 64, 1.6, 0.4).is_empty());
        assert_eq!(missed_floors(Shape::Create, 64, 1.4, 0.6).len(), 2);
        assert_eq!(missed_floors(Shape::List, 16, 19.0, 0.1).len(), 1);
        assert!(missed_floors(Shape::Create, 1, 0.1, 9.0).is_empty());
    }
}
