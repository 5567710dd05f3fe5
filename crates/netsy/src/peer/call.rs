//! Calls to other Nodes: one connection each, made when there is something to say, and made anew when it
//! breaks. Messages wait in a bounded queue; when it is full, or the Node is not there, they are dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use rules::refusal::Refusal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tracing::{debug, warn};

use super::line::Connector;
use super::proto::peer_client::PeerClient;
use super::proto::{IndexQuestion, Said, TxnQuestion, index_answer};
use super::{
    Caller, HEADER_BOOT, HEADER_CLUSTER, HEADER_INCARNATION, HEADER_NODE, HEADER_URL,
    HEADER_VERSION, IndexAnswer, MESSAGE_MAX, Outbound, TxnAnswer, VERSION, wire,
};
use rules::revision::Revision;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long a silent connection is trusted.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long to wait after a call that failed.
const AGAIN: Duration = Duration::from_millis(100);
/// How many messages, and how many bytes of them, may wait for one Node.
const QUEUE_MESSAGES: usize = 4096;
const QUEUE_BYTES: usize = 64 << 20;

/// The other Nodes, as far as they are known. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    caller: Caller,
    headers: MetadataMap,
    connector: Option<Connector>,
    lines: Mutex<HashMap<String, Line>>,
    /// Nodes' addresses that cannot be used, each complained of once.
    unusable: Mutex<HashMap<String, String>>,
    runtime: tokio::runtime::Handle,
    closing: CancellationToken,
}

/// One Node's connection and queue. Dropping it ends its task.
struct Line {
    url: String,
    channel: Channel,
    queue: mpsc::Sender<(Said, usize)>,
    waiting: Arc<AtomicUsize>,
}

impl Peers {
    /// Cancelled when this Node closes.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// Nobody known yet. With a `connector` calls go over mutual TLS.
    #[must_use]
    pub fn new(
        caller: Caller,
        connector: Option<Connector>,
        runtime: tokio::runtime::Handle,
        closing: CancellationToken,
    ) -> Peers {
        let headers = headers(&caller);
        Peers(Arc::new(Inner {
            caller,
            headers,
            connector,
            lines: Mutex::default(),
            unusable: Mutex::default(),
            runtime,
            closing,
        }))
    }

    /// The name of this Node.
    #[must_use]
    pub fn me(&self) -> &str {
        &self.0.caller.identity.node_id
    }

    /// Whether it is known where the Node is reached.
    #[must_use]
    pub fn knows(&self, node_id: &str) -> bool {
        self.0.lines.lock().contains_key(node_id)
    }

    /// The names of every Node known, without this one.
    #[must_use]
    pub fn known(&self) -> Vec<String> {
        self.0.lines.lock().keys().cloned().collect()
    }

    /// The Node is reached at `url`.
    pub fn learn(&self, node_id: &str, url: &str) {
        if node_id == self.me() || url.is_empty() {
            return;
        }
        let mut lines = self.0.lines.lock();
        if lines.get(node_id).is_some_and(|line| line.url == url) {
            return;
        }
        match self.line(node_id, url) {
            Ok(line) => {
                debug!(node = node_id, url, "a node's address is known");
                lines.insert(node_id.to_owned(), line);
            }
            Err(why) => {
                let mut unusable = self.0.unusable.lock();
                let before = unusable.insert(node_id.to_owned(), url.to_owned());
                if before.as_deref() != Some(url) {
                    warn!(node = node_id, url, why, "a node's address cannot be used");
                }
            }
        }
    }

