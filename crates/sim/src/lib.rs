//! The weather: whole clusters of `rules` Nodes on one thread, from one seed.
//!
//! [`world::World`] holds the Nodes, their disks and one [`bucket::SimBucket`], and a queue of moments. All
//! that is random comes from [`random::Random`], so the same seed gives the same story, byte for byte.
//! [`checks`] are the suspicious judges: they look after every step and know nothing of the Nodes' minds.

pub mod bucket;
pub mod checks;
mod compactions;
mod deeds;
pub mod explore;
pub mod machine;
pub mod random;
pub mod weather;
mod workload;
pub mod world;
