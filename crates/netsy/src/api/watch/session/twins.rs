//! Every watch sees exactly the committed Records of its range, once, in order: sessions with tiny
//! bounds on a real view, in any weather, against a client that keeps its own books.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rules::key::KeyRange;
use rules::record::{Kind, Record};
use rules::revision::{Epoch, Revision};
use tokio_util::sync::CancellationToken;

use super::{Session, State, arrival};
use crate::api::proto::etcdserverpb::watch_request::RequestUnion;
use crate::api::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::api::proto::mvccpb::Event;
use crate::api::{Door, Limits, WatchLimits};
use crate::standing::{Board, Handle, HealthState, PrimaryState, Standing};
use crate::view::{Bounds, KeyValue, Source, View};

#[derive(Clone, Debug)]
enum Act {
    /// A Record at the end of the log: key, and whether it deletes it.
    Write(u8, bool),
    /// An internal Record.
    Open,
    /// So many more Records are committed.
    Release(u64),
    /// What is not committed goes.
    Truncate,
    /// The floor rises to so many Revisions below committed.
    Compact(u64),
    Create {
        stream: usize,
        range: u8,
        start: u8,
        id: i64,
    },
    Cancel {
        stream: usize,
        id: i64,
    },
    Ask {
        stream: usize,
    },
    Tick {
        stream: usize,
    },
    /// The session goes on, but what it waits for does not come yet.
    Stir {
        stream: usize,
    },
    /// The client reads so many answers.
    Read {
        stream: usize,
        answers: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let stream = 0..2usize;
    prop_oneof![
        8 => (0..6u8, any::<bool>()).prop_map(|(key, delete)| Act::Write(key, delete)),
        1 => Just(Act::Open),
        5 => (1..6u64).prop_map(Act::Release),
        1 => Just(Act::Truncate),
        1 => (0..12u64).prop_map(Act::Compact),
        3 => (stream.clone(), 0..6u8, 0..24u8, 0..4i64)
            .prop_map(|(stream, range, start, id)| Act::Create { stream, range, start, id }),
        1 => (stream.clone(), 0..4i64).prop_map(|(stream, id)| Act::Cancel { stream, id }),
        2 => stream.clone().prop_map(|stream| Act::Ask { stream }),
        1 => stream.clone().prop_map(|stream| Act::Tick { stream }),
        4 => stream.clone().prop_map(|stream| Act::Stir { stream }),
        8 => (stream, 1..6usize).prop_map(|(stream, answers)| Act::Read { stream, answers }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_watch_sees_what_is_committed_once_in_order(
        acts in proptest::collection::vec(act(), 1..120),
        mailbox in 1..6usize,
        page in 1..5usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut world = World::new(mailbox, page);
            for act in acts {
                world.act(act).await;
            }
            world.settle().await;
        });
    }
}

/// Values are never evicted here.
struct Nothing;

impl Source for Nothing {
    fn records(&self, _: &[Revision]) -> Result<Vec<Record>, String> {
        Err("nothing is evicted".into())
    }

    fn history(&self, _: Revision, _: Revision, _: usize) -> Result<Vec<Record>, String> {
        Err("nothing is evicted".into())
    }
}

struct World {
    view: Arc<View>,
    /// Every Record, the one of Revision 1 first.
    log: Vec<Record>,
    streams: Vec<(Session, Client)>,
}

impl World {
    fn new(mailbox: usize, page: usize) -> World {
        let view = Arc::new(View::new(Arc::new(Nothing), usize::MAX));
        let (handle, _) = Handle::new(
            Arc::clone(&view),
            Board::new(standing()),
            CancellationToken::new(),
        );
        let watch = WatchLimits {
            mailbox: Bounds {
                changes: mailbox,
                bytes: 1 << 20,
            },
            page: Bounds {
                changes: page,
                bytes: 400,
            },
            ..WatchLimits::default()
        };
        let door = Door::new(
            handle,
            Limits {
                watch,
                ..Limits::default()
            },
        );
        let stream = || (Session::new(door.clone()), Client::default());
        let streams = vec![stream(), stream()];
        let mut world = World {
            view,
            log: Vec::new(),
            streams,
        };
        world.append(None);
        world.release(1);
        world
    }

