//! TLS of the client port: 1.2 and 1.3, ALPN h2 and http/1.1, client certificates as configured.
//!
//! A client's certificate is `netsy://{cluster_id}/client/{name}`'s, or of somebody who knows nothing of Netsy,
//! such as kubeadm. One that names a Node or another cluster is refused.

use std::sync::Arc;

use rustls::ServerConfig;

use super::holder::Only;
use super::{Files, Material, Reloading, Unusable, provider};
use crate::config::Client;

/// TLS of the client port as `client` asks for it; None if it asks for none. [`Reloading::current`] is asked
/// for each connection.
///
/// # Errors
/// Names the file that is missing, unreadable, no PEM, or does not fit the others.
pub fn open(
    client: &Client,
    cluster_id: &str,
) -> Result<Option<Arc<Reloading<ServerConfig>>>, Unusable> {
    let (Some(cert), Some(key)) = (&client.cert_file, &client.key_file) else {
        return Ok(None);
    };
    let files = Files {
        cert: cert.clone(),
        key: key.clone(),
        ca: client.ca_file.clone(),
    };
    let cluster_id = cluster_id.to_owned();
    let required = client.client_cert_required;
    Reloading::open(files, move |material| {
        server_config(material, &cluster_id, required)
    })
    .map(Some)
}

fn server_config(
    material: &Material,
    cluster_id: &str,
    required: bool,
) -> Result<ServerConfig, Unusable> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has cipher suites for TLS 1.2 and 1.3");
    let builder = match Only::clients(material, cluster_id, required)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(material.chain()?, material.key()?)
        .map_err(|error| material.mismatch(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
