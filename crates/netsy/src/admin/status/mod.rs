//! `netsy status`: asks every Node what it says of itself, and shows who is well.
//!
//! It asks where etcd clients do, at the client port, as one of them: the same certificates, and nothing that
//! `etcdctl` could not be told to reach. Whoever does not answer in time is shown as unreachable. Without
//! endpoints the Nodes of `netsy dev` on this machine are looked for.

mod table;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;

pub use table::table;

use super::dev::PORTS_APART;
use crate::exit::RunError;
use crate::report::Report;
use crate::tls::provider;

/// Where the first Node of `netsy dev` is, and how many there may be.
const DEV_PORT: u16 = 2379;
const DEV_NODES: u16 = 9;

/// Whom to ask, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// `host:port` or a URL each; none: the Nodes of `netsy dev`.
    pub endpoints: Vec<String>,
    /// Whether to ask every Node that one of `endpoints` knows instead of these alone.
    pub cluster: bool,
    /// PEM certificates of those who may sign a server's; without it there is no TLS.
    pub cacert: Option<PathBuf>,
    /// PEM certificate of this client.
    pub cert: Option<PathBuf>,
    /// Its PEM private key.
    pub key: Option<PathBuf>,
    /// How long an answer may take.
    pub within: Duration,
}

/// What became of asking one Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Where it was asked.
    pub endpoint: String,
    /// Its name, if anybody told.
    pub node_id: Option<String>,
    /// What it says.
    pub status: Option<Report>,
    /// Why it says nothing.
    pub error: Option<String>,
}

impl Seen {
    /// Whether the Node answers, and is at work.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| status.health == "healthy" && status.primary_state != "draining")
    }
}

/// Asks, everybody at once.
///
/// # Errors
/// An endpoint that is none, or certificates that cannot be used.
pub async fn look(question: &Question) -> Result<Vec<Seen>, RunError> {
    if let Some(wrong) = question.endpoints.iter().find(|one| !has_port(one)) {
        let why = format!("`{wrong}` is no endpoint");
        let remedy = "`--endpoints` wants hosts with ports such as `127.0.0.1:2379,10.0.0.2:2379`";
        return Err(RunError::setup("ask the nodes", why, remedy));
    }
    let client = client(question)?;
    let tls = question.cacert.is_some();
    let given = question.endpoints.iter().map(|one| url_of(one, tls));
    let given: Vec<String> = given.collect();
    let seeds = if given.is_empty() {
        let ports = (0..DEV_NODES).map(|index| DEV_PORT + index * PORTS_APART);
        ports
            .map(|port| url_of(&format!("127.0.0.1:{port}"), tls))
            .collect()
    } else {
        given.clone()
    };
    let mut seen = ask_all(&client, &seeds).await;
    if given.is_empty() || question.cluster {
        seen = whole_cluster(&client, seen).await;
    }
    name_them(&mut seen);
    Ok(seen)
}

/// Everybody whom those that answered know, each asked where it says that it is; or those that were asked, if
/// nobody knows anybody.
async fn whole_cluster(client: &reqwest::Client, seeds: Vec<Seen>) -> Vec<Seen> {
    let told = seeds.iter().filter_map(|seen| seen.status.as_ref());
    let Some(status) = told.max_by_key(|status| status.members.len()) else {
        // One line says it; where else it was looked for does not matter.
        return seeds.into_iter().take(1).collect();
    };
    if status.members.is_empty() {
        let cluster = status.cluster_id.clone();
        let same = seeds.into_iter().filter(|seen| {
            let status = seen.status.as_ref();
            status.is_some_and(|status| status.cluster_id == cluster)
        });
        return same.collect();
    }
    let mut members = status.members.clone();
    members.sort_by_key(|member| member.member_id);
    let asked = members.into_iter().map(async |member| {
        let mut last = None;
        for url in &member.client_urls {
            let seen = ask(client, url).await;
            if seen.status.is_some() {
                return seen;
            }
            last = last.or(Some(seen));
        }
        let nowhere = || Seen {
            endpoint: String::new(),
            node_id: None,
            status: None,
            error: Some("it does not say where it is".to_owned()),
        };
        Seen {
            node_id: Some(member.node_id),
            ..last.unwrap_or_else(nowhere)
        }
    });
    join_all(asked).await
}

/// Gives those that do not answer the names others have for them.
fn name_them(seen: &mut [Seen]) {
    let told = seen.iter().filter_map(|seen| seen.status.as_ref());
    let members: Vec<_> = told.flat_map(|status| status.members.clone()).collect();
    for one in seen.iter_mut().filter(|one| one.node_id.is_none()) {
        let found = members
            .iter()
            .find(|member| member.client_urls.contains(&one.endpoint));
        one.node_id = found.map(|member| member.node_id.clone());
    }
}

async fn ask_all(client: &reqwest::Client, urls: &[String]) -> Vec<Seen> {
    join_all(urls.iter().map(|url| ask(client, url))).await
}

