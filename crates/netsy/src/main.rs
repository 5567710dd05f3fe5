//! The `netsy` command: reads the command line and the environment (nobody else does), calls a room, and ends with
//! an exit code of [`netsy::exit`] and, if anything failed, one last line that says what to do.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use netsy::admin::dev::{Cluster, address, live_no_longer_than_the_parent, run as run_nodes};
use netsy::admin::{certs, status};
use netsy::config::settings::SETTINGS;
use netsy::config::{Config, Draft, LogFormat, Mistakes};
use netsy::exit::RunError;
use netsy::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Every request allocates on one thread and frees on another; the C library's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A signal this soon after the first is the same one: `timeout`, shells and supervisors tell a process and then
/// its whole group.
const ECHO: Duration = Duration::from_millis(200);

/// A replicated key-value server that speaks the etcd API Kubernetes needs and lives in a bucket.
#[derive(Parser)]
#[command(name = "netsy", version, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one Node on this machine to try things out: local files as the bucket, no TLS, loopback only.
    Dev(Dev),
    /// Run a Node.
    Serve(Serve),
    /// Look at a configuration file.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Ask every Node how it is. Ends with 0 if all of them are at work.
    Status(Status),
    /// Make a certificate authority, and certificates for Nodes and clients.
    Certs(Certs),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct Dev {
    /// Where everything is kept: the bucket in DIR/bucket, the Node's own disk in DIR/node-1.
    #[arg(long, value_name = "DIR", default_value = "./netsy-data")]
    dir: PathBuf,
    /// Where etcd clients are accepted.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2379")]
    listen: String,
    /// Where the health port is; port 0 lets the system choose one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    http: String,
    /// A cluster of so many Nodes, one process each, their client ports 10 apart.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,
    /// Only this Node of the cluster, such as one that was killed.
    #[arg(long, value_name = "I", requires = "nodes", value_parser = clap::value_parser!(u16).range(1..=9))]
    node: Option<u16>,
    /// Started by the parent of a cluster.
    #[arg(long, hide = true)]
    under_parent: bool,
}

#[derive(Args)]
#[command(
    after_help = "Settings come from flags over NETSY_* variables over the file over defaults; \
                        `netsy serve --help` lists them all."
)]
struct Serve {
    /// The configuration file, netsy.toml [env: NETSY_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Say whether FILE, with the NETSY_* variables of this environment, is a configuration `serve` would take.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
}

#[derive(Args)]
struct Status {
    /// The Nodes to ask, by their client ports [default: those of `netsy dev` on this machine]
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Ask every Node that one of the endpoints knows instead.
    #[arg(long)]
    cluster: bool,
    /// PEM certificates of those who may sign a Node's; without it there is no TLS.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// PEM certificate of this client.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM private key of `--cert`.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// How long an answer may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// What to print.
    #[arg(short = 'w', long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    write_out: String,
}

