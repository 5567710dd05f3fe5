//! A real etcd, where one is installed (Debian: `etcd-server`, `etcd-client`), to be compared with.
//!
//! Without one the tests that need it say so and pass: they are a proof on top, not the only one.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

const ETCD: &str = "/usr/bin/etcd";
const ETCDCTL: &str = "/usr/bin/etcdctl";

/// One etcd process with an empty store; killed when dropped.
pub(crate) struct Oracle {
    child: Child,
    pub(crate) channel: Channel,
    _dir: TempDir,
}

impl Oracle {
    pub(crate) async fn start() -> Option<Oracle> {
        if !Path::new(ETCD).exists() {
            eprintln!("skipped: {ETCD} is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let client = free_url();
        let peer = free_url();
        let child = Command::new(ETCD)
            .arg(format!("--data-dir={}", dir.path().display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let channel = connected(client).await;
        Some(Oracle {
            child,
            channel,
            _dir: dir,
        })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn connected(url: String) -> Channel {
    let endpoint = Endpoint::from_shared(url).unwrap();
    let begun = Instant::now();
    loop {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "etcd did not start"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs etcdctl against `address`, off the test's own thread; what it printed, and whether it succeeded.
/// `None` where it is not installed.
pub(crate) async fn etcdctl(
    address: std::net::SocketAddr,
    arguments: &[&str],
    input: &str,
) -> Option<(bool, String)> {
    use tokio::io::AsyncWriteExt;
    if !Path::new(ETCDCTL).exists() {
        eprintln!("skipped: {ETCDCTL} is not installed");
        return None;
    }
    let mut child = tokio::process::Command::new(ETCDCTL)
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={address}"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .await
        .unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(text).unwrap()))
}
