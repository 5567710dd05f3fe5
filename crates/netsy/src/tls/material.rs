//! The files of a port, and what they hold: a certificate chain, its key, and whose signatures are trusted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Unusable;

/// The files of a port, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Our certificate, with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Those who may sign the certificates of others.
    pub ca: Option<PathBuf>,
}

/// The files as they were read. Compared to see a change.
#[derive(PartialEq, Eq)]
pub struct Material {
    files: Files,
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

impl Files {
    pub(crate) fn read(&self) -> Result<Material, Unusable> {
        let read =
            |file: &Path| std::fs::read(file).map_err(|error| Unusable::new("read", file, error));
        Ok(Material {
            files: self.clone(),
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            ca: self.ca.as_deref().map(read).transpose()?,
        })
    }
}

impl Material {
    /// Which files they are.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Our certificate, and those between it and the authority; at least one.
    ///
    /// # Errors
    /// The file is no PEM, or holds no certificate.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        certificates(&self.files.cert, &self.cert)
    }

    /// The private key of our certificate.
    ///
    /// # Errors
    /// The file is no PEM, or holds no key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, Unusable> {
        let what = "read a private key from";
        PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| Unusable::new(what, &self.files.key, error))
    }

    /// Whose signatures are trusted; None if no file says.
    ///
    /// # Errors
    /// The file is no PEM, or holds no certificate that can be trusted.
    pub fn roots(&self) -> Result<Option<Arc<RootCertStore>>, Unusable> {
        let (Some(file), Some(pem)) = (&self.files.ca, &self.ca) else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file, pem)? {
            roots
                .add(certificate)
                .map_err(|error| Unusable::new("trust the certificates in", file, error))?;
        }
        Ok(Some(Arc::new(roots)))
    }

    /// `error` is of our certificate and key together.
    #[must_use]
    pub fn mismatch(&self, error: &rustls::Error) -> Unusable {
        let what = "use the private key with the certificate in";
        Unusable::new(what, &self.files.cert, error)
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let what = "read certificates from";
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Unusable::new(what, file, error))?;
    if found.is_empty() {
        return Err(Unusable::new(what, file, "it holds none in PEM form"));
    }
    Ok(found)
}
