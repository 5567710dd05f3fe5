//! Watch: what a client sees on its streams.

use std::time::Duration;

use bytes::Bytes;
use netsy::api::proto::etcdserverpb::watch_client::WatchClient;
use netsy::api::proto::etcdserverpb::watch_create_request::FilterType;
use netsy::api::proto::etcdserverpb::watch_request::RequestUnion;
use netsy::api::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use netsy::api::proto::mvccpb::Event;
use netsy::api::proto::mvccpb::event::EventType;
use netsy::api::{Limits, WatchLimits};
use netsy::standing::HealthState;
use netsy::view::Bounds;
use rules::revision::Revision;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::{Kv, bytes};
use crate::fake::{MEMBER, Node};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client's side of one stream.
struct Client {
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    answers: Streaming<WatchResponse>,
}

impl Client {
    async fn to(node: &Node) -> Client {
        Client::try_to(node, false).await.unwrap()
    }

    async fn try_to(node: &Node, wants_leader: bool) -> Result<Client, Status> {
        let (requests, stream) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(stream));
        if wants_leader {
            request
                .metadata_mut()
                .insert("hasleader", "true".parse().unwrap());
        }
        let mut client =
            WatchClient::new(node.channel().await).max_decoding_message_size(usize::MAX);
        let answers = client.watch(request).await?.into_inner();
        Ok(Client {
            requests: Some(requests),
            answers,
        })
    }

    fn ask(&self, union: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(union),
        };
        self.requests.as_ref().unwrap().send(request).unwrap();
    }

    fn progress(&self) {
        self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    fn cancel(&self, watch_id: i64) {
        self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    /// The next answer, or how the stream ended.
    async fn hear(&mut self) -> Result<WatchResponse, Status> {
        let answer = timeout(PATIENCE, self.answers.message())
            .await
            .expect("an answer in time");
        answer.map(|answer| answer.expect("the stream goes on"))
    }

    async fn next(&mut self) -> WatchResponse {
        self.hear().await.unwrap()
    }

    /// Creates a watch; the answer to that.
    async fn watch(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.ask(RequestUnion::CreateRequest(create));
        let answer = self.next().await;
        assert!(answer.created);
        answer
    }

    /// Nothing has been told before the answer to this progress request, which is at `revision`.
    async fn is_told_nothing_but(&mut self, revision: i64) {
        self.progress();
        let answer = self.next().await;
        assert_eq!((answer.watch_id, header(&answer)), (-1, revision));
        assert_eq!(answer.events, []);
        assert!(!answer.created && !answer.canceled);
    }
}

fn header(answer: &WatchResponse) -> i64 {
    answer.header.as_ref().unwrap().revision
}

fn key(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: bytes(key),
        ..WatchCreateRequest::default()
    }
}

fn prefix(prefix: &str) -> WatchCreateRequest {
    let range = super::prefix(prefix);
    WatchCreateRequest {
        key: range.key,
        range_end: range.range_end,
        prev_kv: true,
        ..WatchCreateRequest::default()
    }
}

fn revisions(answer: &WatchResponse) -> Vec<i64> {
    answer.events.iter().map(revision).collect()
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().unwrap().mod_revision()
}

async fn impatient(change: impl FnOnce(&mut WatchLimits)) -> Node {
    let mut limits = Limits::default();
    change(&mut limits.watch);
    Node::start_with(limits, None).await
}

