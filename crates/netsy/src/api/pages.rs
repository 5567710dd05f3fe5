//! RangeStream: one Range as a stream of pages, all as of one Revision, none held longer than it is sent.
//!
//! A page is read only when the one before has been taken. Pages grow or shrink towards etcd's request
//! size. Merged they are exactly the answer of Range; header, count and more come with the last one, as
//! etcd 3.7 has it.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use rules::refusal::Refusal;
use rules::revision::Revision;

use super::proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use super::{Door, MAX_REQUEST_BYTES, range};
use crate::standing::closing;
use crate::view::{RangeAnswer, RangeQuery, SortOrder, SortTarget};

const FIRST_PAGE: i64 = 100;
const LONGEST_PAGE: i64 = 10_000;

/// Where the stream stands.
pub(super) struct Pages {
    door: Door,
    query: RangeQuery,
    /// The newest Revision when the stream began; the header names it.
    current: Revision,
    /// Keys the client still wants; `None` is all.
    left: Option<i64>,
    /// Keys per page.
    page: i64,
    /// Keys in the whole range, known from the first page on.
    total: Option<i64>,
}

impl Pages {
    /// A stream that answers `request` as of its Revision, or as of `current`.
    ///
    /// # Errors
    /// What Range refuses, and `Unsupported` for orders and filters that need the whole answer first.
    pub(super) fn new(
        door: Door,
        request: &RangeRequest,
        current: Revision,
    ) -> Result<Pages, Refusal> {
        let mut query = check(request)?;
        if query.revision <= 0 {
            query.revision = current.wire();
        }
        let left = (query.limit > 0).then_some(query.limit);
        Ok(Pages {
            door,
            query,
            current,
            left,
            page: FIRST_PAGE,
            total: None,
        })
    }

    /// Reads the next page, and says whether the stream ends with it.
    ///
    /// # Errors
    /// `Compacted` once the floor has passed the stream's Revision; `Unavailable` when the Node closes.
    pub(super) async fn next(&mut self) -> Result<(RangeStreamResponse, bool), Refusal> {
        if self.door.handle.closing.is_cancelled() {
            return Err(closing());
        }
        if !self.query.count_only {
            self.query.limit = self.left.map_or(self.page, |left| left.min(self.page));
        }
        let answer = range::read(&self.door.handle.view, self.query.clone(), self.current).await?;
        let total = *self.total.get_or_insert(answer.count);
        let taken = i64::try_from(answer.kvs.len()).unwrap_or(i64::MAX);
        self.left = self.left.map(|left| left - taken);

        let last = !answer.more || self.left == Some(0);
        let mut response = RangeResponse {
            kvs: Vec::new(),
            ..RangeResponse::default()
        };
        if last {
            response.header = self.door.header(self.current);
            response.count = total;
            response.more = answer.more;
        } else {
            self.advance(&answer);
        }
        response.kvs = answer.kvs;
        Ok((
            RangeStreamResponse {
                range_response: Some(response),
            },
            last,
        ))
    }

    /// Moves the start just behind the last key, and adapts the page to the size of this one.
    fn advance(&mut self, answer: &RangeAnswer) {
        let Some(last) = answer.kvs.last() else {
            return;
        };
        self.query.range.start = behind(last.key());
        let bytes = answer
            .kvs
            .iter()
            .map(Message::encoded_len)
            .sum::<usize>()
            .max(1);
        let fitting = answer.kvs.len().saturating_mul(MAX_REQUEST_BYTES) / bytes;
        self.page = i64::try_from(fitting)
            .unwrap_or(LONGEST_PAGE)
            .clamp(1, LONGEST_PAGE);
    }
}

/// The first key after `key`.
fn behind(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// What etcd 3.7 streams: key order, no filters.
fn check(request: &RangeRequest) -> Result<RangeQuery, Refusal> {
    let mut query = range::query(request)?;
    let by_key = match query.order {
        SortOrder::None => true,
        SortOrder::Ascend => query.target == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !by_key {
        return Err(Refusal::Unsupported(
            "RangeStream does not support custom sort orders".into(),
        ));
    }
    let filters = [
        query.min_mod_revision,
        query.max_mod_revision,
        query.min_create_revision,
        query.max_create_revision,
    ];
    if filters.iter().any(|bound| *bound != 0) {
        return Err(Refusal::Unsupported(
            "RangeStream does not support revision filters".into(),
        ));
    }
    query.order = SortOrder::None;
    query.target = SortTarget::Key;
    Ok(query)
}
