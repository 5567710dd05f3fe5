//! Telemetry: what a Node counts and measures, by the names that dashboards know.
//!
//! Every metric is a field of [`Metrics`] and is named in [`Metrics::new`], except what the etcd door counts by
//! itself and adds there. Names are the ancestor's where they mean the same. Gauges that mirror the Standing are
//! set when somebody scrapes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::standing::{Board, HealthState, PrimaryState};

/// What the registry answers with, as a `Content-Type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Label `result`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByResult {
    /// `ok`, `failed` ...
    pub result: &'static str,
}

/// Label `state` of a one-hot gauge.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByState {
    /// One of the states; exactly one is 1.
    pub state: &'static str,
}

/// An operation on the bucket.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ByKind {
    /// `chunk`, `snapshot`, `elector`, `primary`, `members`, `node` ...
    pub kind: &'static str,
    /// Writes: `won`, `lost`, `unknown`. Reads: `ok`, `missing`, `damaged`, `failed`.
    pub result: &'static str,
}

/// How often something worked and failed.
#[derive(Clone, Debug, Default)]
pub struct Outcomes(Family<ByResult, Counter>);

impl Outcomes {
    /// It worked.
    pub fn ok(&self) {
        self.0.get_or_create(&ByResult { result: "ok" }).inc();
    }

    /// It did not.
    pub fn failed(&self) {
        self.0.get_or_create(&ByResult { result: "failed" }).inc();
    }
}

type Timed<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything a Node counts and measures. Shared; every field may be touched from any thread.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,

    health: Family<ByState, Gauge>,
    elector: Family<ByState, Gauge>,
    primary: Family<ByState, Gauge>,
    epoch: Gauge,
    sqlite_bytes: Gauge,
    sqlite_bytes_in_use: Gauge,
    unflushed_records: Gauge,
    unflushed_bytes: Gauge,
    unflushed_age: Gauge<f64, AtomicU64>,
    resident_bytes: Gauge,
    open_files: Gauge,
    cpu_seconds: Counter<f64, AtomicU64>,

    /// The newest Revision appended, committed or not.
    pub latest_revision: Gauge,
    /// The committed Revision.
    pub committed_revision: Gauge,
    /// The floor: nothing below it can be read.
    pub compaction_revision: Gauge,
    /// The last Revision durable in the bucket.
    pub bucket_revision: Gauge,
    /// Writes that wait for commit.
    pub pending_writes: Gauge,
    /// Records carried by one Chunk.
    pub chunk_records: Histogram,
    /// Bytes of one object written to the bucket.
    pub bucket_write_bytes: Histogram,
    /// Writes to the bucket, by kind and outcome. See [`Metrics::bucket_wrote`].
    pub bucket_writes: Family<ByKind, Counter>,
    /// Seconds of writes to the bucket.
    pub bucket_write_seconds: Timed<ByKind>,
    /// Reads from the bucket, by kind and outcome. See [`Metrics::bucket_read`].
    pub bucket_reads: Family<ByKind, Counter>,
    /// Seconds of reads from the bucket.
    pub bucket_read_seconds: Timed<ByKind>,
    /// Seconds of one SQLite transaction, its fsync included.
    pub sqlite_commit_seconds: Histogram,
    /// Records in one SQLite transaction.
    pub sqlite_commit_records: Histogram,
    /// Snapshots made.
    pub snapshots: Outcomes,
    /// Seconds a Snapshot took.
    pub snapshot_seconds: Histogram,
    /// The Revision of the newest verified Snapshot.
    pub snapshot_revision: Gauge,
    /// Primary elections this Node ran as the Elector.
    pub elections: Outcomes,
    /// Watches on them.
    pub watches: Gauge,
    /// Watches that read history because they are behind.
    pub watches_lagging: Gauge,
    /// Linearizable reads that a Degraded Node answered from what it had (`reads.when_degraded = "stale"`).
    pub stale_reads: Counter,
    /// Keys that will be deleted when their lease has run out; 0 on a Replica.
    pub expiring_keys: Gauge,
    /// Keys deleted because their lease had run out.
    pub expired_keys: Counter,
    /// New certificates taken, or not.
    pub tls_reloads: Outcomes,
}

/// 0.5 ms to 16 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

/// 1 to 65536.
fn records() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 9))
}

/// Adds a metric. The encoder puts `_total` behind the names of counters.
fn add<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: M) -> M {
    to.register(
        name.strip_suffix("_total").unwrap_or(name),
        help,
        metric.clone(),
    );
    metric
}

/// Adds a metric that starts at zero.
fn new<M: Metric + Clone + Default>(to: &mut Registry, name: &str, help: &str) -> M {
    add(to, name, help, M::default())
}

