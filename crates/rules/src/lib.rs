//! What is true in a Netsy cluster, decided without a clock, a disk, a network or a task.
//!
//! The life of one Record, and who tells it: a client's [`txn`] is decided against the newest state; the
//! Active [`primary`] assigns it a [`revision`]; the store appends it and the bucket takes it in a Chunk
//! of the [`chain`]; when both are true it is committed, and the Node releases it to readers and watchers.
//! Who may be Primary is settled by the [`elector`] and the [`register`], two documents changed only by
//! compare-and-swap. With several Nodes the Primary sends its log to its [`followers`], each a [`replica`]
//! that answers with Receipts, and a [`quorum`] of the [`voters`] commits before the bucket does. [`node`]
//! joins these roles into one `step`: an Input is something that has become true, an Effect is something to
//! make true, a [`message`] is what one Node tells another, and nothing else crosses the border of this crate.
#![no_std]

extern crate alloc;

pub mod chain;
pub mod compaction;
mod doubt;
pub mod elector;
mod exchange;
pub mod expiry;
pub mod followers;
pub mod key;
pub mod message;
pub mod node;
pub mod primary;
pub mod quorum;
mod reader;
pub mod record;
pub mod refusal;
pub mod register;
pub mod replica;
pub mod revision;
pub mod settings;
pub mod step;
pub mod txn;
pub mod voters;
pub mod waiting;
