//! The operator's verbs: what is done beside running Nodes, from the command line.
//! Each works on files, on the bucket, or asks Nodes as a client does; none reaches into another process.

pub mod certs;
pub mod dev;
pub mod force_elect;
pub mod status;
