//! Closed-loop load: N clients over M connections, each sending its next request when the last is answered.
//!
//! Shapes are kube-apiserver's: create and update Txns, point reads, pages of a list at a fixed Revision.
//! A warm-up is run and thrown away. CPU is counted while measuring only, the client's own included: where
//! client and server share a machine, a client that is always busy measures itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::server::{Target, cpu_micros};
use crate::wire::etcd::response_op::Response;
use crate::wire::{Client, etcd, get, prefix_end, put_if, revision};

/// What every client does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// A Txn that creates a new key.
    Create,
    /// A Txn that replaces the client's own key.
    Update,
    /// A linearizable read of one key.
    Get,
    /// A serializable read of one key.
    GetSerializable,
    /// The next page of a walk at a fixed Revision over all filled keys.
    List,
}

/// A load to drive.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) shape: Shape,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    /// Bytes per value.
    pub(crate) value: usize,
    /// Keys that `fill` made; gets and lists read these.
    pub(crate) filled: u64,
    /// Keys per page of a list.
    pub(crate) page: i64,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    /// Distinguishes the keys of this run from those of every other.
    pub(crate) run: String,
}

/// What one load gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) shape: Shape,
    pub(crate) clients: usize,
    pub(crate) ops_per_second: f64,
    pub(crate) p50_micros: u64,
    pub(crate) p90_micros: u64,
    pub(crate) p99_micros: u64,
    pub(crate) p999_micros: u64,
    pub(crate) max_micros: u64,
    pub(crate) errors: u64,
    pub(crate) cpu_micros_per_op: f64,
    /// Of one CPU, while measuring.
    pub(crate) server_cpu_percent: f64,
    pub(crate) client_cpu_percent: f64,
    pub(crate) memory_kib: u64,
    pub(crate) seconds: f64,
    /// The first error seen, for whoever wonders.
    pub(crate) first_error: Option<String>,
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// What the clients share.
struct Stage {
    phase: AtomicU8,
    /// The Revision the list walks are pinned to.
    pinned: AtomicI64,
}

/// What one client brings home.
struct Tally {
    latency: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

impl Load {
    /// Drives the load at `server` and reports. Connections and clients spread evenly over its endpoints;
    /// fewer clients than endpoints go from one to the next with every request.
    pub(crate) async fn drive(&self, server: &(dyn Target + Sync)) -> Result<Measured> {
        let mut connections = Vec::new();
        while connections.len() < self.connections.max(1) {
            connections.extend(server.clients()?);
        }
        let roams = self.clients < server.endpoints().len();
        let stage = Arc::new(Stage {
            phase: AtomicU8::new(WARMING),
            pinned: AtomicI64::new(0),
        });
        let first = connections[0]
            .kv()
            .range(get(&Bytes::from_static(b"health")))
            .await?;
        stage
            .pinned
            .store(revision(&first.into_inner().header), Ordering::Relaxed);

        let mut tasks = Vec::new();
        for number in 0..self.clients {
            let clients = if roams {
                connections.clone()
            } else {
                vec![connections[number % connections.len()].clone()]
            };
            let load = self.clone();
            tasks.push(tokio::spawn(load.client(number, clients, stage.clone())));
        }
        tokio::time::sleep(self.warm_up).await;
        let (server_before, own_before) = (server.cpu_micros(), cpu_micros("self"));
        let start = Instant::now();
        stage.phase.store(MEASURING, Ordering::Release);
        tokio::time::sleep(self.measure).await;
        stage.phase.store(OVER, Ordering::Release);
        let seconds = start.elapsed().as_secs_f64();
        let server_cpu = server.cpu_micros() - server_before;
        let own_cpu = cpu_micros("self") - own_before;

        let mut all = Tally::new();
        for task in tasks {
            all.add(task.await?);
        }
        Ok(self.report(&all, seconds, server_cpu, own_cpu, server.memory_kib()))
    }

    fn report(&self, all: &Tally, seconds: f64, server: u64, own: u64, memory: u64) -> Measured {
        let ops = all.latency.len();
        let quantile = |part: f64| all.latency.value_at_quantile(part);
        Measured {
            shape: self.shape,
            clients: self.clients,
            ops_per_second: ops as f64 / seconds,
            p50_micros: quantile(0.5),
            p90_micros: quantile(0.9),
            p99_micros: quantile(0.99),
            p999_micros: quantile(0.999),
            max_micros: all.latency.max(),
            errors: all.errors,
            cpu_micros_per_op: server as f64 / (ops as f64).max(1.0),
            server_cpu_percent: server as f64 / 10_000.0 / seconds,
            client_cpu_percent: own as f64 / 10_000.0 / seconds,
            memory_kib: memory,
            seconds,
            first_error: all.first_error.clone(),
        }
    }