    fn line(&self, node_id: &str, url: &str) -> Result<Line, String> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| error.to_string())?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20);
        match (&self.0.connector, endpoint.uri().scheme_str()) {
            (Some(_), Some("https")) | (None, Some("http")) => {}
            (Some(_), _) => return Err("it is no https URL, and this node speaks TLS".to_owned()),
            (None, _) => {
                return Err("it is no http URL, and this node has no certificate".to_owned());
            }
        }
        let _context = self.0.runtime.enter();
        let channel = match &self.0.connector {
            Some(connector) => endpoint.connect_with_connector_lazy(connector.to(node_id)),
            None => endpoint.connect_lazy(),
        };
        let (queue, waits) = mpsc::channel(QUEUE_MESSAGES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let tells = tell(
            self.clone(),
            node_id.to_owned(),
            channel.clone(),
            waits,
            Arc::clone(&waiting),
        );
        let closing = self.0.closing.clone();
        self.0.runtime.spawn(async move {
            closing.run_until_cancelled(tells).await;
        });
        Ok(Line {
            url: url.to_owned(),
            channel,
            queue,
            waiting,
        })
    }

    /// Tells the Node, if it is known and listens.
    pub fn send(&self, to: &str, outbound: Outbound) {
        let said = wire::said(outbound);
        let bytes = said.encoded_len();
        let lines = self.0.lines.lock();
        let Some(line) = lines.get(to) else {
            return;
        };
        if line.waiting.load(Ordering::Relaxed) > QUEUE_BYTES {
            return;
        }
        // Counted before it can be taken out again.
        line.waiting.fetch_add(bytes, Ordering::Relaxed);
        if line.queue.try_send((said, bytes)).is_err() {
            line.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn client(&self, to: &str) -> Option<PeerClient<Channel>> {
        let channel = self.0.lines.lock().get(to)?.channel.clone();
        Some(
            PeerClient::new(channel)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
        )
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.0.headers.clone();
        request
    }

    /// Has the Primary decide a Txn (an etcdserverpb.TxnRequest), once. What becomes of a call that breaks is
    /// not known.
    ///
    /// # Errors
    /// The Primary's refusal; `LeaderChanged` when no answer came.
    pub async fn txn(&self, to: &str, request: Bytes) -> TxnAnswer {
        let Some(mut client) = self.client(to) else {
            return Err(Refusal::NoLeader);
        };
        match client.txn(self.request(TxnQuestion { request })).await {
            Ok(answer) => wire::txn_answer(answer.into_inner()),
            Err(status) => Err(broken(to, &status)),
        }
    }

    /// Asks the Primary for a Revision such that a read at or above it is linearizable.
    ///
    /// # Errors
    /// The Primary's refusal; `LeaderChanged` when no answer came.
    pub async fn read_index(&self, to: &str) -> IndexAnswer {
        let Some(mut client) = self.client(to) else {
            return Err(Refusal::NoLeader);
        };
        match client.read_index(self.request(IndexQuestion {})).await {
            Ok(answer) => match answer.into_inner().answer {
                Some(index_answer::Answer::Revision(revision)) => Ok(Revision(revision)),
                Some(index_answer::Answer::Refusal(refusal)) => Err(wire::refusal(refusal)),
                None => Err(Refusal::LeaderChanged),
            },
            Err(status) => Err(broken(to, &status)),
        }
    }
}

fn broken(to: &str, status: &Status) -> Refusal {
    debug!(
        node = to,
        why = in_words(status),
        "a call to another node failed"
    );
    Refusal::LeaderChanged
}

/// What a call ended with, and each cause that says more, from the outermost to the innermost.
fn in_words(status: &Status) -> String {
    let mut words = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let mut cause = std::error::Error::source(status);
    while let Some(one) = cause {
        let said = one.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = one.source();
    }
    words
}

/// What every call shows of its caller.
fn headers(caller: &Caller) -> MetadataMap {
    let mut headers = MetadataMap::new();
    let shown = [
        (HEADER_VERSION, VERSION),
        (HEADER_CLUSTER, &caller.cluster_id),
        (HEADER_NODE, &caller.identity.node_id),
        (HEADER_INCARNATION, &caller.identity.incarnation),
        (HEADER_BOOT, &caller.identity.boot),
        (HEADER_URL, &caller.url),
    ];
    for (name, value) in shown {
        if let Ok(value) = AsciiMetadataValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Brings one Node's queue to it, over one call after another.
async fn tell(
    peers: Peers,
    node_id: String,
    channel: Channel,
    mut queue: mpsc::Receiver<(Said, usize)>,
    waiting: Arc<AtomicUsize>,
) {
    let mut complained = false;
    while let Some(first) = queue.recv().await {
        let (sender, receiver) = mpsc::channel(4);
        let request = peers.request(ReceiverStream::new(receiver));
        let mut client = PeerClient::new(channel.clone()).max_encoding_message_size(MESSAGE_MAX);
        let call = client.tell(request);
        let forward = async {
            let mut next = Some(first);
            while let Some((said, bytes)) = next {
                waiting.fetch_sub(bytes, Ordering::Relaxed);
                if sender.send(said).await.is_err() {
                    return;
                }
                next = queue.recv().await;
            }
        };
        let ended = tokio::select! {
            ended = call => ended.map(|_| ()),
            () = forward => Ok(()),
        };
        match ended {
            Ok(()) => complained = false,
            Err(status) if !complained => {
                complained = true;
                let why = in_words(&status);
                warn!(
                    node = node_id,
                    why, "another node cannot be told; trying on"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
        // What waited meanwhile is old: the rules say again what matters.
        while let Ok((_, bytes)) = queue.try_recv() {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_call_that_failed_is_told_in_words_down_to_its_cause() {
        let refused = std::io::Error::from_raw_os_error(111);
        let status = Status::from_error(Box::new(Outer(refused)));
        let expected = "transport error: Connection refused (os error 111)";
        assert_eq!(in_words(&status), expected);
        assert_eq!(in_words(&Status::unavailable("closing")), "closing");
    }
}
