//! Start: takes disk and bucket in hand, registers the Node, and restores the log.
//!
//! A bucket that does not answer is asked again for as long as it takes; everything else that is wrong ends
//! the process with a sentence. A disk that is damaged, or an older copy, is set aside and filled anew. All
//! that time the voter that the disk is answers at the peer port.

use std::path::Path;
use std::time::Duration;

use rules::register::Identity;
use tracing::warn;

use crate::bucket::{self, Bucket, BucketConfig};
use crate::config::{Config, Sse};
use crate::driver::{self, JoinFailure, Registered, Registration, RestoreFailure, Restored};
use crate::exit::RunError;
use crate::store::{self, Batch, Store, StoreIdentity};
use crate::waiting::{PeerPort, make_durable};

/// How often a bucket that does not answer at start is asked again.
const BUCKET_AGAIN: Duration = Duration::from_secs(2);

/// What a start has brought together.
pub(crate) struct Started {
    pub(crate) bucket: Bucket,
    pub(crate) store: Store,
    /// This process.
    pub(crate) identity: Identity,
    /// As it lies in the bucket.
    pub(crate) registration: Registration,
    pub(crate) restored: Restored,
}

/// Takes disk and bucket in hand, registers, and restores the log. Meanwhile the peer port is answered.
pub(crate) async fn start(
    config: &Config,
    mut given: Option<Bucket>,
    registration: &Registration,
    port: &mut Option<PeerPort>,
) -> Result<Started, RunError> {
    let boot = bucket::fresh_mark();
    loop {
        let store = open_store(config)?;
        let own = begin_life(&store, registration).await?;
        let identity = Identity {
            node_id: own.node_id.clone(),
            incarnation: own.incarnation.clone(),
            boot: boot.clone(),
        };
        if let Some(port) = port {
            port.wait(&store, &identity, &own);
        }
        let joined = join(config, &mut given, &store, &own).await;
        if let Some(port) = port {
            port.wait_no_more().await;
        }
        if let Some((bucket, mut restored)) = joined? {
            // The voter that waited may have promised since.
            restored.promised = store.meta().promised;
            return Ok(Started {
                bucket,
                store,
                identity,
                registration: own,
                restored,
            });
        }
        // An empty disk is another incarnation: it registers as such.
        drop(store);
        set_aside(config)?;
    }
}

/// Begins one more life of the disk: its number is durable, and this is how it will be registered.
async fn begin_life(store: &Store, registration: &Registration) -> Result<Registration, RunError> {
    let meta = store.meta();
    let boot_seq = meta.boot_seq + 1;
    let batch = Batch {
        boot_seq: Some(boot_seq),
        ..Batch::default()
    };
    write(store, batch).await?;
    Ok(Registration {
        mark: bucket::fresh_mark(),
        incarnation: meta.incarnation,
        boot_seq,
        ..registration.clone()
    })
}

/// Opens the bucket, registers there, and restores the log from it. `None`: the disk is of no use.
async fn join(
    config: &Config,
    given: &mut Option<Bucket>,
    store: &Store,
    own: &Registration,
) -> Result<Option<(Bucket, Restored)>, RunError> {
    let bucket = open_bucket(config, given.take()).await?;
    *given = Some(bucket.clone());
    let attempted = || format!("join the cluster in `{}`", bucket.name());
    let refused = |why| RunError::setup(attempted(), why, "see docs/OPERATING.md");
    patiently(|| driver::check_cluster(&bucket, &config.cluster_id))
        .await
        .map_err(refused)?;
    let registered =
        patiently(|| driver::register(&bucket, &config.cluster_id, own, &own.mark)).await;
    if registered.map_err(refused)? == Registered::OldDisk {
        warn!("this disk is an older copy of one that was started since");
        return Ok(None);
    }
    let restored = restore(config, &bucket, store).await?;
    Ok(restored.map(|restored| (bucket, restored)))
}

/// Opens the local database; one that is damaged is set aside.
fn open_store(config: &Config) -> Result<Store, RunError> {
    let identity = StoreIdentity {
        cluster_id: config.cluster_id.clone(),
        node_id: config.node_id.clone(),
    };
    let dir: &Path = &config.data_dir;
    let mut opened = Store::open(Some(dir), &identity);
    if let Err(failure @ store::Failure::Corrupt { .. }) = &opened {
        warn!(%failure, "the local database is damaged: starting anew from the bucket");
        set_aside(config)?;
        opened = Store::open(Some(dir), &identity);
    }
    opened.map_err(|failure| {
        let remedy = match &failure {
            // Whoever empties it takes a live Node's disk.
            store::Failure::InUse { .. } if config.is_dev => {
                "stop that process, or choose another `--dir`"
            }
            store::Failure::InUse { .. } => {
                "stop that process, or give this Node a `data_dir` of its own"
            }
            _ => "see docs/OPERATING.md; an empty directory is always a safe start",
        };
        let attempted = format!("open the local database in `{}`", dir.display());
        RunError::failed(attempted, failure, remedy)
    })
}

