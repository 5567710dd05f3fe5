//! Servers under test: etcd or Netsy as a child process on loopback ports and a directory of its own.
//!
//! A Server dies with its handle. Its output goes to a file, the end of which is part of every error.
//! CPU time and memory are read from /proc, so these tools run on Linux.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

use crate::dice::fresh_seed;
use crate::wire::{Client, get};

/// /proc counts CPU time in these, on every Linux we meet.
const TICK_MICROS: u64 = 10_000;

/// What to start, before it is started.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// One etcd, its data in `etcd` of its directory.
    Etcd {
        /// The binary.
        binary: PathBuf,
    },
    /// One etcd of several, known to one another from the start.
    EtcdMember {
        /// The binary.
        binary: PathBuf,
        /// Its name in `initial`.
        name: String,
        /// Its own peer URL in `initial`.
        peer: String,
        /// `--initial-cluster`.
        initial: String,
    },
    /// `netsy dev`: the bucket and the Node's disk in its directory.
    Dev {
        /// The binary.
        binary: PathBuf,
    },
    /// `netsy serve` with a configuration file written by the caller.
    Serve {
        /// The binary.
        binary: PathBuf,
        /// The file for `--config`.
        config: PathBuf,
        /// Variables for the process, the bucket's credentials among them.
        env: Vec<(String, String)>,
    },
}

impl Kind {
    /// How tables call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Etcd { .. } | Kind::EtcdMember { .. } => "etcd",
            Kind::Dev { .. } | Kind::Serve { .. } => "netsy",
        }
    }

    fn command(&self, dir: &Path, port: u16) -> Result<Command> {
        let mut command;
        match self {
            Kind::Etcd { binary } => {
                let peer = format!("http://127.0.0.1:{}", free_port()?);
                let initial = format!("peer={peer}");
                command = etcd(binary, dir, port, ("peer", &peer, &initial));
            }
            Kind::EtcdMember {
                binary,
                name,
                peer,
                initial,
            } => command = etcd(binary, dir, port, (name, peer, initial)),
            Kind::Dev { binary } => {
                command = Command::new(binary);
                command.args(["dev", "--listen", &format!("127.0.0.1:{port}")]);
                command.arg("--dir").arg(dir);
            }
            Kind::Serve {
                binary,
                config,
                env,
            } => {
                command = Command::new(binary);
                command.arg("serve").arg("--config").arg(config);
                command.envs(env.iter().map(|(name, value)| (name, value)));
            }
        }
        Ok(command)
    }
}

/// etcd with a name, a peer URL and an initial cluster.
fn etcd(
    binary: &Path,
    dir: &Path,
    port: u16,
    (name, peer, initial): (&str, &str, &str),
) -> Command {
    let client = format!("http://127.0.0.1:{port}");
    let mut command = Command::new(binary);
    command.arg("--data-dir").arg(dir.join("etcd"));
    for (flag, value) in [
        ("--name", name),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", peer),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", initial),
        ("--quota-backend-bytes", "8589934592"),
        ("--log-level", "warn"),
    ] {
        command.args([flag, value]);
    }
    command
}

/// What load is put on: one server, or several that are one.
pub(crate) trait Target {
    /// Where clients reach it; they spread over all of these.
    fn endpoints(&self) -> Vec<String>;

    /// CPU time used so far by all its processes, in microseconds.
    fn cpu_micros(&self) -> u64;

    /// Resident memory of all its processes, in KiB.
    fn memory_kib(&self) -> u64;

    /// A new connection to each endpoint.
    fn clients(&self) -> Result<Vec<Client>> {
        self.endpoints()
            .iter()
            .map(|endpoint| Client::new(endpoint))
            .collect()
    }
}

impl Target for Server {
    fn endpoints(&self) -> Vec<String> {
        vec![self.endpoint.clone()]
    }

    fn cpu_micros(&self) -> u64 {
        Server::cpu_micros(self)
    }

    fn memory_kib(&self) -> u64 {
        Server::memory_kib(self)
    }
}

impl Target for Vec<Server> {
    fn endpoints(&self) -> Vec<String> {
        self.iter().map(|server| server.endpoint.clone()).collect()
    }

    fn cpu_micros(&self) -> u64 {
        self.iter().map(Server::cpu_micros).sum()
    }

