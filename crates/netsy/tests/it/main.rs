//! Every integration test of the netsy crate, in one binary: linking is what tests wait for.
#![allow(clippy::unwrap_used, missing_docs)]

mod contract;
mod etcd;
mod fake;
