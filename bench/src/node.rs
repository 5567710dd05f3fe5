//! One Node under `netsy serve`, its bucket on local files or on an S3 server, on loopback ports.
//! The S3 server is the one that `.ci/s3` describes in the environment.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::chain::Bucket;
use crate::server::Kind;

/// Judges read the whole history, however long a run is.
const KEEPS_HISTORY: &str = "[compaction]\nretention = \"off\"\n";

/// Where a Node's bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    /// Local files.
    Local,
    /// NETSY_TEST_S3_ENDPOINT and NETSY_TEST_S3_BUCKET.
    S3,
}

/// A place made ready: the bucket as we read it, and as the Node is told of it.
pub(crate) struct Placed {
    pub(crate) bucket: Bucket,
    settings: String,
    env: Vec<(String, String)>,
}

/// The endpoint of the S3 server that `.ci/s3` runs.
pub(crate) fn s3_endpoint() -> Result<String> {
    variable("NETSY_TEST_S3_ENDPOINT")
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set; run this under .ci/s3"))
}

impl Placed {
    /// A bucket in `dir/bucket`.
    pub(crate) fn local(dir: &Path) -> Result<Placed> {
        let path = dir.join("bucket");
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        let settings = format!("url = \"file://{}\"\n", path.display());
        Ok(Placed {
            bucket: Bucket::local(&path)?,
            settings,
            env: Vec::new(),
        })
    }

    /// The prefix `prefix` on S3; the Node reaches it through `endpoint`.
    pub(crate) fn s3(prefix: &str, endpoint: &str) -> Result<Placed> {
        let name = variable("NETSY_TEST_S3_BUCKET")?;
        let settings = format!(
            "url = \"s3://{name}/{prefix}\"\nendpoint = \"{endpoint}\"\nallow_http = true\n\
             region = \"us-east-1\"\n"
        );
        let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let env = keys
            .iter()
            .filter_map(|name| Some(((*name).into(), std::env::var(name).ok()?)));
        let bucket = Bucket::s3(&s3_endpoint()?, &name, prefix)?;
        Ok(Placed {
            bucket,
            settings,
            env: env.collect(),
        })
    }

    /// Writes the configuration of a single Node with a quick Elector into `dir`, its disk in `dir/node`;
    /// `more` is added to the file as it is.
    pub(crate) fn serve(&self, binary: &Path, dir: &Path, port: u16, more: &str) -> Result<Kind> {
        let text = format!(
            "cluster_id = \"proof\"\nnode_id = \"node-1\"\ndata_dir = \"{}\"\n\
             [bucket]\ndocument_timeout = \"800ms\"\n{}\
             [client]\nlisten = \"127.0.0.1:{port}\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n\
             {KEEPS_HISTORY}[elector]\nrenew_interval = \"300ms\"\ntimeout = \"2s\"\n{more}",
            disk(dir).display(),
            self.settings,
        );
        let config = dir.join("netsy.toml");
        std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        Ok(Kind::Serve {
            binary: binary.to_owned(),
            config,
            env: self.env.clone(),
        })
    }
}

/// How quickly a Node gives up on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Timing {
    /// What `netsy serve` takes when nothing is said: the Elector's lock 6 s, a silent Primary 2 s.
    Default,
    /// What `netsy dev` takes: 2 s and 1 s.
    Dev,
}

impl Timing {
    fn settings(self) -> (&'static str, &'static str) {
        match self {
            Timing::Default => ("", ""),
            Timing::Dev => (
                "document_timeout = \"1s\"\n",
                "[elector]\nrenew_interval = \"500ms\"\ntimeout = \"2s\"\nprimary_timeout = \"1s\"\n\
                 heartbeat_interval = \"200ms\"\n",
            ),
        }
    }

    fn lease(self) -> &'static str {
        match self {
            Timing::Default => "2s",
            Timing::Dev => "1s",
        }
    }
}

/// One Node of several, as its configuration names it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its own directory: configuration, disk, log.
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) peer_port: u16,
    /// Where other Nodes are told to reach it: a relay of ours, or itself.
    pub(crate) advertised: u16,
}

impl Placed {
    /// Writes the configuration of one Node of a cluster; `more` is added to the file as it is.
    pub(crate) fn member(
        &self,
        binary: &Path,
        member: &Member,
        timing: Timing,
        more: &str,
    ) -> Result<Kind> {
        let (bucket, elector) = timing.settings();
        let text = format!(
            "cluster_id = \"storm\"\nnode_id = \"{}\"\ndata_dir = \"{}\"\n\
             [bucket]\n{bucket}{}\
             [client]\nlisten = \"127.0.0.1:{}\"\n\
             [peer]\nlisten = \"127.0.0.1:{}\"\nadvertise_url = \"http://127.0.0.1:{}\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n\
             {KEEPS_HISTORY}[reads]\nwhen_degraded = \"refuse\"\nlease = \"{}\"\n{elector}{more}",
            member.name,
            disk(&member.dir).display(),
            self.settings,
            member.port,
            member.peer_port,
            member.advertised,
            timing.lease(),
        );
        std::fs::create_dir_all(&member.dir)?;
        let config = member.dir.join("netsy.toml");
        std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        Ok(Kind::Serve {
            binary: binary.to_owned(),
            config,
            env: self.env.clone(),
        })
    }
}

/// Where the Node of `dir` keeps its own disk.
pub(crate) fn disk(dir: &Path) -> PathBuf {
    dir.join("node")
}
