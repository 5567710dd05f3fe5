//! From a URL and a few settings to a [`Bucket`].
//!
//! Two clients per cloud store: one with short limits for documents, one with long limits for files, so
//! that a slow upload never delays the Elector. Neither retries by itself.

use std::fmt;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::local::LocalFiles;
use super::{Bucket, Failure, Timeouts, grown};
use crate::datafile::chunk;

/// Where the bucket is and how to reach it. Only `url` is needed; `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BucketConfig {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder`, or
    /// `memory://` (gone with the process, never shared).
    pub url: String,
    /// Another server than the cloud's own, as in `https://minio.example:9000`.
    pub endpoint: Option<String>,
    /// S3: the region; else from the environment, else `us-east-1`.
    pub region: Option<String>,
    /// S3: whether the bucket stands in the host name instead of the path.
    pub virtual_hosted: bool,
    /// S3: static credentials. Without them: the environment, web identity, container, instance.
    pub access_key: Option<AccessKey>,
    /// Whether plain http is allowed. For tests on one machine.
    pub allow_http: bool,
    /// S3: server-side encryption: `AES256`, `aws:kms` or `aws:kms:KEY`.
    pub sse: Option<String>,
    /// Limits of one request.
    pub timeouts: Timeouts,
}

/// Static S3 credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// Public part.
    pub id: String,
    /// Secret part.
    pub secret: String,
    /// Session token of temporary credentials.
    pub token: Option<String>,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(..)")
    }
}

impl fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketConfig")
            .field("url", &public(&self.url))
            .finish_non_exhaustive()
    }
}

/// Makes ring the process's one TLS provider. Call it first thing in `main` and in tests; calling it again
/// is harmless.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is all we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Opens the bucket of `cluster_id`. Reaches no network yet; see [`Bucket::selftest`].
///
/// # Errors
/// `Unfit` if the configuration cannot work, saying which part of it and why.
pub fn open(config: &BucketConfig, cluster_id: &str) -> Result<Bucket, Failure> {
    install_crypto();
    let name = public(&config.url);
    let url = Url::parse(&config.url)
        .map_err(|error| Failure::Unfit(format!("`{name}` is not a bucket URL: {error}")))?;
    let build = |limit| -> Result<Arc<dyn ObjectStore>, Failure> {
        let options = ClientOptions::new()
            .with_connect_timeout(config.timeouts.connect)
            .with_timeout(limit)
            .with_allow_http(config.allow_http);
        let store = cloud(config, &url, options).map_err(|error| {
            Failure::Unfit(format!("the bucket `{name}` cannot be opened: {error}"))
        })?;
        let prefix = Path::from_url_path(url.path()).map_err(|error| {
            Failure::Unfit(format!("the prefix of `{name}` is not usable: {error}"))
        })?;
        Ok(Arc::new(PrefixStore::new(store, prefix)))
    };
    let [documents, files, chunks] = match url.scheme() {
        "memory" => shared(Arc::new(InMemory::new())),
        "file" => shared(local(&url, &name)?),
        "s3" | "gs" | "az" => {
            let longest = config.timeouts.file.max(config.timeouts.chunk);
            [
                build(config.timeouts.document)?,
                build(config.timeouts.file)?,
                build(grown(longest, chunk::CAP as u64))?,
            ]
        }
        other => {
            return Err(Failure::Unfit(format!(
                "`{other}` is no kind of bucket; use s3, gs, az, file or memory, as in \
                 `s3://bucket/prefix`"
            )));
        }
    };
    let (name, cluster_id, timeouts) = (name.into(), cluster_id.into(), config.timeouts);
    Ok(Bucket {
        name,
        cluster_id,
        documents,
        files,
        chunks,
        timeouts,
    })
}

fn shared(store: Arc<dyn ObjectStore>) -> [Arc<dyn ObjectStore>; 3] {
    [Arc::clone(&store), Arc::clone(&store), store]
}

fn local(url: &Url, name: &str) -> Result<Arc<dyn ObjectStore>, Failure> {
    let folder = url.to_file_path().map_err(|()| {
        Failure::Unfit(format!(
            "`{name}` names no folder; write `file:///absolute/path`"
        ))
    })?;
    let files = LocalFiles::open(&folder).map_err(|error| {
        Failure::Unfit(format!("the folder of `{name}` cannot be opened: {error}"))
    })?;
    Ok(Arc::new(files))
}

/// A client of the cloud store that `url` names.
fn cloud(
    config: &BucketConfig,
    url: &Url,
    options: ClientOptions,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let never = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let bucket = url.host_str().unwrap_or_default();
    Ok(match url.scheme() {
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            if let Some(endpoint) = &config.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            Arc::new(
                builder
                    .with_client_options(options)
                    .with_retry(never)
                    .build()?,
            )
        }
        "az" => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            if let Some(endpoint) = &config.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            Arc::new(
                builder
                    .with_client_options(options)
                    .with_retry(never)
                    .build()?,
            )
        }
        _ => {
            let builder = s3(config, bucket)
                .with_client_options(options)
                .with_retry(never);
            Arc::new(builder.build()?)
        }
    })
}

fn s3(config: &BucketConfig, bucket: &str) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(config.virtual_hosted);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(key) = &config.access_key {
        builder = builder
            .with_access_key_id(&key.id)
            .with_secret_access_key(&key.secret);
        if let Some(token) = &key.token {
            builder = builder.with_token(token);
        }
    }
    match config
        .sse
        .as_deref()
        .map(|sse| sse.strip_prefix("aws:kms:").ok_or(sse))
    {
        None => builder,
        Some(Ok(key)) => builder.with_sse_kms_encryption(key),
        Some(Err(kind)) => {
            let setting = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>();
            builder.with_config(setting.expect("object_store documents this setting"), kind)
        }
    }
}

/// A URL without user, password and query; of what is no URL, only the beginning.
fn public(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return url.split(':').next().unwrap_or_default().to_owned();
    };
    // These fail on URLs that cannot hold a user at all.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}
