//! Random numbers from a seed.

use std::time::Duration;

/// SplitMix64: any seed will do.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit`, exclusive.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A time shorter than `limit`.
    pub fn duration(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(limit.as_micros() as u64))
    }

    /// Another source, for another thread.
    pub fn split(&mut self) -> Random {
        Random(self.next())
    }

    /// The same elements in another order.
    pub fn shuffled<T>(&mut self, mut elements: Vec<T>) -> Vec<T> {
        for end in (1..elements.len()).rev() {
            let other = self.below(end as u64 + 1) as usize;
            elements.swap(end, other);
        }
        elements
    }
}
