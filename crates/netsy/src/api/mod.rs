//! The etcd door: etcd's gRPC API, translated to what the Node understands and back. It decides nothing.

pub mod proto;
