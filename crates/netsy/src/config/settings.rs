//! The one table of settings. Everything that must agree on them is made from it: the keys of the file, the
//! `NETSY_*` variables, the flags of `netsy serve`, the defaults, and the table in docs/OPERATING.md.
//!
//! To add a setting: a field in `Config`, a row here, `UPDATE_DOCS=1 cargo test -p netsy operating`.

use super::given::Given;
use super::{Config, LogFormat, Sse, WhenDegraded};
use crate::api::LARGEST_REQUEST;

/// One setting.
pub struct Setting {
    /// Its name in the file, with its section: `elector.timeout`.
    pub key: &'static str,
    /// Its value if none is given, as it would be written; None if it has to be given or may be absent.
    pub default: Option<&'static str>,
    /// What it is for: half a sentence.
    pub meaning: &'static str,
    /// Takes a value, or says what it wants.
    pub(super) take: fn(&mut Config, &Given) -> Result<(), &'static str>,
}

impl Setting {
    /// The variable: `NETSY_ELECTOR_TIMEOUT`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("NETSY_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// The flag without its dashes: `elector-timeout`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// Whether its value must not be shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.key.contains("access_key")
    }

    /// Whether `netsy serve` has a flag for it. Command lines are seen by everybody on the machine.
    #[must_use]
    pub fn has_flag(&self) -> bool {
        !self.is_secret()
    }

    /// The setting with this name.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }
}

/// A row of the table: `row!("key", "default" or none, "meaning", field.path, how to take it)`.
macro_rules! row {
    ($key:literal, none, $meaning:literal, some $($field:ident).+, $take:expr) => {
        Setting { key: $key, default: None, meaning: $meaning,
            take: |config, given| { config.$($field).+ = Some($take(given)?); Ok(()) } }
    };
    ($key:literal, none, $meaning:literal, $($field:ident).+, $take:expr) => {
        Setting { key: $key, default: None, meaning: $meaning,
            take: |config, given| { config.$($field).+ = $take(given)?; Ok(()) } }
    };
    ($key:literal, $default:literal, $meaning:literal, $($field:ident).+, $take:expr) => {
        Setting { key: $key, default: Some($default), meaning: $meaning,
            take: |config, given| { config.$($field).+ = $take(given)?; Ok(()) } }
    };
}

