//! Configuration: every setting a Node has, read from four places and checked once.
//!
//! [`settings`] is the one table of settings: name, default, meaning and how a value is taken. From it come the
//! file's keys, the `NETSY_*` variables, the flags of `netsy serve`, the defaults and the table in
//! docs/OPERATING.md. A [`Draft`] collects what was given (flags over environment over file over defaults),
//! and [`Draft::finish`] hands out a [`Config`] that is known to make sense, or every mistake with its place.

mod checks;
mod draft;
mod file;
mod given;
mod mistake;
pub mod settings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use draft::Draft;
pub use given::{Secret, identifier};
pub use mistake::{Mistake, Mistakes, Place};

/// Everything a Node is told. Made only by [`Draft::finish`] and [`Config::dev`], so it is always checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// This Node's name: 1-32 of `[a-z0-9-]`.
    pub node_id: String,
    /// The cluster's name: 1-32 of `[a-z0-9-]`.
    pub cluster_id: String,
    /// Where the Node's own SQLite files are.
    pub data_dir: PathBuf,
    /// The permanent store.
    pub bucket: Bucket,
    /// The etcd door.
    pub client: Client,
    /// The inner door.
    pub peer: Peer,
    /// The health port.
    pub http: Http,
    /// Who may be Primary, and how fast it is noticed.
    pub elector: Elector,
    /// How Records reach other Nodes.
    pub replication: Replication,
    /// How linearizable reads are answered.
    pub reads: Reads,
    /// Group commit to the bucket.
    pub chunks: Chunks,
    /// When Snapshots are made, and how long what they replace is kept.
    pub snapshots: Snapshots,
    /// What history is kept.
    pub compaction: Compaction,
    /// What the Node's own database may grow to.
    pub storage: Storage,
    /// The in-memory view.
    pub view: View,
    /// Watches.
    pub watch: Watch,
    /// etcd's leases.
    pub leases: Leases,
    /// What one client, and all of them together, may ask.
    pub limits: Limits,
    /// The log.
    pub log: Log,
    /// Whether `netsy dev` runs it beside others in one terminal: then it has one line to say it is ready.
    /// No setting.
    pub is_one_of_many: bool,
    /// Whether it is of `netsy dev`, which has flags of its own for addresses. No setting.
    pub is_dev: bool,
}

/// `[bucket]`: the permanent store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `memory:///`.
    pub url: String,
    /// Another endpoint than the provider's own, such as that of an S3-compatible server.
    pub endpoint: Option<String>,
    /// The provider's region.
    pub region: Option<String>,
    /// Whether the bucket's name goes into the path (true) or the host name (false). S3 only.
    pub path_style: bool,
    /// Whether `endpoint` may be plain http.
    pub allow_http: bool,
    /// S3 access key; the credential chain is used without one.
    pub access_key_id: Option<Secret>,
    /// S3 secret key.
    pub secret_access_key: Option<Secret>,
    /// Server-side encryption asked for with each write. S3 only.
    pub sse: Sse,
    /// The key for `sse = "kms"`.
    pub kms_key_id: Option<String>,
    /// How long reading or writing a document may take.
    pub document_timeout: Duration,
    /// How long reading or writing a Chunk, or a part of a Snapshot, may take.
    pub file_timeout: Duration,
}

impl Bucket {
    /// The encryption to ask for as S3 spells it: `AES256`, `aws:kms` or `aws:kms:KEY`.
    #[must_use]
    pub fn encryption(&self) -> Option<String> {
        match (self.sse, &self.kms_key_id) {
            (Sse::Bucket, _) => None,
            (Sse::S3, _) => Some("AES256".into()),
            (Sse::Kms, None) => Some("aws:kms".into()),
            (Sse::Kms, Some(key)) => Some(format!("aws:kms:{key}")),
        }
    }
}

/// Server-side encryption asked for with each write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sse {
    /// Whatever the bucket does by itself.
    #[default]
    Bucket,
    /// Keys of S3 (AES256).
    S3,
    /// A key of the key management service.
    Kms,
}

/// `[client]`: the etcd door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where clients are accepted. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// What MemberList tells clients. Empty: derived from `listen`, see [`Client::urls`].
    pub advertise_urls: Vec<String>,
    /// PEM certificate chain of the server. None: plaintext.
    pub cert_file: Option<PathBuf>,
    /// PEM private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// PEM certificates that may have signed a client's certificate.
    pub ca_file: Option<PathBuf>,
    /// Whether a client must show a certificate signed by `ca_file`.
    pub client_cert_required: bool,
    /// Whether `listen` may be reachable from other machines without TLS.
    pub insecure_plaintext: bool,
}

