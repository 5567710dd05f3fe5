//! Whom a certificate names: `netsy://{cluster_id}/peer/{node_id}` or `netsy://{cluster_id}/client/{name}`, as
//! a URI among its alternative names. And who is let in by it: [`Only`] checks that after rustls has checked
//! who signed it.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use webpki::EndEntityCert;

use super::{Material, Unusable, provider};
use crate::config::identifier;

/// How a Node's certificate names it.
#[must_use]
pub fn peer_uri(cluster_id: &str, node_id: &str) -> String {
    format!("netsy://{cluster_id}/peer/{node_id}")
}

/// How a client's certificate names it.
#[must_use]
pub fn client_uri(cluster_id: &str, name: &str) -> String {
    format!("netsy://{cluster_id}/client/{name}")
}

/// The Node of `cluster_id` that the certificate names, and nobody else.
///
/// # Errors
/// The certificate names no Node, several, one of another cluster, or somebody else.
pub fn node(certificate: &CertificateDer<'_>, cluster_id: &str) -> Result<String, Stranger> {
    let uris = uris(certificate)?;
    let named = match uris.as_slice() {
        [only] => only.strip_prefix(&peer_uri(cluster_id, "")),
        _ => None,
    };
    named
        .and_then(|name| identifier(name).ok())
        .ok_or_else(|| Stranger::new(&uris, &peer_uri(cluster_id, "NODE")))
}

/// Whether the certificate names this Node, and nobody else.
///
/// # Errors
/// It does not.
pub fn is_node(
    certificate: &CertificateDer<'_>,
    cluster_id: &str,
    node_id: &str,
) -> Result<(), Stranger> {
    let (uris, wanted) = (uris(certificate)?, peer_uri(cluster_id, node_id));
    if uris == [wanted.as_str()] {
        Ok(())
    } else {
        Err(Stranger::new(&uris, &wanted))
    }
}

/// Whether the certificate may be a client's of `cluster_id`: if anybody, it names clients of it.
fn is_client(certificate: &CertificateDer<'_>, cluster_id: &str) -> Result<(), Stranger> {
    let (uris, prefix) = (uris(certificate)?, client_uri(cluster_id, ""));
    let fits = |uri: &&str| uri.len() > prefix.len() && uri.starts_with(&prefix);
    if uris.iter().all(fits) {
        Ok(())
    } else {
        Err(Stranger::new(&uris, &client_uri(cluster_id, "NAME")))
    }
}

/// The URIs of a certificate that are about Netsy.
fn uris<'a>(certificate: &'a CertificateDer<'_>) -> Result<Vec<&'a str>, Stranger> {
    let certificate =
        EndEntityCert::try_from(certificate).map_err(|why| Stranger(why.to_string()))?;
    // Schemes know no case; one in capitals is never right, but it is not nothing.
    let ours = |uri: &&str| {
        uri.split_once(':')
            .is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("netsy"))
    };
    Ok(certificate.valid_uri_names().filter(ours).collect())
}

/// A certificate that is somebody else's.
pub struct Stranger(String);

impl Stranger {
    fn new(named: &[&str], wanted: &str) -> Stranger {
        let named = match named {
            [] => "nobody of netsy".to_owned(),
            names => format!("`{}`", names.join("`, `")),
        };
        Stranger(format!("the certificate names {named}, not `{wanted}`"))
    }
}

impl From<Stranger> for Error {
    fn from(stranger: Stranger) -> Error {
        CertificateError::Other(OtherError(Arc::new(stranger))).into()
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// What rustls shows of an error that is not its own.
impl fmt::Debug for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stranger {}

/// Why a handshake failed, for people: if it was whom the certificate names, just that.
#[must_use]
pub fn why(failed: &io::Error) -> String {
    let inner = failed.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => other.to_string(),
        _ => failed.to_string(),
    }
}

/// Lets in only those whom a port is for.
#[derive(Debug)]
pub struct Only {
    who: Who,
    cluster_id: String,
    signed: Arc<dyn ClientCertVerifier>,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Clients,
    Nodes,
}

impl Only {
    /// Clients of `cluster_id`, and those without a certificate unless one is `required`. None if no file says
    /// who may sign.
    ///
    /// # Errors
    /// The file with those who may sign cannot be used.
    pub fn clients(
        material: &Material,
        cluster_id: &str,
        required: bool,
    ) -> Result<Option<Arc<Only>>, Unusable> {
        let Some(roots) = material.roots()? else {
            return Ok(None);
        };
        Only::new(Who::Clients, material, cluster_id, roots, required).map(Some)
    }

    /// Nodes of `cluster_id` whose certificates are signed by one of `roots`.
    ///
    /// # Errors
    /// `roots` cannot be used.
    pub fn nodes(
        material: &Material,
        cluster_id: &str,
        roots: Arc<RootCertStore>,
    ) -> Result<Arc<Only>, Unusable> {
        Only::new(Who::Nodes, material, cluster_id, roots, true)
    }

    fn new(
        who: Who,
        material: &Material,
        cluster_id: &str,
        roots: Arc<RootCertStore>,
        required: bool,
    ) -> Result<Arc<Only>, Unusable> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        let builder = if required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        let signed = builder.build().map_err(|error| {
            let files = material.files();
            let file = files.ca.as_ref().unwrap_or(&files.cert);
            Unusable::new("trust the certificates in", file, error)
        })?;
        Ok(Arc::new(Only {
            who,
            cluster_id: cluster_id.to_owned(),
            signed,
        }))
    }
}

impl ClientCertVerifier for Only {
    fn offer_client_auth(&self) -> bool {
        self.signed.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.signed.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .signed
            .verify_client_cert(end_entity, intermediates, now)?;
        match self.who {
            Who::Clients => is_client(end_entity, &self.cluster_id)?,
            Who::Nodes => drop(node(end_entity, &self.cluster_id)?),
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}
