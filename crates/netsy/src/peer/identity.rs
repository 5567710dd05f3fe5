//! Who is at the other end: mutual TLS between Nodes. A Node's certificate names it as
//! `netsy://{cluster_id}/peer/{node_id}`; nothing else opens the peer port.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;

/// How many connections may wait to be served.
const BACKLOG: usize = 64;

/// What a connection shows of its other end.
#[derive(Clone, Debug)]
pub enum Shown {
    /// Nothing: no TLS, loopback only.
    Nothing,
    /// A certificate of this Node.
    Node(String),
}

/// Accepts Nodes over mutual TLS.
#[derive(Clone)]
pub enum Acceptor {}

/// Connects to Nodes over mutual TLS.
#[derive(Clone)]
pub enum Connector {}

impl Connector {
    /// Connects to one Node, and to nobody else.
    #[must_use]
    pub fn to(&self, _node_id: &str) -> Dial {
        match *self {}
    }
}

/// Connects to one Node.
#[derive(Clone)]
pub enum Dial {}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match *self {}
    }

    fn call(&mut self, _to: Uri) -> Self::Future {
        match *self {}
    }
}

/// A connection, and what it shows.
pub(super) struct Accepted {
    stream: TcpStream,
    shown: Shown,
}

impl Connected for Accepted {
    type ConnectInfo = Shown;

    fn connect_info(&self) -> Shown {
        self.shown.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Connections as they come, until `closing`.
pub(super) fn accept(
    listener: TcpListener,
    tls: Option<Acceptor>,
    closing: CancellationToken,
) -> ReceiverStream<std::io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
            match (accepted, &tls) {
                (Ok((stream, _)), None) => {
                    let _ = stream.set_nodelay(true);
                    let shown = Shown::Nothing;
                    if sender.send(Ok(Accepted { stream, shown })).await.is_err() {
                        break;
                    }
                }
                (Ok(_), Some(acceptor)) => match *acceptor {},
                (Err(why), _) => {
                    tracing::warn!(%why, "a peer connection could not be accepted; trying again");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}