/// Adds a count of what worked and what failed, both 0 from the start: without them there is nothing to alert on.
fn outcomes(to: &mut Registry, name: &str, help: &str) -> Outcomes {
    let outcomes = Outcomes(new(to, name, help));
    for result in ["ok", "failed"] {
        drop(outcomes.0.get_or_create(&ByResult { result }));
    }
    outcomes
}

/// Adds a histogram of seconds for each set of labels.
fn timed(to: &mut Registry, name: &str, help: &str) -> Timed<ByKind> {
    add(
        to,
        name,
        help,
        Timed::new_with_constructor(seconds as fn() -> Histogram),
    )
}

impl Metrics {
    /// All at zero, for the Node and cluster of these names. `more` may add what another room counts.
    #[must_use]
    #[rustfmt::skip]
    pub fn new(cluster_id: &str, node_id: &str, more: impl FnOnce(&mut Registry)) -> Arc<Metrics> {
        let mut registry = Registry::default();
        let r = &mut registry;
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("cluster_id", cluster_id), ("node_id", node_id)];
        let labels: Vec<(String, String)> = labels.map(|(name, value)| (name.into(), value.into())).into();
        r.register("netsy", "Version and names; always 1", Info::new(labels));
        let started: Gauge<f64, AtomicU64> = new(r, "netsy_process_start_time_seconds", "When the process started, in seconds since 1970");
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
        r.register("process_start_time_seconds", "The same by the name that dashboards know", started);

