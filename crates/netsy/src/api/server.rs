//! The client port: sockets, TLS and HTTP. gRPC, `/version` and `/health` share it, as they do in etcd, and
//! Netsy's own `/status`.
//!
//! Handshakes run beside the accept loop; certificates are swapped by storing another configuration.
//! When the Node closes nothing new is taken, requests under way get a moment to end, and streams (which
//! watch `closing` themselves) are cut after it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tracing::{debug, warn};

use super::cluster::Cluster;
use super::guard::{self, Guard};
use super::kv::Kv;
use super::lease::Lease;
use super::maintenance::Maintenance;
use super::proto::etcdserverpb::cluster_server::ClusterServer;
use super::proto::etcdserverpb::kv_server::KvServer;
use super::proto::etcdserverpb::lease_server::LeaseServer;
use super::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use super::proto::etcdserverpb::watch_server::WatchServer;
use super::watch::Watch;
use super::{CLUSTER_VERSION, Door, Limits, MESSAGE_ROOM, Metrics, VERSION, unsupported};
use crate::report::Report;
use crate::standing::{Handle, HealthState};
use crate::tls::holder::why;

/// The TLS configuration of the client port. Store another one to swap certificates: connections already
/// open keep the old one. It must offer ALPN: see [`with_alpn`].
pub type Tls = Arc<ArcSwap<ServerConfig>>;

/// `config`, offering what gRPC clients insist on (`h2`) and what kubeadm's `/version` needs.
#[must_use]
pub fn with_alpn(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Serves etcd's API on `listener` until `handle.closing` is cancelled, and then for as long as requests
/// under way take, at most `limits.close_within`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    handle: Handle,
    limits: Limits,
    metrics: Metrics,
) {
    let closing = handle.closing.clone();
    let door = Door::new(handle, limits);
    let limits = Arc::clone(&door.limits);
    let port = Port {
        router: router(door, metrics.clone()),
        http: Arc::new(http(&limits)),
        tls,
        limits: Arc::clone(&limits),
        metrics,
        closing: closing.clone(),
        closed: CancellationToken::new(),
    };
    let connections = TaskTracker::new();
    while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, from)) => {
                connections.spawn(port.clone().connection(socket, from));
            }
            Err(why) => {
                warn!(%why, "a client connection could not be accepted; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(limits.close_within, connections.wait())
        .await
        .is_err()
    {
        debug!(
            connections = connections.len(),
            "cutting client connections that did not end"
        );
    }
    port.closed.cancel();
    connections.wait().await;
}

/// Everything a request can reach.
fn router(door: Door, metrics: Metrics) -> Router {
    let guard = Guard {
        handle: door.handle.clone(),
        metrics,
        patience: door.limits.watch.leaderless_for,
    };
    let plain = Router::new()
        .route("/version", get(version))
        .route("/health", get(health))
        .route("/status", get(status))
        .with_state(door.clone());
    services(door)
        .merge(unsupported::routes())
        .fallback(guard::unknown)
        .layer(middleware::from_fn_with_state(guard, guard::pass))
        .merge(plain)
}

/// The generated services. What they send is as long as it is; what they take is bounded.
fn services(door: Door) -> Router {
    let message_bytes = door.limits.request_bytes + MESSAGE_ROOM;
    macro_rules! bounded {
        ($server:expr) => {
            $server
                .max_decoding_message_size(message_bytes)
                .max_encoding_message_size(usize::MAX)
        };
    }
    let mut routes = Routes::builder();
    routes
        .add_service(bounded!(KvServer::new(Kv(door.clone()))))
        .add_service(bounded!(WatchServer::new(Watch::new(door.clone()))))
        .add_service(bounded!(LeaseServer::new(Lease(door.clone()))))
        .add_service(bounded!(ClusterServer::new(Cluster(door.clone()))))
        .add_service(bounded!(MaintenanceServer::new(Maintenance(door))));
    routes.routes().into_axum_router()
}

/// How HTTP is spoken: as tolerant as etcd. Any number of streams, clients may ping as they like and
/// cancel requests in bulk, and a peer that is gone is noticed.
fn http(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(u32::MAX)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_pending_accept_reset_streams(10_000)
        .max_local_error_reset_streams(10_000)
        .keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(limits.ping_every);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_within);
    builder
}

/// What each connection needs.
#[derive(Clone)]
struct Port {
    router: Router,
    http: Arc<auto::Builder<TokioExecutor>>,
    tls: Option<Tls>,
    limits: Arc<Limits>,
    metrics: Metrics,
    closing: CancellationToken,
    /// Cancelled when connections still open are cut.
    closed: CancellationToken,
}

impl Port {
    async fn connection(self, socket: TcpStream, from: SocketAddr) {
        if let Err(why) = socket.set_nodelay(true) {
            debug!(%from, %why, "a client connection has no TCP_NODELAY");
        }
        let Some(tls) = &self.tls else {
            return self.speak(socket, from).await;
        };
        let acceptor = TlsAcceptor::from(tls.load_full());
        match timeout(self.limits.handshake_within, acceptor.accept(socket)).await {
            Ok(Ok(stream)) => self.speak(stream, from).await,
            Ok(Err(why)) if why.kind() == ErrorKind::UnexpectedEof => {
                debug!(%from, "a client left before its TLS handshake, as health checks do");
            }
            Ok(Err(failed)) => {
                self.metrics.handshake_failures.inc();
                let why = why(&failed);
                warn!(%from, why, "a client's TLS handshake failed");
            }
            Err(_) => {
                self.metrics.handshake_failures.inc();
                warn!(%from, "a client's TLS handshake took too long");
            }
        }
    }

    async fn speak<S>(&self, stream: S, from: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.metrics.connections.inc();
        let service = TowerToHyperService::new(self.router.clone());
        let mut connection =
            std::pin::pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                self.closed.run_until_cancelled(connection).await
            }
        };
        if let Some(Err(why)) = ended {
            debug!(%from, %why, "a client connection broke");
        }
        self.metrics.connections.dec();
    }
}

/// kubeadm asks for it before anything else.
async fn version() -> Response {
    let body = json!({ "etcdserver": VERSION, "etcdcluster": CLUSTER_VERSION });
    answer(StatusCode::OK, &body)
}

/// etcd's health: whether this Node can serve, and why not.
async fn health(State(door): State<Door>) -> Response {
    let standing = door.standing();
    let reason = match standing.health {
        _ if standing.leader == 0 => "no leader",
        HealthState::Healthy => "",
        HealthState::Loading => "loading",
        HealthState::Degraded => standing.reason.as_deref().unwrap_or("degraded"),
    };
    if reason.is_empty() {
        return answer(
            StatusCode::OK,
            &json!({ "health": "true", "reason": reason }),
        );
    }
    let body = json!({ "health": "false", "reason": reason });
    answer(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// What this Node says of itself to `netsy status`.
async fn status(State(door): State<Door>) -> Response {
    let body = Report::of(&door.handle.board).json();
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn answer(code: StatusCode, body: &serde_json::Value) -> Response {
    (code, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