/// The bucket that `config` names. It has not been asked anything yet.
///
/// # Errors
/// It cannot be opened as it is configured.
pub fn bucket_of(config: &Config) -> Result<Bucket, RunError> {
    let opened = bucket::open(&bucket_config(config), &config.cluster_id);
    opened.map_err(|failure| RunError::setup(opening(config), failure, "correct `[bucket]`"))
}

fn opening(config: &Config) -> String {
    format!("open the bucket `{}`", config.bucket.url)
}

async fn open_bucket(config: &Config, given: Option<Bucket>) -> Result<Bucket, RunError> {
    let bucket = match given {
        Some(bucket) => bucket,
        None => bucket_of(config)?,
    };
    loop {
        match bucket.selftest().await {
            Ok(()) => return Ok(bucket),
            Err(failure @ (bucket::Failure::TryAgain { .. } | bucket::Failure::Denied { .. })) => {
                warn!(%failure, "the bucket does not answer; trying again");
                tokio::time::sleep(BUCKET_AGAIN).await;
            }
            Err(failure) => {
                return Err(RunError::setup(
                    opening(config),
                    failure,
                    "use another store",
                ));
            }
        }
    }
}

/// Asks until the bucket answers; what it then says is the operator's.
async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, JoinFailure>>,
{
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(JoinFailure::Refused(why)) => return Err(why),
            Err(JoinFailure::Bucket(failure)) => {
                warn!(%failure, "the bucket does not answer; trying again");
                tokio::time::sleep(BUCKET_AGAIN).await;
            }
        }
    }
}

fn bucket_config(config: &Config) -> BucketConfig {
    let wanted = &config.bucket;
    let keys = wanted
        .access_key_id
        .as_ref()
        .zip(wanted.secret_access_key.as_ref());
    BucketConfig {
        url: wanted.url.clone(),
        endpoint: wanted.endpoint.clone(),
        region: wanted.region.clone(),
        virtual_hosted: !wanted.path_style,
        access_key: keys.map(|(id, secret)| bucket::AccessKey {
            id: id.expose().to_owned(),
            secret: secret.expose().to_owned(),
            token: None,
        }),
        allow_http: wanted.allow_http,
        sse: match (wanted.sse, &wanted.kms_key_id) {
            (Sse::Bucket, _) => None,
            (Sse::S3, _) => Some("AES256".to_owned()),
            (Sse::Kms, None) => Some("aws:kms".to_owned()),
            (Sse::Kms, Some(key)) => Some(format!("aws:kms:{key}")),
        },
        timeouts: bucket::Timeouts {
            document: wanted.document_timeout,
            chunk: wanted.file_timeout / 4,
            file: wanted.file_timeout,
            ..bucket::Timeouts::default()
        },
    }
}

/// Makes `batch` durable.
async fn write(store: &Store, batch: Batch) -> Result<(), RunError> {
    make_durable(store, batch).await.map_err(|failure| {
        RunError::failed("write to the local database", failure, "look at the disk")
    })
}

/// Sets the database aside; the next one that is opened is empty, which is a new incarnation.
fn set_aside(config: &Config) -> Result<(), RunError> {
    let aside = Store::set_aside(&config.data_dir).map_err(|failure| {
        RunError::failed(
            "set the local database aside",
            failure,
            "empty the data directory",
        )
    })?;
    warn!(aside = %aside.display(), "the old database was set aside");
    Ok(())
}

/// Restores the log, as long as it takes. `None`: the local database is damaged.
async fn restore(
    config: &Config,
    bucket: &Bucket,
    store: &Store,
) -> Result<Option<Restored>, RunError> {
    let budget = usize::try_from(config.view.value_budget).unwrap_or(usize::MAX);
    loop {
        match driver::restore(bucket, store, budget).await {
            Ok(restored) => return Ok(Some(restored)),
            Err(RestoreFailure::Bucket(why)) => {
                warn!(why, "the bucket does not answer; trying again");
                tokio::time::sleep(BUCKET_AGAIN).await;
            }
            Err(RestoreFailure::Disk(failure @ store::Failure::Corrupt { .. })) => {
                warn!(%failure, "the local database is damaged: starting anew from the bucket");
                return Ok(None);
            }
            Err(failure) => {
                let remedy = match &failure {
                    RestoreFailure::Damaged(_) => {
                        "nothing was changed; see `When something in the bucket is damaged or missing` in docs/OPERATING.md"
                    }
                    _ => "nothing was changed; see docs/OPERATING.md",
                };
                let attempted = format!("restore the log from `{}`", bucket.name());
                return Err(RunError::failed(attempted, failure, remedy));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_the_bucket_are_the_configured_ones() {
        let mut config = Config::dev(Path::new("/tmp"), "127.0.0.1:0", "127.0.0.1:0").unwrap();
        config.bucket.document_timeout = Duration::from_secs(3);
        config.bucket.file_timeout = Duration::from_secs(200);
        let timeouts = bucket_config(&config).timeouts;
        assert_eq!(timeouts.document, Duration::from_secs(3));
        assert_eq!(timeouts.chunk, Duration::from_secs(50));
        assert_eq!(timeouts.file, Duration::from_secs(200));
    }
}
