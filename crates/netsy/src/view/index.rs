//! Index: all keys in order, in [blocks](super::block) that know how many of their keys are live.
//!
//! A scan runs through contiguous memory, and the number of live keys in any range is a sum over blocks
//! plus two partial ones: a list page knows its exact `count` without walking the rest of the range.
//! "Live" is as of the newest version.

use rules::key::{KeyRange, RangeEnd};

use super::block::{Block, FULL};
use super::chain::{Chain, Key, Version};

/// Keys `>= start` and, if there is an end, `< end`.
pub(super) struct Span {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

/// All keys with their chains, in order.
#[derive(Default)]
pub(super) struct Index {
    blocks: Vec<Block>,
}

/// Where a key is, or would be inserted.
#[derive(Clone, Copy)]
struct Place {
    block: usize,
    slot: usize,
}

impl Span {
    pub(super) fn everything() -> Span {
        Span {
            start: Vec::new(),
            end: None,
        }
    }

    pub(super) fn of(range: &KeyRange) -> Span {
        let start = range.start.to_vec();
        let end = match &range.end {
            RangeEnd::Single => Some(successor(&start)),
            RangeEnd::Before(end) => Some(end.to_vec().max(start.clone())),
            RangeEnd::Unbounded => None,
        };
        Span { start, end }
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// Leaves only the keys after `key`, which lies in the span.
    pub(super) fn skip_past(&mut self, key: &[u8]) {
        self.start = successor(key);
    }
}

/// The very next possible key.
fn successor(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}

impl Index {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Chain> {
        let Place { block, slot } = self.place(key);
        self.blocks
            .get(block)?
            .chains()
            .get(slot)
            .filter(|chain| *chain.key == *key)
    }

    /// Adds a version to its key. Returns the shared key, and the version before.
    pub(super) fn push(&mut self, key: &[u8], version: Version) -> (Key, Option<Version>) {
        let place = self.place(key);
        let home = self.blocks.get_mut(place.block);
        match home.filter(|home| {
            home.chains()
                .get(place.slot)
                .is_some_and(|c| *c.key == *key)
        }) {
            Some(home) => {
                let known = &home.chains()[place.slot];
                let (key, before) = (known.key.clone(), known.newest().clone());
                home.edit(place.slot, |chain| chain.push(version));
                (key, Some(before))
            }
            None => {
                let key = Key::from(key);
                self.insert(place, Chain::new(key.clone(), version));
                (key, None)
            }
        }
    }

    fn insert(&mut self, Place { block, slot }: Place, chain: Chain) {
        let Some(home) = self.blocks.get_mut(block) else {
            return self.blocks.push(Block::new(vec![chain]));
        };
        if home.chains().len() < FULL {
            return home.insert(slot, chain);
        }
        // Keys that come in order leave full blocks behind, others leave halves.
        if slot == FULL {
            return self.blocks.insert(block + 1, Block::new(vec![chain]));
        }
        let half = FULL / 2;
        let mut upper = home.split(half);
        if slot > half {
            upper.insert(slot - half, chain);
        } else {
            home.insert(slot, chain);
        }
        self.blocks.insert(block + 1, upper);
    }

    /// Changes the chain of `key`, if it is there; it is removed if `change` says false.
    pub(super) fn edit(&mut self, key: &[u8], change: impl FnOnce(&mut Chain) -> bool) {
        let Place { block, slot } = self.place(key);
        let Some(home) = self.blocks.get_mut(block) else {
            return;
        };
        if home
            .chains()
            .get(slot)
            .is_some_and(|chain| *chain.key == *key)
        {
            home.edit(slot, change);
            self.tidy(block);
        }
    }

    /// No block stays empty, nor two neighbours that fit into half a block.
    fn tidy(&mut self, block: usize) {
        if self.blocks[block].chains().is_empty() {
            self.blocks.remove(block);
        } else if let [home, next, ..] = &mut self.blocks[block..]
            && home.chains().len() + next.chains().len() <= FULL / 2
        {
            home.absorb(next);
            self.blocks.remove(block + 1);
        }
    }

    /// The chains of the keys in `span`, in order.
    pub(super) fn scan<'a>(&'a self, span: &Span) -> impl Iterator<Item = &'a Chain> + use<'a> {
        let (from, to) = self.ends(span);
        let blocks = self
            .blocks
            .iter()
            .enumerate()
            .take(to.block + 1)
            .skip(from.block);
        blocks.flat_map(move |(block, home)| {
            let start = if block == from.block { from.slot } else { 0 };
            let end = if block == to.block {
                to.slot
            } else {
                home.chains().len()
            };
            &home.chains()[start..end]
        })
    }

    /// How many keys in `span` are live in their newest version.
    pub(super) fn count(&self, span: &Span) -> usize {
        let (from, to) = self.ends(span);
        self.live_before(to) - self.live_before(from)
    }

    pub(super) fn keys(&self) -> usize {
        self.blocks.iter().map(|block| block.chains().len()).sum()
    }

    fn live_before(&self, place: Place) -> usize {
        let whole: usize = self.blocks[..place.block].iter().map(Block::live).sum();
        whole
            + self
                .blocks
                .get(place.block)
                .map_or(0, |home| home.live_before(place.slot))
    }

    /// Where the span begins, and where it ends.
    fn ends(&self, span: &Span) -> (Place, Place) {
        let after_all = || {
            let block = self.blocks.len().saturating_sub(1);
            Place {
                block,
                slot: self.blocks.last().map_or(0, |home| home.chains().len()),
            }
        };
        let to = span
            .end
            .as_ref()
            .map_or_else(after_all, |end| self.place(end));
        (self.place(&span.start), to)
    }

    /// The first place whose key is not below `key`, at the end of a block if that is where it would go.
    fn place(&self, key: &[u8]) -> Place {
        let block = self
            .blocks
            .partition_point(|block| *block.low <= *key)
            .saturating_sub(1);
        let slot = self.blocks.get(block).map_or(0, |home| home.search(key));
        Place { block, slot }
    }
}

#[cfg(test)]
impl Index {
    /// Blocks are sound, and in order.
    pub(super) fn assert_sound(&self) {
        self.blocks.iter().for_each(Block::assert_sound);
        for pair in self.blocks.windows(2) {
            let before = &pair[0].chains()[pair[0].chains().len() - 1].key;
            assert!(*before < pair[1].low);
        }
    }
}
