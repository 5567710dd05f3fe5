//! The `netsy` command: reads the command line and the environment (nobody else does), calls a room, and ends with
//! an exit code of [`netsy::exit`] and, if anything failed, one last line that says what to do.

mod arguments;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use arguments::{AdminVerb, Certs, CommandLine, ConfigVerb, Dev, ForceElect, Serve, Status, Verb};
use clap::Parser;
use netsy::admin::dev::{Cluster, address, live_no_longer_than_the_parent, run as run_nodes};
use netsy::admin::{certs, force_elect, status};
use netsy::config::{Config, Draft, LogFormat, Mistakes};
use netsy::exit::RunError;
use netsy::log;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Every request allocates on one thread and frees on another; the C library's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A signal this soon after the first is the same one: `timeout`, shells and supervisors tell a process and then
/// its whole group.
const ECHO: Duration = Duration::from_millis(200);

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
        Verb::Admin {
            verb: AdminVerb::ForceElect(wanted),
        } => give_up_voters(&wanted),
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
    if dev.nodes.is_none() {
        refuse_a_cluster(&dir)?;
    }
    if let (Some(node), Some(nodes)) = (dev.node, dev.nodes)
        && node > nodes
    {
        let why = format!("`--node {node}` is none of the {nodes} of `--nodes {nodes}`");
        let remedy = format!("choose one from 1 to {nodes}, or more `--nodes`");
        return Err(RunError::setup("start `netsy dev`", why, remedy));
    }
    let number = dev.node.or(dev.nodes.filter(|nodes| *nodes == 1));
    let mut listen = dev.listen.clone();
    if let (Some(nodes), Ok(first)) = (dev.nodes, listen.parse()) {
        let Some(number) = number else {
            let cluster = Cluster {
                nodes,
                dir,
                listen: first,
                leases_expire: dev.leases_expire,
            };
            return on_runtime(run_cluster(cluster));
        };
        let address = address(first, number).map_err(|why| {
            RunError::setup("start `netsy dev`", why, "choose another `--listen`")
        })?;
        listen = address.to_string();
    }
    let mut config = Config::dev_node(&dir, &listen, &dev.http, number)
        .map_err(|mistakes| refuse("start `netsy dev`".into(), &mistakes))?;
    config.leases.expire = dev.leases_expire;
    std::fs::create_dir_all(&dir).map_err(|error| {
        let attempted = format!("make the directory `{}`", dir.display());
        RunError::setup(attempted, error, "choose another `--dir`")
    })?;
    run(config)
}

/// One Node of a cluster, alone and without a peer port, would wait for the others for ever.
fn refuse_a_cluster(dir: &Path) -> Result<(), RunError> {
    let disk = |number: &u16| dir.join(format!("node-{number}")).exists();
    let Some(nodes) = (2..=9).rev().find(disk) else {
        return Ok(());
    };
    let attempted = format!("start one node in `{}`", dir.display());
    let why = format!("a cluster of {nodes} nodes keeps its disks there");
    let remedy = format!("start it with `--nodes {nodes}`, or choose another `--dir`");
    Err(RunError::setup(attempted, why, remedy))
}

fn run_serve(serve: &Serve) -> Result<(), RunError> {
    let file = serve.config.clone().or_else(config_named);
    let attempted = reading(file.as_deref());
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

/// The file that `NETSY_CONFIG` names.
fn config_named() -> Option<PathBuf> {
    let file = std::env::var_os("NETSY_CONFIG").filter(|file| !file.is_empty());
    file.map(PathBuf::from)
}

fn reading(file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("read the configuration from `{}`", file.display()),
        None => "read the configuration without a file (`--config` names one)".to_owned(),
    }
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
    let wrong = netsy::certificate_mistakes(&config);
    for mistake in &wrong {
        eprintln!("{}: {mistake}", file.display());
    }
    if !wrong.is_empty() {
        let attempted = format!("use the certificates in `{}`", file.display());
        let remedy = "`netsy certs` makes working files";
        return Err(RunError::setup(attempted, "see above", remedy));
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

fn give_up_voters(wanted: &ForceElect) -> Result<(), RunError> {
    let config = match &wanted.dir {
        Some(dir) => std::path::absolute(dir)
            .map_err(|error| error.to_string())
            .and_then(|dir| {
                let config = Config::dev_node(&dir, "127.0.0.1:0", "127.0.0.1:0", None);
                config.map_err(|mistakes| mistakes.to_string())
            })
            .map_err(|why| {
                let attempted = format!("find the cluster in `{}`", dir.display());
                RunError::setup(attempted, why, "choose another `--dir`")
            })?,
        None => {
            let file = wanted.config.clone().or_else(config_named);
            let draft = draft(file.as_deref())?.finish();
            draft.map_err(|mistakes| refuse(reading(file.as_deref()), &mistakes))?
        }
    };
    let wish = force_elect::Wish {
        cluster_id: config.cluster_id.clone(),
        accepts_loss: wanted.yes_i_accept_losing_writes,
        look_for: config.elector.timeout,
        wait: Duration::from_secs(wanted.wait),
    };
    let bucket = netsy::bucket_of(&config)?;
    on_runtime(async { force_elect::run(&bucket, &wish, &mut say).await })
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
    log::start(
        (&config.node_id, config.is_one_of_many),
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
