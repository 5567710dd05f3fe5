//! The certificates of `netsy certs` in use: real handshakes over real sockets.
//! And what happens when the files change under a running server.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use netsy::admin::certs::{self, NodeWish, Wish};
use netsy::config::Client;
use netsy::telemetry::Metrics;
use netsy::tls::{Reloading, Unusable, clients};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::peer::forge;
use rcgen::ExtendedKeyUsagePurpose::{self, ClientAuth, ServerAuth};

type Tls = Reloading<ServerConfig>;

fn open(client: &Client) -> Result<Option<Arc<Tls>>, Unusable> {
    clients::open(client, "prod")
}

fn make(dir: &Path, cluster_id: &str, hosts: &[&str]) {
    make_with(dir, cluster_id, hosts, &[]);
}

fn make_with(dir: &Path, cluster_id: &str, hosts: &[&str], nodes: &[&str]) {
    let wish = Wish {
        dir: dir.to_owned(),
        cluster_id: cluster_id.into(),
        nodes: nodes
            .iter()
            .map(|node| node.parse::<NodeWish>().unwrap())
            .collect(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        clients: Vec::new(),
        days: 30,
    };
    certs::make(&wish, SystemTime::now()).unwrap();
}

fn settings(dir: &Path) -> Client {
    Client {
        cert_file: Some(dir.join("server.crt")),
        key_file: Some(dir.join("server.key")),
        ca_file: Some(dir.join("ca.crt")),
        ..Client::default()
    }
}

/// A server that answers one byte to each connection, and says `netsy` back in the certificate of the client.
async fn serve(tls: Arc<Tls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(tls.current());
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(socket).await {
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    address
}

struct Caller<'a> {
    trusts: &'a Path,
    shows: Option<(&'a Path, &'a str)>,
    name: &'static str,
    version: &'static SupportedProtocolVersion,
}

impl Caller<'_> {
    /// The protocol agreed on, and the server's certificate.
    async fn call(&self, address: SocketAddr) -> io::Result<(Option<Vec<u8>>, Vec<u8>)> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.trusts.join("ca.crt")).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some((dir, file)) => {
                let file = |ending: &str| dir.join(format!("{file}.{ending}"));
                let cert = CertificateDer::from_pem_file(file("crt")).unwrap();
                let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from(self.name).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await?;
        // With TLS 1.3 a client learns of its refusal only when it reads.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        assert_eq!(answer, b"!");
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().unwrap()[0].to_vec();
        Ok((session.alpn_protocol().map(<[u8]>::to_vec), certificate))
    }
}

fn caller<'a>(trusts: &'a Path, shows: Option<&'a Path>) -> Caller<'a> {
    Caller {
        trusts,
        shows: shows.map(|dir| (dir, "client")),
        name: "localhost",
        version: &rustls::version::TLS13,
    }
}

#[tokio::test]
async fn a_client_of_the_cluster_is_let_in_and_one_without_a_certificate_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (dir.path().join("ours"), dir.path().join("foreign"));
    make(&ours, "prod", &["n1.example", "10.1.2.3"]);
    make(&foreign, "test", &[]);
    let address = serve(open(&settings(&ours)).unwrap().unwrap()).await;

    let (protocol, certificate) = caller(&ours, Some(&ours)).call(address).await.unwrap();
    assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
    assert!(!certificate.is_empty());
    for name in ["127.0.0.1", "n1.example", "10.1.2.3"] {
        let caller = Caller {
            name,
            ..caller(&ours, Some(&ours))
        };
        assert!(caller.call(address).await.is_ok(), "{name}");
    }
    let old = Caller {
        version: &rustls::version::TLS12,
        ..caller(&ours, Some(&ours))
    };
    assert!(old.call(address).await.is_ok(), "TLS 1.2 is spoken");

    assert!(
        caller(&ours, None).call(address).await.is_err(),
        "no certificate"
    );
    assert!(
        caller(&ours, Some(&foreign)).call(address).await.is_err(),
        "another cluster's"
    );
    let elsewhere = Caller {
        name: "n2.example",
        ..caller(&ours, Some(&ours))
    };
    assert!(
        elsewhere.call(address).await.is_err(),
        "a name the server has not"
    );
}

