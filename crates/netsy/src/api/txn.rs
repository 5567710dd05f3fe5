//! A Txn, both ways: etcd's request to the rules' [`Txn`], its [`Outcome`] to etcd's response.
//!
//! The outcome names two Revisions: everything before the mutation is read as of `base`, everything after
//! it as of the Revision the mutation was given. Nothing here looks at newer state.

use bytes::Bytes;
use prost::Message;
use rules::key::KeyRange;
use rules::refusal::Refusal;
use rules::revision::Revision;
use rules::txn::{Compare, CompareResult, Op, Put, Target, Txn};

use super::proto::etcdserverpb::compare::{
    CompareResult as WireResult, CompareTarget as WireTarget, TargetUnion,
};
use super::proto::etcdserverpb::request_op::Request as WireOp;
use super::proto::etcdserverpb::response_op::Response as WireAnswer;
use super::proto::etcdserverpb::{
    self as wire, DeleteRangeResponse, PutResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse,
};
use super::proto::mvccpb::KeyValue;
use super::{Door, LARGEST_REQUEST, range};
use crate::standing::Outcome;
use crate::view::RangeQuery;

/// What `request` asks for, not yet checked.
///
/// # Errors
/// `Unsupported` for compares with numbers outside etcd's enums.
pub(crate) fn from_wire(request: &TxnRequest) -> Result<Txn, Refusal> {
    Ok(Txn {
        compares: request
            .compare
            .iter()
            .map(compare)
            .collect::<Result<_, _>>()?,
        success: request.success.iter().map(op).collect(),
        failure: request.failure.iter().map(op).collect(),
    })
}

fn compare(wire: &wire::Compare) -> Result<Compare, Refusal> {
    let operand = wire.target_union.as_ref();
    let target = match WireTarget::try_from(wire.target) {
        Ok(WireTarget::Version) => Target::Version(match operand {
            Some(TargetUnion::Version(number)) => *number,
            _ => 0,
        }),
        Ok(WireTarget::Create) => Target::Create(match operand {
            Some(TargetUnion::CreateRevision(number)) => *number,
            _ => 0,
        }),
        Ok(WireTarget::Mod) => Target::Mod(match operand {
            Some(TargetUnion::ModRevision(number)) => *number,
            _ => 0,
        }),
        Ok(WireTarget::Value) => Target::Value(match operand {
            Some(TargetUnion::Value(value)) => value.clone(),
            _ => Bytes::new(),
        }),
        Ok(WireTarget::Lease) => Target::Lease(match operand {
            Some(TargetUnion::Lease(number)) => *number,
            _ => 0,
        }),
        Err(_) => return Err(unknown("target", wire.target)),
    };
    let result = match WireResult::try_from(wire.result) {
        Ok(WireResult::Equal) => CompareResult::Equal,
        Ok(WireResult::Greater) => CompareResult::Greater,
        Ok(WireResult::Less) => CompareResult::Less,
        Ok(WireResult::NotEqual) => CompareResult::NotEqual,
        Err(_) => return Err(unknown("result", wire.result)),
    };
    let range = KeyRange::from_wire(wire.key.clone(), wire.range_end.clone());
    Ok(Compare {
        range,
        target,
        result,
    })
}

fn unknown(what: &str, number: i32) -> Refusal {
    Refusal::Unsupported(format!(
        "compare {what} `{number}` in a txn request is not supported"
    ))
}

fn op(wire: &RequestOp) -> Op {
    match &wire.request {
        None => Op::Empty,
        Some(WireOp::RequestTxn(_)) => Op::Txn,
        Some(WireOp::RequestRange(request)) => Op::Range {
            range: KeyRange::from_wire(request.key.clone(), request.range_end.clone()),
            revision: request.revision,
            serializable: request.serializable,
        },
        Some(WireOp::RequestPut(put)) => Op::Put(Put {
            key: put.key.clone(),
            value: put.value.clone(),
            lease: put.lease,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }),
        Some(WireOp::RequestDeleteRange(delete)) => Op::Delete {
            range: KeyRange::from_wire(delete.key.clone(), delete.range_end.clone()),
            prev_kv: delete.prev_kv,
        },
    }
}

/// A Txn that another Node passes on: what its client asked, checked as this Node would have.
///
/// # Errors
/// As the client would be refused here.
pub fn passed_on(request: &[u8]) -> Result<Txn, Refusal> {
    // Another Node may have let it in under another limit.
    if request.len() > LARGEST_REQUEST {
        return Err(Refusal::RequestTooLarge);
    }
    let request = TxnRequest::decode(request)
        .map_err(|why| Refusal::Unavailable(format!("netsy: a txn that cannot be read: {why}")))?;
    let txn = from_wire(&request)?;
    txn.check()?;
    check_sorting(&request)?;
    Ok(txn)
}

