//! Txn: compares, then at most one mutation; decided against the newest state, in-flight Records included.
//!
//! [`Txn::check`] refuses what the subset leaves out and what etcd's validation refuses, without looking
//! at data. [`Txn::decide`] then judges the compares and the taken branch against [`Newest`]. Ranges and
//! previous values of the answer are not read here: the decision names the Revisions at which to read.

use alloc::format;
use alloc::vec::Vec;
use bytes::Bytes;
use core::cmp::Ordering;

use crate::key::{KeyRange, RangeEnd};
use crate::refusal::Refusal;
use crate::revision::Revision;

/// The most compares, and the most operations in one branch: etcd's default.
pub const MAX_OPS: usize = 128;

/// A client's transaction, translated from the wire and not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold for `success` to be taken; none at all holds.
    pub compares: Vec<Compare>,
    /// The branch taken when every compare holds.
    pub success: Vec<Op>,
    /// The branch taken otherwise.
    pub failure: Vec<Op>,
}

/// One compare: every live key of `range` (or one zero KeyValue if there is none) must satisfy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The keys judged.
    pub range: KeyRange,
    /// What is compared, and with what. An unset or mismatched union of the wire is 0 or empty.
    pub target: Target,
    /// How the key's own value must relate to the target's.
    pub result: CompareResult,
}

/// What of a key is compared, with the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Number of changes since its creation.
    Version(i64),
    /// Revision of its creation.
    Create(i64),
    /// Revision of its last change.
    Mod(i64),
    /// The value's bytes, memcmp order. Always false for a missing key.
    Value(Bytes),
    /// The lease id.
    Lease(i64),
}

/// etcd's four results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareResult {
    /// `=`
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
    /// `!=`
    NotEqual,
}

/// One operation of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read; its options are kept by whoever answers it. Only what the decision needs is here.
    Range {
        /// The keys read.
        range: KeyRange,
        /// Revision asked for; `<= 0` is the newest.
        revision: i64,
        /// Whether the client accepts local, possibly stale data.
        serializable: bool,
    },
    /// A write of one key.
    Put(Put),
    /// A delete.
    Delete {
        /// The keys to delete; the subset takes exactly one key.
        range: KeyRange,
        /// Whether the answer carries the old KeyValue.
        prev_kv: bool,
    },
    /// A nested Txn: never supported.
    Txn,
    /// An operation without content.
    Empty,
}

/// A write of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Lease id, 0 for none. Never validated (leases are synthetic).
    pub lease: i64,
    /// Whether the answer carries the old KeyValue.
    pub prev_kv: bool,
    /// Keep the old value; the key must exist.
    pub ignore_value: bool,
    /// Keep the old lease; the key must exist.
    pub ignore_lease: bool,
}

/// What is known of a live key, its value aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// Revision of its creation.
    pub create_revision: Revision,
    /// Revision of its last change.
    pub mod_revision: Revision,
    /// Number of changes since its creation.
    pub version: u64,
    /// Lease id, 0 for none.
    pub lease: i64,
}

/// The newest state, in-flight Records included. The driver hands it in; no lookup waits.
pub trait Newest {
    /// The newest Revision assigned or imported.
    fn last(&self) -> Revision;
    /// The floor below which nothing can be read.
    fn floor(&self) -> Revision;
    /// The live key, if it is there.
    fn meta(&self, key: &[u8]) -> Option<Meta>;
    /// The value of the live key at its newest Revision.
    ///
    /// # Errors
    /// `Unavailable` when the value is not in memory and cannot be fetched.
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal>;
    /// Visits live keys of `range` in order until `visit` says false.
    fn visit(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], Meta) -> bool);
}

/// What a checked Txn does, once decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether every compare held.
    pub succeeded: bool,
    /// The newest Revision the Txn was judged against: its reads before the mutation are as of here.
    pub base: Revision,
    /// Where in the taken branch the mutation stands, and what it is. `None`: nothing is written (a read,
    /// a failed compare, or a delete of a key that is not there).
    pub change: Option<(usize, Change)>,
}

/// A Txn that is refused for what the data says. What it saw may never commit: nobody is told before it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The newest Revision the Txn was judged against.
    pub base: Revision,
    /// What the client is told.
    pub refusal: Refusal,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        refused.refusal
    }
}

/// The one mutation of a Txn, ready to be assigned a Revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The value to write; `None` deletes.
    pub value: Option<Bytes>,
    /// Lease to store with it.
    pub lease: i64,
    /// The live predecessor.
    pub prev: Option<Meta>,
}