#[tokio::test]
async fn a_watch_sees_create_update_and_delete() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    let created = client.watch(prefix("/a/")).await;
    assert_eq!((created.watch_id, header(&created)), (0, 1));
    assert_eq!(created.header.as_ref().unwrap().member_id, MEMBER);

    kv.put("/a/k", "1").await;
    kv.put("/b/k", "not watched").await;
    kv.put("/a/k", "2").await;
    kv.delete("/a/k").await;
    let mut events = Vec::new();
    while events.len() < 3 {
        let answer = client.next().await;
        assert_eq!(
            Some(&header(&answer)),
            revisions(&answer).last(),
            "live: that of the last event"
        );
        events.extend(answer.events);
    }
    let [create, update, delete] = &events[..] else {
        panic!("{events:?}")
    };
    let kv_of = |event: &Event| event.kv.clone().unwrap();
    assert_eq!((create.r#type(), &create.prev_kv), (EventType::Put, &None));
    assert_eq!(
        kv_of(create).create_revision(),
        kv_of(create).mod_revision()
    );
    assert_eq!(update.prev_kv, create.kv);
    assert_eq!(
        (kv_of(update).value(), kv_of(update).version()),
        (&b"2"[..], 2)
    );
    assert_eq!(
        (delete.r#type(), &delete.prev_kv),
        (EventType::Delete, &update.kv)
    );
    let gone = kv_of(delete);
    assert_eq!((gone.key(), gone.mod_revision()), (&b"/a/k"[..], 5));
    assert_eq!(
        (gone.create_revision(), gone.version(), gone.value()),
        (0, 0, &b""[..])
    );
}

#[tokio::test]
async fn ids_are_chosen_honoured_and_refused() {
    let node = Node::start().await;
    let mut client = Client::to(&node).await;
    let with_id = |watch_id| WatchCreateRequest {
        watch_id,
        ..key("k")
    };
    for (asked, given) in [(0, 0), (2, 2), (0, 1), (0, 3), (-7, -7)] {
        assert_eq!(client.watch(with_id(asked)).await.watch_id, given);
    }
    let empty = |start_revision| WatchCreateRequest {
        range_end: bytes("k"),
        start_revision,
        ..key("k")
    };
    for (create, reason) in [
        (
            with_id(2),
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
        (empty(0), "mvcc: watcher range is empty"),
        (
            empty(-1),
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ] {
        let refused = client.watch(create).await;
        assert!(refused.canceled);
        assert_eq!((refused.watch_id, &refused.cancel_reason[..]), (-1, reason));
        assert_eq!((refused.compact_revision, header(&refused)), (0, 1));
    }
    let mut other = Client::to(&node).await;
    assert_eq!(
        other.watch(key("k")).await.watch_id,
        0,
        "ids are a stream's own"
    );
}

#[tokio::test]
async fn an_empty_key_and_a_zero_end_watch_everything() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    client
        .watch(WatchCreateRequest {
            range_end: Bytes::from_static(b"\0"),
            ..WatchCreateRequest::default()
        })
        .await;
    for key in ["a", "\u{7f}"] {
        let revision = kv.put(key, "v").await;
        assert_eq!(revisions(&client.next().await), [revision]);
    }
}

#[tokio::test]
async fn the_past_is_replayed_from_its_start_on() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for number in 0..5 {
        kv.put(if number == 3 { "/b/k" } else { "/a/k" }, "v").await;
    }
    let mut client = Client::to(&node).await;
    let created = client
        .watch(WatchCreateRequest {
            start_revision: 3,
            ..prefix("/a/")
        })
        .await;
    assert_eq!(header(&created), 6);
    let past = client.next().await;
    assert_eq!(revisions(&past), [3, 4, 6]);
    assert_eq!(header(&past), 6, "catching up: the current Revision");
    assert_eq!(past.events[0].prev_kv.as_ref().unwrap().mod_revision(), 2);
    kv.put("/a/k", "v").await;
    assert_eq!(revisions(&client.next().await), [7]);
}

#[tokio::test]
async fn a_long_past_comes_in_pages() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for _ in 0..2500 {
        kv.put("k", "v").await;
    }
    let mut client = Client::to(&node).await;
    client
        .watch(WatchCreateRequest {
            start_revision: 1,
            ..key("k")
        })
        .await;
    let mut seen = Vec::new();
    while seen.len() < 2500 {
        let answer = client.next().await;
        assert!(answer.events.len() <= 1000);
        seen.extend(revisions(&answer));
    }
    assert_eq!(seen, (2..=2501).collect::<Vec<_>>());
    client.is_told_nothing_but(2501).await;
}

#[tokio::test]
async fn a_future_start_hears_nothing_before_it() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    client
        .watch(WatchCreateRequest {
            start_revision: 4,
            ..key("k")
        })
        .await;
    client.progress();
    for _ in 2..=5 {
        kv.put("k", "v").await;
    }
    assert_eq!(revisions(&client.next().await)[0], 4);
}

#[tokio::test]
async fn a_start_below_the_floor_is_created_and_canceled() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for _ in 0..9 {
        kv.put("k", "v").await;
    }
    node.handle.view.set_floor(Revision(7));
    let mut client = Client::to(&node).await;
    let created = client
        .watch(WatchCreateRequest {
            start_revision: 6,
            ..key("k")
        })
        .await;
    assert!(!created.canceled);
    let canceled = client.next().await;
    assert!(canceled.canceled && !canceled.created);
    assert_eq!((canceled.compact_revision, header(&canceled)), (7, 0));
    assert_eq!((canceled.watch_id, &canceled.cancel_reason[..]), (0, ""));
    // Exactly at the floor is fine, and the id is not given twice.
    let at = client
        .watch(WatchCreateRequest {
            start_revision: 7,
            ..key("k")
        })
        .await;
    assert_eq!(at.watch_id, 1);
    assert_eq!(revisions(&client.next().await), [7, 8, 9, 10]);
}

