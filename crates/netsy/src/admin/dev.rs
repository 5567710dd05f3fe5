//! `netsy dev --nodes N`: a whole cluster on loopback, one process per Node under one parent.
//!
//! The parent starts the Nodes, says what becomes of them, and ends them when it is told to. A Node that
//! dies stays dead until somebody starts it again with `netsy dev --nodes N --node I`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, RunError};

/// How far apart the Nodes' client ports are.
pub const PORTS_APART: u16 = 10;

/// What the parent was asked for.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How many Nodes.
    pub nodes: u16,
    /// `--dir`, absolute.
    pub dir: std::path::PathBuf,
    /// The first Node's client address.
    pub listen: SocketAddr,
    /// `--leases-expire`.
    pub leases_expire: bool,
}

impl Cluster {
    /// The flag that all Nodes were given beside their addresses, if it was.
    fn more(&self) -> Option<&'static str> {
        self.leases_expire.then_some("--leases-expire")
    }

    /// What starts one of its Nodes again.
    fn again(&self, index: u16) -> String {
        format!(
            "`netsy dev --dir {} --listen {} --nodes {} --node {index}{}`",
            self.dir.display(),
            self.listen,
            self.nodes,
            self.more().map_or(String::new(), |flag| format!(" {flag}")),
        )
    }
}

/// The address of Node `index` (from 1) when the first one is at `first`; port 0 stays 0.
///
/// # Errors
/// The port would be beyond 65535.
pub fn address(first: SocketAddr, index: u16) -> Result<SocketAddr, String> {
    if first.port() == 0 {
        return Ok(first);
    }
    let port = PORTS_APART
        .checked_mul(index - 1)
        .and_then(|apart| first.port().checked_add(apart))
        .ok_or_else(|| format!("node {index} has no port: `{first}` is too high"))?;
    Ok(SocketAddr::new(first.ip(), port))
}

/// Runs the cluster until every Node has ended; `stop` ends them.
///
/// # Errors
/// A Node that cannot be started, or all of them ended by themselves.
pub async fn run(cluster: &Cluster, stop: CancellationToken) -> Result<(), RunError> {
    let program = std::env::current_exe()
        .map_err(|error| RunError::failed("find this program", error, "start it by its path"))?;
    let mut running = JoinSet::new();
    for index in 1..=cluster.nodes {
        let child = start(&program, cluster, index)?;
        running.spawn(watch(index, child, stop.clone()));
    }
    let mut all_refused = true;
    while let Some(ended) = running.join_next().await {
        let Ok((index, ended)) = ended else { continue };
        let refused = is_refused(&ended);
        all_refused &= refused;
        let how = describe(ended);
        if stop.is_cancelled() {
            // It was told to.
        } else if refused {
            eprintln!("node-{index} ended: {how}; see above for what to correct");
        } else {
            eprintln!(
                "node-{index} ended: {how}; {} starts it again",
                cluster.again(index)
            );
        }
    }
    if stop.is_cancelled() {
        return Ok(());
    }
    let (attempted, why) = ("run the cluster", "every node has ended");
    Err(if all_refused {
        RunError::setup(attempted, why, "correct what is said above")
    } else {
        RunError::failed(attempted, why, "see above for why")
    })
}

/// Whether the Node ended with a mistake that somebody has to correct first.
fn is_refused(ended: &std::io::Result<ExitStatus>) -> bool {
    let code = ended.as_ref().ok().and_then(ExitStatus::code);
    code == Some(i32::from(Exit::Setup.code()))
}

fn start(program: &Path, cluster: &Cluster, index: u16) -> Result<Child, RunError> {
    Command::new(program)
        .arg("dev")
        .arg("--dir")
        .arg(&cluster.dir)
        .args(["--listen", &cluster.listen.to_string()])
        .args(["--nodes", &cluster.nodes.to_string()])
        .args(["--node", &index.to_string()])
        .args(cluster.more())
        .arg("--under-parent")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            RunError::failed(
                format!("start node-{index}"),
                error,
                "see the process limits",
            )
        })
}

/// Waits for one Node; once told to stop, tells it.
async fn watch(
    index: u16,
    mut child: Child,
    stop: CancellationToken,
) -> (u16, std::io::Result<ExitStatus>) {
    tokio::select! {
        ended = child.wait() => return (index, ended),
        () = stop.cancelled() => {}
    }
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(id) = id.and_then(rustix::process::Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
    (index, child.wait().await)
}

fn describe(ended: std::io::Result<ExitStatus>) -> String {
    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// Ends this process when its parent does, however that ends.
pub fn live_no_longer_than_the_parent() {
    let parent = rustix::process::getppid();
    let signal = Some(rustix::process::Signal::TERM);
    let _ = rustix::process::set_parent_process_death_signal(signal);
    if rustix::process::getppid() != parent {
        std::process::exit(1);
    }
}
