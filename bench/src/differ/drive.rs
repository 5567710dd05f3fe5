//! One server being driven: unary requests, and a few long-lived watch streams whose deliveries are logged.
//!
//! Deliveries are kept per stream and watch id, since the order between watches is nobody's promise. What
//! one server can break alone (a header below its events, an event below the one before) is noted at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::step::{Answer, Delivery, Step};
use crate::wire::etcd::watch_request::RequestUnion;
use crate::wire::{Client, etcd, revision};

/// How many watch streams there are.
pub(crate) const STREAMS: usize = 2;
/// A request that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deliveries by (stream, watch id).
pub(crate) type Deliveries = BTreeMap<(usize, i64), Vec<Delivery>>;

/// A server, and what its watches delivered so far.
pub(crate) struct Driven {
    client: Client,
    streams: Vec<mpsc::UnboundedSender<etcd::WatchRequest>>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    deliveries: Deliveries,
    /// Progress messages: stream, watch id, Revision.
    progress: Vec<(usize, i64, i64)>,
    /// Answers to create and cancel requests so far.
    replies: usize,
}

impl Driven {
    pub(crate) fn new(client: Client) -> Driven {
        let log = Arc::new(Mutex::new(Log::default()));
        let streams = (0..STREAMS)
            .map(|stream| open(stream, client.clone(), log.clone()))
            .collect();
        Driven {
            client,
            streams,
            log,
        }
    }

    /// Sends one step and waits for its answer.
    pub(crate) async fn apply(&self, step: &Step) -> Answer {
        let answer = tokio::time::timeout(PATIENCE, self.send(step)).await;
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => Answer::Refused(status.code(), status.message().to_owned()),
            Err(_) => Answer::Hung,
        }
    }

    async fn send(&self, step: &Step) -> Result<Answer, tonic::Status> {
        Ok(match step.clone() {
            Step::Range(range) => Answer::Range(self.client.kv().range(range).await?.into_inner()),
            Step::RangeStream(range) => {
                let mut parts = self.client.kv().range_stream(range).await?.into_inner();
                let mut whole = etcd::RangeResponse::default();
                while let Some(part) = parts.message().await? {
                    let part = part.range_response.unwrap_or_default();
                    whole.header = part.header.or(whole.header);
                    whole.kvs.extend(part.kvs);
                    whole.more |= part.more;
                    whole.count = part.count.max(whole.count);
                }
                Answer::Range(whole)
            }
            Step::Txn(txn) => Answer::Txn(self.client.kv().txn(txn).await?.into_inner()),
            Step::Grant(grant) => {
                Answer::Grant(self.client.lease().lease_grant(grant).await?.into_inner())
            }
            Step::Alarm(alarm) => {
                Answer::Alarm(self.client.maintenance().alarm(alarm).await?.into_inner())
            }
            Step::Watch(stream, create) => {
                self.ask(stream, RequestUnion::CreateRequest(create));
                Answer::Sent
            }
            Step::Cancel(stream, cancel) => {
                self.ask(stream, RequestUnion::CancelRequest(cancel));
                Answer::Sent
            }
            Step::Progress(stream) => Answer::Progress(self.progress(stream).await),
        })
    }

    fn ask(&self, stream: usize, request: RequestUnion) {
        // A stream that has ended has said so in its log.
        let _ = self.streams[stream].send(etcd::WatchRequest {
            request_union: Some(request),
        });
    }

    /// Asks for progress until it is told: a server stays silent while a watch is catching up.
    async fn progress(&self, stream: usize) -> Option<(i64, i64)> {
        let heard = |log: &Log| log.progress.iter().filter(|(of, ..)| *of == stream).count();
        let before = self.read(heard);
        for _ in 0..8 {
            self.ask(
                stream,
                RequestUnion::ProgressRequest(etcd::WatchProgressRequest {}),
            );
            if self
                .wait(Duration::from_millis(150), |log| heard(log) > before)
                .await
            {
                break;
            }
        }
        self.read(|log| {
            let mut of_stream = log
                .progress
                .iter()
                .filter(|(of, ..)| *of == stream)
                .skip(before);
            of_stream.next().map(|(_, id, revision)| (*id, *revision))
        })
    }

    /// Waits until `count` creates and cancels have been answered in all; false if they are not in time.
    pub(crate) async fn replied(&self, count: usize) -> bool {
        self.wait(Duration::from_secs(3), |log| log.replies >= count)
            .await
    }

    /// Creates and cancels answered so far.
    pub(crate) fn replies(&self) -> usize {
        self.read(|log| log.replies)
    }

    /// Everything delivered so far.
    pub(crate) fn deliveries(&self) -> Deliveries {
        self.read(|log| log.deliveries.clone())
    }

    fn read<T>(&self, look: impl Fn(&Log) -> T) -> T {
        look(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn wait(&self, patience: Duration, condition: impl Fn(&Log) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while !self.read(&condition) {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }
}

/// Opens a watch stream whose responses go into `log`; it ends when the sender is dropped.
fn open(
    stream: usize,
    client: Client,
    log: Arc<Mutex<Log>>,
) -> mpsc::UnboundedSender<etcd::WatchRequest> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let write =
            |note: &dyn Fn(&mut Log)| note(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async {
            let requests = UnboundedReceiverStream::new(receiver);
            let mut responses = client.watch().watch(requests).await?.into_inner();
            while let Some(response) = responses.message().await? {
                write(&|log| log.take(stream, response.clone()));
            }
            Ok::<(), tonic::Status>(())
        };
        let why = match ended.await {
            Ok(()) => "the stream ended".to_owned(),
            Err(status) => format!("the stream ended: {:?} {}", status.code(), status.message()),
        };
        write(&|log| log.note(stream, -1, Delivery::Broken(why.clone())));
    });
    sender
}

impl Log {
    fn note(&mut self, stream: usize, id: i64, delivery: Delivery) {
        self.deliveries
            .entry((stream, id))
            .or_default()
            .push(delivery);
    }

    fn take(&mut self, stream: usize, response: etcd::WatchResponse) {
        let id = response.watch_id;
        let header = revision(&response.header);
        if response.canceled {
            let (created, compact_revision) = (response.created, response.compact_revision);
            let reason = response.cancel_reason;
            self.note(
                stream,
                id,
                Delivery::Canceled {
                    created,
                    compact_revision,
                    reason,
                },
            );
            self.replies += 1;
        } else if response.created {
            self.note(stream, id, Delivery::Created { revision: header });
            self.replies += 1;
        } else if response.events.is_empty() {
            self.progress.push((stream, id, header));
        }
        for event in response.events {
            let kv = event.kv.unwrap_or_default();
            if header < kv.mod_revision {
                let broken = format!("a header at {header} over an event at {}", kv.mod_revision);
                self.note(stream, id, Delivery::Broken(broken));
            }
            let prev_kv = event.prev_kv;
            self.note(
                stream,
                id,
                Delivery::Event {
                    kind: event.r#type,
                    kv,
                    prev_kv,
                },
            );
        }
    }
}
