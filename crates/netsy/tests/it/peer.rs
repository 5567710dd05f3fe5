//! The peer port and its certificates: real handshakes between the peer rooms of Nodes that are otherwise fake.
//!
//! Strangers are signed by the right authority wherever that is possible, so that it is their name which
//! keeps them out.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use netsy::admin::certs::{self, NodeWish, Wish};
use netsy::config;
use netsy::peer::identity::{self, Identity};
use netsy::peer::{Acceptor, Answers, Caller, Connector, Inbound, Outbound, Peers};
use netsy::tls::Reloading;
use rcgen::ExtendedKeyUsagePurpose::{self, ClientAuth, ServerAuth};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};
use rules::message::Message;
use rules::refusal::Refusal;
use rules::register;
use rules::revision::Revision;
use rules::txn::Txn;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::fake;

const CLUSTER: &str = "prod";
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

fn make(dir: &Path, cluster_id: &str) {
    let wish = Wish {
        dir: dir.to_owned(),
        cluster_id: cluster_id.into(),
        nodes: NODES
            .iter()
            .map(|node| node.parse::<NodeWish>().unwrap())
            .collect(),
        hosts: Vec::new(),
        clients: Vec::new(),
        days: 30,
    };
    certs::make(&wish, SystemTime::now()).unwrap();
}

