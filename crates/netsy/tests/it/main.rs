//! The integration tests of the Netsy server, in one binary: linking once is what keeps them quick.
//! Each module is one subject.

mod tidy;
