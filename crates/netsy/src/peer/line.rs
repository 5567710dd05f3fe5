//! Connections between Nodes: taken at the peer port, and made to other Nodes. With TLS both ends have shown who
//! they are before a byte is spoken ([`identity`](super::identity)); without it they show nothing.
//!
//! Handshakes run beside the accept loop, each for a bounded time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::identity::{Identity, Shown};
use crate::tls::Reloading;
use crate::tls::holder::why;

/// How many connections may wait to be served.
const BACKLOG: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// How often a refused connection is worth a line of the log: those who are refused try again at once.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// Accepts Nodes over mutual TLS. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    identity: Arc<Reloading<Identity>>,
    complained: Arc<Mutex<Option<Instant>>>,
}

impl Acceptor {
    /// Accepts whom `identity` lets in.
    #[must_use]
    pub fn new(identity: Arc<Reloading<Identity>>) -> Acceptor {
        let complained = Arc::default();
        Acceptor {
            identity,
            complained,
        }
    }

    /// The connection when it has shown who it is.
    async fn accept(&self, socket: TcpStream, from: SocketAddr) -> Option<Accepted> {
        let identity = self.identity.current();
        let handshake = TlsAcceptor::from(identity.accepts()).accept(socket);
        match timeout(HANDSHAKE_WITHIN, handshake).await {
            Ok(Ok(stream)) => {
                let shown = identity.shown(stream.get_ref().1.peer_certificates())?;
                let stream = Box::pin(stream);
                return Some(Accepted { stream, shown });
            }
            Ok(Err(why)) if why.kind() == io::ErrorKind::UnexpectedEof => {
                debug!(%from, "a peer connection ended before its TLS handshake");
            }
            Ok(Err(failed)) => self.complain(from, &why(&failed)),
            Err(_) => self.complain(from, "the TLS handshake took too long"),
        }
        None
    }

    fn complain(&self, from: SocketAddr, why: &str) {
        let mut complained = self.complained.lock();
        if complained.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            debug!(%from, why, "a peer connection is refused");
        } else {
            *complained = Some(Instant::now());
            warn!(%from, why, "a peer connection is refused");
        }
    }
}

/// Connects to Nodes over mutual TLS. Cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Reloading<Identity>>);

impl Connector {
    /// Shows what `identity` has to show.
    #[must_use]
    pub fn new(identity: Arc<Reloading<Identity>>) -> Connector {
        Connector(identity)
    }

    /// Connects to one Node, and to nobody else.
    #[must_use]
    pub fn to(&self, node_id: &str) -> Dial {
        Dial {
            identity: Arc::clone(&self.0),
            node_id: node_id.to_owned(),
        }
    }
}

/// Connects to one Node.
#[derive(Clone)]
pub struct Dial {
    identity: Arc<Reloading<Identity>>,
    node_id: String,
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let config = self.identity.current().dials(&self.node_id);
        Box::pin(async move {
            let wrong = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
            let host = to
                .host()
                .ok_or_else(|| wrong(format!("`{to}` names no host")))?;
            let host = host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            let name = ServerName::try_from(host.clone())
                .map_err(|_| wrong(format!("`{host}` is no host name")))?;
            let socket = TcpStream::connect((host, to.port_u16().unwrap_or(443))).await?;
            socket.set_nodelay(true)?;
            let connected = TlsConnector::from(config).connect(name, socket).await;
            let stream = connected.map_err(|failed| io::Error::new(failed.kind(), why(&failed)))?;
            Ok(TokioIo::new(stream))
        })
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// A connection, and what it shows.
pub(super) struct Accepted {
    stream: Pin<Box<dyn Duplex>>,
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
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}

/// Connections as they come, until `closing`.
pub(super) fn accept(
    listener: TcpListener,
    tls: Option<Acceptor>,
    closing: CancellationToken,
) -> ReceiverStream<io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, from)) => {
                    let (tls, sender, closing) = (tls.clone(), sender.clone(), closing.clone());
                    tokio::spawn(async move {
                        let taken = take(socket, from, tls, sender);
                        closing.run_until_cancelled(taken).await;
                    });
                }
                Err(why) => {
                    warn!(%why, "a peer connection could not be accepted; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// Hands one connection on, if it may come in.
async fn take(
    socket: TcpStream,
    from: SocketAddr,
    tls: Option<Acceptor>,
    sender: mpsc::Sender<io::Result<Accepted>>,
) {
    if let Err(why) = socket.set_nodelay(true) {
        debug!(%from, %why, "a peer connection has no TCP_NODELAY");
    }
    let accepted = match tls {
        Some(tls) => tls.accept(socket, from).await,
        None => Some(Accepted {
            stream: Box::pin(socket),
            shown: Shown::Nothing,
        }),
    };
    if let Some(accepted) = accepted {
        // Nobody takes it when the port closes.
        let _ = sender.send(Ok(accepted)).await;
    }
}
