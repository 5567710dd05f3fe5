//! All integration tests of `sim`, in one binary.

mod explore;
mod scenarios;
mod smoke;