        let mut metrics = Metrics {
            health: new(r, "netsy_state_health", "1 for the Health State the Node is in"),
            elector: new(r, "netsy_state_elector", "1 for leader if the Node is the Elector, else for follower"),
            primary: new(r, "netsy_state_primary", "1 for the Primary State the Node is in"),
            epoch: new(r, "netsy_epoch", "Epoch the Node knows to be current"),
            latest_revision: new(r, "netsy_latest_revision", "Newest Revision appended, committed or not"),
            committed_revision: new(r, "netsy_committed_revision", "Committed Revision"),
            compaction_revision: new(r, "netsy_compaction_revision", "Floor: the lowest Revision that can be read"),
            bucket_revision: new(r, "netsy_primary_object_storage_revision", "Last Revision durable in the bucket without a gap"),
            unflushed_records: new(r, "netsy_unflushed_records", "Records committed by quorum that the bucket does not hold yet"),
            unflushed_bytes: new(r, "netsy_unflushed_bytes", "Their bytes"),
            unflushed_age: new(r, "netsy_unflushed_age_seconds", "For how long the oldest of them has been committed"),
            pending_writes: new(r, "netsy_pending_writes", "Writes that wait for commit"),
            chunk_records: add(r, "netsy_chunk_records", "Records carried by one Chunk", records()),
            bucket_write_bytes: add(r, "netsy_object_storage_write_bytes", "Bytes of one object written to the bucket", Histogram::new(exponential_buckets(1024.0, 4.0, 10))),
            bucket_writes: new(r, "netsy_object_storage_writes_total", "Writes to the bucket by kind and result (won, lost, unknown)"),
            bucket_write_seconds: timed(r, "netsy_object_storage_write_duration_seconds", "Seconds of writes to the bucket"),
            bucket_reads: new(r, "netsy_object_storage_reads_total", "Reads from the bucket by kind and result (ok, missing, damaged, failed)"),
            bucket_read_seconds: timed(r, "netsy_object_storage_read_duration_seconds", "Seconds of reads from the bucket"),
            sqlite_commit_seconds: add(r, "netsy_sqlite_commit_duration_seconds", "Seconds of one SQLite transaction with its fsync", seconds()),
            sqlite_commit_records: add(r, "netsy_sqlite_commit_records", "Records in one SQLite transaction", records()),
            sqlite_bytes: new(r, "netsy_sqlite_size_bytes", "Size of the local database"),
            sqlite_bytes_in_use: new(r, "netsy_sqlite_size_in_use_bytes", "Size of the local database without free pages"),
            snapshots: outcomes(r, "netsy_primary_snapshot_creations_total", "Snapshots by result (ok, failed)"),
            snapshot_seconds: add(r, "netsy_primary_snapshot_creation_duration_seconds", "Seconds a Snapshot took", Histogram::new(exponential_buckets(0.05, 2.0, 14))),
            snapshot_revision: new(r, "netsy_snapshot_revision", "Revision of the newest verified Snapshot"),
            elections: outcomes(r, "netsy_elector_primary_elections_total", "Primary elections run by this Node by result (ok, failed)"),
            watches: new(r, "netsy_watches", "Watches on open streams"),
            watches_lagging: new(r, "netsy_watches_lagging", "Watches that are behind and read history"),
            stale_reads: new(r, "netsy_stale_reads_total", "Linearizable reads answered stale by a Degraded Node"),
            expiring_keys: new(r, "netsy_expiring_keys", "Keys that the Primary will delete when their lease has run out (`leases.expire`)"),
            expired_keys: new(r, "netsy_expired_keys_total", "Keys deleted because their lease had run out (`leases.expire`)"),
            tls_reloads: outcomes(r, "netsy_tls_reloads_total", "Changed certificate files by result (ok, failed)"),
            resident_bytes: new(r, "process_resident_memory_bytes", "Memory in use: the keys, values up to `view.value_budget`, and what is at work"),
            open_files: new(r, "process_open_fds", "Open files and connections"),
            cpu_seconds: new(r, "process_cpu_seconds_total", "Seconds of processor time used, of all threads"),
            registry: Registry::default(),
        };
        for result in ["won", "lost", "unknown"] {
            drop(metrics.bucket_writes.get_or_create(&ByKind { kind: "chunk", result }));
        }
        drop(metrics.bucket_reads.get_or_create(&ByKind { kind: "chunk", result: "damaged" }));
        drop(metrics.bucket_write_seconds.get_or_create(&ByKind { kind: "chunk", result: "won" }));
        drop(metrics.bucket_read_seconds.get_or_create(&ByKind { kind: "chunk", result: "ok" }));
        more(r);
        metrics.registry = registry;
        Arc::new(metrics)
    }

    /// Notes a write to the bucket: what kind of object, how it ended (`won`, `lost`, `unknown`), how long it
    /// took and how many bytes were sent.
    pub fn bucket_wrote(
        &self,
        kind: &'static str,
        result: &'static str,
        took: Duration,
        bytes: usize,
    ) {
        let labels = ByKind { kind, result };
        self.bucket_writes.get_or_create(&labels).inc();
        self.bucket_write_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        self.bucket_write_bytes.observe(bytes as f64);
    }

    /// Notes a read from the bucket: what kind of object, how it ended (`ok`, `missing`, `damaged`, `failed`),
    /// and how long it took.
    pub fn bucket_read(&self, kind: &'static str, result: &'static str, took: Duration) {
        let labels = ByKind { kind, result };
        self.bucket_reads.get_or_create(&labels).inc();
        self.bucket_read_seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Everything as OpenMetrics text, the Standing as `board` shows it now.
    #[must_use]
    pub fn text(&self, board: &Board) -> String {
        self.mirror(board);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String cannot fail");
        text
    }

    fn mirror(&self, board: &Board) {
        let standing = board.standing();
        one_hot(
            &self.health,
            &["loading", "healthy", "degraded"],
            health_word(standing.health),
        );
        let primary = ["replica", "starting", "active", "draining"];
        one_hot(
            &self.primary,
            &primary,
            primary_word(standing.primary_state),
        );
        let elector = if standing.elector {
            "leader"
        } else {
            "follower"
        };
        one_hot(&self.elector, &["follower", "leader"], elector);
        self.epoch.set(signed(standing.epoch.0));
        let sizes = board.sizes();
        self.sqlite_bytes.set(signed(sizes.total));
        self.sqlite_bytes_in_use.set(signed(sizes.in_use));
        let unflushed = board.figures().unflushed;
        self.unflushed_records.set(signed(unflushed.records));
        self.unflushed_bytes.set(signed(unflushed.bytes));
        self.unflushed_age.set(unflushed.age as f64 / 1_000.0);
        self.look_at_process();
    }

    /// What Linux says of this process; elsewhere memory and open files stay 0.
    fn look_at_process(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        self.resident_bytes.set(signed(resident_bytes(&status)));
        // The folder itself is open while it is read.
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |found| found.count());
        self.open_files.set(signed(open.saturating_sub(1) as u64));
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        // Two who scrape at once: the later look is never below.
        self.cpu_seconds
            .inner()
            .fetch_max(seconds.to_bits(), Ordering::Relaxed);
    }
}

/// The resident set of `/proc/self/status`.
fn resident_bytes(status: &str) -> u64 {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.map_or(0, |kib: u64| kib * 1024)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn one_hot(gauge: &Family<ByState, Gauge>, states: &[&'static str], is: &str) {
    for state in states {
        gauge
            .get_or_create(&ByState { state })
            .set(i64::from(*state == is));
    }
}

/// A Health State as metrics and pages spell it.
#[must_use]
pub fn health_word(health: HealthState) -> &'static str {
    match health {
        HealthState::Loading => "loading",
        HealthState::Healthy => "healthy",
        HealthState::Degraded => "degraded",
    }
}

/// A Primary State as metrics and pages spell it.
#[must_use]
pub fn primary_word(state: PrimaryState) -> &'static str {
    match state {
        PrimaryState::Replica => "replica",
        PrimaryState::Starting => "starting",
        PrimaryState::Active => "active",
        PrimaryState::Draining => "draining",
    }
}
