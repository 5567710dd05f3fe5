//! Block: a sorted run of chains that is quick to search and knows how many of its keys are live.
//!
//! Keys lie scattered over memory, and looking at one costs more than comparing it. So beside its chains a
//! block keeps a `head` for each: the eight bytes that follow what all its keys have in common. A search
//! runs over the heads, which lie side by side, and looks at keys only where heads are equal.

use std::cmp::Ordering;

use super::chain::{Chain, Key};

/// Chains in a full block. Inserting moves half a block, counting looks at every block.
pub(super) const FULL: usize = if cfg!(test) { 4 } else { 256 };

/// A run of chains. Never empty.
pub(super) struct Block {
    /// Above every key of the block before, and not above any key of this one.
    pub(super) low: Key,
    chains: Vec<Chain>,
    /// How many leading bytes all keys have in common with `low`.
    common: usize,
    heads: Vec<u64>,
    live: usize,
}

impl Block {
    /// A block of `chains`, which are in order and at least one.
    pub(super) fn new(chains: Vec<Chain>) -> Block {
        let low = chains[0].key.clone();
        let mut block = Block {
            low,
            chains,
            common: 0,
            heads: Vec::new(),
            live: 0,
        };
        block.recount();
        block
    }

    pub(super) fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// How many of its keys are live.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// How many of its first `slots` keys are live.
    pub(super) fn live_before(&self, slots: usize) -> usize {
        self.chains[..slots]
            .iter()
            .filter(|chain| chain.is_live())
            .count()
    }

    /// The first slot whose key is not below `key`.
    pub(super) fn search(&self, key: &[u8]) -> usize {
        let shared = self.common.min(key.len());
        match self.low[..shared].cmp(&key[..shared]) {
            Ordering::Less => return self.chains.len(),
            Ordering::Greater => return 0,
            Ordering::Equal => {}
        }
        let head = head(key, self.common);
        let from = self.heads.partition_point(|other| *other < head);
        let equal = self.heads[from..].partition_point(|other| *other == head);
        let undecided = &self.chains[from..from + equal];
        from + undecided.partition_point(|chain| *chain.key < *key)
    }

    /// Puts `chain` where [`Block::search`] found its place. The block is not full.
    pub(super) fn insert(&mut self, slot: usize, chain: Chain) {
        if chain.key < self.low {
            self.low = chain.key.clone();
        }
        let fits = chain.key.get(..self.common) == self.chains[0].key.get(..self.common);
        self.live += usize::from(chain.is_live());
        self.heads.insert(slot, head(&chain.key, self.common));
        self.chains.insert(slot, chain);
        if !fits {
            self.recount();
        }
    }

    /// Changes the chain in `slot`; it is removed if `change` says false.
    pub(super) fn edit(&mut self, slot: usize, change: impl FnOnce(&mut Chain) -> bool) {
        let chain = &mut self.chains[slot];
        self.live -= usize::from(chain.is_live());
        if change(chain) {
            self.live += usize::from(chain.is_live());
        } else {
            self.chains.remove(slot);
            self.heads.remove(slot);
        }
    }

    /// Keeps the chains before `slot`, and returns a block of the others. There are some of both.
    pub(super) fn split(&mut self, slot: usize) -> Block {
        let upper = self.chains.split_off(slot);
        self.recount();
        Block::new(upper)
    }

    /// Takes over the chains of the next block.
    pub(super) fn absorb(&mut self, next: &mut Block) {
        self.chains.append(&mut next.chains);
        self.recount();
    }

    /// Finds out anew what the keys have in common, their heads, and how many are live.
    fn recount(&mut self) {
        let last = &self.chains[self.chains.len() - 1].key;
        self.common = self
            .low
            .iter()
            .zip(last.iter())
            .take_while(|(a, b)| a == b)
            .count();
        self.heads.clear();
        self.heads.extend(
            self.chains
                .iter()
                .map(|chain| head(&chain.key, self.common)),
        );
        self.live = self.live_before(self.chains.len());
    }
}

/// The eight bytes of `key` after the first `common`, as a number that sorts as they do.
fn head(key: &[u8], common: usize) -> u64 {
    let tail = key.get(common..).unwrap_or_default();
    match tail.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..tail.len()].copy_from_slice(tail);
            u64::from_be_bytes(bytes)
        }
    }
}

#[cfg(test)]
impl Block {
    /// It is in order, and what it keeps beside the chains agrees with them.
    pub(super) fn assert_sound(&self) {
        assert!((1..=FULL).contains(&self.chains.len()));
        assert!(self.chains.is_sorted_by(|a, b| a.key < b.key));
        assert_eq!(self.live, self.live_before(self.chains.len()));
        let shared = &self.low[..self.common];
        assert!(self.low <= self.chains[0].key);
        assert!(
            self.chains
                .iter()
                .all(|chain| chain.key.starts_with(shared))
        );
        let heads: Vec<u64> = self
            .chains
            .iter()
            .map(|c| head(&c.key, self.common))
            .collect();
        assert_eq!(self.heads, heads);
    }
}
