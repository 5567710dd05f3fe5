//! Messages: what Nodes say to one another. Each may be lost, doubled, late or overtaken; every rule
//! survives that, so a transport need only try.
//!
//! Every message names the epoch it belongs to, and whoever has promised a higher one refuses it by that
//! number. Receipts and Commits belong to one Follow stream of one epoch: no other message raises committed.

use alloc::vec::Vec;

use crate::record::Record;
use crate::register::Register;
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;

/// What one Node tells another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A Node tells the Elector how it is.
    Heartbeat(Heartbeat),
    /// The Elector answers a Heartbeat, or pushes what changed.
    State(State),
    /// The lock or the register changed: look at once. Only a hint.
    Look,
    /// The Elector asks a voter for its promise.
    Prepare(Epoch),
    /// A voter's promise, durable: nothing of a lower epoch is appended or receipted from here on.
    Promise(Promise),
    /// The sender has promised this epoch, and refuses what is lower.
    Refused(Epoch),
    /// A Replica asks the Active Primary for its log.
    Hello(Hello),
    /// The Primary answers a Hello: both logs agree up to here, and not beyond.
    Welcome {
        /// The Primary's epoch.
        epoch: Epoch,
        /// The Replica's number of this stream.
        stream: u64,
        /// The highest Revision at which both epoch tables name the same epoch.
        agreed: Revision,
    },
    /// Records of the Primary's log, and how far it is committed.
    Records(Records),
    /// Everything up to here is on the Replica's disk, fsync'd.
    Receipt {
        /// The stream's epoch.
        epoch: Epoch,
        /// The stream's number.
        stream: u64,
        /// The newest Revision on disk.
        revision: Revision,
        /// The epoch of that Record.
        record_epoch: Epoch,
    },
}

/// How a Node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// When it was sent, on the sender's clock: comes back as `echo`.
    pub sent: Moment,
    /// The highest epoch seen or promised.
    pub promised: Epoch,
    /// The newest Record's epoch and Revision.
    pub newest: (Epoch, Revision),
    /// What it has committed.
    pub committed: Revision,
    /// Whether it could be Primary now.
    pub eligible: bool,
    /// How long the process has been running, milliseconds.
    pub up: u64,
    /// Its tenure's epoch, and whether that is Active.
    pub tenure: Option<(Epoch, bool)>,
    /// The epoch of the Primary it follows and has heard lately.
    pub hears: Option<Epoch>,
    /// The newest register it knows, by `seq`.
    pub register_seq: u64,
}

/// What the Elector says of the cluster. Level-triggered: repeated with every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The `sent` of the Heartbeat this answers; 0 for a push.
    pub echo: Moment,
    /// Whether the Primary in the register may answer linearizable reads for the register's lease, counted
    /// from `echo`.
    pub grant: bool,
    /// The register as the Elector knows it.
    pub register: Option<Register>,
}

/// A voter's answer to Prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The epoch promised.
    pub epoch: Epoch,
    /// The newest Record's epoch and Revision, on disk.
    pub newest: (Epoch, Revision),
    /// Whether it could be Primary now.
    pub eligible: bool,
    /// How long the process has been running, milliseconds.
    pub up: u64,
}

/// A Replica's log, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The epoch of the Primary it wants to follow.
    pub epoch: Epoch,
    /// The Replica's number of this stream; it rises with each Hello of one process.
    pub stream: u64,
    /// How often the Replica's disk was started: which of two Hellos is the older one.
    pub boot_seq: u64,
    /// Its epoch table.
    pub epochs: Vec<(Epoch, Revision)>,
    /// Its newest Record.
    pub last: Revision,
}

/// A piece of the Primary's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The Primary's epoch.
    pub epoch: Epoch,
    /// The Replica's number of this stream.
    pub stream: u64,
    /// The Revision before the first Record.
    pub after: Revision,
    /// Contiguous; may be none.
    pub records: Vec<Record>,
    /// What the Primary has committed.
    pub committed: Revision,
    /// How far the bucket holds the chain.
    pub durable: Revision,
}
