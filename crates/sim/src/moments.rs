//! The moments at which a scene may hold something back: by the Node, and by what is about to happen there.
//!
//! Each of these is a question to be handed to `Scene::hold`, which asks it before anything happens.

use rules::message::Message;
use rules::register::Phase;

use crate::world::Happening;

/// Whether a Node's Chunk is about to land.
pub fn chunk_of(node: usize) -> impl Fn(usize, &Happening) -> bool {
    move |index, what| index == node && matches!(what, Happening::ChunkLands(..))
}

/// Whether a Node's swap of the register, to this phase, is about to land.
pub fn register_of(node: usize, phase: Phase) -> impl Fn(usize, &Happening) -> bool {
    move |index, what| match what {
        Happening::RegisterLands(_, register) => index == node && register.phase == phase,
        _ => false,
    }
}

/// Whether anybody but this Node is about to take or keep the Elector lock.
pub fn lock_of_others(node: usize) -> impl Fn(usize, &Happening) -> bool {
    move |index, what| {
        index != node && matches!(what, Happening::LockLands(_, lock) if lock.elector.is_some())
    }
}

/// Whether a Node is about to read the register.
pub fn register_reads_of(node: usize) -> impl Fn(usize, &Happening) -> bool {
    move |index, what| index == node && matches!(what, Happening::ReadsRegister)
}

/// Whether a Node is about to read the chain.
pub fn chain_reads_of(node: usize) -> impl Fn(usize, &Happening) -> bool {
    move |index, what| index == node && matches!(what, Happening::ReadsSlot(..))
}

/// Whether a Node's disk is about to do something.
pub fn disk_of(node: usize) -> impl Fn(usize, &Happening) -> bool {
    move |index, what| index == node && matches!(what, Happening::DiskDone)
}

/// Whether such a message is about to arrive at a Node.
pub fn message_to(
    node: usize,
    is_such: impl Fn(&Message) -> bool,
) -> impl Fn(usize, &Happening) -> bool {
    move |index, what| match what {
        Happening::Arrives(_, message) => index == node && is_such(message),
        _ => false,
    }
}
