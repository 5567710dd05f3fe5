//! Every integration test of the netsy crate, in one binary: linking is what tests wait for.

mod contract;