/// A pair `file` that names whatever it likes, signed by the authority of `dir`, which is of `cluster_id`.
pub(crate) fn forge(
    dir: &Path,
    cluster_id: &str,
    file: &str,
    uris: &[&str],
    purposes: &[ExtendedKeyUsagePurpose],
) {
    let mut authority = CertificateParams::default();
    let name = &mut authority.distinguished_name;
    name.push(DnType::CommonName, "netsy CA");
    name.push(DnType::OrganizationName, cluster_id);
    let pem = std::fs::read_to_string(dir.join("ca.key")).unwrap();
    let issuer = Issuer::new(authority, KeyPair::from_pem(&pem).unwrap());
    let mut params = CertificateParams::default();
    params.extended_key_usages = purposes.to_vec();
    for uri in uris {
        let uri = (*uri).to_owned().try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(dir.join(format!("{file}.crt")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

fn settings(dir: &Path, file: &str) -> config::Peer {
    config::Peer {
        cert_file: Some(dir.join(format!("{file}.crt"))),
        key_file: Some(dir.join(format!("{file}.key"))),
        ca_file: Some(dir.join("ca.crt")),
        ..config::Peer::default()
    }
}

fn identity(dir: &Path, node_id: &str) -> Arc<Reloading<Identity>> {
    let settings = settings(dir, &format!("peer-{node_id}"));
    let opened = identity::open(&settings, CLUSTER, node_id).unwrap();
    opened.unwrap()
}

/// A peer port, and what was said there.
struct Port {
    address: SocketAddr,
    inbox: mpsc::UnboundedReceiver<Inbound>,
    identity: Option<Arc<Reloading<Identity>>>,
    closing: CancellationToken,
    _node: fake::Node,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl Port {
    /// Of `node-1` of the cluster, with the certificates in `dir`.
    async fn open(dir: &Path) -> Port {
        Port::with(Some(identity(dir, "node-1"))).await
    }

    async fn with(identity: Option<Arc<Reloading<Identity>>>) -> Port {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let node = fake::Node::start().await;
        let (sender, inbox) = mpsc::unbounded_channel();
        let answers = Answers {
            cluster_id: CLUSTER.into(),
            handle: Arc::new(node.handle.clone().into()),
            read_txn: |_| -> Result<Txn, Refusal> { Err(Refusal::NoLeader) },
            inbox: sender,
        };
        let closing = CancellationToken::new();
        let acceptor = identity.clone().map(Acceptor::new);
        tokio::spawn(netsy::peer::serve(
            listener,
            acceptor,
            answers,
            closing.clone(),
        ));
        Port {
            address,
            inbox,
            identity,
            closing,
            _node: node,
        }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

/// A Node that says it is `node_id` and shows what `identity` has; it believes `url` to be `of`'s.
fn calling(
    identity: Option<Arc<Reloading<Identity>>>,
    node_id: &str,
    of: &str,
    url: &str,
) -> Peers {
    let caller = Caller {
        cluster_id: CLUSTER.into(),
        identity: register::Identity {
            node_id: node_id.into(),
            incarnation: "i".into(),
            boot: "b".into(),
        },
        url: "https://localhost:1".into(),
    };
    let runtime = tokio::runtime::Handle::current();
    let connector = identity.map(Connector::new);
    let peers = Peers::new(caller, connector, runtime, CancellationToken::new());
    peers.learn(of, url);
    peers
}

/// What `node-1` answers to somebody who shows the certificate `file`.
async fn shown(address: SocketAddr, dir: &Path, file: Option<&str>) -> io::Result<()> {
    handshake(address, dir, file, &rustls::version::TLS13).await
}

async fn handshake(
    address: SocketAddr,
    dir: &Path,
    file: Option<&str>,
    version: &'static SupportedProtocolVersion,
) -> io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(dir.join("ca.crt")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyHost(verifier.build().unwrap())));
    let mut config = match file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let cert = CertificateDer::from_pem_file(dir.join(format!("{file}.crt"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(dir.join(format!("{file}.key"))).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, socket).await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    // With TLS 1.3 a client learns of its refusal only when it reads.
    stream.read_exact(&mut [0; 9]).await.map(drop)
}

/// Believes every server: what the server believes is looked at.
#[derive(Debug)]
struct AnyHost(Arc<rustls::client::WebPkiServerVerifier>);

impl rustls::client::danger::ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[tokio::test]
async fn nodes_with_their_certificates_talk() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), CLUSTER);
    let mut port = Port::open(dir.path()).await;
    let mine = Some(identity(dir.path(), "node-2"));
    // By address and by host name: neither is in any certificate.
    for url in [port.url(), format!("https://{}", port.address)] {
        let peers = calling(mine.clone(), "node-2", "node-1", &url);
        assert_eq!(peers.read_index("node-1").await, Ok(Revision(1)), "{url}");
        peers.send("node-1", Outbound::Message(Message::Look, Arc::new([])));
        let said = tokio::time::timeout(Duration::from_secs(10), port.inbox.recv()).await;
        let said = said.unwrap().unwrap();
        assert_eq!(said.from.node_id, "node-2");
        assert_eq!(said.message, Message::Look);
    }
}

#[tokio::test]
async fn a_node_may_claim_only_the_name_its_certificate_has() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), CLUSTER);
    let mut port = Port::open(dir.path()).await;
    let two = Some(identity(dir.path(), "node-2"));
    for claimed in ["node-3", "node-9"] {
        let peers = calling(two.clone(), claimed, "node-1", &port.url());
        let refused = peers.read_index("node-1").await;
        assert_eq!(refused, Err(Refusal::LeaderChanged), "{claimed}");
        peers.send("node-1", Outbound::Message(Message::Look, Arc::new([])));
    }
    let honest = calling(two, "node-2", "node-1", &port.url());
    assert!(honest.read_index("node-1").await.is_ok());
    assert!(port.inbox.try_recv().is_err(), "nothing was heard of them");
}

#[tokio::test]
async fn only_nodes_of_the_cluster_are_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (dir.path().join("ours"), dir.path().join("foreign"));
    make(&ours, CLUSTER);
    make(&foreign, CLUSTER);
    let both: &[ExtendedKeyUsagePurpose] = &[ClientAuth, ServerAuth];
    let strangers: &[(&str, &[&str])] = &[
        ("elsewhere", &["netsy://test/peer/node-2"]),
        ("nobody", &[]),
        ("nameless", &["netsy://prod/peer/"]),
        ("longer", &["netsy://prod/peer/node-2/x"]),
        ("shouting", &["netsy://prod/peer/NODE-2"]),
        (
            "double",
            &["netsy://prod/peer/node-2", "netsy://prod/peer/node-3"],
        ),
        (
            "dual",
            &["netsy://prod/peer/node-2", "netsy://prod/client/alice"],
        ),
    ];
    for (file, uris) in strangers {
        forge(&ours, CLUSTER, file, uris, both);
    }
    let uri = ["netsy://prod/peer/node-2"];
    forge(&ours, CLUSTER, "server-only", &uri, &[ServerAuth]);
    forge(&ours, CLUSTER, "well", &uri, both);
    let port = Port::open(&ours).await;
    for file in ["well", "peer-node-2"] {
        shown(port.address, &ours, Some(file)).await.unwrap();
    }
    let strangers = strangers.iter().map(|(file, _)| *file);
    for file in strangers.chain(["client", "server-node-2", "server-only"]) {
        let let_in = shown(port.address, &ours, Some(file)).await;
        assert!(let_in.is_err(), "{file}");
    }
    assert!(shown(port.address, &ours, None).await.is_err(), "none");
    let let_in = shown(port.address, &foreign, Some("peer-node-2")).await;
    assert!(let_in.is_err(), "another authority's");
}

