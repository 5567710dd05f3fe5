//! What may be typed after `netsy`, and what its help says.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use netsy::admin::certs;
use netsy::config::settings::SETTINGS;

/// A replicated key-value server that speaks the etcd API Kubernetes needs and lives in a bucket.
#[derive(Parser)]
#[command(name = "netsy", version, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run one Node, or with `--nodes N` a cluster, on this machine to try things out: local files as the bucket,
    /// no TLS, loopback only.
    Dev(Dev),
    /// Run a Node.
    Serve(Serve),
    /// Look at a configuration file.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Help a cluster that cannot help itself.
    Admin {
        #[command(subcommand)]
        verb: AdminVerb,
    },
    /// Ask every Node how it is. Ends with 0 if all of them are at work.
    Status(Status),
    /// Make a certificate authority, and certificates for Nodes and clients.
    Certs(Certs),
    /// Print the version.
    Version,
}

#[derive(Args)]
pub(crate) struct Dev {
    /// Where everything is kept: the bucket in DIR/bucket, the Node's own disk in DIR/node-1.
    #[arg(long, value_name = "DIR", default_value = "./netsy-data")]
    pub(crate) dir: PathBuf,
    /// Where etcd clients are accepted.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2379")]
    pub(crate) listen: String,
    /// Where the health port is; port 0 lets the system choose one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) http: String,
    /// A cluster of so many Nodes, one process each, their client ports 10 apart.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: Option<u16>,
    /// Only this Node of the cluster, such as one that was killed.
    #[arg(long, value_name = "I", requires = "nodes", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) node: Option<u16>,
    /// Delete keys when the TTL of their lease has passed: the setting `leases.expire`.
    #[arg(long)]
    pub(crate) leases_expire: bool,
    /// Started by the parent of a cluster.
    #[arg(long, hide = true)]
    pub(crate) under_parent: bool,
}

#[derive(Args)]
#[command(
    after_help = "Settings come from flags over NETSY_* variables over the file over defaults; \
                        `netsy serve --help` lists them all, but for two secrets that have no flag: \
                        NETSY_BUCKET_ACCESS_KEY_ID and NETSY_BUCKET_SECRET_ACCESS_KEY."
)]
pub(crate) struct Serve {
    /// The configuration file, netsy.toml [env: NETSY_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Subcommand)]
pub(crate) enum ConfigVerb {
    /// Say whether FILE, with the NETSY_* variables of this environment, is a configuration `serve` would take.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
}

#[derive(Subcommand)]
pub(crate) enum AdminVerb {
    /// Give up voters that are gone for good, and with them what they alone had acknowledged: the next election
    /// needs no promises. Without `--yes-i-accept-losing-writes` it only says how things are.
    ForceElect(ForceElect),
}

#[derive(Args)]
pub(crate) struct ForceElect {
    /// The configuration file of any Node of the cluster, for its bucket [env: NETSY_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The cluster of `netsy dev --dir DIR` instead.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub(crate) dir: Option<PathBuf>,
    /// What is acknowledged, and neither in the bucket nor on a disk that takes part, may be lost for ever.
    #[arg(long)]
    pub(crate) yes_i_accept_losing_writes: bool,
    /// How long to wait for a Primary afterwards, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) wait: u64,
}

#[derive(Args)]
pub(crate) struct Status {
    /// The Nodes to ask, by their client ports [default: those of `netsy dev` on this machine]
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// Ask every Node that one of the endpoints knows instead.
    #[arg(long)]
    pub(crate) cluster: bool,
    /// PEM certificates of those who may sign a Node's; without it there is no TLS.
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// PEM certificate of this client.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM private key of `--cert`.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// How long an answer may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,
    /// What to print.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    pub(crate) write_out: String,
}

#[derive(Args)]
pub(crate) struct Certs {
    /// Where the files are, and where they are made.
    #[arg(long, value_name = "DIR", default_value = "./netsy-certs")]
    pub(crate) dir: PathBuf,
    /// The cluster's name, as in its configuration.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster_id: String,
    /// A Node, with the host names and IP addresses by which clients reach it; repeat for more. It gets a
    /// certificate for the peer port and one for its client port. Loopback is always in.
    #[arg(long = "node", value_name = "NODE[=HOST,...]")]
    pub(crate) nodes: Vec<certs::NodeWish>,
    /// A host name or IP address by which clients reach a Node, for one server certificate that all Nodes share;
    /// repeat for more. Loopback is always in.
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// A client's name; repeat for more [default: client]
    #[arg(long = "client", value_name = "NAME")]
    pub(crate) clients: Vec<String>,
    /// How many days certificates of Nodes and clients are valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
}

/// The flags of `netsy serve` that are made from the table of settings: `--elector-timeout` for `elector.timeout`.
pub(crate) struct Settings(pub(crate) Vec<(&'static str, String)>);

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Settings, clap::Error> {
        let flags = SETTINGS.iter().filter(|setting| setting.has_flag());
        let given = flags.filter_map(|setting| {
            matches
                .get_one::<String>(setting.key)
                .map(|value| (setting.key, value.clone()))
        });
        Ok(Settings(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Settings::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        SETTINGS
            .iter()
            .filter(|setting| setting.has_flag())
            .fold(command, |command, setting| {
                let default = setting
                    .default
                    .map_or(String::new(), |text| format!(" [default: {text}]"));
                command.arg(
                    Arg::new(setting.key)
                        .long(&*setting.flag().leak())
                        .value_name("VALUE")
                        .help(format!("{}{default}", setting.meaning))
                        .help_heading("Settings")
                        .hide_short_help(true),
                )
            })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Settings::augment_args(command)
    }
}
