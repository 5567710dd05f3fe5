//! Contracts: one suite per seam, run on everything that claims to fulfil it.

mod bucket;
