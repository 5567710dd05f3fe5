//! All integration tests of `sim`, in one binary.

mod explore;
mod hazards;
mod scenarios;
mod smoke;
