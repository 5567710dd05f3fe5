//! Contracts: one suite per seam, run on everything that claims to fulfil it. The bucket's is fulfilled by
//! memory, local files and S3-compatible servers.

mod bucket;
mod chunks;
mod documents;
mod places;
mod restoring;
mod snapshots;
