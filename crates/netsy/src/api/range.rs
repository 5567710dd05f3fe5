//! A Range, both ways: etcd's request to the view's query, the view's answer to etcd's response.

use std::sync::Arc;

use rules::key::KeyRange;
use rules::refusal::Refusal;
use rules::revision::Revision;

use super::proto::etcdserverpb::range_request::{SortOrder as WireOrder, SortTarget as WireTarget};
use super::proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::view::{RangeAnswer, RangeQuery, SortOrder, SortTarget, View};

/// What `request` asks of the view.
///
/// # Errors
/// `EmptyKey`, and `InvalidSortOption` for numbers outside etcd's enums.
pub(crate) fn query(request: &RangeRequest) -> Result<RangeQuery, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(RangeQuery {
        range: KeyRange::from_wire(request.key.clone(), request.range_end.clone()),
        revision: request.revision,
        limit: request.limit,
        order: order(request.sort_order)?,
        target: target(request.sort_target)?,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

fn order(number: i32) -> Result<SortOrder, Refusal> {
    match WireOrder::try_from(number) {
        Ok(WireOrder::None) => Ok(SortOrder::None),
        Ok(WireOrder::Ascend) => Ok(SortOrder::Ascend),
        Ok(WireOrder::Descend) => Ok(SortOrder::Descend),
        Err(_) => Err(Refusal::InvalidSortOption),
    }
}

fn target(number: i32) -> Result<SortTarget, Refusal> {
    match WireTarget::try_from(number) {
        Ok(WireTarget::Key) => Ok(SortTarget::Key),
        Ok(WireTarget::Version) => Ok(SortTarget::Version),
        Ok(WireTarget::Create) => Ok(SortTarget::Create),
        Ok(WireTarget::Mod) => Ok(SortTarget::Mod),
        Ok(WireTarget::Value) => Ok(SortTarget::Value),
        Err(_) => Err(Refusal::InvalidSortOption),
    }
}

/// Reads the view as of `current`. One key is read in place; a range, which may be long or reach for
/// evicted values, is read off the network's threads.
///
/// # Errors
/// `Compacted`, `FutureRevision`, or what the view's source says.
pub(super) async fn read(
    view: &Arc<View>,
    query: RangeQuery,
    current: Revision,
) -> Result<RangeAnswer, Refusal> {
    if query.range.is_single() {
        return view.range(&query, current);
    }
    let view = Arc::clone(view);
    match tokio::task::spawn_blocking(move || view.range(&query, current)).await {
        Ok(answer) => answer,
        Err(broken) if broken.is_panic() => std::panic::resume_unwind(broken.into_panic()),
        Err(_) => Err(Refusal::Unavailable(
            "netsy: a read was given up, the node is closing".into(),
        )),
    }
}

/// etcd's answer.
pub(super) fn response(header: Option<ResponseHeader>, answer: RangeAnswer) -> RangeResponse {
    RangeResponse {
        header,
        kvs: answer.kvs,
        more: answer.more,
        count: answer.count,
    }
}
