//! TLS of the client port: from PEM files to a rustls `ServerConfig`, and to a new one when the files change.
//!
//! TLS 1.2 and 1.3, ALPN h2 and http/1.1, client certificates as configured. [`Tls::current`] is asked for each
//! connection; [`Tls::reload_when_changed`] looks at the files every few seconds. New files that do not work are
//! logged and counted, and the old ones stay in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::config::Client;
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

/// The files of the client port.
#[derive(Clone, Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: Option<PathBuf>,
    client_cert_required: bool,
}

/// What the files hold. Compared to see a change.
#[derive(PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

/// The TLS settings in use, exchanged as a whole when the files change.
pub struct Tls {
    files: Files,
    current: Arc<ArcSwap<ServerConfig>>,
    /// What was last read, working or not: a broken file is complained of once.
    seen: Mutex<Contents>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS as `client` asks for it; None if it asks for none.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable, no PEM, or does not fit the others.
    pub fn open(client: &Client) -> Result<Option<Arc<Tls>>, Unusable> {
        let (Some(cert), Some(key)) = (&client.cert_file, &client.key_file) else {
            return Ok(None);
        };
        let files = Files {
            cert: cert.clone(),
            key: key.clone(),
            ca: client.ca_file.clone(),
            client_cert_required: client.client_cert_required,
        };
        let contents = files.read()?;
        let current = Arc::new(ArcSwap::from_pointee(files.server_config(&contents)?));
        Ok(Some(Arc::new(Tls {
            files,
            current,
            seen: Mutex::new(contents),
        })))
    }

    /// The settings for a connection that begins now.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// The settings as the etcd door holds them: it sees each exchange.
    #[must_use]
    pub fn shared(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.current)
    }

    /// Looks at the files once: true if they changed and the new ones are in use from now on.
    ///
    /// # Errors
    /// The files changed and do not work; the old ones stay in use. Said once per change.
    pub fn reload(&self) -> Result<bool, Unusable> {
        // A file that is missing for a moment is being replaced: looked at again next time.
        let contents = self.files.read()?;
        let mut seen = self.seen.lock();
        if *seen == contents {
            return Ok(false);
        }
        let made = self.files.server_config(&contents);
        *seen = contents;
        self.current.store(Arc::new(made?));
        Ok(true)
    }

    /// Looks at the files every `every` until `closing`.
    pub async fn reload_when_changed(
        self: Arc<Tls>,
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

impl Files {
    fn read(&self) -> Result<Contents, Unusable> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|error| unusable("read", file, &error.to_string()))
        };
        Ok(Contents {
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            ca: self.ca.as_deref().map(read).transpose()?,
        })
    }

    fn server_config(&self, contents: &Contents) -> Result<ServerConfig, Unusable> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("ring has cipher suites for TLS 1.2 and 1.3");
        let builder = match self.verifier(contents)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.cert, &contents.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| unusable("read a private key from", &self.key, &error.to_string()))?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let what = "use the private key with the certificate in";
            unusable(what, &self.cert, &error.to_string())
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn verifier(
        &self,
        contents: &Contents,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, Unusable> {
        let (Some(file), Some(pem)) = (&self.ca, &contents.ca) else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file, pem)? {
            roots
                .add(certificate)
                .map_err(|error| unusable("trust the certificates in", file, &error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if self.client_cert_required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder
            .build()
            .map(Some)
            .map_err(|error| unusable("trust the certificates in", file, &error.to_string()))
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let what = "read certificates from";
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(what, file, &error.to_string()))?;
    if found.is_empty() {
        return Err(unusable(what, file, "it holds none in PEM form"));
    }
    Ok(found)
}

fn unusable(what: &'static str, file: &Path, why: &str) -> Unusable {
    Unusable {
        what,
        file: file.to_owned(),
        why: why.to_owned(),
    }
}
