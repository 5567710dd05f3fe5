//! Every integration test of the netsy crate, in one binary: linking is what tests wait for.

mod contract;
//! Every integration test of the server, in one binary.
#![allow(clippy::unwrap_used, missing_docs)]

mod etcd;
mod fake;
