//! The load: writers that each own some keys and remember every answer, and the judgement of it all.
//!
//! Every value is unique, so each write can be told in the log. A writer whose write had no clear answer
//! leaves the key alone and goes on with a fresh one; therefore no compare ever fails, unless a write took
//! effect that must not have, or twice, or was lost. A definite refusal promises that nothing happened.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use netsy::api::proto::etcdserverpb::watch_client::WatchClient;
use netsy::api::proto::etcdserverpb::watch_request::RequestUnion;
use netsy::api::proto::etcdserverpb::{TxnRequest, WatchCreateRequest, WatchRequest};
use parking_lot::Mutex;
use rules::revision::Revision;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::node::{PATIENCE, Place, Running, channel, kv, until};
use crate::etcd::{Kv, bytes, get, put, revision, unchanged_since};

/// How long a client waits for an answer before it goes away.
const IMPATIENCE: Duration = Duration::from_secs(4);
/// How many times a writer changes a key before it begins another.
const CHANGES: i64 = 5;

/// What a client was told of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is done, at this Revision.
    Done(i64),
    /// Nothing, or nothing clear.
    Unclear(String),
    /// It was not done.
    Refused(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Try {
    key: String,
    value: String,
    pub(crate) told: Told,
}

/// Everything that was tried, and every promise seen broken on the way.
#[derive(Default)]
pub(crate) struct Ledger {
    tries: Mutex<Vec<Try>>,
    broken: Mutex<Vec<String>>,
    acknowledged: AtomicI64,
    reads: AtomicI64,
}

/// What an answer that is no success means for a write.
fn meaning(status: &Status) -> Told {
    let text = format!("{:?}: {}", status.code(), status.message());
    let nothing_done = status.message().starts_with("netsy: ");
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded if nothing_done => Told::Refused(text),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Told::Unclear(text),
        _ if broke(status) => Told::Unclear(text),
        _ => Told::Refused(text),
    }
}

/// Whether the client's side says that the connection broke, which is no answer.
fn broke(status: &Status) -> bool {
    let source = std::error::Error::source(status);
    status.code() == Code::Cancelled
        || source.is_some_and(|source| source.is::<tonic::transport::Error>())
}

impl Ledger {
    pub(crate) fn told(&self, which: impl Fn(&Told) -> bool) -> usize {
        self.tries
            .lock()
            .iter()
            .filter(|tried| which(&tried.told))
            .count()
    }

    pub(crate) fn done(&self) -> usize {
        self.told(|told| matches!(told, Told::Done(_)))
    }

    pub(crate) fn reads(&self) -> i64 {
        self.reads.load(Ordering::SeqCst)
    }

    fn accuse(&self, what: String) {
        self.broken.lock().push(what);
    }

    /// The highest Revision anybody was told of.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Judges what clients were told by what the log holds: every change of every key, in order.
    pub(crate) fn judge(&self, history: &[Written]) {
        let broken = self.broken.lock();
        assert!(
            broken.is_empty(),
            "promises broken while it ran: {:#?}",
            &broken[..]
        );
        let mut found: HashMap<(&str, &str), Vec<i64>> = HashMap::new();
        for written in history {
            found
                .entry((&written.key, &written.value))
                .or_default()
                .push(written.revision);
        }
        let tries = self.tries.lock();
        for tried in tries.iter() {
            let at = found
                .remove(&(tried.key.as_str(), tried.value.as_str()))
                .unwrap_or_default();
            match &tried.told {
                Told::Done(revision) => assert_eq!(at, [*revision], "acknowledged: {tried:?}"),
                Told::Unclear(_) => {
                    assert!(at.len() <= 1, "unclear, and there twice: {tried:?} {at:?}")
                }
                Told::Refused(_) => {
                    assert!(at.is_empty(), "refused, and it is there: {tried:?} {at:?}")
                }
            }
        }
        let strange: Vec<_> = found
            .keys()
            .filter(|(key, _)| key.starts_with("load/"))
            .collect();
        assert!(strange.is_empty(), "nobody wrote these: {strange:?}");
    }
}