    async fn act(&mut self, act: Act) {
        let committed = self.view.committed().0;
        match act {
            Act::Write(key, delete) => self.append(Some((key, delete))),
            Act::Open => self.append(None),
            Act::Release(more) => self.release(committed + more),
            Act::Truncate => {
                self.log.truncate(committed as usize);
                self.view.truncate(Revision(committed));
            }
            Act::Compact(below) => self
                .view
                .set_floor(Revision(committed.saturating_sub(below))),
            Act::Create {
                stream,
                range,
                start,
                id,
            } => {
                let (key, range_end) = RANGES[range as usize];
                let start_revision = match start {
                    0..4 => 0,
                    back @ 4..18 => (committed + 1).saturating_sub(u64::from(back) - 4) as i64,
                    ahead => committed as i64 + i64::from(ahead) - 16,
                };
                let create = WatchCreateRequest {
                    key: Bytes::from_static(key),
                    range_end: Bytes::from_static(range_end),
                    start_revision,
                    prev_kv: true,
                    progress_notify: true,
                    watch_id: id,
                    ..WatchCreateRequest::default()
                };
                let (session, client) = &mut self.streams[stream];
                client.asked.push_back((create.clone(), committed));
                request(session, RequestUnion::CreateRequest(create));
            }
            Act::Cancel { stream, id } => {
                let cancel = WatchCancelRequest { watch_id: id };
                request(
                    &mut self.streams[stream].0,
                    RequestUnion::CancelRequest(cancel),
                );
            }
            Act::Ask { stream } => self.ask(stream),
            Act::Tick { stream } => self.streams[stream].0.tick(),
            Act::Stir { stream } => {
                let (session, _) = &mut self.streams[stream];
                session.fill_outbox();
                session.read_history();
            }
            Act::Read { stream, answers } => {
                for _ in 0..answers {
                    self.read(stream).await;
                }
            }
        }
    }

    fn ask(&mut self, stream: usize) {
        request(
            &mut self.streams[stream].0,
            RequestUnion::ProgressRequest(WatchProgressRequest {}),
        );
    }

    /// The client takes one answer, if there is one.
    async fn read(&mut self, stream: usize) -> bool {
        let (session, client) = &mut self.streams[stream];
        loop {
            session.fill_outbox();
            session.read_history();
            if let Some(answer) = session.outbox.pop_front() {
                client.hear(&answer, &self.log, self.view.floor());
                return true;
            }
            if session.reading.is_none() {
                return false;
            }
            let arrived = arrival(&mut session.reading).await;
            session
                .history(arrived)
                .expect("nothing but compaction refuses");
        }
    }

    /// Everything is committed and read; then all watches stand where they should.
    async fn settle(&mut self) {
        self.release(u64::MAX);
        for stream in 0..self.streams.len() {
            while self.read(stream).await {}
            self.ask(stream);
            while self.read(stream).await {}
            let (session, client) = &self.streams[stream];
            let last = self.log.len() as u64;
            assert!(session.watches.values().all(|it| it.state == State::InStep));
            assert_eq!(
                session.ids.keys().collect::<Vec<_>>(),
                client.watches.keys().collect::<Vec<_>>()
            );
            for watch in client.watches.values() {
                assert_eq!(watch.missing(&self.log, last), None, "everything was told");
            }
            let past = client
                .watches
                .values()
                .all(|watch| watch.create.start_revision <= last as i64);
            if past && !client.watches.is_empty() {
                assert_eq!(client.stream_told, last, "a stream in step is told so");
            }
        }
    }

    fn release(&self, upto: u64) {
        self.view.release(Revision(upto.min(self.log.len() as u64)));
    }

    fn append(&mut self, write: Option<(u8, bool)>) {
        let revision = Revision(self.log.len() as u64 + 1);
        let mut record = Record::opening(Epoch(1), revision, "node".into(), 0);
        if let Some((key, delete)) = write {
            let key = Bytes::copy_from_slice(&[b'a' + key]);
            let before = live(&self.log, &key);
            if delete && before.is_none() {
                return;
            }
            record = Record {
                kind: Kind::Write,
                value: if delete {
                    Bytes::new()
                } else {
                    revision.to_string().into()
                },
                created: before.is_none(),
                deleted: delete,
                create_revision: before.map_or(revision, |before| before.create_revision),
                prev_revision: before.map_or(Revision::ZERO, |before| before.revision),
                version: if delete {
                    0
                } else {
                    before.map_or(0, |before| before.version) + 1
                },
                key,
                ..record
            };
        }
        self.view.append(&record);
        self.log.push(record);
    }
}

/// Single keys, real ranges that overlap, and everything.
const RANGES: [(&[u8], &[u8]); 6] = [
    (b"a", b""),
    (b"b", b""),
    (b"a", b"d"),
    (b"b", b"f"),
    (b"c", b"\0"),
    (b"", b"\0"),
];

fn request(session: &mut Session, union: RequestUnion) {
    session.request(WatchRequest {
        request_union: Some(union),
    });
}

/// The Record that holds the live value of `key` at the end of `log`.
fn live<'a>(log: &'a [Record], key: &[u8]) -> Option<&'a Record> {
    let last = log
        .iter()
        .rev()
        .find(|record| record.is_visible() && record.key == key)?;
    (!last.deleted).then_some(last)
}

