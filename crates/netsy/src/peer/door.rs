//! The peer port: takes what other Nodes say to the driver, and answers what Replicas ask of the Primary.
//!
//! Every call shows who makes it; one of another cluster, of another version, or by somebody whose
//! certificate says otherwise is refused.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use rules::refusal::Refusal;
use rules::register::Identity;
use rules::txn::Txn;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::identity::Shown;
use super::line::{Acceptor, accept};
use super::proto::peer_server::{self, PeerServer};
use super::proto::{Heard, IndexAnswer, IndexQuestion, Said, TxnAnswer, TxnQuestion, index_answer};
use super::{
    HEADER_BOOT, HEADER_CLUSTER, HEADER_INCARNATION, HEADER_NODE, HEADER_URL, HEADER_VERSION,
    Inbound, MESSAGE_MAX, VERSION, wire,
};
use crate::standing::Handle;

/// What answers the questions of other Nodes.
#[derive(Clone)]
pub struct Answers {
    /// The cluster's name: callers of another are refused.
    pub cluster_id: String,
    /// The running Node; unset while its log is being restored: questions are refused then, and messages taken.
    pub handle: Arc<OnceLock<Handle>>,
    /// Reads an etcdserverpb.TxnRequest, and checks it.
    pub read_txn: fn(&[u8]) -> Result<Txn, Refusal>,
    /// Where messages go.
    pub inbox: mpsc::UnboundedSender<Inbound>,
}

/// Serves the peer port until `closing`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Acceptor>,
    answers: Answers,
    closing: CancellationToken,
) {
    let service = PeerServer::new(Peer(Arc::new(answers)))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let incoming = accept(listener, tls, closing.clone());
    let server = tonic::transport::Server::builder()
        // A Node that is gone without a word leaves no connection behind.
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .add_service(service)
        .serve_with_incoming(incoming);
    tokio::select! {
        served = server => {
            if let Err(why) = served {
                tracing::error!(%why, "the peer port closed");
            }
        }
        () = closing.cancelled() => {}
    }
}

struct Peer(Arc<Answers>);

