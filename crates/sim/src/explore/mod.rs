//! The protocol page as a small model, and a search through every story it allows.
//!
//! It is written from the page and shares no code with `rules`: a second pair of eyes. [`state::World`] is
//! three Nodes, the bucket and the register; [`moves`] is all that can happen; [`claims`] judges after every
//! move; [`search`] looks at every state of a [`plans::Plan`]; [`sabotage`] switches off one rule at a time,
//! and must be found. `cargo run --release -p sim --example explore` runs everything.
//!
//! Where the page alone does not hold, the model follows the mended rule: H9c to H9f and H10c in
//! [`sabotage::Sabotage`]. It knows no compaction, watches, damaged objects or clocks.

pub mod claims;
mod electing;
mod following;
pub mod log;
pub mod moves;
pub mod plans;
mod reigning;
pub mod sabotage;
pub mod search;
pub mod state;
pub mod story;
