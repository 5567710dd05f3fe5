//! The operator's verbs: what is done beside a running Node, from the command line.

pub mod certs;