#[tokio::test]
async fn without_the_requirement_a_certificate_is_welcome_but_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "prod", &[]);
    let lax = Client {
        client_cert_required: false,
        ..settings(dir.path())
    };
    let address = serve(open(&lax).unwrap().unwrap()).await;
    assert!(caller(dir.path(), None).call(address).await.is_ok());
    assert!(
        caller(dir.path(), Some(dir.path()))
            .call(address)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn whom_a_certificate_names_decides_even_if_the_authority_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path();
    make_with(ours, "prod", &["n1.example"], &["node-1"]);
    let both: &[ExtendedKeyUsagePurpose] = &[ClientAuth, ServerAuth];
    let strangers: &[(&str, &[&str])] = &[
        ("elsewhere", &["netsy://test/client/alice"]),
        ("nobody", &["netsy://prod/client/"]),
        ("shouting", &["NETSY://prod/peer/node-1"]),
        (
            "double",
            &["netsy://prod/client/alice", "netsy://prod/peer/node-1"],
        ),
    ];
    for (file, uris) in strangers {
        forge(ours, "prod", file, uris, both);
    }
    forge(ours, "prod", "kubeadm", &[], &[ClientAuth]);
    let spiffe = ["spiffe://prod/ns/kube-system"];
    forge(ours, "prod", "spiffe", &spiffe, &[ClientAuth]);
    for required in [true, false] {
        let client = Client {
            client_cert_required: required,
            ..settings(ours)
        };
        let address = serve(open(&client).unwrap().unwrap()).await;
        let shows = async |file: &str| {
            let caller = Caller {
                shows: Some((ours, file)),
                ..caller(ours, None)
            };
            caller.call(address).await
        };
        for file in ["client", "kubeadm", "spiffe"] {
            assert!(shows(file).await.is_ok(), "{file}");
        }
        let strangers = strangers.iter().map(|(file, _)| *file);
        for file in strangers.chain(["peer-node-1", "server"]) {
            assert!(shows(file).await.is_err(), "{file}");
        }
    }
}

#[test]
fn the_uri_of_a_client_names_cluster_and_client() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "prod", &[]);
    let der = CertificateDer::from_pem_file(dir.path().join("client.crt")).unwrap();
    let uri = b"netsy://prod/client/client";
    assert!(der.windows(uri.len()).any(|window| window == uri));
}

#[tokio::test]
async fn new_files_are_taken_while_running_and_broken_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (used, fresh) = (dir.path().join("used"), dir.path().join("fresh"));
    make(&used, "prod", &[]);
    make(&fresh, "prod", &[]);
    let tls = open(&settings(&used)).unwrap().unwrap();
    let address = serve(Arc::clone(&tls)).await;
    let metrics = Metrics::new("prod", "n1", |_| {});
    let closing = CancellationToken::new();
    let every = Duration::from_millis(20);
    let watched =
        tokio::spawn(Arc::clone(&tls).reload_when_changed(every, metrics, closing.clone()));

    let before = caller(&used, Some(&used)).call(address).await.unwrap().1;
    let unchanged = tls.current();
    assert!(!tls.reload().unwrap());
    std::fs::write(used.join("server.crt"), "not a certificate\n").unwrap();
    tokio::time::sleep(every * 5).await;
    assert!(
        Arc::ptr_eq(&tls.current(), &unchanged),
        "a broken file changes nothing"
    );
    let kept = caller(&fresh, Some(&fresh)).call(address).await;
    assert!(kept.is_err(), "the old authority is still the one");

    for file in [
        "ca.crt",
        "ca.key",
        "server.crt",
        "server.key",
        "client.crt",
        "client.key",
    ] {
        std::fs::copy(fresh.join(file), used.join(file)).unwrap();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let after = loop {
        match caller(&used, Some(&used)).call(address).await {
            Ok((_, certificate)) => break certificate,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(every).await;
    };
    assert_ne!(before, after);
    closing.cancel();
    watched.await.unwrap();
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), "prod", &[]);
    let broken = |change: &dyn Fn(&mut Client)| {
        let mut client = settings(dir.path());
        change(&mut client);
        open(&client).unwrap_err().to_string()
    };
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("empty"), "").unwrap();
    let cases = [
        (
            broken(&|client| client.cert_file = Some(path("gone"))),
            "read `",
            "gone`: No such file",
        ),
        (
            broken(&|client| client.cert_file = Some(path("empty"))),
            "read certificates from `",
            "empty`: it holds none in PEM form",
        ),
        (
            broken(&|client| client.key_file = Some(path("server.crt"))),
            "read a private key from `",
            "server.crt`: ",
        ),
        (
            broken(&|client| client.key_file = Some(path("client.key"))),
            "use the private key with the certificate in `",
            "server.crt`: ",
        ),
        (
            broken(&|client| client.ca_file = Some(path("empty"))),
            "read certificates from `",
            "empty`: it holds none in PEM form",
        ),
    ];
    for (said, begin, end) in cases {
        assert!(said.starts_with(begin) && said.contains(end), "{said}");
    }
    assert!(open(&Client::default()).unwrap().is_none());
}
