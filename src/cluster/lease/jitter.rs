//! Random delays, so that processes which were refused together do not come back together.

use crate::clock::Micros;
use crate::ids::random_u64;

/// Good enough for delays: splitmix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new() -> Self {
        Self(random_u64())
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Between the two, both included.
    pub(crate) fn between(&mut self, least: Micros, most: Micros) -> Micros {
        least + self.next() % (most.saturating_sub(least) + 1)
    }
}
