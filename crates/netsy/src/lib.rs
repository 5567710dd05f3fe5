//! How it is done: the rooms of the Netsy server, and `run`, which is handed its world.

pub mod datafile;
pub mod standing;
pub mod store;
pub mod view;
