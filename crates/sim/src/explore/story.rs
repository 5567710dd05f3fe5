//! A breach as a story: the moves that lead to it, one sentence each, in names that stay.
//!
//! The search renumbers Nodes as it goes; here the moves are done again and every number is given back the
//! name it began with. Node A is the Primary of epoch 1 where a plan begins with one.

use std::fmt::Write;

use super::claims::Breach;
use super::moves::{Model, Move};
use super::state::{Answer, NODES, World};

/// Tells the moves `way`, which end in `breach`.
#[must_use]
pub fn tell(model: &Model, way: &[Move], breach: Breach) -> String {
    let (mut world, mut names) = model.begin();
    let mut story = String::new();
    for (number, step) in way.iter().enumerate() {
        let line = sentence(&world, *step, names);
        let _ = writeln!(story, "{:>4}. {line}", number + 1);
        match model.apply(&world, *step) {
            Ok(mut next) => {
                if next.acked > world.acked {
                    let shown = next.truth.upto(next.acked);
                    let _ = writeln!(story, "      acknowledged so far: {shown}");
                }
                let order = next.sort_nodes(model.plan.nodes);
                names = order.map(|old| names[old]);
                world = next;
            }
            Err(_) => break,
        }
    }
    let _ = writeln!(story, "      => {breach}");
    let chain = world.chain;
    let _ = writeln!(
        story,
        "      before the last step: chain {chain}, acknowledged {}",
        world.truth
    );
    for (at, node) in world.nodes[..model.plan.nodes].iter().enumerate() {
        let name = letter(names[at]);
        let (log, tenure, epoch) = (node.log, node.tenure, node.epoch);
        let _ = writeln!(
            story,
            "      {name}: disk {log}, committed {}, durable {}, promised {}, tenure {tenure:?} {epoch}",
            node.committed, node.durable, node.promised
        );
    }
    story
}

fn letter(at: usize) -> char {
    (b'A' + at as u8) as char
}

/// Bits of voters as names; a mark tells a later disk.
fn voters(mask: u8, names: [usize; NODES]) -> String {
    let one = |bit: usize| {
        let mark = if bit >= NODES { "'" } else { "" };
        format!("{}{mark}", letter(names[bit % NODES]))
    };
    let set: Vec<String> = (0..2 * NODES)
        .filter(|bit| mask >> bit & 1 == 1)
        .map(one)
        .collect();
    format!("{{{}}}", set.join(" "))
}

fn sentence(world: &World, step: Move, names: [usize; NODES]) -> String {
    let name = |at: u8| letter(names[at as usize]);
    let node = |at: u8| &world.nodes[at as usize];
    let later = |ghost: bool, at: u8| {
        if ghost {
            let upload = world.upload(at as usize);
            format!(
                "; its create of slot {} {} is still on its way",
                upload.slot, upload.records
            )
        } else {
            String::new()
        }
    };
    match step {
        Move::Claim => format!(
            "an Elector claims the next epoch after {}",
            world.register.epoch
        ),
        Move::Prepare(at, ghost) => {
            let told = Answer::Fresh(node(at).log.last_epoch(), node(at).log.len());
            let told = told.place().unwrap_or_default();
            format!(
                "{} promises epoch {} and answers (epoch {}, Revision {}){}",
                name(at),
                world.register.epoch,
                told.0,
                told.1,
                later(ghost, at)
            )
        }
        Move::Name(at) => format!(
            "{} is named Primary of epoch {}",
            name(at),
            world.register.epoch
        ),
        Move::Start(at) => format!("{} finds itself named and promises", name(at)),
        Move::Read(at) => format!("{} reads the chain {} to its end", name(at), world.chain),
        Move::Depose(at, ghost) => {
            format!("{} hears of a higher epoch{}", name(at), later(ghost, at))
        }
        Move::Restart(at, ghost) => {
            format!("{} crashes and starts again{}", name(at), later(ghost, at))
        }
        Move::Lose(at, ghost) => format!("{} loses its disk{}", name(at), later(ghost, at)),
        Move::Copy(at) => format!("{}'s disk {} is copied", name(at), node(at).log),
        Move::Rollback(at, ghost) => {
            format!(
                "{} starts on the old copy {}{}",
                name(at),
                world.image.log,
                later(ghost, at)
            )
        }
        _ => daily(world, step, names),
    }
}

/// Sentences of what Primaries and Replicas do all day.
fn daily(world: &World, step: Move, names: [usize; NODES]) -> String {
    let name = |at: u8| letter(names[at as usize]);
    let node = |at: u8| &world.nodes[at as usize];
    match step {
        Move::Land(at) => {
            let upload = world.upload(at as usize);
            format!(
                "{} creates slot {} {}",
                name(at),
                upload.slot,
                upload.records
            )
        }
        Move::Taken(at) => format!("{} finds slot {} taken", name(at), node(at).durable + 1),
        Move::Activate(at) => format!("{} is Active in epoch {}", name(at), node(at).epoch),
        Move::Assign(at) => format!("{} assigns write {}", name(at), world.writes + 1),
        Move::Keep(at) => format!("{}'s own disk holds all it assigned", name(at)),
        Move::Upload(at) => format!(
            "{} sends all it assigned to slot {}",
            name(at),
            node(at).durable + 1
        ),
        Move::Resend(at) => format!("{} sends the slot again with more Records", name(at)),
        Move::Follow(at, of) => format!("{} ({}) follows {}", name(at), node(at).log, name(of)),
        Move::Cut(at) => format!("{} cuts what its stream asked for", name(at)),
        Move::Append(at) => {
            format!(
                "{} appends Revision {} and sends its Receipt",
                name(at),
                node(at).log.len() + 1
            )
        }
        _ => rarer(world, step, names),
    }
}

/// Sentences of the moves that only some plans allow.
fn rarer(world: &World, step: Move, names: [usize; NODES]) -> String {
    let name = |at: u8| letter(names[at as usize]);
    match step {
        Move::Heartbeat(at, of) => {
            format!(
                "{} takes committed from a heartbeat of {}",
                name(at),
                name(of)
            )
        }
        Move::CatchUp(at) => format!("{} reads the chain without a tenure", name(at)),
        Move::Swap(at, wanted) => {
            format!(
                "{} sends a swap of the voters to {}",
                name(at),
                voters(wanted, names)
            )
        }
        Move::GiveUp(at) => format!(
            "{} reads the old register and takes its swap for lost",
            name(at)
        ),
        Move::LandSwap => {
            let wanted = world.register.pending.unwrap_or(0);
            format!("the swap of the voters to {} lands", voters(wanted, names))
        }
        Move::LandGhost => {
            format!(
                "the late create of slot {} {} lands",
                world.ghost.slot, world.ghost.records
            )
        }
        Move::Close(at) => format!("{} closes in good order", name(at)),
        Move::Grant(at) => format!("{} is granted a read lease", name(at)),
        Move::Expire(at) => format!("{}'s read lease runs out", name(at)),
        Move::Compare(at) => format!("{} answers a failed compare at once", name(at)),
        Move::Snapshot(at) => format!("{} makes a Snapshot", name(at)),
        Move::Install(at) => format!("{} installs the Snapshot {}", name(at), world.snapshot),
        Move::Condemn(at) => format!(
            "{} lists the Chunks for clean-up and looks at the register",
            name(at)
        ),
        Move::Delete => "the listed Chunks are deleted".to_owned(),
        other => format!("{other:?}"),
    }
}
