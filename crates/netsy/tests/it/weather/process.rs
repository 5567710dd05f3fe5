//! A Node in a process of its own, for what only a process can suffer: signals, and a disk that is full.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::node::{CLUSTER, PATIENCE, Place, until};

/// A running `netsy serve`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) clients: SocketAddr,
    health: SocketAddr,
    log: PathBuf,
}

/// An address nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

impl Process {
    /// Starts the Node `name` of a place on files.
    pub(crate) fn start(place: &Place, name: &str) -> Process {
        Process::start_under(place, name, &[])
    }

    /// The same, under a command such as one that limits what it may use.
    pub(crate) fn start_under(place: &Place, name: &str, under: &[&str]) -> Process {
        let (clients, health) = (free(), free());
        let disk = place.disk(name);
        let bucket = place.disk("bucket");
        let config = place.disk(&format!("{name}.toml"));
        let text = format!(
            "cluster_id = \"{CLUSTER}\"\nnode_id = \"{name}\"\ndata_dir = \"{}\"\n\
             [bucket]\nurl = \"file://{}\"\ndocument_timeout = \"300ms\"\n\
             [client]\nlisten = \"{clients}\"\n[http]\nlisten = \"{health}\"\n\
             [elector]\nrenew_interval = \"200ms\"\ntimeout = \"900ms\"\nprimary_timeout = \"200ms\"\n\
             [reads]\nlease = \"300ms\"\nwhen_degraded = \"refuse\"\n[log]\nformat = \"json\"\n",
            disk.display(),
            bucket.display(),
        );
        std::fs::write(&config, text).unwrap();
        let log = place.disk(&format!("{name}.log"));
        let words: Vec<&str> = under
            .iter()
            .copied()
            .chain([env!("CARGO_BIN_EXE_netsy"), "serve", "--config"])
            .collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg(&config)
            // Settings come from the file alone, whatever the tests were started with.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process {
            child,
            clients,
            health,
            log,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops every thread of it, and returns when they stand still.
    pub(crate) async fn put_to_sleep(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        until("every thread stands still", || async {
            let mut tasks = std::fs::read_dir(&tasks).unwrap();
            tasks.all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
                // `pid (name) state ...`
                stat.rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with('T'))
            })
        })
        .await;
    }

    /// What `/readyz` says: Ok, or why not.
    pub(crate) async fn asked(&self) -> Result<(), String> {
        let url = format!("http://{}/readyz", self.health);
        netsy::bucket::install_crypto();
        let answer = reqwest::Client::new()
            .get(url)
            .send()
            .await
            .map_err(|e| e.to_string())?;
        let well = answer.status().is_success();
        let text = answer.text().await.unwrap_or_default();
        if well { Ok(()) } else { Err(text) }
    }

    pub(crate) async fn ready(&self) {
        until("the process is ready", || async {
            self.asked().await.is_ok()
        })
        .await;
    }

    /// What it has logged.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for its end; the exit code.
    pub(crate) async fn ended(mut self) -> i32 {
        let give_up = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(std::time::Instant::now() < give_up, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.logged());
        }
    }
}
