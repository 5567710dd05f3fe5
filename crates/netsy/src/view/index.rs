//! Index: all keys in order, in blocks that know how many of their keys are live.
//!
//! A block is a sorted run of a few hundred chains, so a scan runs through contiguous memory, and the
//! number of live keys in any range is a sum over blocks plus two partial ones: a list page knows its
//! exact `count` without walking the rest of the range. "Live" is as of the newest version.

use rules::key::{KeyRange, RangeEnd};

use super::chain::{Chain, Key};

/// Chains in a full block. Inserting moves half a block, counting looks at every block.
const FULL: usize = if cfg!(test) { 4 } else { 256 };

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

/// A run of chains. Never empty.
struct Block {
    /// Above every key of the block before, and not above any key of this one.
    low: Key,
    /// How many of its keys are live.
    live: usize,
    chains: Vec<Chain>,
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
            .chains
            .get(slot)
            .filter(|chain| *chain.key == *key)
    }

    /// Adds a key that is not there yet.
    pub(super) fn insert(&mut self, chain: Chain) {
        let Place { block, slot } = self.place(&chain.key);
        let Some(home) = self.blocks.get_mut(block) else {
            return self.blocks.push(Block::new(vec![chain]));
        };
        if home.chains.len() < FULL {
            home.live += usize::from(chain.is_live());
            return home.chains.insert(slot, chain);
        }
        // Keys that come in order leave full blocks behind, others leave halves.
        let at = if slot == FULL { slot } else { FULL / 2 };
        let mut upper = home.chains.split_off(at);
        if slot >= at {
            upper.insert(slot - at, chain);
        } else {
            home.chains.insert(slot, chain);
        }
        home.recount();
        self.blocks.insert(block + 1, Block::new(upper));
    }

    /// Changes the chain of `key`, if it is there; it is removed if `change` says false.
    pub(super) fn edit(&mut self, key: &[u8], change: impl FnOnce(&mut Chain) -> bool) {
        let Place { block, slot } = self.place(key);
        let Some(home) = self.blocks.get_mut(block) else {
            return;
        };
        let Some(chain) = home.chains.get_mut(slot).filter(|chain| *chain.key == *key) else {
            return;
        };
        home.live -= usize::from(chain.is_live());
        if change(chain) {
            home.live += usize::from(chain.is_live());
        } else {
            home.chains.remove(slot);
            self.tidy(block);
        }
    }

    /// After a removal: no block stays empty, nor two neighbours that fit into half a block.
    fn tidy(&mut self, block: usize) {
        if self.blocks[block].chains.is_empty() {
            self.blocks.remove(block);
        } else if let [home, next, ..] = &mut self.blocks[block..]
            && home.chains.len() + next.chains.len() <= FULL / 2
        {
            home.live += next.live;
            home.chains.append(&mut next.chains);
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
                home.chains.len()
            };
            &home.chains[start..end]
        })
    }

    /// How many keys in `span` are live in their newest version.
    pub(super) fn count(&self, span: &Span) -> usize {
        let (from, to) = self.ends(span);
        self.live_before(to) - self.live_before(from)
    }

    pub(super) fn keys(&self) -> usize {
        self.blocks.iter().map(|block| block.chains.len()).sum()
    }

    fn live_before(&self, place: Place) -> usize {
        let whole: usize = self.blocks[..place.block]
            .iter()
            .map(|block| block.live)
            .sum();
        let chains = self
            .blocks
            .get(place.block)
            .map_or(&[][..], |home| &home.chains[..place.slot]);
        whole + chains.iter().filter(|chain| chain.is_live()).count()
    }

    fn ends(&self, span: &Span) -> (Place, Place) {
        let after_all = || {
            let block = self.blocks.len().saturating_sub(1);
            Place {
                block,
                slot: self.blocks.last().map_or(0, |home| home.chains.len()),
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
        let slot = self.blocks.get(block).map_or(0, |home| {
            home.chains.partition_point(|chain| *chain.key < *key)
        });
        Place { block, slot }
    }
}

impl Block {
    fn new(chains: Vec<Chain>) -> Block {
        let mut block = Block {
            low: chains[0].key.clone(),
            live: 0,
            chains,
        };
        block.recount();
        block
    }

    fn recount(&mut self) {
        self.live = self.chains.iter().filter(|chain| chain.is_live()).count();
    }
}

#[cfg(test)]
impl Index {
    /// Every block is in order, knows its live keys, and is neither empty nor overfull.
    pub(super) fn assert_sound(&self) {
        let mut before: Option<&Key> = None;
        for (number, block) in self.blocks.iter().enumerate() {
            let live = block.chains.iter().filter(|chain| chain.is_live()).count();
            assert_eq!(block.live, live);
            assert!((1..=FULL).contains(&block.chains.len()));
            assert!(number == 0 || before.is_some_and(|before| *before < block.low));
            assert!(number == 0 || block.low <= block.chains[0].key);
            for chain in &block.chains {
                assert!(before.is_none_or(|before| *before < chain.key));
                before = Some(&chain.key);
            }
        }
    }
}