impl Txn {
    /// Refuses what can be refused without looking at data. etcd's own validation comes first, in etcd's
    /// order and words, so that what etcd refuses too is refused the same way; then what the subset leaves
    /// out, in either branch, whichever will be taken.
    ///
    /// # Errors
    /// `TooManyOps`, `EmptyKey`, `ValueProvided`, `LeaseProvided`, `KeyNotFound` (an empty operation),
    /// `DuplicateKey`, then `Unsupported`.
    pub fn check(&self) -> Result<(), Refusal> {
        let widest = self
            .compares
            .len()
            .max(self.success.len())
            .max(self.failure.len());
        if widest > MAX_OPS {
            return Err(Refusal::TooManyOps);
        }
        if self
            .compares
            .iter()
            .any(|compare| compare.range.start.is_empty())
        {
            return Err(Refusal::EmptyKey);
        }
        self.success
            .iter()
            .chain(&self.failure)
            .try_for_each(Op::check)?;
        check_duplicates(&self.success)?;
        check_duplicates(&self.failure)?;
        check_subset("success", &self.success)?;
        check_subset("failure", &self.failure)
    }

    /// Decides a Txn that passed [`Txn::check`] against the newest state. Changes nothing.
    ///
    /// # Errors
    /// What the taken branch is refused for, puts before reads as etcd has it: `KeyNotFound` (ignore_value
    /// or ignore_lease on a missing key), `FutureRevision`, `Compacted`. Revisions of its reads are
    /// judged as of before the mutation. `Unavailable` when a value cannot be fetched. Each with the Revision
    /// that the Txn was judged against.
    pub fn decide(&self, newest: &dyn Newest) -> Result<Decision, Refused> {
        let base = newest.last();
        self.judge(newest, base)
            .map_err(|refusal| Refused { base, refusal })
    }

    fn judge(&self, newest: &dyn Newest, base: Revision) -> Result<Decision, Refusal> {
        let mut succeeded = true;
        for compare in &self.compares {
            if !compare.holds(newest)? {
                succeeded = false;
                break;
            }
        }
        let branch = if succeeded {
            &self.success
        } else {
            &self.failure
        };
        let mut change = None;
        for (index, op) in branch.iter().enumerate() {
            change = change.or(op.change(newest)?.map(|change| (index, change)));
        }
        branch
            .iter()
            .try_for_each(|op| op.check_revision(base, newest.floor()))?;
        Ok(Decision {
            succeeded,
            base,
            change,
        })
    }
}

