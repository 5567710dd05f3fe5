//! What two answers must have in common: everything but what is excused here, by name and reason.
//! Answers are brought into one form first; then they are equal or they are a difference.

use tonic::Code;

use super::step::{Answer, Step, outside_subset};
use crate::wire::etcd::request_op::Request;
use crate::wire::etcd::response_op::Response;
use crate::wire::{etcd, mvccpb};

/// What is not compared, and why. Printed at the start of every run.
pub(crate) const EXCUSED: &[(&str, &str)] = &[
    (
        "header ids and raft_term",
        "another cluster has other ids, and Netsy has no Raft",
    ),
    ("a lease id the server chose", "etcd draws it at random"),
    (
        "leases never granted, and expiry",
        "Netsy's leases are synthetic (compatibility page)",
    ),
    (
        "order among equals of a sort by VERSION or VALUE",
        "etcd's sort is not stable",
    ),
    (
        "lease in keys_only answers",
        "etcd before 3.7 fills it in, later ones do not",
    ),
    ("the header of Alarm answers", "etcd 3.4 sends none"),
    (
        "batching of watch events and headers of batches",
        "depends on timing; order and content count",
    ),
    (
        "which of two faults of one branch is told",
        "etcd 3.4 looks at puts first, 3.7 goes in order",
    ),
    (
        "compare targets and results without a name",
        "etcd takes them for equal or true, Netsy refuses what it does not know",
    ),
    (
        "shapes outside the subset",
        "only sent where etcd refuses them too; Netsy may say Unimplemented",
    ),
];

/// What a reference can be asked without meeting its own known faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference {
    /// Manual progress is in step with events (3.4.31, 3.5.13).
    pub(crate) progress: bool,
    /// A watch from a future Revision waits for it (3.4.38, 3.5.22).
    pub(crate) future_watch: bool,
    /// A negative start Revision is refused as compacted (3.4.38, 3.5.24, 3.6.6).
    pub(crate) negative_watch: bool,
    /// Unknown sort options are refused (seen in 3.6.14; older ones ignore them or crash).
    pub(crate) sort_checked: bool,
    /// RangeStream exists (3.7).
    pub(crate) range_stream: bool,
}

impl Reference {
    /// From the version in a Status answer.
    pub(crate) fn of(version: &str) -> Reference {
        let mut parts = version
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        let (line, patch) = ((next(), next()), next());
        let since = |fixed: &[((u32, u32), u32)]| {
            let newest = fixed.iter().map(|(of, _)| *of).max().unwrap_or_default();
            line > newest || fixed.iter().any(|(of, from)| *of == line && patch >= *from)
        };
        Reference {
            progress: since(&[((3, 4), 31), ((3, 5), 13)]),
            future_watch: since(&[((3, 4), 38), ((3, 5), 22)]),
            negative_watch: since(&[((3, 4), 38), ((3, 5), 24), ((3, 6), 6)]),
            sort_checked: since(&[((3, 6), 14)]),
            range_stream: since(&[((3, 7), 0)]),
        }
    }
}

/// Whether `subject` is an acceptable answer to `step` where the reference answered `reference`.
pub(crate) fn agree(step: &Step, reference: &Answer, subject: &Answer) -> bool {
    let refused = matches!(reference, Answer::Refused(..));
    if refused && outside_subset(step) && matches!(subject, Answer::Refused(Code::Unimplemented, _))
    {
        return true;
    }
    if let (Step::Txn(_), Answer::Refused(_, one), Answer::Refused(_, other)) =
        (step, reference, subject)
        && [one, other]
            .iter()
            .all(|text| BRANCH_FAULTS.contains(&text.as_str()))
    {
        return true;
    }
    normal(step, reference.clone()) == normal(step, subject.clone())
}

/// What is found wrong with a taken branch, once the compares are judged.
const BRANCH_FAULTS: &[&str] = &[
    "etcdserver: key not found",
    "etcdserver: mvcc: required revision is a future revision",
];

/// The answer without what is excused.
pub(crate) fn normal(step: &Step, answer: Answer) -> Answer {
    match (step, answer) {
        (Step::Range(request) | Step::RangeStream(request), Answer::Range(range)) => {
            Answer::Range(normal_range(request, range))
        }
        (Step::Txn(request), Answer::Txn(txn)) => Answer::Txn(normal_txn(request, txn)),
        (Step::Grant(request), Answer::Grant(mut grant)) => {
            grant.header = normal_header(grant.header);
            if request.id == 0 && grant.id > 0 {
                grant.id = 1;
            }
            Answer::Grant(grant)
        }
        (_, Answer::Alarm(alarm)) => Answer::Alarm(etcd::AlarmResponse {
            header: None,
            ..alarm
        }),
        (_, other) => other,
    }
}

