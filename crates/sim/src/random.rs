//! The one source of chance: splitmix64, seeded once.

/// A seeded sequence of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Any 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number in `[low, high]`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.word() % (high - low + 1)
    }

    /// One of `choices`, each as likely.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A place in a list of `count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.word() % count as u64) as usize
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.word() % 100 < percent
    }

    /// True `thousandth` times in a thousand.
    pub fn rarely(&mut self, thousandth: u64) -> bool {
        self.word() % 1000 < thousandth
    }

    /// A length of time that is mostly short and sometimes very long: `low` to `high`, skewed to `low`.
    pub fn delay(&mut self, low: u64, high: u64) -> u64 {
        let spread = self.between(0, 1000);
        low + (high.max(low) - low) * spread * spread * spread / 1_000_000_000
    }

    /// A length of time of any magnitude between `low` and `high`: as likely seconds as minutes or hours.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let doublings = (high / low.max(1)).max(1).ilog2();
        let doubled = low << self.between(0, u64::from(doublings));
        self.between(doubled, (2 * doubled).min(high).max(doubled))
    }
}