#[derive(Args)]
struct Certs {
    /// Where the files are, and where they are made.
    #[arg(long, value_name = "DIR", default_value = "./netsy-certs")]
    dir: PathBuf,
    /// The cluster's name, as in its configuration.
    #[arg(long, value_name = "NAME")]
    cluster_id: String,
    /// A Node, with the host names and IP addresses by which clients reach it; repeat for more. It gets a
    /// certificate for the peer port and one for its client port. Loopback is always in.
    #[arg(long = "node", value_name = "NODE[=HOST,...]")]
    nodes: Vec<certs::NodeWish>,
    /// A host name or IP address by which clients reach a Node, for one server certificate that all Nodes share;
    /// repeat for more. Loopback is always in.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// A client's name; repeat for more [default: client]
    #[arg(long = "client", value_name = "NAME")]
    clients: Vec<String>,
    /// How many days certificates of Nodes and clients are valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// The flags of `netsy serve` that are made from the table of settings: `--elector-timeout` for `elector.timeout`.
struct Settings(Vec<(&'static str, String)>);

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

fn main() -> ExitCode {
    // The one TLS provider; an error would mean that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match CommandLine::parse().verb {
        Verb::Dev(dev) => run_dev(&dev),
        Verb::Serve(serve) => run_serve(&serve),
        Verb::Config {
            verb: ConfigVerb::Check { file },
        } => check(&file),
        Verb::Status(status) => show_status(&status),
        Verb::Certs(certs) => make_certs(&certs),
        Verb::Version => {
            say(concat!("netsy ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netsy: {error}");
            ExitCode::from(error.exit.code())
        }
    }
}

fn run_dev(dev: &Dev) -> Result<(), RunError> {
    let dir = std::path::absolute(&dev.dir).map_err(|error| {
        let attempted = format!("find the directory `{}`", dev.dir.display());
        RunError::setup(attempted, error, "choose another `--dir`")
    })?;
    if dev.under_parent {
        live_no_longer_than_the_parent();
    }
    let number = dev.node.or(dev.nodes.filter(|nodes| *nodes == 1));
    let mut listen = dev.listen.clone();
    if let (Some(nodes), Ok(first)) = (dev.nodes, listen.parse()) {
        let Some(number) = number else {
            let cluster = Cluster {
                nodes,
                dir,
                listen: first,
            };
            return on_runtime(run_cluster(cluster));
        };
        let address = address(first, number).map_err(|why| {
            RunError::setup("start `netsy dev`", why, "choose another `--listen`")
        })?;
        listen = address.to_string();
    }
    let config = Config::dev_node(&dir, &listen, &dev.http, number)
        .map_err(|mistakes| refuse("start `netsy dev`".into(), &mistakes))?;
    std::fs::create_dir_all(&dir).map_err(|error| {
        let attempted = format!("make the directory `{}`", dir.display());
        RunError::setup(attempted, error, "choose another `--dir`")
    })?;
    run(config)
}

fn run_serve(serve: &Serve) -> Result<(), RunError> {
    let variable = || std::env::var_os("NETSY_CONFIG").filter(|file| !file.is_empty());
    let file = serve
        .config
        .clone()
        .or_else(|| variable().map(PathBuf::from));
    let attempted = match &file {
        Some(file) => format!("read the configuration from `{}`", file.display()),
        None => "read the configuration without a file (`--config` names one)".to_owned(),
    };
    let flags = serve
        .settings
        .0
        .iter()
        .map(|(key, value)| (*key, value.as_str()));
    let draft = draft(file.as_deref())?.flags(flags);
    run(draft
        .finish()
        .map_err(|mistakes| refuse(attempted, &mistakes))?)
}

fn check(file: &Path) -> Result<(), RunError> {
    let config = draft(Some(file))?.finish().map_err(|mistakes| {
        refuse(
            format!("check the configuration in `{}`", file.display()),
            &mistakes,
        )
    })?;
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    say(&format!(
        "{}: ok; Node `{}` of cluster `{}`, bucket {}\n",
        file.display(),
        config.node_id,
        config.cluster_id,
        config.bucket.url
    ));
    Ok(())
}

/// The defaults under the file under the environment.
fn draft(file: Option<&Path>) -> Result<Draft, RunError> {
    let mut draft = Draft::new();
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let attempted = format!("read the configuration from `{}`", file.display());
            RunError::setup(attempted, error, "give the path of a readable netsy.toml")
        })?;
        draft = draft.file(file, &text);
    }
    Ok(draft.environment(variables()?))
}

/// The `NETSY_*` variables.
fn variables() -> Result<Vec<(String, String)>, RunError> {
    let ours =
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NETSY_"));
    let text = |text: OsString| {
        text.into_string().map_err(|text| {
            let attempted = "read the environment";
            RunError::setup(
                attempted,
                format!("{text:?} is no UTF-8"),
                "correct or unset it",
            )
        })
    };
    ours.map(|(name, value)| Ok((text(name)?, text(value)?)))
        .collect()
}

/// Prints the mistakes, and makes the last line.
fn refuse(attempted: String, mistakes: &Mistakes) -> RunError {
    eprintln!("{mistakes}");
    let why = match mistakes.0.len() {
        1 => "there is a mistake, see above".to_owned(),
        many => format!("there are {many} mistakes, see above"),
    };
    RunError::setup(attempted, why, "correct it and try again")
}