/// Refuses what the rules do not look at: how the Ranges of both branches are sorted.
///
/// # Errors
/// `InvalidSortOption`.
pub(crate) fn check_sorting(request: &TxnRequest) -> Result<(), Refusal> {
    for op in request.success.iter().chain(&request.failure) {
        if let Some(WireOp::RequestRange(request)) = &op.request {
            range::query(request)?;
        }
    }
    Ok(())
}

/// etcd's answer to `request`, which came out as `outcome`. Waits until this Node's view reaches what the
/// answer has to read.
///
/// # Errors
/// `TimedOut` when the view does not get there in time. Whatever the reads meet after a mutation was
/// committed is told as Unavailable: the client must not believe that nothing happened.
pub(super) async fn to_wire(
    door: &Door,
    request: &TxnRequest,
    outcome: &Outcome,
) -> Result<TxnResponse, Refusal> {
    let succeeded = outcome.succeeded;
    let branch = if succeeded {
        &request.success
    } else {
        &request.failure
    };
    let newest = outcome.assigned.unwrap_or(outcome.base);
    if branch.iter().any(reads) {
        door.in_time(door.handle.reached(newest)).await?;
    }
    let mut responses = Vec::with_capacity(branch.len());
    for (place, op) in branch.iter().enumerate() {
        let answer = answer(door, place, op, outcome).await.map_err(|refusal| {
            outcome.assigned.map_or(refusal.clone(), |revision| {
                Refusal::Unavailable(format!(
                    "netsy: committed at revision {revision}, but the rest of the answer is lost: {refusal}"
                ))
            })
        })?;
        responses.push(ResponseOp {
            response: Some(answer),
        });
    }
    Ok(TxnResponse {
        header: door.header(newest),
        succeeded,
        responses,
    })
}

/// Whether answering `op` needs the view.
fn reads(op: &RequestOp) -> bool {
    match &op.request {
        Some(WireOp::RequestPut(put)) => put.prev_kv,
        Some(WireOp::RequestDeleteRange(delete)) => delete.prev_kv,
        Some(WireOp::RequestRange(_)) => true,
        Some(WireOp::RequestTxn(_)) | None => false,
    }
}

/// The answer of the operation at `place` of the branch taken.
async fn answer(
    door: &Door,
    place: usize,
    op: &RequestOp,
    outcome: &Outcome,
) -> Result<WireAnswer, Refusal> {
    let base = outcome.base;
    let change = outcome.place;
    let before = change.is_none_or(|at| place < at);
    let current = outcome.assigned.filter(|_| !before).unwrap_or(base);
    let header = Some(inner_header(current));
    Ok(match &op.request {
        Some(WireOp::RequestRange(request)) => {
            let found = range::read(&door.handle.view, range::query(request)?, current).await?;
            WireAnswer::ResponseRange(range::response(header, found))
        }
        Some(WireOp::RequestPut(put)) => {
            let prev_kv = if put.prev_kv {
                previous(door, &put.key, base).await?
            } else {
                None
            };
            WireAnswer::ResponsePut(PutResponse { header, prev_kv })
        }
        Some(WireOp::RequestDeleteRange(delete)) => {
            let deleted = i64::from(change == Some(place));
            let found = if delete.prev_kv {
                previous(door, &delete.key, base).await?
            } else {
                None
            };
            let prev_kvs = found.into_iter().collect();
            WireAnswer::ResponseDeleteRange(DeleteRangeResponse {
                header,
                deleted,
                prev_kvs,
            })
        }
        Some(WireOp::RequestTxn(_)) | None => return Err(Refusal::KeyNotFound),
    })
}

/// The KeyValue a mutation of `key` replaced: the live one as of `base`.
async fn previous(door: &Door, key: &Bytes, base: Revision) -> Result<Option<KeyValue>, Refusal> {
    let query = RangeQuery::all(KeyRange::single(key.clone()));
    Ok(range::read(&door.handle.view, query, base)
        .await?
        .kvs
        .into_iter()
        .next())
}

/// Inside a Txn, headers carry a Revision and nothing else.
fn inner_header(revision: Revision) -> ResponseHeader {
    ResponseHeader {
        revision: revision.wire(),
        ..ResponseHeader::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_record_can_hold_is_not_let_in_by_another_node_either() {
        let put = |bytes| {
            let put = wire::PutRequest {
                key: b"k".to_vec().into(),
                value: vec![0; bytes].into(),
                ..wire::PutRequest::default()
            };
            let op = RequestOp {
                request: Some(WireOp::RequestPut(put)),
            };
            let request = TxnRequest {
                success: vec![op],
                ..TxnRequest::default()
            };
            passed_on(&request.encode_to_vec())
        };
        assert!(put(LARGEST_REQUEST - 1024).is_ok());
        assert_eq!(put(LARGEST_REQUEST).err(), Some(Refusal::RequestTooLarge));
    }
}
