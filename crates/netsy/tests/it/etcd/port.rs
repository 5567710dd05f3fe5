//! The client port itself: plain HTTP, TLS, strangers, numbers, and how it closes.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use netsy::admin::certs::{self, Wish};
use netsy::admin::status::{self, Question};
use netsy::api::metrics::Rpc;
use netsy::api::proto::etcdserverpb::kv_client::KvClient;
use netsy::api::{Limits, Tls, with_alpn};
use netsy::config;
use netsy::standing::HealthState;
use prometheus_client::registry::Registry;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::{Kv, get, prefix};
use crate::fake::{Mood, Node};

/// One HTTP/1.1 request over `stream`; the whole answer.
async fn http(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn plain_http_shares_the_port() {
    let node = Node::start().await;
    let ask = async |path: &str| http(TcpStream::connect(node.address).await.unwrap(), path).await;
    let version = ask("/version").await;
    assert!(version.starts_with("HTTP/1.1 200 OK"), "{version}");
    assert!(version.contains(r#""etcdserver":"3.6.11""#), "{version}");
    assert!(version.contains(r#""etcdcluster":"3.6.0""#), "{version}");
    assert!(ask("/health").await.contains(r#""health":"true""#));
    assert!(ask("/nothing").await.starts_with("HTTP/1.1 404"));
    node.change(|standing| {
        standing.health = HealthState::Degraded;
        standing.reason = Some("the bucket is unreachable".into());
    });
    let sick = ask("/health").await;
    assert!(sick.starts_with("HTTP/1.1 503"), "{sick}");
    assert!(
        sick.contains(r#""health":"false""#) && sick.contains("bucket"),
        "{sick}"
    );
}

fn certificate() -> (
    rustls::ServerConfig,
    rustls::pki_types::CertificateDer<'static>,
) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain.clone()], key)
        .unwrap();
    (with_alpn(config), chain)
}

/// Connects as a client that trusts `root` and offers `protocol`; the protocol chosen, and the stream.
async fn connect(
    node: &Node,
    root: rustls::pki_types::CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(node.address).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

#[tokio::test]
async fn certificates_are_swapped_without_a_restart() {
    let (config, old) = certificate();
    let tls: Tls = Arc::new(ArcSwap::from_pointee(config));
    let node = Node::start_with(Limits::default(), Some(Arc::clone(&tls))).await;
    let stream = connect(&node, old.clone(), b"http/1.1").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(http(stream, "/version").await.contains("3.6.11"));
    let stream = connect(&node, old.clone(), b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let (config, new) = certificate();
    tls.store(Arc::new(config));
    assert!(connect(&node, old, b"h2").await.is_err());
    assert!(connect(&node, new, b"h2").await.is_ok());
}

#[tokio::test]
async fn a_silent_client_does_not_hold_up_the_others() {
    let (config, root) = certificate();
    let limits = Limits {
        handshake_within: Duration::from_millis(50),
        ..Limits::default()
    };
    let node = Node::start_with(limits, Some(Arc::new(ArcSwap::from_pointee(config)))).await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    assert!(connect(&node, root, b"h2").await.is_ok());
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    let mut text = String::new();
    let mut registry = Registry::default();
    node.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains("netsy_api_handshake_failures_total 1"),
        "{text}"
    );
}

#[tokio::test]
async fn strangers_are_told_what_is_not_there() {
    let node = Node::start().await;
    for (path, told) in [
        ("/v3lockpb.Lock/Lock", "unknown service v3lockpb.Lock"),
        (
            "/etcdserverpb.KV/Steal",
            "unknown method Steal for service etcdserverpb.KV",
        ),
    ] {
        let mut client = Grpc::new(node.channel().await);
        client.ready().await.unwrap();
        let codec: ProstCodec<_, netsy::api::proto::etcdserverpb::RangeResponse> =
            ProstCodec::default();
        let request = tonic::Request::new(get("a"));
        let refused = client
            .unary(request, PathAndQuery::from_static(path), codec)
            .await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unimplemented, told)
        );
    }
}

#[tokio::test]
async fn requests_are_counted_by_method_and_code() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    kv.range(get("a")).await.unwrap();
    kv.range(get("")).await.unwrap_err();
    let put = netsy::api::proto::etcdserverpb::PutRequest::default();
    KvClient::new(node.channel().await)
        .put(put)
        .await
        .unwrap_err();
    let stream = kv.0.clone().range_stream(prefix("a")).await.unwrap();
    drop(stream.into_inner().message().await.unwrap());

    let range = Rpc::of("/etcdserverpb.KV/Range");
    let counted = |path: &str, code| node.metrics.handled(Rpc::of(path), code);
    until(|| node.metrics.handled(range, Code::Ok) == 1).await;
    until(|| node.metrics.handled(range, Code::InvalidArgument) == 1).await;
    until(|| counted("/etcdserverpb.KV/Put", Code::Unimplemented) == 1).await;
    until(|| counted("/etcdserverpb.KV/RangeStream", Code::Ok) == 1).await;
    assert_eq!(node.metrics.panics(), 0);
}

async fn until(mut true_at_last: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_at_last() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it never became true"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_closing_node_takes_nothing_new_and_ends_in_time() {
    let limits = Limits {
        close_within: Duration::from_millis(200),
        ..Limits::default()
    };
    let node = Node::start_with(limits, None).await;
    let kv = Kv::to(&node).await;
    kv.range(get("a")).await.unwrap();
    // One request will never be answered; closing does not wait for it for ever.
    node.set_mood(Mood::Silent);
    let hanging = tokio::spawn({
        let kv = kv.clone();
        async move { kv.range(get("a")).await }
    });
    until(|| node.metrics.started(Rpc::of("/etcdserverpb.KV/Range")) == 2).await;
    let begun = Instant::now();
    let address = node.address;
    node.close().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(hanging.await.unwrap().is_err());
    assert!(kv.range(get("a")).await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn netsy_status_is_asked_over_the_client_port_and_by_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let wish = Wish {
        dir: dir.path().to_owned(),
        cluster_id: "prod".into(),
        nodes: Vec::new(),
        hosts: vec!["127.0.0.1".into()],
        clients: Vec::new(),
        days: 30,
    };
    certs::make(&wish, SystemTime::now()).unwrap();
    let file = |name: &str| Some(dir.path().join(name));
    let settings = config::Client {
        cert_file: file("server.crt"),
        key_file: file("server.key"),
        ca_file: file("ca.crt"),
        ..config::Client::default()
    };
    let tls = netsy::tls::clients::open(&settings, "prod")
        .unwrap()
        .unwrap();
    let node = Node::start_with(Limits::default(), Some(tls.shared())).await;
    let question = Question {
        endpoints: vec![node.address.to_string()],
        cacert: file("ca.crt"),
        cert: file("client.crt"),
        key: file("client.key"),
        within: Duration::from_secs(10),
        ..Question::default()
    };
    let seen = status::look(&question).await.unwrap();
    assert_eq!(seen[0].error, None);
    assert!(seen[0].endpoint.starts_with("https://"));
    assert!(status::verdict(&seen).is_ok(), "{seen:?}");

    let nobody = Question {
        cert: None,
        key: None,
        ..question.clone()
    };
    let seen = status::look(&nobody).await.unwrap();
    assert!(seen[0].status.is_none(), "without a certificate: {seen:?}");
    let plain = Question {
        cacert: None,
        ..nobody.clone()
    };
    assert!(status::look(&plain).await.unwrap()[0].status.is_none());
    let astray = Question {
        cacert: file("nowhere.crt"),
        ..nobody
    };
    let refused = status::look(&astray).await.unwrap_err().to_string();
    assert!(refused.contains("nowhere.crt"), "{refused}");
}
