//! The peer room: how Nodes speak with one another. Messages of the protocol, and two questions a Replica
//! has for the Primary: decide this Txn, and how far is committed.
//!
//! It carries and decides nothing. A message that cannot be delivered is dropped: the rules survive that,
//! and say again what matters. Who a Node is, it shows with every call; with TLS its certificate must say
//! the same ([`identity`]).

mod call;
mod door;
pub mod identity;
mod line;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use rules::message::{Message, Promise};
use rules::refusal::Refusal;
use rules::register::Identity;
use rules::revision::Revision;

pub use call::Peers;
pub use door::{Answers, serve};
pub use line::{Acceptor, Connector};

use crate::datafile::Encoded;
use crate::standing::{Member, Outcome};

/// The messages and services of proto/peer.proto.
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic
)]
pub(crate) mod proto {
    tonic::include_proto!("netsy.peer.v1");
}

/// The version of the messages this program speaks.
pub const VERSION: &str = "1";
/// The most bytes of Records in one message; a single Record may be larger. Few enough for a slow line to bring one before the
/// Replica gives the stream up.
pub const PIECE_BYTES: usize = 1 << 20;
/// The largest message taken or sent.
const MESSAGE_MAX: usize = 64 << 20;

const HEADER_VERSION: &str = "netsy-peer-version";
const HEADER_CLUSTER: &str = "netsy-cluster";
const HEADER_NODE: &str = "netsy-node";
const HEADER_INCARNATION: &str = "netsy-incarnation";
const HEADER_BOOT: &str = "netsy-boot";
const HEADER_URL: &str = "netsy-peer-url";

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The cluster's name.
    pub cluster_id: String,
    /// The process.
    pub identity: Identity,
    /// Where it is reached, `http://` or `https://`.
    pub url: String,
}

/// What another Node said.
#[derive(Debug)]
pub struct Inbound {
    /// Who.
    pub from: Identity,
    /// Where it is reached.
    pub url: String,
    /// What.
    pub message: Message,
    /// The Records of the message beside their encoding, if it carries any.
    pub records: Vec<Encoded>,
    /// The members, if the Elector tells them.
    pub members: Vec<Member>,
    /// The registration that has to be in the bucket before the promise counts, if it is a waiting voter's.
    pub registration: Option<Bytes>,
}

/// What to tell another Node.
#[derive(Debug)]
pub enum Outbound {
    /// A message, with the members if it is the Elector's State.
    Message(Message, Arc<[Member]>),
    /// The promise of a voter that waits for its log, and its registration as it is to lie in the bucket.
    Vote(Promise, Bytes),
    /// A piece of the log: everything but the Records, and their encodings.
    Records(rules::message::Records, Vec<Bytes>),
}

/// A Txn that was passed on, decided and committed there.
pub type TxnAnswer = Result<Outcome, Refusal>;
/// A Revision such that a read at or above it is linearizable.
pub type IndexAnswer = Result<Revision, Refusal>;