#[tokio::test]
async fn the_peer_port_speaks_tls_1_3_only() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), CLUSTER);
    let port = Port::open(dir.path()).await;
    let file = Some("peer-node-2");
    let old = handshake(port.address, dir.path(), file, &rustls::version::TLS12).await;
    assert!(
        old.unwrap_err().to_string().contains("ProtocolVersion"),
        "it is the version that is refused"
    );
    shown(port.address, dir.path(), file).await.unwrap();
    let plain = calling(
        None,
        "node-2",
        "node-1",
        &format!("http://{}", port.address),
    );
    assert!(plain.read_index("node-1").await.is_err(), "no TLS at all");
}

#[tokio::test]
async fn the_node_that_is_dialled_has_to_be_that_node() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (dir.path().join("ours"), dir.path().join("foreign"));
    make(&ours, CLUSTER);
    make(&foreign, CLUSTER);
    let mut port = Port::open(&ours).await;
    let two = || Some(identity(&ours, "node-2"));
    let astray = calling(two(), "node-2", "node-3", &port.url());
    assert_eq!(
        astray.read_index("node-3").await,
        Err(Refusal::LeaderChanged)
    );
    astray.send("node-3", Outbound::Message(Message::Look, Arc::new([])));
    // The same process knows both names at one address: nothing of one connection helps the other.
    astray.learn("node-1", &port.url());
    assert!(astray.read_index("node-1").await.is_ok());
    assert!(astray.read_index("node-3").await.is_err());
    assert!(port.inbox.try_recv().is_err());

    let impostor = Port::open(&foreign).await;
    let peers = calling(two(), "node-2", "node-1", &impostor.url());
    assert!(peers.read_index("node-1").await.is_err());
    let plain = Port::with(None).await;
    let peers = calling(two(), "node-2", "node-1", &plain.url());
    assert!(peers.read_index("node-1").await.is_err());
    let downgraded = format!("http://{}", plain.address);
    let peers = calling(two(), "node-2", "node-1", &downgraded);
    assert!(!peers.knows("node-1"), "{downgraded} is no use");
}

#[tokio::test]
async fn without_certificates_nodes_talk_in_the_clear() {
    let port = Port::with(None).await;
    let url = format!("http://{}", port.address);
    let peers = calling(None, "node-2", "node-1", &url);
    assert_eq!(peers.read_index("node-1").await, Ok(Revision(1)));
}

#[tokio::test]
async fn new_certificates_are_taken_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let (used, fresh) = (dir.path().join("used"), dir.path().join("fresh"));
    make(&used, CLUSTER);
    make(&fresh, CLUSTER);
    let port = Port::open(&used).await;
    let two = identity(&used, "node-2");
    let reach = async || {
        let peers = calling(Some(Arc::clone(&two)), "node-2", "node-1", &port.url());
        peers.read_index("node-1").await.is_ok()
    };
    assert!(reach().await);
    for file in ["ca", "peer-node-1", "peer-node-2"] {
        for ending in ["crt", "key"] {
            let name = format!("{file}.{ending}");
            std::fs::copy(fresh.join(&name), used.join(&name)).unwrap();
        }
    }
    let one = port.identity.as_ref().unwrap();
    assert!(one.reload().unwrap());
    assert!(!reach().await, "the dialling Node still shows the old one");
    assert!(two.reload().unwrap());
    assert!(reach().await);

    // Another Node's certificate is none of ours, however good it is.
    for ending in ["crt", "key"] {
        let from = fresh.join(format!("peer-node-3.{ending}"));
        std::fs::copy(from, used.join(format!("peer-node-2.{ending}"))).unwrap();
    }
    let refused = two.reload().unwrap_err().to_string();
    assert!(refused.contains("netsy://prod/peer/node-3"), "{refused}");
    assert!(reach().await, "the old one stays in use");
}

#[test]
fn the_certificate_of_another_node_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), CLUSTER);
    let open = |file: &str, cluster: &str, node: &str| {
        let settings = settings(dir.path(), file);
        let opened = identity::open(&settings, cluster, node);
        opened.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(open("peer-node-1", CLUSTER, "node-1"), Ok(()));
    let cert = dir.path().join("peer-node-1.crt");
    let said = |wanted: &str| {
        Err(format!(
            "be this node by the certificate in `{}`: the certificate names `netsy://prod/peer/node-1`, not `{wanted}`",
            cert.display()
        ))
    };
    let other = open("peer-node-1", CLUSTER, "node-2");
    assert_eq!(other, said("netsy://prod/peer/node-2"));
    let other = open("peer-node-1", "test", "node-1");
    assert_eq!(other, said("netsy://test/peer/node-1"));
    let server = open("server-node-1", CLUSTER, "node-1").unwrap_err();
    assert!(
        server.ends_with("the certificate names nobody of netsy, not `netsy://prod/peer/node-1`")
    );
}
