//! The operator's verbs: what is done beside a running Node, from the command line.
//! Each works on files or on the bucket, never on another process.

pub mod certs;
pub mod dev;
