//! Ranges: which of many key ranges hold a key, without looking at all of them.
//!
//! One number per distinct [`KeyRange`]. Single keys sit in a hash map. Real ranges lie in an array sorted
//! by start that doubles as a balanced binary tree: the root of a slice is its middle, and each root knows
//! how far the ends below it reach, so a search skips every subtree that ends before the key. A change
//! only moves the array; the reaches are worked out again at the next search.

use std::collections::HashMap;

use bytes::Bytes;
use rules::key::{KeyRange, RangeEnd};

/// A map from distinct key ranges to small numbers, searched by key.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    singles: HashMap<Bytes, u32>,
    spans: Vec<Span>,
    /// Whether `reach` of some span may be out of date.
    stale: bool,
}

#[derive(Debug)]
struct Span {
    start: Bytes,
    end: End,
    /// The furthest `end` in the subtree rooted here.
    reach: End,
    number: u32,
}

/// An exclusive upper bound; no bound sorts after every bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Unbounded,
}

impl End {
    fn admits(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Unbounded => true,
        }
    }
}

impl Ranges {
    /// The number of `range`, if it is here.
    pub(super) fn get(&self, range: &KeyRange) -> Option<u32> {
        match self.place(range) {
            None => self.singles.get(&range.start).copied(),
            Some((_, place)) => place.ok().map(|at| self.spans[at].number),
        }
    }

    /// Adds `range`, which must not be here yet, under `number`.
    pub(super) fn insert(&mut self, range: &KeyRange, number: u32) {
        match self.place(range) {
            None => {
                self.singles.insert(range.start.clone(), number);
            }
            Some((end, Err(at))) => {
                let span = Span {
                    start: range.start.clone(),
                    reach: end.clone(),
                    end,
                    number,
                };
                self.spans.insert(at, span);
                self.stale = true;
            }
            Some((_, Ok(_))) => panic!("a range has one number"),
        }
    }

    /// Removes `range`.
    pub(super) fn remove(&mut self, range: &KeyRange) {
        match self.place(range) {
            None => {
                self.singles.remove(&range.start);
            }
            Some((_, Ok(at))) => {
                self.spans.remove(at);
                self.stale = true;
            }
            Some((_, Err(_))) => {}
        }
    }

    /// Calls `visit` with the number of every range that holds `key`, each once, in no promised order.
    pub(super) fn holding(&mut self, key: &[u8], visit: &mut dyn FnMut(u32)) {
        if self.stale {
            refresh(&mut self.spans);
            self.stale = false;
        }
        if let Some(number) = self.singles.get(key) {
            visit(*number);
        }
        search(&self.spans, key, visit);
    }

    /// Where a real range is, or belongs, in the array; `None` for a single key.
    fn place(&self, range: &KeyRange) -> Option<(End, Result<usize, usize>)> {
        let end = match &range.end {
            RangeEnd::Single => return None,
            RangeEnd::Before(end) => End::Before(end.clone()),
            RangeEnd::Unbounded => End::Unbounded,
        };
        let place = self
            .spans
            .binary_search_by(|span| (&span.start, &span.end).cmp(&(&range.start, &end)));
        Some((end, place))
    }
}

/// Works out every `reach` in `spans`; returns that of the whole slice.
fn refresh(spans: &mut [Span]) -> Option<End> {
    let middle = spans.len() / 2;
    let (left, rest) = spans.split_at_mut(middle);
    let (root, right) = rest.split_first_mut()?;
    let below = refresh(left).max(refresh(right));
    root.reach = below.map_or_else(|| root.end.clone(), |end| end.max(root.end.clone()));
    Some(root.reach.clone())
}

fn search(spans: &[Span], key: &[u8], visit: &mut dyn FnMut(u32)) {
    let (left, rest) = spans.split_at(spans.len() / 2);
    let Some((root, right)) = rest.split_first() else {
        return;
    };
    if !root.reach.admits(key) {
        return;
    }
    search(left, key, visit);
    if key >= &root.start[..] {
        if root.end.admits(key) {
            visit(root.number);
        }
        search(right, key, visit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0u8..4, 0..4).prop_map(Bytes::from)
    }

    fn any_range() -> impl Strategy<Value = KeyRange> {
        (any_key(), any_key(), 0..4).prop_map(|(start, end, form)| KeyRange {
            start,
            end: match form {
                0 => RangeEnd::Single,
                1 => RangeEnd::Unbounded,
                _ => RangeEnd::Before(end),
            },
        })
    }

    proptest! {
        /// The clever search finds what asking every range finds, through inserts and removals.
        #[test]
        fn finds_what_asking_every_range_finds(
            changes in proptest::collection::vec((any_range(), any::<bool>()), 0..60),
            keys in proptest::collection::vec(any_key(), 1..20),
        ) {
            let mut clever = Ranges::default();
            let mut naive: Vec<(KeyRange, u32)> = Vec::new();
            for (number, (range, add)) in (0u32..).zip(changes) {
                let known = naive.iter().position(|(other, _)| *other == range);
                prop_assert_eq!(clever.get(&range), known.map(|at| naive[at].1));
                match known {
                    None if add => {
                        clever.insert(&range, number);
                        naive.push((range, number));
                    }
                    Some(at) if !add => {
                        clever.remove(&range);
                        naive.remove(at);
                    }
                    _ => {}
                }
                for key in &keys {
                    let mut found = Vec::new();
                    clever.holding(key, &mut |number| found.push(number));
                    found.sort_unstable();
                    let mut expected: Vec<u32> = naive
                        .iter()
                        .filter(|(range, _)| range.contains(key))
                        .map(|(_, number)| *number)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
