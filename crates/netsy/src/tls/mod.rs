//! TLS of both ports: from PEM files to what rustls wants, and to new ones when the files change.
//!
//! [`Reloading`] holds what was made of a port's files. It looks at them every few seconds; new files that do
//! not work are logged and counted, and the old ones stay in use. [`clients`] makes the client port's of
//! them, the peer room makes its own, and [`holder`] reads whom a certificate names.

pub mod clients;
pub mod holder;
mod material;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use tokio_util::sync::CancellationToken;

pub use material::{Files, Material};

use crate::telemetry::Metrics;

/// How often the files are looked at.
pub const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what} `{}`: {why}", file.display())]
pub struct Unusable {
    /// What was to be done with it.
    pub what: &'static str,
    /// The file.
    pub file: PathBuf,
    /// Why it did not work.
    pub why: String,
}

impl Unusable {
    /// `what` could not be done with `file`.
    pub fn new(what: &'static str, file: &Path, why: impl std::fmt::Display) -> Unusable {
        Unusable {
            what,
            file: file.to_owned(),
            why: why.to_string(),
        }
    }
}

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

type Make<T> = dyn Fn(&Material) -> Result<T, Unusable> + Send + Sync;

/// What was made of a port's files, exchanged as a whole when the files change.
pub struct Reloading<T> {
    files: Files,
    make: Box<Make<T>>,
    current: Arc<ArcSwap<T>>,
    /// What was last read, working or not: a broken file is complained of once.
    seen: Mutex<Material>,
}

impl<T> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl<T> Reloading<T> {
    /// Reads the files, and makes of them what is in use from now on.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable, no PEM, or does not fit the others.
    pub fn open(
        files: Files,
        make: impl Fn(&Material) -> Result<T, Unusable> + Send + Sync + 'static,
    ) -> Result<Arc<Reloading<T>>, Unusable> {
        let material = files.read()?;
        let current = Arc::new(ArcSwap::from_pointee(make(&material)?));
        Ok(Arc::new(Reloading {
            files,
            make: Box::new(make),
            current,
            seen: Mutex::new(material),
        }))
    }

    /// What is in use for a connection that begins now.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// The same as the etcd door holds it: it sees each exchange.
    #[must_use]
    pub fn shared(&self) -> Arc<ArcSwap<T>> {
        Arc::clone(&self.current)
    }

    /// Looks at the files once: true if they changed and the new ones are in use from now on.
    ///
    /// # Errors
    /// The files changed and do not work; the old ones stay in use. Said once per change.
    pub fn reload(&self) -> Result<bool, Unusable> {
        // A file that is missing for a moment is being replaced: looked at again next time.
        let material = self.files.read()?;
        let mut seen = self.seen.lock();
        if *seen == material {
            return Ok(false);
        }
        let made = (self.make)(&material);
        *seen = material;
        self.current.store(Arc::new(made?));
        Ok(true)
    }

    /// Looks at the files every `every` until `closing`.
    pub async fn reload_when_changed(
        self: Arc<Self>,
        every: Duration,
        metrics: Arc<Metrics>,
        closing: CancellationToken,
    ) {
        let mut complaint = String::new();
        while closing
            .run_until_cancelled(tokio::time::sleep(every))
            .await
            .is_some()
        {
            match self.reload() {
                Ok(false) => {}
                Ok(true) => {
                    complaint.clear();
                    metrics.tls_reloads.ok();
                    tracing::info!(file = %self.files.cert.display(), "certificates reloaded");
                }
                Err(error) => {
                    // The same missing file is not worth a line every few seconds.
                    if complaint != error.to_string() {
                        complaint = error.to_string();
                        metrics.tls_reloads.failed();
                        tracing::error!(%error, "new certificates do not work, the old ones stay in use");
                    }
                }
            }
        }
    }
}
