//! What crosses the border: an Input has become true, an Effect is to be made true. Nothing else crosses.

use alloc::string::String;
use alloc::vec::Vec;

use crate::chain::Found;
use crate::message::{Message, Records};
use crate::record::Record;
use crate::register::{Held, Identity, Lock, Register, Swapped, Version};
use crate::revision::{Epoch, Revision};
use crate::settings::Moment;

/// Something that has become true.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// What the lock is; `Err` when it could not be read.
    LockRead(Result<Option<Held<Lock>>, ()>),
    /// One attempt to swap the lock came back.
    LockSwapped(Swapped<Lock>),
    /// What the register is; `Err` when it could not be read.
    RegisterRead(Result<Option<Held<Register>>, ()>),
    /// One attempt to swap the register came back.
    RegisterSwapped(Swapped<Register>),
    /// The own disk holds the promise of this epoch.
    Promised(Epoch),
    /// What lies in a slot that was read; `None` is nothing, `Err` is no answer.
    SlotRead(Revision, Result<Option<Found>, ()>),
    /// The tail slot is empty because its Chunk was cleaned up: the chain goes on beyond it.
    FellBehind,
    /// Our Chunk, reaching to the second Revision, is in the slot named by the first.
    Uploaded(Revision, Revision),
    /// Another Chunk is in the slot we wrote to.
    SlotTaken(Revision),
    /// The own disk holds every Record up to here.
    Appended(Revision),
    /// The own disk refused; what it holds is not known.
    DiskLost(String),
    /// The own disk works again: it holds every Record up to `last`, and knows the chain up to `durable`.
    DiskBack {
        /// The newest Record on disk.
        last: Revision,
        /// The end of a Chunk, at most `last`.
        durable: Revision,
        /// The epoch table on disk: what was asked of it last may have come to pass, or not.
        epochs: Vec<(Epoch, Revision)>,
    },
    /// An object of the chain is damaged. Names it.
    ChainDamaged(String),
    /// Another Node (who is known to be who it says) told us this.
    Received(Identity, Message),
    /// What a Replica was to be sent is too much for once: it is sent up to here, and the rest is not.
    Sent {
        /// The Replica's name.
        to: String,
        /// Its stream.
        stream: u64,
        /// The newest Record that is sent; at least one was.
        upto: Revision,
    },
    /// The own disk is cut as the last Truncate asked.
    Truncated(Revision),
    /// Close: make everything durable, then leave.
    Close,
}

impl Input {
    /// Whether it only tells of Records on their way: what comes by the thousand.
    #[must_use]
    pub fn moves_data(&self) -> bool {
        match self {
            Input::Appended(_) | Input::Uploaded(..) | Input::Sent { .. } => true,
            Input::Received(_, message) => {
                matches!(message, Message::Records(_) | Message::Receipt { .. })
            }
            _ => false,
        }
    }

    /// Whether the bucket answered what it was asked, if that is what came back.
    pub(crate) fn is_answered(&self) -> Option<bool> {
        match self {
            Input::LockRead(read) => Some(read.is_ok()),
            Input::RegisterRead(read) => Some(read.is_ok()),
            Input::LockSwapped(swapped) => Some(*swapped != Swapped::Unknown),
            Input::RegisterSwapped(swapped) => Some(*swapped != Swapped::Unknown),
            Input::SlotRead(_, Ok(_)) | Input::Uploaded(..) | Input::SlotTaken(_) => Some(true),
            _ => None,
        }
    }
}

/// Something to make true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read the lock; answer with `LockRead`.
    ReadLock,
    /// Swap the lock once; answer with `LockSwapped`.
    SwapLock {
        /// The version to replace; `None` creates.
        expected: Option<Version>,
        /// The new content.
        lock: Lock,
    },
    /// Read the register; answer with `RegisterRead`.
    ReadRegister,
    /// Swap the register once; answer with `RegisterSwapped`.
    SwapRegister {
        /// The version to replace; `None` creates.
        expected: Option<Version>,
        /// The new content.
        register: Register,
    },
    /// Make the promise durable; answer with `Promised`.
    Promise(Epoch),
    /// Read the slot; answer with `SlotRead`.
    ReadSlot {
        /// The tail slot.
        slot: Revision,
        /// Before answering that nothing is there, make sure by a list that the chain does not go on
        /// beyond the slot: it may have been cleaned up while this Node slept. If it does: `FellBehind`.
        confirm: bool,
    },
    /// Create the slot named by `first` with every Record from there on, at most to `last`, and
    /// `opening` after them. Settle it, sending the same bytes; answer with `Uploaded` or `SlotTaken`.
    Upload {
        /// The tail slot.
        first: Revision,
        /// The newest Record of the log.
        last: Revision,
        /// The epoch Record of a fence: then everything up to `last` must be in the Chunk.
        opening: Option<Record>,
    },
    /// Give up the upload that is on its way; it may still land.
    AbandonUpload,
    /// Append these to the own disk and show them to compares; answer with `Appended`.
    Append(Vec<Record>),
    /// Remove everything above from disk and view; answer with `Truncated`.
    Truncate(Revision),
    /// The bucket holds the chain up to here.
    Durable(Revision),
    /// Clients may be told of everything up to here.
    Release(Revision),
    /// Nothing below can be read from now on, and what is superseded there may be deleted. For good.
    Floor(Revision),
    /// Tell another Node, or this one itself, by its name.
    Send(String, Message),
    /// Tell every Node that is known.
    Broadcast(Message),
    /// Send a Replica these Records of the own log, `(after, upto]`; none, to say what is committed. Answer with
    /// `Sent` before anything else is told, if that is too much for once.
    Replicate {
        /// The Replica's name.
        to: String,
        /// Everything but the Records.
        head: Records,
        /// The newest Record to send.
        upto: Revision,
    },
    /// This Node's disk does not hold what it receipted. It counts no more. Says who and why.
    Distrust(String, String),
    /// Linearizable reads may be answered here until then; 0 ends it.
    Lease(Moment),
    /// Everything that waits for a commit has an unknown outcome.
    FailPending,
    /// Something must not be served any more. Says why.
    Corrupt(String),
    /// This process must not run. Says why.
    Refuse(String),
    /// Everything is durable and given up: leave.
    Closed,
}
