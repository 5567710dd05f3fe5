//! `run`: one Node from start to end, handed its whole world by the configuration.
//!
//! The health port and the peer port open first; then the disk and the bucket are taken in hand, the Node
//! registers, the log is restored, the driver starts on its own thread, and the etcd door opens. Closing goes
//! the other way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rules::node::Node;
use rules::revision::Epoch;
use rules::settings::Settings;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bucket::{self, Bucket};
use crate::config::{Config, WhenDegraded};
use crate::driver::{self, Ended, Parts, Registration};
use crate::exit::RunError;
use crate::peer;
use crate::standing::{Board, Handle, HealthState, PrimaryState, Standing};
use crate::start::{Started, start};
use crate::telemetry::Metrics;
use crate::tls::{self, Reloading, Unusable};
use crate::waiting::{PeerPort, PeerTls};
use crate::{api, http};

/// The shortest time between two notes of progress; etcd's own.
const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// How often it is looked whether the Node is ready to be announced.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the bucket may hold up the newest Chunk before the Node calls itself Degraded.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Everything a Node meets that is not arithmetic. Tests hand in listeners on port 0 and their own weather.
pub struct World {
    /// The permanent store; `None` opens the one the configuration names.
    pub bucket: Option<Bucket>,
    /// Where etcd clients come in.
    pub clients: TcpListener,
    /// Where health and metrics are served.
    pub health: TcpListener,
    /// Where other Nodes come in; `None` for a Node that is alone.
    pub peers: Option<TcpListener>,
    /// What to say once on standard output when the Node is ready.
    pub greets: bool,
}

impl World {
    /// The world as the configuration names it.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub async fn open(config: &Config) -> Result<World, RunError> {
        // In `netsy dev` the peer port follows the client port.
        let [client, http, peer] = if config.is_dev {
            ["--listen", "--http", "--listen"]
        } else {
            ["client.listen", "http.listen", "peer.listen"]
        };
        let clients = listen(config.client.listen, "client port", client).await?;
        let health = listen(config.http.listen, "health port", http).await?;
        let peers = match config.peer.listen {
            Some(address) => Some(listen(address, "peer port", peer).await?),
            None => None,
        };
        Ok(World {
            bucket: None,
            clients,
            health,
            peers,
            greets: true,
        })
    }
}

/// Runs a Node in the world its configuration names, until `shutdown`; see [`run_in`].
///
/// # Errors
/// Why the Node could not start or go on, and what to do.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let world = World::open(&config).await?;
    run_in(config, world, shutdown).await
}

/// Runs a Node until `shutdown`, and then until every acknowledged write is in the bucket.
///
/// # Errors
/// Why the Node could not start or go on, and what to do.
pub async fn run_in(
    config: Config,
    world: World,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    bucket::install_crypto();
    let board = Board::new(unknown_standing(&config));
    let api_metrics = api::Metrics::default();
    let metrics = Metrics::new(&config.cluster_id, &config.node_id, |registry| {
        api_metrics.register(registry);
    });
    let (tls, identity) = certificates(&config)?;
    let bound = world.clients.local_addr().unwrap_or(config.client.listen);
    let health_bound = world.health.local_addr().unwrap_or(config.http.listen);
    let closed = CancellationToken::new();
    let shown = http::Health {
        board: Arc::clone(&board),
        metrics: Arc::clone(&metrics),
    };
    let health = tokio::spawn(http::serve(world.health, shown, closed.clone()));
    let peers = world.peers.as_ref();
    let peer_bound = peers.and_then(|peers| peers.local_addr().ok());
    let registration = registration(&config, bound, peer_bound);
    let closing = CancellationToken::new();
    let _closes = closing.clone().drop_guard();
    if let Some(identity) = &identity {
        watch_files(Arc::clone(identity), &metrics, &closing);
    }
    let mut port = world.peers.map(|listener| {
        PeerPort::open(
            listener,
            &registration,
            &config.cluster_id,
            identity,
            closing.clone(),
        )
    });
    let started = tokio::select! {
        started = start(&config, world.bucket, &registration, &mut port) => started,
        () = shutdown.cancelled() => {
            closed.cancel();
            return Ok(());
        }
    };
    let greeting = crate::greeting::ready(&config, bound, health_bound);
    let greeter = world
        .greets
        .then(|| tokio::spawn(greet(Arc::clone(&board), greeting)));
    let doors = Doors {
        board,
        metrics,
        api_metrics,
        tls,
        clients: world.clients,
        port,
        closing,
    };
    let result = match started {
        Ok(started) => serve(&config, started, doors, shutdown).await,
        Err(error) => Err(error),
    };
    if let Some(greeter) = greeter {
        greeter.abort();
    }
    closed.cancel();
    let _ = health.await;
    result
}