/// Every setting, in the order of the file.
#[rustfmt::skip]
pub static SETTINGS: &[Setting] = &[
    row!("cluster_id", none, "the cluster's name; the same on every Node, and for ever; 1 to 32 of a-z, 0-9 and single hyphens between them", cluster_id, Given::identifier),
    row!("node_id", none, "this Node's name; no other Node may have it; made like `cluster_id`", node_id, Given::identifier),
    row!("data_dir", "/var/lib/netsy", "where the Node keeps its own SQLite files; may be lost, is rebuilt from the bucket", data_dir, Given::path),

    row!("bucket.url", none, "the permanent store: `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `memory:///`", bucket.url, Given::text),
    row!("bucket.endpoint", none, "another endpoint than the provider's, such as `https://minio.example:9000`", some bucket.endpoint, Given::text),
    row!("bucket.region", none, "the provider's region", some bucket.region, Given::text),
    row!("bucket.path_style", "true", "S3: the bucket's name in the path (`true`) or in the host name (`false`)", bucket.path_style, Given::truth),
    row!("bucket.allow_http", "false", "lets `bucket.endpoint` be plain http", bucket.allow_http, Given::truth),
    row!("bucket.access_key_id", none, "S3 access key; better left to the provider's own variables, files and roles", some bucket.access_key_id, Given::secret),
    row!("bucket.secret_access_key", none, "S3 secret key; better given as `NETSY_BUCKET_SECRET_ACCESS_KEY` than in the file", some bucket.secret_access_key, Given::secret),
    row!("bucket.sse", "bucket", "encryption asked for with each write: `bucket` (whatever the bucket does), `s3` or `kms`", bucket.sse, sse),
    row!("bucket.kms_key_id", none, "the key for `sse = \"kms\"`; without one the service's default key", some bucket.kms_key_id, Given::text),
    row!("bucket.document_timeout", "5s", "how long reading or writing one of the small documents may take before its outcome counts as unknown", bucket.document_timeout, Given::duration),
    row!("bucket.file_timeout", "60s", "the same for a Chunk, which is given a second more for each MiB, or a part of a Snapshot; to write a Chunk, a quarter of it", bucket.file_timeout, Given::duration),

    row!("client.listen", "127.0.0.1:2379", "where etcd clients are accepted", client.listen, Given::address),
    row!("client.advertise_urls", none, "what MemberList tells clients; needed when `listen` is every interface", client.advertise_urls, Given::list),
    row!("client.cert_file", none, "PEM certificate of the server, with its chain; without one there is no TLS", some client.cert_file, Given::path),
    row!("client.key_file", none, "PEM private key of `cert_file`", some client.key_file, Given::path),
    row!("client.ca_file", none, "PEM certificates of those who may sign client certificates", some client.ca_file, Given::path),
    row!("client.client_cert_required", "true", "turns away clients without a certificate signed by `ca_file`; whoever gets in reads and writes everything", client.client_cert_required, Given::truth),
    row!("client.insecure_plaintext", "false", "serves other machines without TLS; whoever reaches the port reads and writes everything", client.insecure_plaintext, Given::truth),

    row!("peer.listen", none, "where other Nodes are accepted; without one the Node is alone on its bucket", some peer.listen, Given::address),
    row!("peer.advertise_url", none, "where other Nodes are told to reach this one; needed when `listen` is every interface", some peer.advertise_url, Given::text),
    row!("peer.cert_file", none, "PEM certificate of this Node, which names it as `netsy://CLUSTER/peer/NODE`", some peer.cert_file, Given::path),
    row!("peer.key_file", none, "PEM private key of `peer.cert_file`", some peer.key_file, Given::path),
    row!("peer.ca_file", none, "PEM certificates of those who may sign a Node's certificate", some peer.ca_file, Given::path),
    row!("peer.insecure_plaintext", "false", "speaks with other machines without TLS; whoever reaches the port can break the cluster", peer.insecure_plaintext, Given::truth),

    row!("http.listen", "127.0.0.1:8080", "the health port: `/livez`, `/readyz`, `/metrics`; no TLS, no data", http.listen, Given::address),

    row!("elector.renew_interval", "2s", "how often the Elector renews its lock in the bucket", elector.renew_interval, Given::duration),
    row!("elector.timeout", "6s", "how long the lock stands unchanged before another Node takes it", elector.timeout, Given::duration),
    row!("elector.primary_timeout", "2s", "how long the Primary may be silent before another Node is named", elector.primary_timeout, Given::duration),

    row!("elector.heartbeat_interval", "500ms", "how often Nodes tell the Elector how they are, and the Primary its Replicas that it lives", elector.heartbeat_interval, Given::duration),
    row!("elector.forget_after", "24h", "how long a Node may be silent before its vote and its registration are given up, or `off`; it may come back at any time", elector.forget_after, Given::duration_or_off),

    row!("replication.quorum", "majority", "whose disks make a write true: `majority` of the voters, `disabled` (the bucket alone), or so many Receipts beside the Primary's own disk", replication.quorum, quorum),
    row!("replication.receipt_timeout", "500ms", "how long Receipts may be missing before everything goes to the bucket at once", replication.receipt_timeout, Given::duration),
    row!("replication.upload_age", "1s", "how long a committed Record may wait for the bucket: what the loss of a majority of disks at once can cost", replication.upload_age, Given::duration),
    row!("replication.upload_records", "10000", "how many committed Records may wait for the bucket", replication.upload_records, Given::count),
    row!("replication.unflushed_bytes", "256MiB", "how many bytes may wait for the bucket while it is away; at that, writes are told `too many requests`", replication.unflushed_bytes, unflushed),

    row!("reads.lease", "2s", "length of the read lease; `off` confirms each batch of reads in the bucket instead, without trust in any clock", reads.lease, Given::duration_or_off),
    row!("reads.when_degraded", "stale", "what a Degraded Replica does with a linearizable read: `stale` answers what it has, `refuse` answers Unavailable (what Kubernetes needs)", reads.when_degraded, when_degraded),

    row!("chunks.max_bytes", "8MiB", "the most bytes one Chunk carries", chunks.max_bytes, Given::size),
    row!("chunks.max_records", "10000", "the most Records one Chunk carries", chunks.max_records, Given::count),

    row!("snapshots.records", "100000", "makes a Snapshot after this many Records, or `off`", snapshots.records, Given::count_or_off),
    row!("snapshots.bytes", "256MiB", "makes a Snapshot after this many bytes of Chunks, or `off`", snapshots.bytes, Given::size_or_off),
    row!("snapshots.age", "1h", "makes a Snapshot when the last is older and something was written since, or `off`", snapshots.age, Given::duration_or_off),
    row!("snapshots.retention", "24h", "how long Chunks and Snapshots are kept after they are no longer needed to start", snapshots.retention, Given::duration),
    row!("snapshots.check_interval", "10s", "how often it is looked whether a Snapshot or a clean-up is due", snapshots.check_interval, Given::duration),

    row!("compaction.retention", "10m", "how long history can be read and watched before it is deleted, or `off`: for ever", compaction.retention, Given::duration_or_off),
    row!("compaction.revisions", "10000", "so many of the newest Revisions are kept, however old", compaction.revisions, Given::count),
    row!("compaction.interval", "30s", "how often the Primary looks whether there is history to delete", compaction.interval, Given::duration),

    row!("storage.quota", "off", "bytes in use in the Primary's database beyond which puts are refused (`database space exceeded`) and deletes go on, or `off`", storage.quota, Given::size_or_off),

    row!("view.value_budget", "512MiB", "bytes of values kept in memory; others are read from SQLite", view.value_budget, Given::size),

    row!("watch.progress_interval", "5s", "how often a quiet watch that asked for progress is told the Revision", watch.progress_interval, Given::duration),

    row!("leases.expire", "false", "deletes a key when the TTL of its lease has passed since it was written, as Kubernetes wants it of Events; no keep-alive, no revoke; the same on every Node", leases.expire, Given::truth),

    row!("limits.request_bytes", "1.5MiB", "the largest request; 3MiB at most, as the files of the bucket hold no larger Records", limits.request_bytes, request),
    row!("limits.pending_writes", "10000", "writes that may wait for commit; more are told `too many requests`", limits.pending_writes, Given::count),
    row!("limits.drain_timeout", "20s", "how long a Node that was told to stop may take to make everything durable", limits.drain_timeout, Given::duration),

    row!("log.format", "auto", "`human`, `json`, or `auto`: human on a terminal, JSON elsewhere", log.format, log_format),
    row!("log.level", "info", "`error`, `warn`, `info`, `debug` or `trace`; `NETSY_LOG` may say more", log.level, log_level),
];