    /// One client, until the stage is over.
    async fn client(self, number: usize, clients: Vec<Client>, stage: Arc<Stage>) -> Tally {
        let mut tally = Tally::new();
        let mut requests = Requests::new(&self, number, stage.pinned.load(Ordering::Relaxed));
        loop {
            let phase = stage.phase.load(Ordering::Acquire);
            if phase == OVER {
                return tally;
            }
            let next = &clients[requests.sent as usize % clients.len()];
            let start = Instant::now();
            let answer = requests.send(next).await;
            let measured = phase == MEASURING && stage.phase.load(Ordering::Acquire) == MEASURING;
            match answer {
                Ok(()) if measured => tally.count(start.elapsed()),
                Ok(()) => {}
                Err(error) => {
                    tally.errors += u64::from(measured);
                    tally.first_error.get_or_insert(format!("{error:#}"));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

impl Tally {
    fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3)
            .expect("three digits up to ten minutes are within what a histogram can hold");
        Tally {
            latency,
            errors: 0,
            first_error: None,
        }
    }

    fn count(&mut self, taken: Duration) {
        self.latency.saturating_record(taken.as_micros() as u64);
    }

    fn add(&mut self, other: Tally) {
        self.latency
            .add(&other.latency)
            .expect("all histograms here have the same bounds");
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// One client's next request, again and again.
struct Requests {
    shape: Shape,
    run: String,
    number: usize,
    sent: u64,
    /// Last change of the client's own key.
    own: i64,
    value: Bytes,
    filled: u64,
    page: i64,
    /// Where the list walk goes on, and the Revision it is pinned to.
    next: Bytes,
    pinned: i64,
}

impl Requests {
    fn new(load: &Load, number: usize, pinned: i64) -> Requests {
        Requests {
            shape: load.shape,
            run: load.run.clone(),
            number,
            sent: 0,
            own: 0,
            value: value(load.value, number as u64),
            filled: load.filled.max(1),
            page: load.page,
            next: filled_key(number as u64 * 7919 % load.filled.max(1)),
            pinned,
        }
    }

    async fn send(&mut self, client: &Client) -> Result<()> {
        self.sent += 1;
        match self.shape {
            Shape::Create => {
                let key = format!(
                    "/registry/pods/{}/{:04}/{:08}",
                    self.run, self.number, self.sent
                );
                let create = put_if(&key.into(), 0, self.value.clone());
                let answer = client.kv().txn(create).await?.into_inner();
                ensure!(answer.succeeded, "a key nobody else creates was there");
            }
            Shape::Update => self.update(client).await?,
            Shape::Get | Shape::GetSerializable => {
                let spread = self.sent * 7919 + self.number as u64 * 104_729;
                let mut read = get(&filled_key(spread % self.filled));
                read.serializable = self.shape == Shape::GetSerializable;
                let answer = client.kv().range(read).await?.into_inner();
                ensure!(answer.kvs.len() == 1, "a filled key was not there");
            }
            Shape::List => self.list(client).await?,
        }
        Ok(())
    }

    async fn update(&mut self, client: &Client) -> Result<()> {
        let key = format!("/registry/leases/{}/{:06}", self.run, self.number);
        let update = put_if(&key.into(), self.own, self.value.clone());
        let answer = client.kv().txn(update).await?.into_inner();
        if answer.succeeded {
            self.own = revision(&answer.header);
            return Ok(());
        }
        // After an error the outcome was unknown: learn where the key stands.
        if let Some(Response::ResponseRange(read)) = answer
            .responses
            .into_iter()
            .next()
            .and_then(|op| op.response)
        {
            self.own = read.kvs.first().map_or(0, |kv| kv.mod_revision);
        }
        Ok(())
    }

    async fn list(&mut self, client: &Client) -> Result<()> {
        let request = etcd::RangeRequest {
            key: self.next.clone(),
            range_end: prefix_end(FILLED),
            limit: self.page,
            revision: self.pinned,
            ..Default::default()
        };
        let answer = client.kv().range(request).await?.into_inner();
        let last = answer.kvs.last().map(|kv| kv.key.clone());
        self.next = match last {
            Some(last) if answer.more => [&last[..], b"\0"].concat().into(),
            _ => Bytes::from_static(FILLED),
        };
        Ok(())
    }
}

const FILLED: &[u8] = b"/registry/filled/";

fn filled_key(number: u64) -> Bytes {
    format!("/registry/filled/{number:010}").into()
}

/// `length` bytes that do not compress to nothing.
pub(crate) fn value(length: usize, seed: u64) -> Bytes {
    let mut dice = crate::dice::Dice::new(seed);
    (0..length)
        .map(|_| b'!' + (dice.next() % 90) as u8)
        .collect()
}

/// Creates `keys` keys of `bytes` each, for gets and lists to read. A key that is there is left alone.
pub(crate) async fn fill(server: &(dyn Target + Sync), keys: u64, bytes: usize) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    let clients = server.clients()?;
    for number in 0..128_u64 {
        let client = clients[number as usize % clients.len()].clone();
        let next = next.clone();
        tasks.push(tokio::spawn(async move {
            let value = value(bytes, number);
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= keys {
                    return Ok::<(), tonic::Status>(());
                }
                client
                    .kv()
                    .txn(put_if(&filled_key(key), 0, value.clone()))
                    .await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}