type ClientTls = Option<Arc<Reloading<ServerConfig>>>;

/// The certificates of both ports.
fn certificates(config: &Config) -> Result<(ClientTls, PeerTls), RunError> {
    let unusable = |attempted: &str, error: Unusable| {
        RunError::setup(attempted, error, "`netsy certs` makes working files")
    };
    let clients = tls::clients::open(&config.client, &config.cluster_id)
        .map_err(|error| unusable("open the client port", error))?;
    let peers = peer::identity::open(&config.peer, &config.cluster_id, &config.node_id)
        .map_err(|error| unusable("open the peer port", error))?;
    Ok((clients, peers))
}

/// What is wrong with the certificate files that `config` names: each a sentence.
#[must_use]
pub fn certificate_mistakes(config: &Config) -> Vec<String> {
    let (cluster_id, node_id) = (&config.cluster_id, &config.node_id);
    let clients = tls::clients::open(&config.client, cluster_id).map(drop);
    let peers = peer::identity::rehearse(&config.peer, cluster_id, node_id);
    let told = [("client", clients), ("peer", peers)].into_iter();
    told.filter_map(|(port, used)| Some(format!("[{port}]: {}", used.err()?)))
        .collect()
}

/// Says once, on standard output, that the Node is ready.
async fn greet(board: Arc<Board>, greeting: String) {
    while board.standing().health != HealthState::Healthy {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Nobody there to read is no error.
    let _ = out
        .write_all(greeting.as_bytes())
        .and_then(|()| out.flush());
}

fn unknown_standing(config: &Config) -> Standing {
    Standing {
        node_id: config.node_id.clone(),
        cluster_id: config.cluster_id.clone(),
        member_id: 0,
        health: HealthState::Loading,
        reason: Some("restoring the log".to_owned()),
        primary_state: PrimaryState::Replica,
        epoch: Epoch::ZERO,
        leader: 0,
        leader_name: None,
        elector: false,
        members: Vec::new(),
    }
}

async fn listen(address: SocketAddr, what: &str, key: &str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|error| {
        RunError::failed(
            format!("open the {what} on `{address}`"),
            error,
            format!("stop what uses the address, or choose another with `{key}`"),
        )
    })
}

fn registration(
    config: &Config,
    bound: SocketAddr,
    peer_bound: Option<SocketAddr>,
) -> Registration {
    Registration {
        seq: 0,
        mark: String::new(),
        node_id: config.node_id.clone(),
        incarnation: String::new(),
        boot_seq: 0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        client_urls: config.client.urls(bound),
        peer_urls: peer_bound.map_or_else(
            || config.client.urls(bound),
            |bound| vec![config.peer.url(bound)],
        ),
    }
}

/// What the outside sees of a Node.
struct Doors {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    api_metrics: api::Metrics,
    tls: ClientTls,
    clients: TcpListener,
    port: Option<PeerPort>,
    closing: CancellationToken,
}

/// Runs the driver and the door until one of them ends or `shutdown` comes.
async fn serve(
    config: &Config,
    started: Started,
    doors: Doors,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let Doors {
        board,
        metrics,
        api_metrics,
        tls,
        clients,
        port,
        closing,
    } = doors;
    let view = Arc::clone(&started.restored.view);
    let (handle, requests) = Handle::new(view, Arc::clone(&board), closing.clone());
    let acceptor = tls.as_ref().map(|tls| tls.shared());
    if let Some(tls) = tls {
        watch_files(tls, &metrics, &closing);
    }
    let mut parts = parts(config, started, board, metrics);
    parts.peers = port.and_then(|port| port.hand_over(parts.node.me(), handle.clone()));
    let mut limits = api::Limits::default();
    limits.watch.progress_every = config.watch.progress_interval.max(PROGRESS_MIN);
    // As long as it takes in the worst case until there is another Primary: whoever waits for one then need not be told.
    limits.watch.leaderless_for = config.elector.timeout + 2 * config.elector.primary_timeout;
    limits.quota = config.storage.quota.unwrap_or(0);
    limits.leases_expire = config.leases.expire;
    limits.request_bytes = usize::try_from(config.limits.request_bytes).unwrap_or(usize::MAX);
    let door = tokio::spawn(api::serve(clients, acceptor, handle, limits, api_metrics));
    let runtime = tokio::runtime::Handle::current();
    let grace = config.limits.drain_timeout;
    let (sender, ended) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || {
            let _ = sender.send(driver::run(parts, runtime, requests, shutdown, grace));
        });
    thread
        .map_err(|error| RunError::failed("start the driver", error, "see the process limits"))?;
    let ended = ended.await;
    closing.cancel();
    let _ = door.await;
    end(ended.ok(), grace)
}

