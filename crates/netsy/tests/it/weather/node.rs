//! A real Node on a thread and a runtime of its own, so that it can be stopped, cut off and killed.
//!
//! A [`Place`] is what outlives Nodes: the store, and the folder their disks are in. Each Node sees the
//! store under a sky of its own. To kill one, its sky goes silent before it is told to stop: nothing of
//! what it still tries has any effect.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netsy::api::proto::etcdserverpb::kv_client::KvClient;
use netsy::api::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use netsy::api::proto::etcdserverpb::{StatusRequest, StatusResponse};
use netsy::bucket::faults::{Fault, Faults, Operation, Verb};
use netsy::bucket::local::LocalFiles;
use netsy::bucket::{Bucket, Timeouts, names};
use netsy::config::{Config, LogFormat, WhenDegraded};
use netsy::exit::RunError;
use netsy::{World, run_in};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::etcd::Kv;

pub(crate) const CLUSTER: &str = "weather";
/// The longest anything may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// Short limits: the tests wait for them to pass.
pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    document: Duration::from_millis(300),
    chunk: Duration::from_millis(400),
    file: Duration::from_millis(600),
};

/// Each new Chunk meets `fault`, and nothing else does.
pub(crate) fn new_chunks(fault: Fault) -> impl Fn(&Operation) -> Fault + Send + 'static {
    move |operation| {
        let chunk = operation.object.starts_with(names::chunks().as_ref());
        if chunk && operation.verb == Verb::Create {
            fault
        } else {
            Fault::None
        }
    }
}

/// Ports of Nodes, kept for as long as the place is there: where a Node is gone, clients find nobody, and not a Node
/// of another test.
#[derive(Clone, Default)]
struct Ports(Arc<Mutex<Vec<TcpSocket>>>);

impl Ports {
    /// A port that a listener can be bound to, and that nobody else is given.
    fn reserve(&self) -> SocketAddr {
        let socket = TcpSocket::new_v4().unwrap();
        // Both have it, and this one never listens.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let at = socket.local_addr().unwrap();
        self.0.lock().push(socket);
        at
    }
}

/// What outlives Nodes.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) home: TempDir,
    ports: Ports,
}

impl Place {
    /// A bucket in memory. `NETSY_LOG=netsy=debug` shows what its Nodes say.
    pub(crate) fn new() -> Place {
        if let Ok(directives) = std::env::var("NETSY_LOG") {
            // Whoever is first starts it for all.
            let _ = netsy::log::start(("", false), LogFormat::Human, "", Some(&directives), false);
        }
        Place {
            store: Arc::new(InMemory::new()),
            home: tempfile::tempdir().unwrap(),
            ports: Ports::default(),
        }
    }

    /// A bucket of local files, in `bucket` below the home.
    pub(crate) fn on_files() -> Place {
        let home = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalFiles::open(&home.path().join("bucket")).unwrap());
        let ports = Ports::default();
        Place { store, home, ports }
    }

    /// The bucket in calm weather.
    pub(crate) fn bucket(&self) -> Bucket {
        Bucket::over(Arc::clone(&self.store), "the bucket", CLUSTER).with_timeouts(TIMEOUTS)
    }

    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A Node to be, in calm weather, on the disk that bears its name.
    pub(crate) fn node(&self, name: &str) -> Setup {
        self.node_on(name, name)
    }

    /// The same on another disk, such as one that is empty.
    pub(crate) fn node_on(&self, name: &str, disk: &str) -> Setup {
        let mut config = Config::dev(self.home.path(), "127.0.0.1:0", "127.0.0.1:0").unwrap();
        config.cluster_id = CLUSTER.to_owned();
        config.node_id = name.to_owned();
        config.data_dir = self.disk(disk);
        config.elector.renew_interval = Duration::from_millis(200);
        config.elector.timeout = Duration::from_millis(900);
        config.elector.primary_timeout = Duration::from_millis(200);
        config.reads.lease = Some(Duration::from_millis(300));
        config.reads.when_degraded = WhenDegraded::Refuse;
        config.limits.drain_timeout = Duration::from_millis(500);
        config.snapshots.check_interval = Duration::from_millis(100);
        let sky = Faults::new(Arc::clone(&self.store));
        Setup {
            config,
            sky,
            ports: self.ports.clone(),
            port: None,
        }
    }

    /// A Node of a cluster: others reach it, and it reaches them.
    pub(crate) fn member(&self, name: &str) -> Setup {
        self.node(name).with(|config| {
            config.peer.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
            config.elector.heartbeat_interval = Duration::from_millis(50);
            config.elector.primary_timeout = Duration::from_millis(400);
            config.replication.upload_age = Duration::from_millis(200);
        })
    }

    /// A member that is in no hurry to call another silent, for stories in which voters must not change, however
    /// busy the machine is.
    pub(crate) fn calm_member(&self, name: &str) -> Setup {
        self.member(name).with(|config| {
            config.elector.primary_timeout = Duration::from_secs(2);
            config.limits.drain_timeout = Duration::from_secs(10);
        })
    }

    /// A Node on an empty disk that has restored everything: the judge's.
    pub(crate) async fn judge(&self, name: &str) -> Running {
        let disk = format!("judge-{}", rand());
        let node = self.node_on(name, &disk).start().await;
        node.healthy().await;
        node
    }
}