/// A client's books of one stream.
#[derive(Default)]
struct Client {
    /// What it asked to watch and was not answered, with what was committed then.
    asked: VecDeque<(WatchCreateRequest, u64)>,
    watches: BTreeMap<i64, Watched>,
    /// How far the whole stream was last said to be.
    stream_told: u64,
}

struct Watched {
    create: WatchCreateRequest,
    range: KeyRange,
    /// Everything before this that it wants was told.
    next: u64,
}

impl Watched {
    /// The first Record up to `upto` that it wants and was not told of.
    fn missing(&self, log: &[Record], upto: u64) -> Option<u64> {
        log.iter()
            .filter(|record| record.is_visible() && self.range.contains(&record.key))
            .map(|record| record.revision.0)
            .find(|revision| *revision >= self.next && *revision <= upto)
    }

    fn hear(&mut self, event: &Event, log: &[Record]) {
        let kv = event.kv.as_ref().expect("an event has a KeyValue");
        let revision = kv.mod_revision() as u64;
        assert_eq!(
            self.missing(log, u64::MAX),
            Some(revision),
            "the next one it wants"
        );
        self.next = revision + 1;
        let (before, record) = (&log[..revision as usize - 1], &log[revision as usize - 1]);
        assert_eq!(*kv, shown(record));
        assert_eq!(event.prev_kv, live(before, &record.key).map(shown));
    }

    fn hear_progress(&mut self, revision: u64, log: &[Record]) {
        assert_eq!(
            self.missing(log, revision),
            None,
            "progress passes nothing by"
        );
        assert!(revision + 1 >= self.next, "progress does not go back");
        self.next = revision + 1;
    }
}

fn shown(record: &Record) -> KeyValue {
    if record.deleted {
        return KeyValue::tombstone(&record.key, record.revision);
    }
    let (create, version) = (record.create_revision, record.version);
    KeyValue::new(
        &record.key,
        &record.value,
        create,
        record.revision,
        version,
        record.lease,
    )
}

impl Client {
    fn hear(&mut self, answer: &WatchResponse, log: &[Record], floor: Revision) {
        let header = answer
            .header
            .as_ref()
            .expect("every answer has a header")
            .revision as u64;
        if answer.created {
            return self.hear_created(answer, header);
        }
        if answer.canceled {
            let watch = self
                .watches
                .remove(&answer.watch_id)
                .expect("it was created");
            if answer.compact_revision != 0 {
                assert_eq!(header, 0);
                assert!(answer.cancel_reason.is_empty());
                assert!(answer.compact_revision as u64 <= floor.0);
                assert!(watch.missing(log, floor.0).is_some() || watch.next < floor.0);
            }
            return;
        }
        if !answer.events.is_empty() {
            let watch = self
                .watches
                .get_mut(&answer.watch_id)
                .expect("created comes first");
            for event in &answer.events {
                watch.hear(event, log);
            }
            assert!(header + 1 >= watch.next, "the header covers its events");
        } else if answer.watch_id == -1 {
            assert!(!self.watches.is_empty(), "silent without watches");
            self.stream_told = header;
            for watch in self.watches.values_mut() {
                watch.hear_progress(header, log);
            }
        } else {
            let watch = self
                .watches
                .get_mut(&answer.watch_id)
                .expect("created comes first");
            watch.hear_progress(header, log);
        }
    }

    fn hear_created(&mut self, answer: &WatchResponse, header: u64) {
        let (create, committed) = self.asked.pop_front().expect("answered in order");
        assert_eq!(header, committed);
        if answer.canceled {
            assert_eq!(answer.watch_id, -1);
            assert!(
                self.watches.contains_key(&create.watch_id),
                "refused as a duplicate"
            );
            return;
        }
        let next = if create.start_revision == 0 {
            header + 1
        } else {
            create.start_revision as u64
        };
        let key = if create.key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            create.key.clone()
        };
        let range = KeyRange::from_wire(key, create.range_end.clone());
        let before = self.watches.insert(
            answer.watch_id,
            Watched {
                create,
                range,
                next,
            },
        );
        assert!(before.is_none(), "an id stands for one watch");
    }
}

fn standing() -> Standing {
    Standing {
        node_id: "node".into(),
        cluster_id: "cluster".into(),
        member_id: 1,
        health: HealthState::Healthy,
        reason: None,
        primary_state: PrimaryState::Active,
        epoch: Epoch(1),
        leader: 1,
        leader_name: None,
        elector: true,
        members: Vec::new(),
    }
}