    fn memory_kib(&self) -> u64 {
        self.iter().map(Server::memory_kib).sum()
    }
}

/// Starts `count` etcd as one cluster, and waits until each answers a linearizable read.
pub(crate) async fn etcd_cluster(
    binary: &Path,
    dir: &Path,
    count: usize,
    patience: Duration,
) -> Result<Vec<Server>> {
    let mut members = Vec::new();
    for number in 1..=count {
        members.push((
            format!("etcd-{number}"),
            format!("http://127.0.0.1:{}", free_port()?),
        ));
    }
    let named: Vec<String> = members
        .iter()
        .map(|(name, peer)| format!("{name}={peer}"))
        .collect();
    let mut servers = Vec::new();
    for (name, peer) in members {
        let dir = dir.join(&name);
        let kind = Kind::EtcdMember {
            binary: binary.to_owned(),
            name,
            peer,
            initial: named.join(","),
        };
        servers.push(Server::spawn(&kind, &dir, free_port()?)?);
    }
    for server in &mut servers {
        server.ready(patience).await?;
    }
    Ok(servers)
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where clients reach it.
    pub(crate) endpoint: String,
    log: PathBuf,
}

impl Server {
    /// Starts `kind` in `dir` (made if missing) on `port` and does not wait for it.
    pub(crate) fn spawn(kind: &Kind, dir: &Path, port: u16) -> Result<Server> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let log = dir.join(format!("{}.log", kind.name()));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = kind.command(dir, port)?;
        // Only what the configuration says: our own variables are no settings of the server.
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.as_encoded_bytes().starts_with(b"NETSY_")) {
            command.env_remove(name);
        }
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Server {
            child,
            endpoint: format!("http://127.0.0.1:{port}"),
            log,
        })
    }

    /// Starts `kind` on a free port and waits until it answers a linearizable read.
    pub(crate) async fn start(kind: &Kind, dir: &Path, patience: Duration) -> Result<Server> {
        let mut server = Server::spawn(kind, dir, free_port()?)?;
        server.ready(patience).await?;
        Ok(server)
    }

    /// Waits until a linearizable read is answered; an error if the process ends or patience does.
    pub(crate) async fn ready(&mut self, patience: Duration) -> Result<()> {
        let key = Bytes::from_static(b"health");
        let deadline = Instant::now() + patience;
        let mut why = "no answer".to_owned();
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the server ended with {status} before it was ready:\n{}",
                    self.log_end()
                );
            }
            let mut kv = Client::new(&self.endpoint)?.kv();
            match tokio::time::timeout(Duration::from_secs(2), kv.range(get(&key))).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => why = format!("{:?} {}", status.code(), status.message()),
                Err(_) => why = "a read that took 2 s".to_owned(),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "the server was not ready after {patience:?} ({why}):\n{}",
            self.log_end()
        );
    }

    /// A new connection to it.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(&self.endpoint)
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        sent.with_context(|| format!("sending SIG{name}"))?;
        Ok(())
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, then waits up to `patience` for the process to end.
    pub(crate) async fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!(
            "the server still ran {patience:?} after SIGTERM:\n{}",
            self.log_end()
        );
    }

    /// Whether the process has ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// CPU time used so far, user and system, in microseconds.
    pub(crate) fn cpu_micros(&self) -> u64 {
        cpu_micros(&self.child.id().to_string())
    }

    /// Resident memory in KiB, 0 if it cannot be read.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let line = status.unwrap_or_default();
        let resident = line.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        resident
            .and_then(|kib| kib.trim().split(' ').next()?.parse().ok())
            .unwrap_or(0)
    }

    /// The end of what it printed.
    pub(crate) fn log_end(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// CPU time of a process of /proc (`self` for this one) in microseconds, 0 if it cannot be read.
pub(crate) fn cpu_micros(pid: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum::<u64>()
        * TICK_MICROS
}

/// A loopback port that was free a moment ago. Taken below the range that outgoing connections use, and
/// never twice in one process.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const FIRST: u64 = 12_000;
    const COUNT: u64 = 20_000;
    let _ = NEXT.compare_exchange(0, 1 + fresh_seed() % COUNT, Relaxed, Relaxed);
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Relaxed) % COUNT;
        let port = u16::try_from(port).context("a port beyond 65535")?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {FIRST} on is free")
}
