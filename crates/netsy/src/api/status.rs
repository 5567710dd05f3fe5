//! One table: how a [`Refusal`] looks on the wire. The text is the refusal's own; this file adds the code.
//!
//! etcd's clients match on the text, and retry reads (never Txns) that answer `Unavailable`.

use rules::refusal::Refusal;
use tonic::{Code, Status};

/// The gRPC status of `refusal`.
#[must_use]
pub fn of(refusal: &Refusal) -> Status {
    Status::new(code(refusal), refusal.to_string())
}

/// The gRPC code of `refusal`.
#[must_use]
pub fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::EmptyKey
        | Refusal::TooManyOps
        | Refusal::DuplicateKey
        | Refusal::KeyNotFound
        | Refusal::ValueProvided
        | Refusal::LeaseProvided
        | Refusal::InvalidSortOption
        | Refusal::RequestTooLarge => Code::InvalidArgument,
        Refusal::Compacted { .. } | Refusal::FutureRevision | Refusal::LeaseTtlTooLarge => {
            Code::OutOfRange
        }
        Refusal::NoLeader
        | Refusal::LeaderChanged
        | Refusal::TimedOut
        | Refusal::Unavailable(_) => Code::Unavailable,
        Refusal::TooManyRequests | Refusal::NoSpace => Code::ResourceExhausted,
        Refusal::Unsupported(_) => Code::Unimplemented,
    }
}

/// Shorthand for `map_err`.
pub(super) fn from(refusal: Refusal) -> Status {
    of(&refusal)
}

#[cfg(test)]
mod tests {
    use rules::revision::Revision;

    use super::*;

    #[test]
    fn clients_see_the_codes_and_texts_they_match_on() {
        for (refusal, code, text) in [
            (
                Refusal::EmptyKey,
                Code::InvalidArgument,
                "etcdserver: key is not provided",
            ),
            (
                Refusal::Compacted { floor: Revision(7) },
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                Refusal::FutureRevision,
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (
                Refusal::RequestTooLarge,
                Code::InvalidArgument,
                "etcdserver: request is too large",
            ),
            (
                Refusal::NoLeader,
                Code::Unavailable,
                "etcdserver: no leader",
            ),
            (
                Refusal::LeaderChanged,
                Code::Unavailable,
                "etcdserver: leader changed",
            ),
            (
                Refusal::TimedOut,
                Code::Unavailable,
                "etcdserver: request timed out",
            ),
            (
                Refusal::NoSpace,
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            (
                Refusal::TooManyRequests,
                Code::ResourceExhausted,
                "etcdserver: too many requests",
            ),
            (
                Refusal::LeaseTtlTooLarge,
                Code::OutOfRange,
                "etcdserver: too large lease TTL",
            ),
        ] {
            let status = of(&refusal);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