fn quorum(given: &Given) -> Result<i32, &'static str> {
    const WANTS: &str = "`majority`, `disabled`, or a number of Receipts from 1 to 7";
    let words = [("majority", -1), ("disabled", 0)];
    if let Ok(quorum) = given.word(&words, WANTS) {
        return Ok(quorum);
    }
    let count = given.count().map_err(|_| WANTS)?;
    let count = i32::try_from(count).map_err(|_| WANTS)?;
    if (1..=7).contains(&count) {
        Ok(count)
    } else {
        Err(WANTS)
    }
}

fn request(given: &Given) -> Result<u64, &'static str> {
    let fits = |bytes: &u64| *bytes <= LARGEST_REQUEST as u64;
    let size = given.size().ok().filter(fits);
    size.ok_or("a size above zero and of at most 3MiB")
}

/// Every Node keeps it in memory, and one Chunk has to carry it, which takes 1 GiB.
fn unflushed(given: &Given) -> Result<u64, &'static str> {
    const WANTS: &str = "a size from 1MiB to 512MiB";
    let bytes = given.size().map_err(|_| WANTS)?;
    if (1 << 20..=512 << 20).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(WANTS)
    }
}

fn sse(given: &Given) -> Result<Sse, &'static str> {
    let words = [("bucket", Sse::Bucket), ("s3", Sse::S3), ("kms", Sse::Kms)];
    given.word(&words, "`bucket`, `s3` or `kms`")
}

fn when_degraded(given: &Given) -> Result<WhenDegraded, &'static str> {
    let words = [
        ("stale", WhenDegraded::Stale),
        ("refuse", WhenDegraded::Refuse),
    ];
    given.word(&words, "`stale` or `refuse`")
}

fn log_format(given: &Given) -> Result<LogFormat, &'static str> {
    let words = [
        ("auto", LogFormat::Auto),
        ("human", LogFormat::Human),
        ("json", LogFormat::Json),
    ];
    given.word(&words, "`auto`, `human` or `json`")
}

fn log_level(given: &Given) -> Result<String, &'static str> {
    let words = ["error", "warn", "info", "debug", "trace"].map(|word| (word, word));
    given
        .word(&words, "`error`, `warn`, `info`, `debug` or `trace`")
        .map(str::to_owned)
}

/// The setting or section somebody most likely meant by the unknown `key`.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    let sections = SETTINGS
        .iter()
        .filter_map(|setting| setting.key.split_once('.'));
    let names = SETTINGS
        .iter()
        .map(|setting| setting.key)
        .chain(sections.map(|(name, _)| name));
    let close = names
        .map(|name| (strsim::damerau_levenshtein(key, name), name))
        .min()
        .filter(|(distance, _)| *distance <= 3 && *distance * 3 <= key.len() + 2);
    let begun = || SETTINGS.iter().find(|setting| setting.key.starts_with(key));
    // A right name under a wrong section, or under none.
    let last = |key: &'static str| key.rsplit('.').next();
    let elsewhere = || {
        SETTINGS
            .iter()
            .find(|setting| last(setting.key) == key.rsplit('.').next())
    };
    let other = || begun().or_else(elsewhere).map(|setting| setting.key);
    close.map(|(_, name)| name).or_else(other)
}
