//! What the etcd door counts, under the names etcd's own dashboards look for (`grpc_server_*`).
//!
//! One [`Call`] accompanies each request and is settled with its gRPC code; dropped unsettled, the client
//! went away. Unknown methods share one label, so that nobody can fill the registry.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tonic::Code;

/// Which RPC a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rpc {
    /// `unary`, `server_stream` or `bidi_stream`.
    pub grpc_type: &'static str,
    /// With its package: `etcdserverpb.KV`.
    pub grpc_service: &'static str,
    /// `Range`
    pub grpc_method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: &'static str,
}

const UNKNOWN: Rpc = Rpc {
    grpc_type: "unary",
    grpc_service: "unknown",
    grpc_method: "unknown",
};

impl Rpc {
    /// The RPC behind a path such as `/etcdserverpb.KV/Range`.
    #[must_use]
    pub fn of(path: &str) -> Rpc {
        let Some((service, method)) = path
            .strip_prefix("/etcdserverpb.")
            .and_then(|rest| rest.split_once('/'))
        else {
            return UNKNOWN;
        };
        let supported = super::SUPPORTED
            .iter()
            .map(|(service, method)| (*service, *method));
        let refused = super::unsupported::TABLE
            .iter()
            .map(|(service, method, _)| (*service, *method));
        let known = supported
            .chain(refused)
            .find(|known| *known == (service, method));
        known.map_or(UNKNOWN, |(service, grpc_method)| Rpc {
            grpc_type: kind(grpc_method),
            grpc_service: full_name(service),
            grpc_method,
        })
    }
}

fn kind(method: &str) -> &'static str {
    match method {
        "Watch" | "LeaseKeepAlive" => "bidi_stream",
        "RangeStream" | "Snapshot" => "server_stream",
        _ => "unary",
    }
}

fn full_name(service: &str) -> &'static str {
    match service {
        "KV" => "etcdserverpb.KV",
        "Watch" => "etcdserverpb.Watch",
        "Lease" => "etcdserverpb.Lease",
        "Cluster" => "etcdserverpb.Cluster",
        "Maintenance" => "etcdserverpb.Maintenance",
        "Auth" => "etcdserverpb.Auth",
        _ => "unknown",
    }
}

/// The counters of the etcd door. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    started: Family<Rpc, Counter>,
    handled: Family<Handled, Counter>,
    seconds: Family<Rpc, Histogram>,
    pub(super) panics: Counter,
    pub(super) connections: Gauge,
    pub(super) handshake_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            started: Family::default(),
            handled: Family::default(),
            // 0.1 ms to 6.5 s.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0001, 2.0, 17))
            }),
            panics: Counter::default(),
            connections: Gauge::default(),
            handshake_failures: Counter::default(),
        }
    }
}

impl Metrics {
    /// Shows every counter in `registry`, those of the supported RPCs from the start: what has not happened
    /// yet is a 0, not a gap.
    pub fn register(&self, registry: &mut Registry) {
        for (service, method) in super::SUPPORTED {
            let rpc = Rpc::of(&format!("/etcdserverpb.{service}/{method}"));
            drop(self.started.get_or_create(&rpc));
            drop(self.handled.get_or_create(&labels(rpc, Code::Ok)));
            if rpc.grpc_type == "unary" {
                drop(self.seconds.get_or_create(&rpc));
            }
        }
        registry.register("grpc_server_started", "RPCs started", self.started.clone());
        registry.register(
            "grpc_server_handled",
            "RPCs ended, by gRPC code",
            self.handled.clone(),
        );
        registry.register(
            "grpc_server_handling_seconds",
            "Time from request to answer of unary RPCs",
            self.seconds.clone(),
        );
        registry.register(
            "netsy_api_panics",
            "RPCs that ended in a fault of ours and answered Internal",
            self.panics.clone(),
        );
        registry.register(
            "netsy_api_connections",
            "Client connections open now",
            self.connections.clone(),
        );
        registry.register(
            "netsy_api_handshake_failures",
            "Client connections that failed in the TLS handshake",
            self.handshake_failures.clone(),
        );
    }

    /// How many RPCs of `rpc` were started.
    #[must_use]
    pub fn started(&self, rpc: Rpc) -> u64 {
        self.started.get_or_create(&rpc).get()
    }

    /// How many RPCs of `rpc` ended with `code`.
    #[must_use]
    pub fn handled(&self, rpc: Rpc, code: Code) -> u64 {
        self.handled.get_or_create(&labels(rpc, code)).get()
    }

    /// How many RPCs ended in a fault of ours.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// Begins to count one request.
    pub(super) fn begin(&self, path: &str) -> Call {
        let rpc = Rpc::of(path);
        self.started.get_or_create(&rpc).inc();
        Call {
            metrics: self.clone(),
            rpc,
            begun: Instant::now(),
            code: None,
        }
    }
}

fn labels(rpc: Rpc, code: Code) -> Handled {
    let Rpc {
        grpc_type,
        grpc_service,
        grpc_method,
    } = rpc;
    Handled {
        grpc_type,
        grpc_service,
        grpc_method,
        grpc_code: name(code),
    }
}

/// One request under way.
pub(super) struct Call {
    metrics: Metrics,
    rpc: Rpc,
    begun: Instant,
    code: Option<Code>,
}

impl Call {
    /// Notes how the request ended.
    pub(super) fn settle(&mut self, code: Code) {
        self.code = Some(code);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = if std::thread::panicking() {
            self.metrics.panics.inc();
            Code::Internal
        } else {
            self.code.unwrap_or(Code::Cancelled)
        };
        self.metrics
            .handled
            .get_or_create(&labels(self.rpc, code))
            .inc();
        if self.rpc.grpc_type == "unary" {
            let seconds = self.begun.elapsed().as_secs_f64();
            self.metrics
                .seconds
                .get_or_create(&self.rpc)
                .observe(seconds);
        }
    }
}

/// The code's name as Go's gRPC spells it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