/// A number that is fresh in this process.
pub(crate) fn rand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A Node that has not started.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) sky: Faults,
    ports: Ports,
    /// Its peer port, if that is to outlive the Node.
    port: Option<std::net::TcpListener>,
}

impl Setup {
    /// Changes the configuration.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Config)) -> Setup {
        change(&mut self.config);
        self
    }

    /// Gives it a peer port that is open already: its next life is reached at the same address.
    pub(crate) fn at(mut self, port: &std::net::TcpListener) -> Setup {
        port.set_nonblocking(true).unwrap();
        self.port = Some(port.try_clone().unwrap());
        self
    }

    /// Starts it. Returns when its ports are open; it is not ready then.
    pub(crate) async fn start(self) -> Running {
        let Setup {
            config,
            sky,
            ports,
            port,
        } = self;
        let [clients, health, peers] = [(); 3].map(|()| ports.reserve());
        let name = config.node_id.clone();
        let bucket = Bucket::over(Arc::new(sky.clone()), "the bucket", CLUSTER);
        let bucket = bucket.with_timeouts(TIMEOUTS);
        let shutdown = CancellationToken::new();
        let (bound, is_bound) = tokio::sync::oneshot::channel();
        let (sender, ended) = tokio::sync::oneshot::channel();
        let token = shutdown.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let result = runtime.block_on(async move {
                let clients = TcpListener::bind(clients).await.unwrap();
                let health = TcpListener::bind(health).await.unwrap();
                let _ = bound.send(());
                let peers = match (port, config.peer.listen) {
                    (Some(port), _) => Some(TcpListener::from_std(port).unwrap()),
                    (None, Some(_)) => Some(TcpListener::bind(peers).await.unwrap()),
                    (None, None) => None,
                };
                let world = World {
                    bucket: Some(bucket),
                    clients,
                    health,
                    peers,
                    greets: false,
                };
                run_in(config, world, token).await
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
            if let Err(why) = &result {
                println!("a node ended: {why}");
            }
            let _ = sender.send(result);
        });
        is_bound.await.unwrap();
        Running {
            name,
            clients,
            health,
            sky,
            shutdown,
            ended,
        }
    }

    /// Runs it until it gives up, and says why.
    pub(crate) async fn refused(self) -> RunError {
        let running = self.start().await;
        let ended = tokio::time::timeout(PATIENCE, running.ended).await;
        ended
            .expect("it gives up in time")
            .unwrap()
            .expect_err("it refuses to run")
    }
}

/// A Node at work.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) clients: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) sky: Faults,
    pub(crate) shutdown: CancellationToken,
    ended: tokio::sync::oneshot::Receiver<Result<(), RunError>>,
}

impl Running {
    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.ended)
            .await
            .expect("it stops in time")
            .unwrap()
    }

    /// Kills it: nothing of what it tries from now on reaches the bucket, and its disk is let go.
    pub(crate) async fn kill(self) {
        self.sky.set(|_| Fault::Hang);
        let _ = self.stop().await;
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Option<Result<(), RunError>> {
        self.ended.try_recv().ok()
    }

    /// Waits until it calls itself ready; how long that took.
    pub(crate) async fn healthy(&self) -> Duration {
        let began = Instant::now();
        let mut said = String::new();
        while let Err(why) = self.ready().await {
            said = if why.is_empty() { said } else { why };
            let patient = began.elapsed() < PATIENCE;
            assert!(patient, "waited in vain for `{}`: {said}", self.name);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        began.elapsed()
    }

    /// `/readyz`: Ok, or what it says instead.
    pub(crate) async fn ready(&self) -> Result<(), String> {
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

    pub(crate) fn kv(&self) -> Kv {
        kv(self.clients)
    }

    pub(crate) async fn status(&self) -> StatusResponse {
        let mut maintenance = MaintenanceClient::new(channel(self.clients));
        maintenance
            .status(StatusRequest {})
            .await
            .unwrap()
            .into_inner()
    }
}

pub(crate) fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint
        .connect_timeout(Duration::from_secs(1))
        .connect_lazy()
}

pub(crate) fn kv(address: SocketAddr) -> Kv {
    Kv(KvClient::new(channel(address)).max_decoding_message_size(usize::MAX))
}

/// Waits for `condition`.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let give_up = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < give_up, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