#[tokio::test]
async fn cancel_is_answered_once_and_final() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    client.watch(key("k")).await;
    client.watch(key("k")).await;
    client.cancel(7);
    client.cancel(0);
    client.cancel(0);
    let canceled = client.next().await;
    assert!(canceled.canceled && !canceled.created);
    assert_eq!((canceled.watch_id, canceled.compact_revision), (0, 0));
    assert_eq!((&canceled.cancel_reason[..], header(&canceled)), ("", 1));
    kv.put("k", "v").await;
    let told = client.next().await;
    assert_eq!((told.watch_id, revisions(&told)), (1, vec![2]));
    client.is_told_nothing_but(2).await;
}

#[tokio::test]
async fn progress_is_told_behind_the_events_and_only_in_step() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    client.progress();
    client.watch(key("k")).await;
    client.is_told_nothing_but(1).await;
    for round in 0..50 {
        let revision = kv.put("k", "v").await;
        client.progress();
        assert_eq!(
            revisions(&client.next().await),
            [revision],
            "in round {round}"
        );
        let progress = client.next().await;
        assert_eq!((progress.watch_id, header(&progress)), (-1, revision));
    }
    // One watch that waits for the future keeps the whole stream silent.
    client
        .watch(WatchCreateRequest {
            start_revision: 1000,
            ..key("k")
        })
        .await;
    client.progress();
    let revision = kv.put("k", "v").await;
    assert_eq!(revisions(&client.next().await), [revision]);
    client.cancel(1);
    assert!(client.next().await.canceled);
    client.is_told_nothing_but(revision).await;
}

#[tokio::test]
async fn progress_is_told_now_and_then_to_those_who_want_it() {
    let node = impatient(|limits| limits.progress_every = Duration::from_millis(50)).await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    client.watch(key("k")).await;
    client
        .watch(WatchCreateRequest {
            progress_notify: true,
            ..key("quiet")
        })
        .await;
    for _ in 0..3 {
        let told = client.next().await;
        assert_eq!((told.watch_id, told.events.len(), header(&told)), (1, 0, 1));
    }
    let revision = kv.put("other", "v").await;
    while header(&client.next().await) < revision {}
}

#[tokio::test]
async fn what_is_filtered_out_is_not_told_at_all() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    let filtered = |filter: FilterType| WatchCreateRequest {
        filters: vec![filter as i32],
        ..key("k")
    };
    client.watch(filtered(FilterType::Noput)).await;
    client.watch(filtered(FilterType::Nodelete)).await;
    kv.put("k", "v").await;
    kv.delete("k").await;
    let (put, delete) = (client.next().await, client.next().await);
    assert_eq!(
        (
            put.watch_id,
            revisions(&put),
            put.events[0].prev_kv.is_none()
        ),
        (1, vec![2], true)
    );
    assert_eq!((delete.watch_id, revisions(&delete)), (0, vec![3]));
    assert_eq!(delete.events[0].prev_kv, None, "nobody asked for it");
    client.is_told_nothing_but(3).await;
}

#[tokio::test]
async fn a_large_answer_comes_in_fragments_if_the_client_allows() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let value = "v".repeat(700 << 10);
    for name in ["k1", "k2", "k3"] {
        kv.put(name, &value).await;
    }
    let mut client = Client::to(&node).await;
    let past = WatchCreateRequest {
        start_revision: 1,
        ..prefix("k")
    };
    client.watch(past.clone()).await;
    let whole = client.next().await;
    assert_eq!((revisions(&whole), whole.fragment), (vec![2, 3, 4], false));
    client
        .watch(WatchCreateRequest {
            fragment: true,
            ..past
        })
        .await;
    let (first, last) = (client.next().await, client.next().await);
    assert_eq!((revisions(&first), first.fragment), (vec![2, 3], true));
    assert_eq!((revisions(&last), last.fragment), (vec![4], false));
    assert_eq!(
        (header(&first), first.watch_id),
        (header(&last), last.watch_id)
    );
}

#[tokio::test]
async fn a_slow_reader_costs_only_itself_and_misses_nothing() {
    const WRITES: i64 = 300;
    let node = impatient(|limits| {
        limits.mailbox = Bounds {
            changes: 8,
            bytes: 1 << 20,
        }
    })
    .await;
    let kv = Kv::to(&node).await;
    let (mut slow, mut quick) = (Client::to(&node).await, Client::to(&node).await);
    slow.watch(key("k")).await;
    quick.watch(key("k")).await;
    // Far more than sockets and windows hold.
    let value = "v".repeat(64 << 10);
    for _ in 0..WRITES {
        let revision = kv.put("k", &value).await;
        assert_eq!(revisions(&quick.next().await), [revision]);
    }
    let census = node.handle.view.hub().census();
    assert_eq!((census.watches, census.behind), (2, 1));
    assert!(census.slowest.unwrap() > Revision(2));
    let mut seen = Vec::new();
    while seen.len() < WRITES as usize {
        seen.extend(revisions(&slow.next().await));
    }
    assert_eq!(seen, (2..=WRITES + 1).collect::<Vec<_>>());
    slow.is_told_nothing_but(WRITES + 1).await;
    quick.is_told_nothing_but(WRITES + 1).await;
}

