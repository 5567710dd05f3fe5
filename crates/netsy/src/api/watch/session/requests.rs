//! What a client asks on its stream, and what it is answered at once.

use bytes::Bytes;
use rules::key::KeyRange;
use rules::refusal::Refusal;
use rules::revision::Revision;

use super::{Asked, Session, State, Watching};
use crate::api::proto::etcdserverpb::watch_request::RequestUnion;
use crate::api::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::api::watch::session::NO_WATCH;
use crate::api::watch::wanted::Wanted;

impl Session {
    /// Takes one request; its answer, if it has one, goes to the outbox at once.
    pub(super) fn request(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create),
            Some(RequestUnion::CancelRequest(cancel)) => {
                if let Some(number) = self.ids.get(&cancel.watch_id).copied() {
                    self.end(number);
                    let answer = WatchResponse {
                        watch_id: cancel.watch_id,
                        canceled: true,
                        ..self.answer(self.stream.revision())
                    };
                    self.outbox.push_back(answer);
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress(),
            None => {}
        }
    }

    fn create(&mut self, create: &WatchCreateRequest) {
        let start = match u64::try_from(create.start_revision) {
            Ok(0) => None,
            Ok(start) => Some(Revision(start)),
            Err(_) => {
                let gone = Refusal::Compacted {
                    floor: self.door.handle.view.floor(),
                };
                return self.refuse(&gone.to_string());
            }
        };
        let key = if create.key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            create.key.clone()
        };
        let range = KeyRange::from_wire(key, create.range_end.clone());
        if range.is_empty() {
            return self.refuse("mvcc: watcher range is empty");
        }
        let Some(id) = self.choose_id(create.watch_id) else {
            return self.refuse("mvcc: duplicate watch ID provided on the WatchStream");
        };
        let admission = self.stream.watch(&range, start);
        let state = admission.behind.map_or(State::InStep, |next| {
            self.behind.push_back(admission.watch);
            State::Behind { next, fence: None }
        });
        let wanted = Wanted::new(id, range, start, create);
        let begun = admission.revision;
        let watching = Watching {
            wanted,
            begun,
            state,
            told: false,
            marked: false,
        };
        self.ids.insert(id, admission.watch);
        self.watches.insert(admission.watch, watching);
        let answer = WatchResponse {
            watch_id: id,
            created: true,
            ..self.answer(begun)
        };
        self.outbox.push_back(answer);
    }

    /// The id for a new watch: the one that is `asked` for unless it is in use, or with 0 a fresh one.
    fn choose_id(&mut self, asked: i64) -> Option<i64> {
        if asked != 0 {
            return (!self.ids.contains_key(&asked)).then_some(asked);
        }
        while self.ids.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Some(self.next_id - 1)
    }

    fn refuse(&mut self, reason: &str) {
        let answer = WatchResponse {
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..self.answer(self.stream.revision())
        };
        self.outbox.push_back(answer);
    }

    /// Sets a progress mark for the whole stream, if all its watches are in step: one at a time.
    pub(super) fn ask_progress(&mut self) {
        self.asked = match self.asked {
            Asked::No if self.stream.progress(None) => Asked::Once,
            Asked::No => Asked::No,
            Asked::Once | Asked::Again => Asked::Again,
        };
    }
}
