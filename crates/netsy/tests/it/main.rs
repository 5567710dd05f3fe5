//! All integration tests of Netsy, in one binary.

mod view;
