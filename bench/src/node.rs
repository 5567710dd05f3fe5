//! One Node under `netsy serve`, its bucket on local files or on an S3 server, on loopback ports.
//! The S3 server is the one that `.ci/s3` describes in the environment.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::chain::Bucket;
use crate::server::Kind;

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
             [elector]\nrenew_interval = \"300ms\"\ntimeout = \"2s\"\n{more}",
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

/// Where the Node of `dir` keeps its own disk.
pub(crate) fn disk(dir: &Path) -> PathBuf {
    dir.join("node")
}
