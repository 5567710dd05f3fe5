//! Every integration test of the netsy crate, in one binary: linking is what tests wait for.
#![allow(clippy::unwrap_used, missing_docs)]

mod contract;
mod etcd;
mod fake;
//! The integration tests of netsy, in one binary: one link, one place for what they share.

mod cli;
mod operating;
mod tls;
//! The integration tests of the Netsy server, in one binary: linking once is what keeps them quick.
//! Each module is one subject.

mod tidy;