impl Peer {
    /// Who calls, if it may.
    fn caller<T>(&self, request: &Request<T>) -> Result<(Identity, String), Status> {
        let header = |name: &str| {
            let value = request.metadata().get(name);
            value
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
                .ok_or_else(|| Status::unauthenticated(format!("the header `{name}` is missing")))
        };
        let version = header(HEADER_VERSION)?;
        if version != VERSION {
            return Err(Status::failed_precondition(format!(
                "this node speaks version {VERSION} of the peer messages, not `{version}`"
            )));
        }
        let cluster = header(HEADER_CLUSTER)?;
        if cluster != self.0.cluster_id {
            return Err(Status::permission_denied(format!(
                "this node belongs to cluster `{}`, not `{cluster}`",
                self.0.cluster_id
            )));
        }
        let identity = Identity {
            node_id: header(HEADER_NODE)?,
            incarnation: header(HEADER_INCARNATION)?,
            boot: header(HEADER_BOOT)?,
        };
        match request.extensions().get::<Shown>() {
            Some(Shown::Nothing) => {}
            Some(Shown::Node(node_id)) if *node_id == identity.node_id => {}
            Some(Shown::Node(node_id)) => {
                return Err(Status::permission_denied(format!(
                    "the certificate is node `{node_id}`'s, not node `{}`'s",
                    identity.node_id
                )));
            }
            None => {
                return Err(Status::internal(
                    "the connection does not say what it shows",
                ));
            }
        }
        Ok((identity, header(HEADER_URL)?))
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Peer {
    async fn tell(&self, request: Request<Streaming<Said>>) -> Result<Response<Heard>, Status> {
        let (from, url) = self.caller(&request)?;
        let mut stream = request.into_inner();
        while let Some(said) = stream.next().await {
            let Some(meant) = wire::meant(said?).map_err(Status::invalid_argument)? else {
                debug!(
                    node = from.node_id,
                    "it said something that only newer versions know"
                );
                continue;
            };
            let inbound = Inbound {
                from: from.clone(),
                url: url.clone(),
                message: meant.message,
                records: meant.records,
                members: meant.members,
                registration: meant.registration,
            };
            if self.0.inbox.send(inbound).is_err() {
                break;
            }
        }
        Ok(Response::new(Heard {}))
    }

    async fn txn(&self, request: Request<TxnQuestion>) -> Result<Response<TxnAnswer>, Status> {
        self.caller(&request)?;
        let answer = match (self.0.read_txn)(&request.get_ref().request) {
            Ok(txn) => match self.0.handle.get() {
                Some(handle) => handle.txn(txn, None).await,
                None => Err(Refusal::NoLeader),
            },
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(wire::txn_answer_wire(answer)))
    }

    async fn read_index(
        &self,
        request: Request<IndexQuestion>,
    ) -> Result<Response<IndexAnswer>, Status> {
        self.caller(&request)?;
        let index = match self.0.handle.get() {
            Some(handle) => handle.read_index().await,
            None => Err(Refusal::NoLeader),
        };
        let answer = match index {
            Ok(revision) => index_answer::Answer::Revision(revision.0),
            Err(refusal) => index_answer::Answer::Refusal(wire::refusal_wire(&refusal)),
        };
        Ok(Response::new(IndexAnswer {
            answer: Some(answer),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rules::message::Message;
    use tonic::Code;
    use tonic::metadata::AsciiMetadataValue;

    use super::*;
    use crate::peer::proto::peer_client::PeerClient;
    use crate::peer::proto::{Look, said};

    async fn port() -> (String, mpsc::UnboundedReceiver<Inbound>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, inbox) = mpsc::unbounded_channel();
        let answers = Answers {
            cluster_id: "prod".into(),
            handle: Arc::default(),
            read_txn: |_| Err(Refusal::NoLeader),
            inbox: sender,
        };
        tokio::spawn(serve(listener, None, answers, CancellationToken::new()));
        (url, inbox)
    }

    /// A request as a Node makes it whose messages are of this version.
    fn request<T>(message: T, version: &'static str) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in [
            (HEADER_VERSION, version),
            (HEADER_CLUSTER, "prod"),
            (HEADER_NODE, "two"),
            (HEADER_INCARNATION, "i"),
            (HEADER_BOOT, "b"),
            (HEADER_URL, "http://127.0.0.1:1"),
        ] {
            let value = AsciiMetadataValue::from_static(value);
            request.metadata_mut().insert(name, value);
        }
        request
    }

    #[tokio::test]
    async fn another_version_of_the_messages_is_refused_by_name() {
        let (url, mut inbox) = port().await;
        let mut client = PeerClient::connect(url).await.unwrap();
        let said = tokio_stream::once(Said { message: None });
        let refused = client.tell(request(said, "2")).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let why = "this node speaks version 1 of the peer messages, not `2`";
        assert_eq!(refused.message(), why);
        let asked = client.read_index(request(IndexQuestion {}, "2")).await;
        assert_eq!(asked.unwrap_err().message(), why);
        assert!(inbox.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_only_newer_versions_know_is_passed_over_and_the_stream_goes_on() {
        let (url, mut inbox) = port().await;
        let mut client = PeerClient::connect(url).await.unwrap();
        let look = Some(said::Message::Look(Look {}));
        let said = [Said { message: None }, Said { message: look }];
        let told = client
            .tell(request(tokio_stream::iter(said), VERSION))
            .await;
        told.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await;
        assert_eq!(heard.unwrap().unwrap().message, Message::Look);
    }

    #[tokio::test]
    async fn a_node_that_restores_takes_messages_and_refuses_questions() {
        let (url, _inbox) = port().await;
        let mut client = PeerClient::connect(url).await.unwrap();
        let asked = client.read_index(request(IndexQuestion {}, VERSION)).await;
        let answer = asked.unwrap().into_inner().answer.unwrap();
        let index_answer::Answer::Refusal(refusal) = answer else {
            panic!("it knows nothing yet: {answer:?}");
        };
        assert_eq!(wire::refusal(refusal), Refusal::NoLeader);
    }
}
