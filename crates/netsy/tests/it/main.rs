//! Every integration test of the netsy crate, in one binary: linking is what tests wait for.
#![allow(clippy::unwrap_used, missing_docs)]

mod architecture;
mod cli;
mod contract;
mod etcd;
mod fake;
mod operating;
mod peer;
mod seeds;
mod tidy;
mod tls;
mod view;
mod weather;
