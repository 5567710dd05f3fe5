//! The weather: whole clusters of `rules` Nodes on one thread, from one seed.
//!
//! [`world::World`] holds the Nodes, their disks and clocks, one [`bucket::SimBucket`], and a queue of moments. All
//! that is random comes from [`random::Random`], so the same seed gives the same [`story`], byte for byte. What
//! netsy's driver does around the rules is done here in small: [`deeds`], [`errands`], [`starting`], [`doors`],
//! [`housekeeping`] name the file they follow. [`checks`] are the suspicious judges: they look after every step and
//! know nothing of the Nodes' minds. A [`scene`] is a story that is told on purpose, for one hazard.

pub mod bucket;
pub mod checks;
pub mod clients;
mod clock;
pub mod cluster;
mod deeds;
mod doors;
mod errands;
pub mod explore;
mod faults;
mod housekeeping;
mod machine;
mod moments;
pub mod random;
pub mod scene;
mod starting;
pub mod story;
pub mod weather;
pub mod world;
