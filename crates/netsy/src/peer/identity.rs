//! Who is at the other end: mutual TLS 1.3 between Nodes. A Node's certificate names it as
//! `netsy://{cluster_id}/peer/{node_id}`; nothing else opens the peer port, and a Node that is dialled has to
//! show the name it was dialled by. Host names are not looked at.
//!
//! No session is ever resumed: each connection shows certificates, and those in use now are what counts.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::config::Peer;
use crate::tls::holder::{self, Only};
use crate::tls::{Files, Material, Reloading, Unusable, provider};

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const PROTOCOL: &[u8] = b"h2";

/// What a connection shows of its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing: no TLS, loopback only.
    Nothing,
    /// A certificate of this Node.
    Node(String),
}

/// What this Node shows other Nodes, and wants to be shown, as long as its files do not change.
pub struct Identity {
    cluster_id: String,
    roots: Arc<RootCertStore>,
    server: Arc<ServerConfig>,
    /// Knows no Node to be dialled: see [`Identity::dials`].
    client: ClientConfig,
}

/// The identity of `node_id` as `peer` asks for it; None if it asks for none.
///
/// # Errors
/// Names the file that is missing, unreadable, no PEM, does not fit the others, or is another Node's.
pub fn open(
    peer: &Peer,
    cluster_id: &str,
    node_id: &str,
) -> Result<Option<Arc<Reloading<Identity>>>, Unusable> {
    let Some(files) = files(peer) else {
        return Ok(None);
    };
    let (cluster_id, node_id) = (cluster_id.to_owned(), node_id.to_owned());
    Reloading::open(files, move |material| {
        Identity::new(material, &cluster_id, &node_id)
    })
    .map(Some)
}

/// Whether other Nodes, which trust the same authorities, would take this Node by its certificate now. Of no
/// matter if it has none.
///
/// # Errors
/// As [`open`], and when the certificate has run out, or is signed by nobody in `peer.ca_file`.
pub fn rehearse(peer: &Peer, cluster_id: &str, node_id: &str) -> Result<(), Unusable> {
    let Some(files) = files(peer) else {
        return Ok(());
    };
    let material = files.read()?;
    let identity = Identity::new(&material, cluster_id, node_id)?;
    let chain = material.chain()?;
    let Some((ours, between)) = chain.split_first() else {
        return Ok(());
    };
    let dialled = Dialled {
        roots: identity.roots,
        cluster_id: cluster_id.to_owned(),
        node_id: node_id.to_owned(),
    };
    let host = ServerName::try_from("netsy").expect("it is a host name");
    let taken = dialled.verify_server_cert(ours, between, &host, &[], UnixTime::now());
    let what = "be believed by other nodes with the certificate in";
    taken.map_err(|why| Unusable::new(what, &files.cert, why))?;
    Ok(())
}

fn files(peer: &Peer) -> Option<Files> {
    Some(Files {
        cert: peer.cert_file.clone()?,
        key: peer.key_file.clone()?,
        ca: Some(peer.ca_file.clone()?),
    })
}

impl Identity {
    fn new(material: &Material, cluster_id: &str, node_id: &str) -> Result<Identity, Unusable> {
        let (chain, key) = (material.chain()?, material.key()?);
        let file = &material.files().cert;
        if let Some(ours) = chain.first() {
            let what = "be this node by the certificate in";
            holder::is_node(ours, cluster_id, node_id)
                .map_err(|why| Unusable::new(what, file, why))?;
        }
        let roots = material.roots()?;
        let roots = roots.ok_or_else(|| Unusable::new("use", file, "no file says who signs"))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .expect("ring has cipher suites for TLS 1.3")
            .with_client_cert_verifier(Only::nodes(material, cluster_id, Arc::clone(&roots))?)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| material.mismatch(&error))?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let nobody = Dialled {
            roots: Arc::clone(&roots),
            cluster_id: cluster_id.to_owned(),
            node_id: String::new(),
        };
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .expect("ring has cipher suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_client_auth_cert(chain, key)
            .map_err(|error| material.mismatch(&error))?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Identity {
            cluster_id: cluster_id.to_owned(),
            roots,
            server: Arc::new(server),
            client,
        })
    }

    /// How a connection is accepted.
    pub(super) fn accepts(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// How `node_id` is dialled, and nobody else.
    pub(super) fn dials(&self, node_id: &str) -> Arc<ClientConfig> {
        let mut client = self.client.clone();
        client
            .dangerous()
            .set_certificate_verifier(Arc::new(Dialled {
                roots: Arc::clone(&self.roots),
                cluster_id: self.cluster_id.clone(),
                node_id: node_id.to_owned(),
            }));
        Arc::new(client)
    }

    /// What an accepted connection shows, by the certificates of its handshake.
    pub(super) fn shown(&self, certificates: Option<&[CertificateDer<'_>]>) -> Option<Shown> {
        let node = holder::node(certificates?.first()?, &self.cluster_id);
        node.ok().map(Shown::Node)
    }
}

/// Takes the certificate of one Node.
#[derive(Debug)]
struct Dialled {
    roots: Arc<RootCertStore>,
    cluster_id: String,
    node_id: String,
}

impl ServerCertVerifier for Dialled {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms.all,
        )?;
        holder::is_node(end_entity, &self.cluster_id, &self.node_id)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