async fn ask(client: &reqwest::Client, endpoint: &str) -> Seen {
    let (status, error) = match report(client, endpoint).await {
        Ok(report) => (Some(report), None),
        Err(why) => (None, Some(why)),
    };
    Seen {
        endpoint: endpoint.to_owned(),
        node_id: status.as_ref().map(|status| status.node_id.clone()),
        status,
        error,
    }
}

async fn report(client: &reqwest::Client, endpoint: &str) -> Result<Report, String> {
    let asked = client.get(format!("{endpoint}/status")).send().await;
    let answer = asked.map_err(|error| why(&error))?;
    if !answer.status().is_success() {
        return Err(format!(
            "it answers `{}`: it is no Netsy, or one that is older than `netsy status`",
            answer.status()
        ));
    }
    let body = answer.bytes().await.map_err(|error| why(&error))?;
    serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// The innermost reason: what is around it says only where.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time: it may be restoring its log, see `/readyz` of its health port"
            .to_owned();
    }
    let mut inner: &dyn Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    if text.contains("invalid HTTP version") {
        // Whoever speaks TLS answers with an alert.
        return format!("{text}: does it speak TLS? give `--cacert`");
    }
    text
}

/// Whether `endpoint` is a host and a port, with or without a scheme.
fn has_port(endpoint: &str) -> bool {
    let endpoint = endpoint.trim().trim_end_matches('/');
    let address = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty()
            && (bracketed || !host.contains([':', '/']))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// The URL of `endpoint`, as `etcdctl` takes it: with or without a scheme.
fn url_of(endpoint: &str, tls: bool) -> String {
    let endpoint = endpoint.trim().trim_end_matches('/');
    if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        let scheme = if tls { "https" } else { "http" };
        format!("{scheme}://{endpoint}")
    }
}

fn client(question: &Question) -> Result<reqwest::Client, RunError> {
    let unusable = |why: String| {
        let remedy = "give `--cacert`, and `--cert` with `--key`, as to etcdctl";
        RunError::setup("ask the nodes over TLS", why, remedy)
    };
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .timeout(question.within);
    let wants_tls = question
        .endpoints
        .iter()
        .any(|one| one.starts_with("https:"));
    match &question.cacert {
        Some(cacert) => {
            let config = tls(cacert, question.cert.as_deref(), question.key.as_deref());
            builder = builder.tls_backend_preconfigured(config.map_err(unusable)?);
        }
        None if wants_tls || question.cert.is_some() || question.key.is_some() => {
            return Err(unusable("`--cacert` is missing".to_owned()));
        }
        None => {}
    }
    crate::bucket::install_crypto();
    builder.build().map_err(|error| unusable(why(&error)))
}

fn tls(cacert: &Path, cert: Option<&Path>, key: Option<&Path>) -> Result<ClientConfig, String> {
    let of = |file: &Path, why: String| format!("`{}`: {why}", file.display());
    let certificates = |file: &Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        let found: Vec<_> = read.map_err(|error| of(file, error.to_string()))?;
        if found.is_empty() {
            return Err(of(file, "it holds no certificate in PEM form".to_owned()));
        }
        Ok(found)
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(cacert)? {
        let added = roots.add(certificate);
        added.map_err(|error| of(cacert, error.to_string()))?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let (cert, key) = match (cert, key) {
        (None, None) => return Ok(config.with_no_client_auth()),
        (Some(cert), Some(key)) => (cert, key),
        _ => return Err("`--cert` and `--key` go together; one of them is missing".to_owned()),
    };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of(key, error.to_string()))?;
    config
        .with_client_auth_cert(certificates(cert)?, private)
        .map_err(|error| of(cert, error.to_string()))
}

/// What was seen, as JSON.
#[must_use]
pub fn json(seen: &[Seen]) -> String {
    serde_json::to_string_pretty(seen).expect("plain structs always serialise") + "\n"
}

/// Whether all is well.
///
/// # Errors
/// Some Node is unreachable, or not at work.
pub fn verdict(seen: &[Seen]) -> Result<(), RunError> {
    let ill = seen.iter().filter(|seen| !seen.is_well()).count();
    if ill == 0 {
        return Ok(());
    }
    let be = if ill == 1 { "is" } else { "are" };
    let nodes = if seen.len() == 1 { "node" } else { "nodes" };
    Err(RunError::failed(
        "ask every node how it is",
        format!("{ill} of {} {nodes} {be} not at work", seen.len()),
        "see above, and docs/OPERATING.md",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in [
            "a:1",
            "http://a.example:2379/",
            "[::1]:2379",
            " 10.0.0.1:2379",
        ] {
            assert!(has_port(good), "{good}");
        }
        for bad in [
            "", "a", "http://a", ":2379", "::1", "a:b", "a:0", "http://", "a/b:1",
        ] {
            assert!(!has_port(bad), "{bad}");
        }
    }
}