#[tokio::test]
async fn a_slow_reader_is_canceled_when_its_history_is_gone() {
    let node = impatient(|limits| {
        limits.mailbox = Bounds {
            changes: 8,
            bytes: 1 << 20,
        }
    })
    .await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    client.watch(key("k")).await;
    let value = "v".repeat(64 << 10);
    for _ in 0..300 {
        kv.put("k", &value).await;
    }
    let slowest = node.handle.view.hub().census().slowest.unwrap();
    node.handle.view.set_floor(Revision(300));
    let mut expected = 2;
    let canceled = loop {
        let answer = client.next().await;
        if answer.canceled {
            break answer;
        }
        for revision in revisions(&answer) {
            assert_eq!(revision, expected);
            expected += 1;
        }
    };
    assert!(expected >= slowest.wire());
    assert_eq!((canceled.compact_revision, header(&canceled)), (300, 0));
}

#[tokio::test]
async fn creating_does_not_wait_for_others_to_catch_up() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    for _ in 0..500 {
        kv.put("k", "v").await;
    }
    let client = Client::to(&node).await;
    let past = WatchCreateRequest {
        start_revision: 1,
        ..key("k")
    };
    for _ in 0..20 {
        client.ask(RequestUnion::CreateRequest(past.clone()));
    }
    let mut client = client;
    let mut next = [0; 20];
    let mut created = 0;
    while next.iter().any(|next| *next < 502) {
        let answer = client.next().await;
        if answer.created {
            assert_eq!(answer.watch_id, created);
            next[created as usize] = 2;
            created += 1;
        }
        for revision in revisions(&answer) {
            assert_eq!(revision, next[answer.watch_id as usize]);
            next[answer.watch_id as usize] += 1;
        }
    }
}

#[tokio::test]
async fn a_client_that_has_said_all_goes_on_listening() {
    let node = Node::start().await;
    let kv = Kv::to(&node).await;
    let mut client = Client::to(&node).await;
    client.watch(key("k")).await;
    client.requests = None;
    for _ in 0..3 {
        let revision = kv.put("k", "v").await;
        assert_eq!(revisions(&client.next().await), [revision]);
    }
    drop(client);
    while node.handle.view.hub().census().watches > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn streams_that_want_a_primary_end_without_one() {
    let node = impatient(|limits| limits.leaderless_for = Duration::from_secs(1)).await;
    let kv = Kv::to(&node).await;
    let mut strict = Client::try_to(&node, true).await.unwrap();
    let mut lenient = Client::to(&node).await;
    strict.watch(key("k")).await;
    lenient.watch(key("k")).await;
    node.change(|standing| standing.leader = 0);
    let ended = strict.hear().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    let refused = Client::try_to(&node, true).await.err().unwrap();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    kv.put("k", "v").await;
    assert_eq!(revisions(&lenient.next().await), [2]);
    // Back again: a stream that comes at once stays, though it was said just now that there is none.
    node.change(|standing| standing.leader = MEMBER);
    let mut again = Client::try_to(&node, true).await.unwrap();
    again.watch(key("k")).await;
    let revision = kv.put("k", "w").await;
    assert_eq!(revisions(&again.next().await), [revision]);
}

#[tokio::test]
async fn a_stream_that_comes_between_two_primaries_waits_for_the_next() {
    let node = impatient(|limits| limits.leaderless_for = PATIENCE).await;
    let kv = Kv::to(&node).await;
    node.change(|standing| standing.leader = 0);
    let comes = Client::try_to(&node, true);
    tokio::pin!(comes);
    // It is told nothing as long as there is none.
    assert!(
        timeout(Duration::from_millis(200), &mut comes)
            .await
            .is_err()
    );
    node.change(|standing| standing.leader = MEMBER);
    let mut client = comes.await.unwrap();
    client.watch(key("k")).await;
    let revision = kv.put("k", "v").await;
    assert_eq!(revisions(&client.next().await), [revision]);
}

#[tokio::test]
async fn streams_end_when_the_node_closes_and_do_not_begin_while_it_loads() {
    let node = Node::start().await;
    let mut client = Client::to(&node).await;
    client.watch(key("k")).await;
    node.change(|standing| standing.health = HealthState::Loading);
    let refused = Client::try_to(&node, false).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    let closed = timeout(PATIENCE, node.close());
    let (ended, closed) = tokio::join!(client.hear(), closed);
    let ended = ended.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Unavailable, "etcdserver: server stopped")
    );
    closed.unwrap();
}
