//! Bad weather: real Nodes in this process (and some in their own), over a bucket that fails as object
//! stores do, under a load of clients that remember every answer they were given.
//!
//! The judge is always the same: a Node that starts on an empty disk afterwards, and the chain of Chunks.

mod closing;
mod cluster;
mod compaction;
mod damage;
mod disk;
mod expiry;
mod force_elect;
mod grouping;
mod health;
mod load;
mod members;
mod node;
mod outages;
mod process;
mod refused;
mod snapshots;
mod status;
mod two;
mod waiting;
mod window;