impl Default for Client {
    fn default() -> Client {
        Client {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise_urls: Vec::new(),
            cert_file: None,
            key_file: None,
            ca_file: None,
            client_cert_required: true,
            insecure_plaintext: false,
        }
    }
}

impl Client {
    /// The URLs that clients are told, `bound` being where the door really listens (port 0 was resolved).
    #[must_use]
    pub fn urls(&self, bound: SocketAddr) -> Vec<String> {
        if !self.advertise_urls.is_empty() {
            return self.advertise_urls.clone();
        }
        let scheme = if self.cert_file.is_some() {
            "https"
        } else {
            "http"
        };
        vec![format!("{scheme}://{bound}")]
    }
}

/// `[http]`: the health port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where `/livez`, `/readyz` and `/metrics` are served, without TLS and without data.
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Http {
        Http {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

/// `[elector]`: who may be Primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elector {
    /// How often the Elector renews its lock in the bucket.
    pub renew_interval: Duration,
    /// How long the lock must stand unchanged before another Node takes it over.
    pub timeout: Duration,
    /// How long a Primary may be silent before another is named.
    pub primary_timeout: Duration,
    /// How often Nodes tell the Elector how they are, and the Primary its Replicas that it lives.
    pub heartbeat_interval: Duration,
    /// How long a Node may be silent before its vote and its registration are given up; None: for ever.
    pub forget_after: Option<Duration>,
}

/// `[peer]`: where other Nodes come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where Nodes are accepted; None: this Node is alone.
    pub listen: Option<SocketAddr>,
    /// Where Nodes are told to reach this one. None: derived from `listen`.
    pub advertise_url: Option<String>,
    /// PEM certificate of this Node.
    pub cert_file: Option<PathBuf>,
    /// PEM private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// PEM certificates of those who may sign a Node's certificate.
    pub ca_file: Option<PathBuf>,
    /// Whether `listen` may be reachable from other machines without TLS.
    pub insecure_plaintext: bool,
}

impl Peer {
    /// Where Nodes reach this one, `bound` being where the port really listens.
    #[must_use]
    pub fn url(&self, bound: SocketAddr) -> String {
        let scheme = if self.cert_file.is_some() {
            "https"
        } else {
            "http"
        };
        let given = self.advertise_url.clone();
        given.unwrap_or_else(|| format!("{scheme}://{bound}"))
    }
}

/// `[replication]`: how Records reach other Nodes, and when they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replication {
    /// Receipts wanted: -1 majority, 0 none (the bucket alone commits), K static.
    pub quorum: i32,
    /// How long Receipts may be missing before everything goes to the bucket at once.
    pub receipt_timeout: Duration,
    /// How long a committed Record may wait for the bucket.
    pub upload_age: Duration,
    /// How many committed Records may wait for the bucket.
    pub upload_records: u64,
    /// How many bytes may wait for the bucket; the next writes are refused.
    pub unflushed_bytes: u64,
}

/// `[reads]`: linearizable reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Length of the read lease; None confirms each batch of reads in the bucket instead.
    pub lease: Option<Duration>,
    /// What a Degraded Replica does with a linearizable read.
    pub when_degraded: WhenDegraded,
}

/// What a Degraded Replica does with a linearizable read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDegraded {
    /// Answers from its committed state, counts it and warns.
    #[default]
    Stale,
    /// Answers Unavailable.
    Refuse,
}

/// `[chunks]`: the most one Chunk carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    /// Bytes of Records in one Chunk; a single Record may be larger.
    pub max_bytes: u64,
    /// Records in one Chunk.
    pub max_records: u64,
}

/// `[snapshots]`: the first of `records`, `bytes` and `age` that is reached makes one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Records since the last Snapshot; None: not counted.
    pub records: Option<u64>,
    /// Bytes of Chunks since the last Snapshot; None: not counted.
    pub bytes: Option<u64>,
    /// Time since the last Snapshot, if anything was written; None: not looked at.
    pub age: Option<Duration>,
    /// How long Chunks and Snapshots that are no longer needed are kept.
    pub retention: Duration,
    /// How often it is looked whether one is due.
    pub check_interval: Duration,
}

/// `[compaction]`: history below the floor is deleted; what both `retention` and `revisions` let go, goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// What is younger can be read and watched; None: everything for ever.
    pub retention: Option<Duration>,
    /// At least so many of the newest Revisions can be read and watched.
    pub revisions: u64,
    /// How often the Primary looks whether the floor may rise.
    pub interval: Duration,
}

/// `[storage]`: the Node's own database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Bytes in use in the Primary's database beyond which puts are refused; None: no quota.
    pub quota: Option<u64>,
}

