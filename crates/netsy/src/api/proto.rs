//! etcd's messages and services, generated from proto/etcd_*.proto: names and numbers are etcd's.
//!
//! Every `bytes` field is a [`bytes::Bytes`] that shares the request's buffer: copy what lives long. Service
//! traits have a default for each method (Unimplemented), and streaming methods answer a
//! `tonic::codegen::BoxStream`.
#![allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic
)]

pub mod authpb {
    tonic::include_proto!("authpb");
}

pub mod mvccpb {
    pub use crate::view::KeyValue;

    tonic::include_proto!("mvccpb");
}

pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