/// Looks at the files of a port until `closing`.
fn watch_files<T: Send + Sync + 'static>(
    port: Arc<Reloading<T>>,
    metrics: &Arc<Metrics>,
    closing: &CancellationToken,
) {
    let (metrics, closing) = (Arc::clone(metrics), closing.clone());
    tokio::spawn(port.reload_when_changed(tls::RELOAD_EVERY, metrics, closing));
}

/// What the driver is made of.
fn parts(config: &Config, started: Started, board: Arc<Board>, metrics: Arc<Metrics>) -> Parts {
    let (identity, registration) = (started.identity, started.registration);
    let seed = u64::from_str_radix(&bucket::fresh_mark()[..16], 16).unwrap_or(1);
    let restored = started.restored;
    let (log, promised) = (restored.log, restored.promised);
    let address = registration.peer_urls.first().cloned().unwrap_or_default();
    let boot_seq = started.store.meta().boot_seq;
    Parts {
        node: Node::new(
            identity,
            settings(config),
            log,
            promised,
            address,
            (boot_seq, seed),
        ),
        view: restored.view,
        store: started.store,
        bucket: started.bucket,
        board,
        metrics,
        tail: restored.tail,
        registration,
        cluster_id: config.cluster_id.clone(),
        chunk_bytes_max: usize::try_from(config.chunks.max_bytes).unwrap_or(usize::MAX),
        chunk_records_max: usize::try_from(config.chunks.max_records).unwrap_or(usize::MAX),
        unflushed_bytes: config.replication.unflushed_bytes,
        snapshots: driver::SnapshotPolicy {
            newest: restored.snapshot,
            records: config.snapshots.records.unwrap_or(0),
            bytes: config.snapshots.bytes.unwrap_or(0),
            age: config.snapshots.age.unwrap_or_default(),
            retention: config.snapshots.retention,
            check_interval: config.snapshots.check_interval,
        },
        compaction: driver::CompactionPolicy {
            retention: config.compaction.retention,
            revisions: config.compaction.revisions,
            interval: config.compaction.interval,
        },
        quota: config.storage.quota,
        expires: config.leases.expire,
        silence_max: SILENCE_MAX,
        answers_stale: config.reads.when_degraded == WhenDegraded::Stale,
        peers: None,
        elector_timeout: config.elector.timeout,
    }
}

fn settings(config: &Config) -> Settings {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Settings {
        renew_interval: ms(config.elector.renew_interval),
        elector_timeout: ms(config.elector.timeout),
        margin: ms(config.elector.timeout) / 6,
        primary_timeout: ms(config.elector.primary_timeout),
        lease: config.reads.lease.map_or(0, ms),
        pending_max: config.limits.pending_writes,
        heartbeat_interval: ms(config.elector.heartbeat_interval),
        receipt_timeout: ms(config.replication.receipt_timeout),
        upload_age: ms(config.replication.upload_age),
        upload_records: config.replication.upload_records,
        forget_after: config.elector.forget_after.map_or(0, ms),
        quorum: config.replication.quorum,
        ..Settings::default()
    }
}

fn end(ended: Option<Ended>, grace: Duration) -> Result<(), RunError> {
    match ended {
        Some(Ended::Closed(0)) => {
            info!("every acknowledged write is in the bucket; closed");
            Ok(())
        }
        Some(Ended::Closed(records)) => {
            warn!(
                records,
                "closed; the bucket is not known to hold the newest records of this disk: keep it until a primary has \
                 brought them there"
            );
            Ok(())
        }
        Some(Ended::Abandoned) => Err(RunError::failed(
            "make every write durable before the end",
            format!("it took longer than {}", humantime::format_duration(grace)),
            "keep the disk: the next start goes on from there and from the bucket",
        )),
        Some(Ended::Refused(why)) => Err(RunError::failed("run this node", why, "see the log")),
        // The driver panicked: a fault of ours. Die, and come back by the ordinary cold start.
        None => std::process::exit(crate::exit::FAULT),
    }
}
