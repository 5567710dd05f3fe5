//! What one watch wants, and how the hub's Changes look to it on the wire.

use std::sync::Arc;

use prost::Message;
use rules::key::KeyRange;
use rules::revision::Revision;

use crate::api::MAX_REQUEST_BYTES;
use crate::api::proto::etcdserverpb::watch_create_request::FilterType;
use crate::api::proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use crate::api::proto::mvccpb::Event;
use crate::api::proto::mvccpb::event::EventType;
use crate::view::{Bounds, Change};

/// What one watch wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The id the client knows it by.
    pub(super) id: i64,
    pub(super) range: KeyRange,
    /// Nothing before this; 0 if it began with "from now on".
    pub(super) start: Revision,
    pub(super) progress_notify: bool,
    prev_kv: bool,
    puts: bool,
    deletes: bool,
    fragment: bool,
}

/// Changes that make up one response: the events, and the Revision of the last one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    pub(super) last: Revision,
}

impl Wanted {
    pub(super) fn new(
        id: i64,
        range: KeyRange,
        start: Option<Revision>,
        request: &WatchCreateRequest,
    ) -> Wanted {
        let filtered = |kind: FilterType| request.filters.contains(&(kind as i32));
        Wanted {
            id,
            range,
            start: start.unwrap_or(Revision::ZERO),
            progress_notify: request.progress_notify,
            prev_kv: request.prev_kv,
            puts: !filtered(FilterType::Noput),
            deletes: !filtered(FilterType::Nodelete),
            fragment: request.fragment,
        }
    }

    /// Sorts `changes` (ascending, of any keys) into pages; none if nothing is wanted.
    pub(super) fn pages<'a>(
        &self,
        bounds: Bounds,
        changes: impl IntoIterator<Item = &'a Arc<Change>>,
    ) -> Vec<Page> {
        let mut pages = Vec::new();
        let mut bytes = usize::MAX;
        for change in changes.into_iter().filter(|change| self.wants(change)) {
            let full = |page: &Page| page.events.len() >= bounds.changes;
            if bytes >= bounds.bytes || pages.last().is_none_or(full) {
                pages.push(Page::default());
                bytes = 0;
            }
            let event = self.event(change);
            bytes += event.encoded_len();
            if let Some(page) = pages.last_mut() {
                page.events.push(event);
                page.last = change.revision;
            }
        }
        pages
    }

    /// Whether it is told of `change`.
    pub(super) fn wants(&self, change: &Change) -> bool {
        change.revision >= self.start
            && if change.deleted {
                self.deletes
            } else {
                self.puts
            }
            && self.range.contains(&change.key)
    }

    fn event(&self, change: &Change) -> Event {
        let kind = if change.deleted {
            EventType::Delete
        } else {
            EventType::Put
        };
        let prev = change.prev.as_ref().filter(|_| self.prev_kv);
        Event {
            r#type: kind as i32,
            kv: Some(change.kv.clone()),
            prev_kv: prev.cloned(),
        }
    }

    /// The response, or for a watch that allows it the fragments, that tell `events`.
    pub(super) fn respond(
        &self,
        header: Option<ResponseHeader>,
        events: Vec<Event>,
    ) -> Vec<WatchResponse> {
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for event in events {
            let more = event.encoded_len();
            if self.fragment && bytes > 0 && bytes + more > MAX_REQUEST_BYTES {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += more;
            if let Some(part) = parts.last_mut() {
                part.push(event);
            }
        }
        let last = parts.len() - 1;
        let numbered = parts.into_iter().enumerate();
        numbered
            .map(|(place, events)| WatchResponse {
                header,
                watch_id: self.id,
                fragment: place < last,
                events,
                ..WatchResponse::default()
            })
            .collect()
    }
}
