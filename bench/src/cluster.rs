//! A cluster of processes on one bucket, each Node with a directory, a disk, ports and a log of its own.
//!
//! The handle starts, stops, pauses and wipes Nodes, and finds out who is Primary and Elector by reading the
//! bucket, as an operator could. What the Nodes say of themselves counts for nothing here.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::chain::Bucket;
use crate::network::{BUCKET, Network};
use crate::node::{Member, Place, Placed, Timing, disk, s3_endpoint};
use crate::server::{Kind, Server, Target, free_port};
use crate::wire::Client;

/// One Node, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) member: Member,
    kind: Kind,
    server: Option<Server>,
}

/// All Nodes of a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) bucket: Bucket,
}

/// What to lay out.
pub(crate) struct Plan<'a> {
    /// The netsy binary.
    pub(crate) binary: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) count: usize,
    pub(crate) place: Place,
    /// Distinguishes this cluster's bucket on a server from others.
    pub(crate) prefix: String,
    pub(crate) timing: Timing,
    /// Added to every configuration as it is.
    pub(crate) more: &'a str,
    /// What peers and bucket are reached through; None for straight ways.
    pub(crate) network: Option<&'a Network>,
}

impl Plan<'_> {
    /// The bucket as Node `index` is told of it; [`BUCKET`] for ourselves, who go straight.
    async fn placed(&self, index: usize) -> Result<Placed> {
        if self.place == Place::Local {
            return Placed::local(self.dir);
        }
        let straight = s3_endpoint()?;
        match self.network.filter(|_| index != BUCKET) {
            Some(network) => {
                let address = straight.trim_start_matches("http://").trim_end_matches('/');
                let relay = network.relay(Some(index), BUCKET, address.to_owned());
                let relay = format!("http://127.0.0.1:{}", relay.await?);
                Placed::s3(&self.prefix, &relay)
            }
            None => Placed::s3(&self.prefix, &straight),
        }
    }
}

/// Who is what, as the documents in the bucket say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roles {
    /// Index of the Node that the register names.
    pub(crate) primary: Option<usize>,
    /// Whether the register calls it active.
    pub(crate) active: bool,
    /// Index of the Node that holds the Elector lock.
    pub(crate) elector: Option<usize>,
    /// Incarnations of the voters.
    pub(crate) voters: Vec<String>,
    pub(crate) epoch: u64,
}

impl Cluster {
    /// Lays out the Nodes of `plan` and starts none.
    pub(crate) async fn lay_out(plan: &Plan<'_>) -> Result<Cluster> {
        let mut nodes = Vec::new();
        for index in 0..plan.count {
            let name = format!("node-{}", index + 1);
            let peer_port = free_port()?;
            let advertised = match plan.network {
                Some(network) => {
                    let address = format!("127.0.0.1:{peer_port}");
                    network.relay(None, index, address).await?
                }
                None => peer_port,
            };
            let member = Member {
                dir: plan.dir.join(&name),
                name,
                port: free_port()?,
                peer_port,
                advertised,
            };
            let placed = plan.placed(index).await?;
            let kind = placed.member(plan.binary, &member, plan.timing, plan.more)?;
            nodes.push(Node {
                member,
                kind,
                server: None,
            });
        }
        let bucket = plan.placed(BUCKET).await?.bucket;
        Ok(Cluster { nodes, bucket })
    }

    /// Starts every Node and waits until each answers a linearizable read.
    pub(crate) async fn start_all(&mut self, patience: Duration) -> Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        self.ready(patience).await
    }

    /// Waits until every Node answers a linearizable read.
    pub(crate) async fn ready(&mut self, patience: Duration) -> Result<()> {
        for node in &mut self.nodes {
            let ready = node.ready(patience).await;
            ready.with_context(|| node.member.name.clone())?;
        }
        Ok(())
    }

    /// Reads the documents.
    pub(crate) async fn roles(&self) -> Result<Roles> {
        let register = self.bucket.document("leader/primary.json").await?;
        let lock = self.bucket.document("leader/elector.json").await?;
        let (register, lock) = (register.unwrap_or_default(), lock.unwrap_or_default());
        let index = |holder: &serde_json::Value| {
            let name = holder["node_id"].as_str()?;
            self.nodes.iter().position(|node| node.member.name == name)
        };
        let voters = register["voters"].as_array().cloned().unwrap_or_default();
        Ok(Roles {
            primary: index(&register["primary"]),
            active: register["phase"] == "active",
            elector: index(&lock["elector"]),
            voters: voters
                .iter()
                .filter_map(|voter| Some(voter["incarnation"].as_str()?.to_owned()))
                .collect(),
            epoch: register["epoch"].as_u64().unwrap_or(0),
        })
    }

    /// The disk that Node `index` has registered last.
    pub(crate) async fn incarnation(&self, index: usize) -> Result<Option<String>> {
        let name = format!("nodes/{}.json", self.nodes[index].member.name);
        let registered = self.bucket.document(&name).await?;
        Ok(registered.and_then(|node| Some(node["incarnation"].as_str()?.to_owned())))
    }

    fn running(&self) -> impl Iterator<Item = &Server> {
        self.nodes.iter().filter_map(|node| node.server.as_ref())
    }
}

impl Target for Cluster {
    fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Node::endpoint).collect()
    }

    fn cpu_micros(&self) -> u64 {
        self.running().map(Server::cpu_micros).sum()
    }

    fn memory_kib(&self) -> u64 {
        self.running().map(Server::memory_kib).sum()
    }
}

impl Node {
    /// Starts it and does not wait. Its log goes on where it was.
    pub(crate) fn start(&mut self) -> Result<()> {
        let server = Server::spawn(&self.kind, &self.member.dir, self.member.port)?;
        self.server = Some(server);
        Ok(())
    }

    /// Waits until it answers a linearizable read.
    pub(crate) async fn ready(&mut self, patience: Duration) -> Result<()> {
        let server = self.server.as_mut().context("it was not started")?;
        server.ready(patience).await
    }

    /// The last line it printed.
    pub(crate) fn last_words(&self) -> String {
        self.log().lines().last().unwrap_or_default().to_owned()
    }

    /// `kill -9`, paused or not; gone when this returns.
    pub(crate) fn kill(&mut self) {
        self.server = None;
    }

    /// Sends a signal if it runs.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        self.server
            .as_ref()
            .map_or(Ok(()), |server| server.signal(name))
    }

    /// SIGTERM, then waits up to `patience` for the process to end.
    pub(crate) async fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        let server = self.server.as_mut().context("it does not run")?;
        server.terminate(patience).await
    }

    /// Whether it has ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.server.as_mut()?.ended()
    }

    /// The process, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// Deletes everything on its disk; the process must be gone.
    pub(crate) fn wipe(&self) -> Result<()> {
        let disk = disk(&self.member.dir);
        if !disk.exists() {
            return Ok(());
        }
        for file in std::fs::read_dir(&disk)? {
            let file = file?.path();
            let gone = if file.is_dir() {
                std::fs::remove_dir_all(&file)
            } else {
                std::fs::remove_file(&file)
            };
            gone.with_context(|| format!("deleting {}", file.display()))?;
        }
        Ok(())
    }

    /// Where its clients reach it.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.member.port)
    }

    /// A new connection to it.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(&self.endpoint())
    }

    /// Everything it has printed so far.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(self.member.dir.join("netsy.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}