/// `[view]`: the in-memory view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Bytes of values kept in memory; the others are read from SQLite.
    pub value_budget: u64,
}

/// `[watch]`: watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// How often an idle watch that asked for progress is told the Revision.
    pub progress_interval: Duration,
}

/// `[leases]`: etcd's leases, which are synthetic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Whether keys are deleted when their lease has run out.
    pub expire: bool,
}

/// `[limits]`: bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The largest request, in bytes.
    pub request_bytes: u64,
    /// Writes that may wait for commit; the next ones are refused.
    pub pending_writes: u64,
    /// How long a Node that was told to stop may take.
    pub drain_timeout: Duration,
}

/// `[log]`: the log, on standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// One Node on this machine for trying things out: the bucket in `dir/bucket`, the Node's own disk in
    /// `dir/node-1`, no TLS, loopback only. `dir` must be absolute; `http` is the health port's address.
    ///
    /// # Errors
    /// An address beyond loopback, or a directory that cannot be written as a URL.
    pub fn dev(dir: &Path, listen: &str, http: &str) -> Result<Config, Mistakes> {
        Config::dev_node(dir, listen, http, None)
    }

    /// As [`Config::dev`]; with a `number`, one Node of a cluster on this machine, its peer port above its
    /// client port.
    ///
    /// # Errors
    /// An address beyond loopback, or a directory that cannot be written as a URL.
    pub fn dev_node(
        dir: &Path,
        listen: &str,
        http: &str,
        number: Option<u16>,
    ) -> Result<Config, Mistakes> {
        let bucket = url::Url::from_directory_path(dir.join("bucket")).map_err(|()| {
            Mistakes::one(
                Place::Flag("--dir".into()),
                format!("`{}` is no absolute path", dir.display()),
            )
        })?;
        let name = format!("node-{}", number.unwrap_or(1));
        let node = dir.join(&name);
        let pairs = [
            ("cluster_id", "dev"),
            ("node_id", &name),
            ("data_dir", &node.to_string_lossy()),
            ("bucket.url", bucket.as_str().trim_end_matches('/')),
            ("client.listen", listen),
            ("http.listen", http),
            // One Node on its own disk need not wait long for a predecessor that was killed.
            ("bucket.document_timeout", "1s"),
            ("elector.renew_interval", "500ms"),
            ("elector.timeout", "2s"),
            ("elector.primary_timeout", "1s"),
            ("elector.heartbeat_interval", "200ms"),
            ("reads.lease", "1s"),
        ];
        let mut draft = Draft::new().preset(&pairs);
        draft.config.is_dev = true;
        if number.is_some() {
            let mut peer = draft.config.client.listen;
            if peer.port() != 0 {
                peer.set_port(peer.port().saturating_add(1));
            }
            draft = draft.preset(&[("peer.listen", &peer.to_string())]);
            draft.config.is_one_of_many = true;
        }
        let addresses = [
            ("--listen", draft.config.client.listen),
            ("--http", draft.config.http.listen),
        ];
        if checks::overlap(addresses[0].1, addresses[1].1) {
            let why =
                format!("`--listen` is `{listen}`, too; each port needs an address of its own");
            return Err(Mistakes::one(Place::Flag("--http".into()), why));
        }
        for (flag, address) in addresses {
            if !address.ip().is_loopback() {
                return Err(Mistakes::one(
                    Place::Flag(flag.into()),
                    format!(
                        "`netsy dev` has no TLS and binds loopback only, not `{address}`; to serve other \
                         machines make certificates with `netsy certs` and use `netsy serve`"
                    ),
                ));
            }
        }
        draft.finish()
    }

    /// What an operator should know about a configuration that is allowed but not harmless. Sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.bucket.url.starts_with("memory:") {
            warnings.push(
                "`bucket.url` is in memory: everything is lost when this process ends".into(),
            );
        }
        if self.client.insecure_plaintext {
            warnings.push(format!(
                "`client.insecure_plaintext` is on: whoever reaches {} reads and writes everything, and so \
                 does whoever listens on the way",
                self.client.listen
            ));
        } else if self.client.cert_file.is_some() && !self.client.client_cert_required {
            warnings.push(format!(
                "`client.client_cert_required` is off: whoever reaches {} reads and writes everything",
                self.client.listen
            ));
        }
        if let (true, Some(listen)) = (self.peer.insecure_plaintext, self.peer.listen) {
            warnings.push(format!(
                "`peer.insecure_plaintext` is on: whoever reaches {listen} can pass for any Node and break the \
                 cluster, and whoever listens on the way reads everything"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