/// Clients at work.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// `writers` clients that go round the addresses, with a short pause after each write.
    pub(crate) fn start(ledger: &Arc<Ledger>, addresses: &[SocketAddr], writers: u64) -> Load {
        Load::paced(ledger, addresses, writers, Duration::from_millis(10))
    }

    pub(crate) fn paced(
        ledger: &Arc<Ledger>,
        addresses: &[SocketAddr],
        writers: u64,
        pause: Duration,
    ) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let nodes: Vec<Kv> = addresses.iter().map(|address| kv(*address)).collect();
        let tasks = (0..writers).map(|_| {
            let writer = Writer {
                ledger: Arc::clone(ledger),
                nodes: nodes.clone(),
                turn: super::node::rand() as usize,
                over: Arc::clone(&over),
                pause,
            };
            tokio::spawn(writer.run())
        });
        Load {
            tasks: tasks.collect(),
            over,
        }
    }

    /// Lets every client finish what it is at.
    pub(crate) async fn finish(self) {
        self.over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

struct Writer {
    ledger: Arc<Ledger>,
    nodes: Vec<Kv>,
    turn: usize,
    over: Arc<AtomicBool>,
    pause: Duration,
}

impl Writer {
    async fn run(mut self) {
        while !self.over.load(Ordering::SeqCst) {
            self.change_a_key().await;
        }
    }

    /// Creates a key and changes it some times, until something is unclear.
    async fn change_a_key(&mut self) {
        let key = format!("load/{}", super::node::rand());
        let mut base = 0;
        for change in 0..CHANGES {
            let value = format!("{key}-{change}");
            let told = self.write(&key, base, &value).await;
            let tried = Try {
                key: key.clone(),
                value: value.clone(),
                told: told.clone(),
            };
            self.ledger.tries.lock().push(tried);
            match told {
                Told::Done(revision) => base = revision,
                Told::Refused(_) | Told::Unclear(_) => {
                    tokio::time::sleep(self.pause * 5).await;
                    return;
                }
            }
            self.read(&key, base, &value).await;
            tokio::time::sleep(self.pause).await;
            if self.over.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    fn next(&mut self) -> Kv {
        self.turn += 1;
        self.nodes[self.turn % self.nodes.len()].clone()
    }

    async fn write(&mut self, key: &str, base: i64, value: &str) -> Told {
        let request = TxnRequest {
            compare: vec![unchanged_since(key, base)],
            success: vec![put(key, value)],
            failure: vec![],
        };
        let before = self.ledger.acknowledged();
        let node = self.next();
        match timeout(IMPATIENCE, node.txn(request)).await {
            Err(_) => Told::Unclear("no answer".into()),
            Ok(Err(status)) => meaning(&status),
            Ok(Ok(answer)) if !answer.succeeded => {
                self.ledger.accuse(format!(
                    "the compare of `{key}` at {base} failed: {answer:?}"
                ));
                Told::Refused("a failed compare".into())
            }
            Ok(Ok(answer)) => {
                let revision = revision(&answer);
                if revision <= before {
                    let what = format!("`{value}` was given {revision}, and {before} was taken");
                    self.ledger.accuse(what);
                }
                self.ledger
                    .acknowledged
                    .fetch_max(revision, Ordering::SeqCst);
                Told::Done(revision)
            }
        }
    }

    /// A linearizable read of an own key: refused, or it shows exactly what was acknowledged.
    async fn read(&mut self, key: &str, base: i64, value: &str) {
        let before = self.ledger.acknowledged();
        let node = self.next();
        match timeout(IMPATIENCE, node.range(get(key))).await {
            Err(_) => {}
            Ok(Err(status)) => {
                if status.code() != Code::Unavailable && !broke(&status) {
                    self.ledger
                        .accuse(format!("a read of `{key}` was answered {status:?}"));
                }
            }
            Ok(Ok(answer)) => {
                self.ledger.reads.fetch_add(1, Ordering::SeqCst);
                let seen = answer.header.unwrap().revision;
                let kv = answer
                    .kvs
                    .first()
                    .map(|kv| (kv.mod_revision(), kv.value().to_vec()));
                if seen < before || kv != Some((base, value.as_bytes().to_vec())) {
                    self.ledger.accuse(format!(
                        "a read of `{key}` at {seen} after {before} did not show {base}: {kv:?}"
                    ));
                }
            }
        }
    }
}

/// A change of a key, as a watcher was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) revision: i64,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Every change from `start` to the committed Revision, through a watch.
pub(crate) async fn history(node: &Running, start: i64) -> Vec<Written> {
    let end = node
        .kv()
        .range(get("none"))
        .await
        .unwrap()
        .header
        .unwrap()
        .revision;
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: bytes("\0"),
            range_end: bytes("\0"),
            start_revision: start,
            ..WatchCreateRequest::default()
        })),
    };
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut client = WatchClient::new(channel(node.clients)).max_decoding_message_size(usize::MAX);
    let mut answers = client.watch(requests).await.unwrap().into_inner();
    // One more Record marks the end: the watch has told everything before it.
    let mark = node.kv().put("mark", &end.to_string()).await;
    let mut found = Vec::new();
    loop {
        let answer = timeout(PATIENCE, answers.message())
            .await
            .expect("the watch goes on");
        let answer = answer.unwrap().expect("the watch goes on");
        assert!(
            !answer.canceled,
            "the watch was cancelled: {}",
            answer.cancel_reason
        );
        for event in answer.events {
            let kv = event.kv.unwrap();
            if kv.mod_revision() == mark {
                return found;
            }
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            found.push(Written {
                revision: kv.mod_revision(),
                key: text(kv.key()),
                value: text(kv.value()),
            });
        }
    }
}

/// Twenty writes and more, through one Node.
pub(super) async fn some_load(ledger: &Arc<Ledger>, node: &Running) {
    let load = Load::start(ledger, &[node.clients], 4);
    let before = ledger.done();
    until("there is some load", || async {
        ledger.done() >= before + 20
    })
    .await;
    load.finish().await;
}

/// Judges the ledger: by a Node under `name` on an empty disk, and by the chain itself.
pub(crate) async fn judge(place: &Place, ledger: &Ledger, name: &str) {
    let node = place.judge(name).await;
    let found = history(&node, 1).await;
    ledger.judge(&found);
    node.kill().await;
    is_one_chain(place, Revision(1)).await;
}

/// The Chunks from `first` on are one chain: no gap, epochs never falling.
pub(crate) async fn is_one_chain(place: &Place, first: Revision) {
    let mut chunks = place.bucket().fetch_chunks(first, 4);
    let (mut next, mut epoch) = (first, rules::revision::Epoch::ZERO);
    while let Some(chunk) = tokio_stream::StreamExt::next(&mut chunks).await {
        for encoded in chunk.unwrap().records {
            assert_eq!(encoded.record.revision, next);
            assert!(encoded.record.epoch >= epoch, "epochs never fall");
            (next, epoch) = (next.next(), encoded.record.epoch);
        }
    }
}