fn normal_header(header: Option<etcd::ResponseHeader>) -> Option<etcd::ResponseHeader> {
    header.map(|header| etcd::ResponseHeader {
        revision: header.revision,
        ..Default::default()
    })
}

fn normal_txn(request: &etcd::TxnRequest, mut txn: etcd::TxnResponse) -> etcd::TxnResponse {
    txn.header = normal_header(txn.header);
    let branch = if txn.succeeded {
        &request.success
    } else {
        &request.failure
    };
    for (at, op) in txn.responses.iter_mut().enumerate() {
        let asked = branch.get(at).and_then(|op| op.request.as_ref());
        op.response = op.response.take().map(|response| match (response, asked) {
            (Response::ResponseRange(range), Some(Request::RequestRange(asked))) => {
                Response::ResponseRange(normal_range(asked, range))
            }
            (Response::ResponsePut(mut put), _) => {
                put.header = normal_header(put.header);
                Response::ResponsePut(put)
            }
            (Response::ResponseDeleteRange(mut delete), _) => {
                delete.header = normal_header(delete.header);
                Response::ResponseDeleteRange(delete)
            }
            (other, _) => other,
        });
    }
    txn
}

fn normal_range(
    request: &etcd::RangeRequest,
    mut range: etcd::RangeResponse,
) -> etcd::RangeResponse {
    range.header = normal_header(range.header);
    if request.keys_only {
        range.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
    let target = etcd::range_request::SortTarget::try_from(request.sort_target);
    match target {
        Ok(etcd::range_request::SortTarget::Version) => {
            range.kvs = normal_ties(range.kvs, range.more, |a, b| a.version == b.version);
        }
        Ok(etcd::range_request::SortTarget::Value) if request.keys_only => {
            range.kvs = normal_ties(range.kvs, range.more, |_, _| true);
        }
        Ok(etcd::range_request::SortTarget::Value) => {
            range.kvs = normal_ties(range.kvs, range.more, |a, b| a.value == b.value);
        }
        _ => {}
    }
    range
}

/// Orders runs of equals by key. Of a last run that a limit cut, only the length counts.
fn normal_ties(
    kvs: Vec<mvccpb::KeyValue>,
    cut: bool,
    equal: fn(&mvccpb::KeyValue, &mvccpb::KeyValue) -> bool,
) -> Vec<mvccpb::KeyValue> {
    let mut runs: Vec<Vec<mvccpb::KeyValue>> = Vec::new();
    for kv in kvs {
        match runs.last_mut() {
            Some(run) if equal(&run[0], &kv) => run.push(kv),
            _ => runs.push(vec![kv]),
        }
    }
    for run in &mut runs {
        run.sort_by(|a, b| a.key.cmp(&b.key));
    }
    if cut && let Some(last) = runs.last_mut() {
        last.iter_mut()
            .for_each(|kv| *kv = mvccpb::KeyValue::default());
    }
    runs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, version: i64) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: key.into(),
            version,
            ..Default::default()
        }
    }

    #[test]
    fn known_faults_go_by_version() {
        let (old, new) = (Reference::of("3.4.23"), Reference::of("3.7.1"));
        assert!(!old.progress && !old.future_watch && !old.negative_watch && !old.range_stream);
        assert!(new.progress && new.future_watch && new.negative_watch && new.range_stream);
        assert!(new.sort_checked && Reference::of("3.6.14").sort_checked);
        assert!(!Reference::of("3.6.5").negative_watch && Reference::of("3.5.13").progress);
    }

    #[test]
    fn only_ties_are_excused() {
        let equal = |a: &mvccpb::KeyValue, b: &mvccpb::KeyValue| a.version == b.version;
        let one = normal_ties(vec![kv("b", 1), kv("a", 1), kv("c", 2)], false, equal);
        let other = normal_ties(vec![kv("a", 1), kv("b", 1), kv("c", 2)], false, equal);
        assert_eq!(one, other);
        let wrong = normal_ties(vec![kv("c", 2), kv("a", 1), kv("b", 1)], false, equal);
        assert_ne!(one, wrong);
        let cut = |last| normal_ties(vec![kv("a", 1), kv(last, 2)], true, equal);
        assert_eq!(cut("x"), cut("y"));
    }

    #[test]
    fn a_field_that_differs_is_a_difference() {
        let step = Step::Range(etcd::RangeRequest::default());
        let answer = |count| {
            Answer::Range(etcd::RangeResponse {
                count,
                ..Default::default()
            })
        };
        assert!(agree(&step, &answer(1), &answer(1)));
        assert!(!agree(&step, &answer(1), &answer(2)));
        let refused = |text: &str| Answer::Refused(Code::InvalidArgument, text.to_owned());
        assert!(!agree(
            &step,
            &refused("etcdserver: key is not provided"),
            &refused("no key")
        ));
    }
}
