//! Steps: what is sent to both servers, one after the other, and what each of them answers.
//! A sequence of Steps can be written to a file and read back, so that a found difference can be replayed.

use anyhow::{Context as _, Result, bail};
use prost::Message;
use tonic::Code;

use crate::wire::etcd::request_op::Request;
use crate::wire::{etcd, mvccpb};

/// One request to both servers. Watches go over one of a few long-lived streams.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Range(etcd::RangeRequest),
    RangeStream(etcd::RangeRequest),
    Txn(etcd::TxnRequest),
    Grant(etcd::LeaseGrantRequest),
    Alarm(etcd::AlarmRequest),
    Watch(usize, etcd::WatchCreateRequest),
    Cancel(usize, etcd::WatchCancelRequest),
    /// Asked again until it is answered, as clients do.
    Progress(usize),
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Range(etcd::RangeResponse),
    Txn(etcd::TxnResponse),
    Grant(etcd::LeaseGrantResponse),
    Alarm(etcd::AlarmResponse),
    /// The watch_id and Revision of a progress message, if one came.
    Progress(Option<(i64, i64)>),
    /// Nothing to compare yet: watches are compared as logs.
    Sent,
    Refused(Code, String),
    /// No answer for so long that none is expected.
    Hung,
}

/// What a watch has delivered, in order; what is not compared (batching, header of a batch) is left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Delivery {
    Created {
        revision: i64,
    },
    Canceled {
        created: bool,
        compact_revision: i64,
        reason: String,
    },
    Event {
        kind: i32,
        kv: mvccpb::KeyValue,
        prev_kv: Option<mvccpb::KeyValue>,
    },
    /// A promise broken by this server alone, in words.
    Broken(String),
}

/// The mutations of a branch.
pub(crate) fn mutations(branch: &[etcd::RequestOp]) -> usize {
    let mutates =
        |op: &&etcd::RequestOp| !matches!(op.request, Some(Request::RequestRange(_)) | None);
    branch.iter().filter(mutates).count()
}

/// Whether Netsy's subset leaves this out: it may then answer Unimplemented where etcd refuses otherwise.
pub(crate) fn outside_subset(step: &Step) -> bool {
    let Step::Txn(txn) = step else { return false };
    let ranged = |op: &etcd::RequestOp| match &op.request {
        Some(Request::RequestDeleteRange(delete)) => !delete.range_end.is_empty(),
        Some(Request::RequestTxn(_)) => true,
        _ => false,
    };
    [&txn.success, &txn.failure]
        .iter()
        .any(|branch| mutations(branch) > 1 || branch.iter().any(ranged))
}

impl Step {
    /// One line: what it is, the stream it goes over, the request in hex.
    pub(crate) fn to_line(&self) -> String {
        let (kind, stream, bytes) = match self {
            Step::Range(request) => ("range", 0, request.encode_to_vec()),
            Step::RangeStream(request) => ("range-stream", 0, request.encode_to_vec()),
            Step::Txn(request) => ("txn", 0, request.encode_to_vec()),
            Step::Grant(request) => ("grant", 0, request.encode_to_vec()),
            Step::Alarm(request) => ("alarm", 0, request.encode_to_vec()),
            Step::Watch(stream, request) => ("watch", *stream, request.encode_to_vec()),
            Step::Cancel(stream, request) => ("cancel", *stream, request.encode_to_vec()),
            Step::Progress(stream) => ("progress", *stream, Vec::new()),
        };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{kind} {stream} {hex}")
    }

    /// The reverse of [`Step::to_line`].
    pub(crate) fn from_line(line: &str) -> Result<Step> {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let stream: usize = words
            .next()
            .unwrap_or_default()
            .parse()
            .context("the stream's number")?;
        let bytes = unhex(words.next().unwrap_or_default())?;
        let bytes = &bytes[..];
        Ok(match kind {
            "range" => Step::Range(Message::decode(bytes)?),
            "range-stream" => Step::RangeStream(Message::decode(bytes)?),
            "txn" => Step::Txn(Message::decode(bytes)?),
            "grant" => Step::Grant(Message::decode(bytes)?),
            "alarm" => Step::Alarm(Message::decode(bytes)?),
            "watch" => Step::Watch(stream, Message::decode(bytes)?),
            "cancel" => Step::Cancel(stream, Message::decode(bytes)?),
            "progress" => Step::Progress(stream),
            _ => bail!("`{kind}` is no kind of step"),
        })
    }

    /// Steps that ask less than this one, for shrinking.
    pub(crate) fn simpler(&self) -> Vec<Step> {
        match self {
            Step::Txn(txn) => simpler_txns(txn).into_iter().map(Step::Txn).collect(),
            Step::Range(range) => simpler_ranges(range).into_iter().map(Step::Range).collect(),
            Step::Watch(stream, watch) => {
                let plain = etcd::WatchCreateRequest {
                    key: watch.key.clone(),
                    range_end: watch.range_end.clone(),
                    start_revision: watch.start_revision,
                    watch_id: watch.watch_id,
                    ..Default::default()
                };
                if plain == *watch {
                    Vec::new()
                } else {
                    vec![Step::Watch(*stream, plain)]
                }
            }
            _ => Vec::new(),
        }
    }
}

fn simpler_txns(txn: &etcd::TxnRequest) -> Vec<etcd::TxnRequest> {
    let mut simpler = Vec::new();
    for at in 0..txn.compare.len() {
        let mut less = txn.clone();
        less.compare.remove(at);
        simpler.push(less);
    }
    for at in 0..txn.success.len() {
        let mut less = txn.clone();
        less.success.remove(at);
        simpler.push(less);
    }
    for at in 0..txn.failure.len() {
        let mut less = txn.clone();
        less.failure.remove(at);
        simpler.push(less);
    }
    simpler
}

fn simpler_ranges(range: &etcd::RangeRequest) -> Vec<etcd::RangeRequest> {
    let unset: [fn(&mut etcd::RangeRequest); 10] = [
        |range| range.limit = 0,
        |range| range.revision = 0,
        |range| range.sort_order = 0,
        |range| range.sort_target = 0,
        |range| range.keys_only = false,
        |range| range.count_only = false,
        |range| range.min_mod_revision = 0,
        |range| range.max_mod_revision = 0,
        |range| range.min_create_revision = 0,
        |range| range.max_create_revision = 0,
    ];
    let mut simpler = Vec::new();
    for unset in unset {
        let mut less = range.clone();
        unset(&mut less);
        if less != *range {
            simpler.push(less);
        }
    }
    simpler
}

fn unhex(hex: &str) -> Result<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = std::str::from_utf8(pair)?;
            u8::from_str_radix(pair, 16).with_context(|| format!("`{pair}` is not hex"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::put_if;
    use bytes::Bytes;

    #[test]
    fn steps_survive_a_file() {
        let txn = put_if(&Bytes::from_static(b"\0k\xff"), 3, Bytes::from_static(b"v"));
        for step in [
            Step::Txn(txn),
            Step::Progress(1),
            Step::Cancel(1, etcd::WatchCancelRequest { watch_id: 7 }),
        ] {
            assert_eq!(Step::from_line(&step.to_line()).unwrap(), step);
        }
        assert!(Step::from_line("dance 0 00").is_err());
    }

    #[test]
    fn simpler_is_less() {
        let txn = put_if(&Bytes::from_static(b"k"), 3, Bytes::from_static(b"v"));
        assert_eq!(Step::Txn(txn).simpler().len(), 3);
        assert!(
            Step::Range(etcd::RangeRequest::default())
                .simpler()
                .is_empty()
        );
    }
}
