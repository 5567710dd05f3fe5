//! How many Records one PUT carries: a Node whose bucket is far away, under many clients at once.
//!
//! The bucket is the S3 server of `.ci/s3` behind a relay that delays every byte, as distance does: nothing
//! is made slower but the way. What is counted is Chunks and Records in the bucket, not what the Node says.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::chain::Chain;
use crate::load::{Load, Shape};
use crate::node::{Placed, s3_endpoint};
use crate::report::{HEAD, line};
use crate::server::{Server, free_port};

/// Count the Records per PUT with a bucket that is far away.
#[derive(Args, Clone, Debug)]
pub(crate) struct Puts {
    /// The netsy binary.
    #[arg(long, default_value = "target/release/netsy")]
    netsy: PathBuf,
    /// Clients at once.
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// Milliseconds to the bucket and back, added to what the server takes itself.
    #[arg(long, default_value_t = 30)]
    delay: u64,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Exit non-zero below this many Records per PUT.
    #[arg(long)]
    floor: Option<f64>,
}

impl Puts {
    /// Drives the load and prints what the bucket holds of it.
    pub(crate) async fn run(self) -> Result<()> {
        let relay = relay(&s3_endpoint()?, Duration::from_millis(self.delay) / 2).await?;
        let dir = tempfile::tempdir()?;
        let placed = Placed::s3(&format!("puts-{}", crate::dice::fresh_seed()), &relay)?;
        let port = free_port()?;
        let kind = placed.serve(&self.netsy, dir.path(), port, "")?;
        let mut server = Server::spawn(&kind, dir.path(), port)?;
        server.ready(Duration::from_secs(60)).await?;
        let mut chain = Chain::default();
        chain.extend(&placed.bucket).await?;
        let before = (chain.chunk_count(), chain.records.len());
        let load = Load {
            shape: Shape::Create,
            clients: self.clients,
            connections: 16,
            value: 1024,
            filled: 0,
            page: 0,
            warm_up: Duration::from_secs(1),
            measure: Duration::from_secs_f64(self.seconds),
            run: "puts".to_owned(),
        };
        let measured = load.drive(&server).await?;
        server.terminate(Duration::from_secs(30)).await?;
        chain.extend(&placed.bucket).await?;
        let (puts, records) = (
            chain.chunk_count() - before.0,
            chain.records.len() - before.1,
        );
        let each = records as f64 / (puts as f64).max(1.0);
        println!("{HEAD}\n{}", line("netsy", &measured));
        println!(
            "{records} Records in {puts} PUTs to a bucket {} ms away: {each:.1} each",
            self.delay
        );
        match self.floor {
            Some(floor) if each < floor => bail!("the floor is {floor} Records per PUT"),
            _ => Ok(()),
        }
    }
}

/// Listens on loopback and passes every connection on to `endpoint`, each byte `delay` late both ways.
async fn relay(endpoint: &str, delay: Duration) -> Result<String> {
    let to = endpoint
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(&to).await else {
                    return;
                };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::join!(
                    late(near_read, far_write, delay),
                    late(far_read, near_write, delay)
                );
            });
        }
    });
    Ok(format!("http://{address}"))
}

/// Passes bytes on, each `delay` after it came.
async fn late(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let writing = tokio::spawn(async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer).await {
        let sent = length > 0
            && sender
                .send((Instant::now() + delay, buffer[..length].to_vec()))
                .is_ok();
        if !sent {
            break;
        }
    }
    drop(sender);
    let _ = writing.await;
}
