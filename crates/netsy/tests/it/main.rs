//! The integration tests of netsy, in one binary: one link, one place for what they share.

mod cli;
mod operating;
mod tls;
