//! The search: breadth first through every state a plan allows, so the first breach has a shortest story.
//!
//! Of a state that was seen only a 64-bit fingerprint is kept, and the move by which it was first reached.
//! With ten million states the chance that two share a fingerprint is about one in four hundred thousand.
//! The Nodes of a state are sorted first; the story is told afterwards by doing the moves again.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use super::claims::Breach;
use super::moves::{Model, Move};
use super::state::{NODES, World};

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// States told apart.
    pub states: usize,
    /// Moves of the longest shortest way.
    pub depth: usize,
    /// The first breach and the moves that lead to it.
    pub breach: Option<(Breach, Vec<Move>)>,
    /// Everything the plan allows was seen.
    pub exhausted: bool,
}

/// Folds what it is fed into 64 bits, quickly.
#[derive(Default)]
struct Fingerprint(u64);

impl Fingerprint {
    fn fold(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = (mixed ^ (mixed >> 29))
            .wrapping_mul(0xBF58_476D_1CE4_E5B9)
            .rotate_left(31);
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.fold(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.fold(u64::from(byte) + 0x100);
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }

    fn write_isize(&mut self, word: isize) {
        self.fold(word as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.fold(word as u64);
    }

    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 32)).max(1)
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut print = Fingerprint::default();
    world.hash(&mut print);
    print.finish()
}

/// A set of fingerprints: open addressing, half full at most; 0 is an empty place.
struct Seen {
    places: Vec<u64>,
    count: usize,
}

impl Seen {
    fn new() -> Seen {
        Seen {
            places: vec![0; 1 << 12],
            count: 0,
        }
    }

    /// Whether `print` is new.
    fn add(&mut self, print: u64) -> bool {
        if self.count * 2 >= self.places.len() {
            let larger = vec![0; self.places.len() * 2];
            for old in std::mem::replace(&mut self.places, larger) {
                if old != 0 {
                    let place = self.place(old);
                    self.places[place] = old;
                }
            }
        }
        let place = self.place(print);
        let new = self.places[place] == 0;
        self.places[place] = print;
        self.count += usize::from(new);
        new
    }

    fn place(&self, print: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut place = print as usize & mask;
        while self.places[place] != 0 && self.places[place] != print {
            place = (place + 1) & mask;
        }
        place
    }
}

impl Model {
    /// The first state of the plan, its Nodes sorted, and the order they were sorted in.
    #[must_use]
    pub fn begin(&self) -> (World, [usize; NODES]) {
        let mut world = self.plan.begin();
        let order = world.sort_nodes(self.plan.nodes);
        (world, order)
    }

    /// Looks at every state within `limit` states, until a claim breaks.
    #[must_use]
    pub fn search(&self, limit: usize) -> Found {
        let (start, _) = self.begin();
        let mut seen = Seen::new();
        seen.add(fingerprint(&start));
        let mut ways: Vec<(u32, Move)> = vec![(0, Move::Claim)];
        let mut queue = VecDeque::from([(0_u32, 0_u16, start)]);
        let mut moves = Vec::new();
        let mut found = Found {
            states: 1,
            depth: 0,
            breach: None,
            exhausted: true,
        };
        while let Some((id, depth, world)) = queue.pop_front() {
            found.depth = depth as usize;
            self.moves(&world, &mut moves);
            for step in &moves {
                match self.apply(&world, *step) {
                    Err(breach) => {
                        let mut way = Model::way(&ways, id);
                        way.push(*step);
                        found.breach = Some((breach, way));
                        found.exhausted = false;
                        found.states = seen.count;
                        return found;
                    }
                    Ok(mut next) => {
                        next.sort_nodes(self.plan.nodes);
                        if seen.add(fingerprint(&next)) {
                            queue.push_back((ways.len() as u32, depth + 1, next));
                            ways.push((id, *step));
                        }
                    }
                }
            }
            if seen.count > limit {
                found.exhausted = false;
                break;
            }
        }
        found.states = seen.count;
        found
    }

    fn way(ways: &[(u32, Move)], mut id: u32) -> Vec<Move> {
        let mut way = Vec::new();
        while id > 0 {
            let (before, step) = ways[id as usize];
            way.push(step);
            id = before;
        }
        way.reverse();
        way
    }
}
