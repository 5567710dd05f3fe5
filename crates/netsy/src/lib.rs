//! How it is done: the rooms of the Netsy server, and `run`, which is handed its world.

pub mod admin;
pub mod api;
pub mod bucket;
pub mod config;
pub mod datafile;
pub mod driver;
pub mod exit;
#[doc(hidden)]
pub mod fuzzing;
pub mod greeting;
pub mod http;
pub mod log;
pub mod peer;
pub mod report;
mod run;
pub mod standing;
mod start;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod view;
mod waiting;

pub use run::{World, certificate_mistakes, run, run_in};
pub use start::bucket_of;
