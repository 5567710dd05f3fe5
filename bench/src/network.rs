//! A network that can be cut: a relay in front of each Node's peer port, and between each Node and its bucket.
//!
//! A cut holds bytes back and loses none, as TCP does: what was on its way arrives when the cut is healed, however
//! old it is by then. Cuts have a direction. Who dials is found through /proc: a loopback port of a process.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The bucket, where a Node's index is asked for.
pub(crate) const BUCKET: usize = usize::MAX;

/// Somebody who is no Node of ours.
const STRANGER: usize = usize::MAX - 1;

/// Which ways are cut: from, to.
type Cuts = HashSet<(usize, usize)>;

/// The relays, and what is cut.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    cuts: watch::Sender<Cuts>,
    pids: Arc<Mutex<Vec<Option<u32>>>>,
}

impl Network {
    /// A whole network for `nodes` Nodes.
    pub(crate) fn new(nodes: usize) -> Network {
        Network {
            cuts: watch::Sender::new(Cuts::new()),
            pids: Arc::new(Mutex::new(vec![None; nodes])),
        }
    }

    /// Node `index` is this process now.
    pub(crate) fn process(&self, index: usize, pid: Option<u32>) {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)[index] = pid;
    }

    /// Holds back what goes from the first to the second of each pair, until it is healed.
    pub(crate) fn cut(&self, ways: &[(usize, usize)]) {
        self.cuts.send_modify(|cuts| cuts.extend(ways));
    }

    /// Undoes a cut.
    pub(crate) fn heal(&self, ways: &[(usize, usize)]) {
        self.cuts
            .send_modify(|cuts| cuts.retain(|way| !ways.contains(way)));
    }

    /// Relays connections to `address`, which belongs to `target`. `from` dials; None for any Node.
    /// Returns the relay's own port on loopback.
    pub(crate) async fn relay(
        &self,
        from: Option<usize>,
        target: usize,
        address: String,
    ) -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("opening a relay")?;
        let port = listener.local_addr()?.port();
        let network = self.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (network, address) = (network.clone(), address.clone());
                tokio::spawn(async move { network.pass(near, from, target, &address).await });
            }
        });
        Ok(port)
    }

    async fn pass(&self, near: TcpStream, from: Option<usize>, target: usize, address: &str) {
        let from = match from {
            Some(from) => from,
            None => self.dialler(&near).await,
        };
        let mut cuts = self.cuts.subscribe();
        if cuts
            .wait_for(|cuts| !cuts.contains(&(from, target)))
            .await
            .is_err()
        {
            return;
        }
        let Ok(far) = TcpStream::connect(address).await else {
            return;
        };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        tokio::join!(
            pump(near_read, far_write, self.cuts.subscribe(), (from, target)),
            pump(far_read, near_write, self.cuts.subscribe(), (target, from))
        );
    }

    /// The Node whose process holds the other end.
    async fn dialler(&self, near: &TcpStream) -> usize {
        let (Ok(theirs), Ok(ours)) = (near.peer_addr(), near.local_addr()) else {
            return STRANGER;
        };
        for _ in 0..20 {
            let pids = self
                .pids
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let inode = inode(theirs.port(), ours.port());
            let holds = |pid: &Option<u32>| {
                pid.zip(inode.as_ref())
                    .is_some_and(|(pid, inode)| holds(pid, inode))
            };
            if let Some(index) = pids.iter().position(holds) {
                return index;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        STRANGER
    }
}

/// Passes bytes on while the way is whole, and the end of the stream, too.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cuts: watch::Receiver<Cuts>,
    way: (usize, usize),
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        if cuts.wait_for(|cuts| !cuts.contains(&way)).await.is_err() || length == 0 {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// The socket on loopback between two ports, as the one who dialled holds it.
fn inode(local: u16, remote: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (
        format!("0100007F:{local:04X}"),
        format!("0100007F:{remote:04X}"),
    );
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let found = fields.next() == Some(&local) && fields.next() == Some(&remote);
        found.then(|| fields.nth(6).unwrap_or_default().to_owned())
    })
}

/// Whether a process has this socket open.
fn holds(pid: u32, inode: &str) -> bool {
    let socket = format!("socket:[{inode}]");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    open.into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|link| link.to_str() == Some(&socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_cut_holds_bytes_back_until_it_is_healed() {
        let network = Network::new(2);
        network.process(1, Some(std::process::id()));
        let port = network.relay(None, 0, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut byte = [0];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        network.cut(&[(0, 1)]);
        stream.write_all(b"b").await.unwrap();
        let held = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut byte));
        assert!(held.await.is_err());
        network.heal(&[(0, 1)]);
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");
    }
}