/// A key is put once, and not put and deleted. A delete up to the end of all keys is not looked at, as
/// etcd does not.
fn check_duplicates(branch: &[Op]) -> Result<(), Refusal> {
    let deletes = |op: &Op, key: &[u8]| match op {
        Op::Delete { range, .. } => range.end != RangeEnd::Unbounded && range.contains(key),
        _ => false,
    };
    for (index, op) in branch.iter().enumerate() {
        let Op::Put(put) = op else { continue };
        let twice = |other: &Op| matches!(other, Op::Put(other) if other.key == put.key);
        if branch[..index].iter().any(twice) || branch.iter().any(|op| deletes(op, &put.key)) {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok(())
}

/// At most one mutation, of one key, and no Txn within.
fn check_subset(name: &str, branch: &[Op]) -> Result<(), Refusal> {
    let mut mutations = 0;
    for op in branch {
        match op {
            Op::Txn => {
                return Err(Refusal::Unsupported(format!(
                    "netsy: a txn within a txn is not supported, the {name} branch holds one: \
                     send it as a txn of its own"
                )));
            }
            Op::Delete { range, .. } if !is_one_key(range) => {
                return Err(Refusal::Unsupported(format!(
                    "netsy: a txn deletes single keys only, the {name} branch deletes a range: \
                     send one txn for each key"
                )));
            }
            Op::Put(_) | Op::Delete { .. } => mutations += 1,
            Op::Range { .. } | Op::Empty => {}
        }
    }
    if mutations > 1 {
        return Err(Refusal::Unsupported(format!(
            "netsy: a txn writes at most one key, the {name} branch holds {mutations} puts and \
             deletes: send one txn for each key"
        )));
    }
    Ok(())
}

/// Whether the range names exactly one key: alone, or with the very next possible key as its end.
fn is_one_key(range: &KeyRange) -> bool {
    match &range.end {
        RangeEnd::Single => true,
        RangeEnd::Before(end) => end.strip_suffix(b"\0") == Some(&range.start[..]),
        RangeEnd::Unbounded => false,
    }
}

impl Compare {
    /// Whether every live key of the range passes; if there is none, whether a zero KeyValue does.
    fn holds(&self, newest: &dyn Newest) -> Result<bool, Refusal> {
        let mut verdict = Ok(None);
        if self.range.is_single() {
            if let Some(meta) = newest.meta(&self.range.start) {
                verdict = self.passes(newest, &self.range.start, meta).map(Some);
            }
        } else {
            newest.visit(&self.range, &mut |key, meta| {
                verdict = self.passes(newest, key, meta).map(Some);
                verdict == Ok(Some(true))
            });
        }
        Ok(verdict?.unwrap_or_else(|| match &self.target {
            Target::Value(_) => false,
            _ => self.result.accepts(self.against(Meta::default())),
        }))
    }

    fn passes(&self, newest: &dyn Newest, key: &[u8], meta: Meta) -> Result<bool, Refusal> {
        let ordering = match &self.target {
            Target::Value(operand) => newest.value(key)?.unwrap_or_default().cmp(operand),
            _ => self.against(meta),
        };
        Ok(self.result.accepts(ordering))
    }

    /// How the number compared relates to its operand. (A value is no number: see `passes`.)
    fn against(&self, meta: Meta) -> Ordering {
        match self.target {
            Target::Version(operand) => (meta.version as i64).cmp(&operand),
            Target::Create(operand) => meta.create_revision.wire().cmp(&operand),
            Target::Mod(operand) => meta.mod_revision.wire().cmp(&operand),
            Target::Lease(operand) => meta.lease.cmp(&operand),
            Target::Value(_) => Ordering::Equal,
        }
    }
}

impl CompareResult {
    fn accepts(self, ordering: Ordering) -> bool {
        match self {
            CompareResult::Equal => ordering.is_eq(),
            CompareResult::Greater => ordering.is_gt(),
            CompareResult::Less => ordering.is_lt(),
            CompareResult::NotEqual => ordering.is_ne(),
        }
    }
}

impl Op {
    fn check(&self) -> Result<(), Refusal> {
        match self {
            Op::Range { range, .. } | Op::Delete { range, .. } if range.start.is_empty() => {
                Err(Refusal::EmptyKey)
            }
            Op::Put(put) if put.key.is_empty() => Err(Refusal::EmptyKey),
            Op::Put(put) if put.ignore_value && !put.value.is_empty() => {
                Err(Refusal::ValueProvided)
            }
            Op::Put(put) if put.ignore_lease && put.lease != 0 => Err(Refusal::LeaseProvided),
            Op::Empty => Err(Refusal::KeyNotFound),
            _ => Ok(()),
        }
    }

    /// What the operation writes, if it does.
    fn change(&self, newest: &dyn Newest) -> Result<Option<Change>, Refusal> {
        match self {
            Op::Put(put) => put.change(newest).map(Some),
            Op::Delete { range, .. } => Ok(newest.meta(&range.start).map(|prev| Change {
                key: range.start.clone(),
                value: None,
                lease: 0,
                prev: Some(prev),
            })),
            _ => Ok(None),
        }
    }

    fn check_revision(&self, base: Revision, floor: Revision) -> Result<(), Refusal> {
        match self {
            Op::Range { revision, .. } if *revision > base.wire() => Err(Refusal::FutureRevision),
            // Inside a Txn a negative Revision is compacted, too; etcd's floor is -1 before any compaction.
            Op::Range { revision, .. }
                if *revision != 0
                    && *revision
                        < if floor == Revision::ZERO {
                            -1
                        } else {
                            floor.wire()
                        } =>
            {
                Err(Refusal::Compacted { floor })
            }
            _ => Ok(()),
        }
    }
}

impl Put {
    fn change(&self, newest: &dyn Newest) -> Result<Change, Refusal> {
        let prev = newest.meta(&self.key);
        if prev.is_none() && (self.ignore_value || self.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let old = if self.ignore_value {
            newest.value(&self.key)?
        } else {
            None
        };
        let lease = prev
            .filter(|_| self.ignore_lease)
            .map_or(self.lease, |prev| prev.lease);
        let value = Some(old.unwrap_or_else(|| self.value.clone()));
        Ok(Change {
            key: self.key.clone(),
            value,
            lease,
            prev,
        })
    }
}