fn show_status(wanted: &Status) -> Result<(), RunError> {
    let question = status::Question {
        endpoints: wanted.endpoints.clone(),
        cluster: wanted.cluster,
        cacert: wanted.cacert.clone(),
        cert: wanted.cert.clone(),
        key: wanted.key.clone(),
        within: Duration::from_secs(wanted.timeout),
    };
    on_runtime(async {
        let seen = status::look(&question).await?;
        match wanted.write_out.as_str() {
            "json" => say(&status::json(&seen)),
            _ => say(&status::table(&seen)),
        }
        status::verdict(&seen)
    })
}

fn make_certs(certs: &Certs) -> Result<(), RunError> {
    let dir = std::path::absolute(&certs.dir).map_err(|error| {
        let attempted = format!("find the directory `{}`", certs.dir.display());
        RunError::setup(attempted, error, "choose another `--dir`")
    })?;
    let wish = certs::Wish {
        dir,
        cluster_id: certs.cluster_id.clone(),
        nodes: certs.nodes.clone(),
        hosts: certs.hosts.clone(),
        clients: certs.clients.clone(),
        days: certs.days,
    };
    let made = certs::make(&wish, SystemTime::now())?;
    for (word, files) in [("kept", &made.kept), ("made", &made.made)] {
        for file in files {
            say(&format!("{word} {}\n", file.display()));
        }
    }
    say(&format!("\n{}", certs::next_steps(&wish)));
    Ok(())
}

fn run(config: Config) -> Result<(), RunError> {
    start_log(&config)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    on_runtime(until_stopped(config))
}

fn on_runtime(work: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| {
        RunError::failed(
            "start worker threads",
            error,
            "see the limits of the process",
        )
    })?;
    let ended = runtime.block_on(work);
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    ended
}

/// Runs a cluster of processes until somebody tells it to stop.
async fn run_cluster(cluster: Cluster) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let signals = watch_signals(stop.clone())?;
    let ended = run_nodes(&cluster, stop).await;
    signals.abort();
    ended
}

/// Runs the Node until it ends by itself, or as long as it may take once somebody tells it to stop.
async fn until_stopped(config: Config) -> Result<(), RunError> {
    let (stop, patience) = (CancellationToken::new(), config.limits.drain_timeout);
    let signals = watch_signals(stop.clone())?;
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    let ended = tokio::select! {
        ended = netsy::run(config, stop.clone()) => ended,
        () = late => Err(RunError::failed(
            "make every write durable before the end",
            format!("it took longer than `limits.drain_timeout` ({})", humantime::format_duration(patience)),
            "writes that were acknowledged are safe; see the log for what it waited for",
        )),
    };
    signals.abort();
    ended
}

/// The first SIGTERM or SIGINT asks the Node to stop, the second ends the process at once.
fn watch_signals(stop: CancellationToken) -> Result<tokio::task::JoinHandle<()>, RunError> {
    let listen = |kind: SignalKind| {
        signal(kind).map_err(|error| {
            RunError::failed("listen for signals", error, "see the limits of the process")
        })
    };
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    Ok(tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            match first {
                None => {
                    first = Some(Instant::now());
                    tracing::info!("told to stop; draining, a second signal ends at once");
                    stop.cancel();
                }
                Some(first) if first.elapsed() < ECHO => {}
                Some(_) => {
                    eprintln!(
                        "netsy: ended at once by a second signal; the next start recovers as \
                         after a crash"
                    );
                    std::process::exit(code);
                }
            }
        }
    }))
}

fn start_log(config: &Config) -> Result<(), RunError> {
    let directives = variables()?
        .into_iter()
        .find(|(name, value)| name == "NETSY_LOG" && !value.is_empty());
    let directives = directives.map(|(_, value)| value);
    let terminal = std::io::stderr().is_terminal();
    telemetry::start_log(
        config.log.format,
        &config.log.level,
        directives.as_deref(),
        terminal,
    )
    .map_err(|error| {
        RunError::setup(
            "start the log as `NETSY_LOG` says",
            error,
            "try `NETSY_LOG=netsy=debug`",
        )
    })?;
    let json = matches!(config.log.format, LogFormat::Json) || !terminal;
    if json {
        // A panic on standard error would not be JSON.
        std::panic::set_hook(Box::new(
            |panic| tracing::error!(fault = %panic, "fault: this is a bug"),
        ));
    }
    Ok(())
}

/// Prints to standard output; nobody there to read is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
