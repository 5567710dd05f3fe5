//! Every integration test of the server, in one binary.
#![allow(clippy::unwrap_used, missing_docs)]

mod etcd;
mod fake;
