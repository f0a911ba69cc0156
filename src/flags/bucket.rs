//! In which of 100 000 buckets a user is: fixed hashes, salted, so that the same user is in the same bucket everywhere.

use super::fnv::{fnv1a32, go_on};
use super::murmur3::Murmur3;
use crate::mutants::mutant;

/// Everybody: a rollout is counted in 100 000ths.
pub const FULL: u32 = 100_000;

/// How a bucket is made. Kept in the flag and never changed for it: another algorithm is other cohorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// `murmur3_x86_32("{salt}:{unit}") * 100000 >> 32`. Steps of 0.001 %.
    #[default]
    Mm3MulV1,
    /// Unleash's: `murmur3_x86_32("{salt}:{unit}") % 100`. Steps of 1 %.
    Unleash,
    /// `GrowthBook`'s second: `fnv1a32(str(fnv1a32(salt + unit))) % 10000`. Steps of 0.01 %.
    GrowthBookV2,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mm3MulV1, Self::Unleash, Self::GrowthBookV2];

    /// The name in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mm3MulV1 => "mm3-mul-v1",
            Self::Unleash => "unleash",
            Self::GrowthBookV2 => "growthbook-v2",
        }
    }

    /// The algorithm of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// How many 100 000ths are between two of its buckets: a rollout is a multiple of it.
    pub const fn step(self) -> u32 {
        match self {
            Self::Mm3MulV1 => 1,
            Self::Unleash => 1_000,
            Self::GrowthBookV2 => 10,
        }
    }
}

/// Whether a bucket is in a rollout of so many 100 000ths.
pub fn is_in(bucket: u32, rollout: u32) -> bool {
    bucket < rollout || (bucket == rollout && mutant!(RolloutOffByOne))
}

/// An algorithm with its salt already hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucketing {
    algorithm: Algorithm,
    salted: Salted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Salted {
    Murmur3(Murmur3),
    Fnv(u32),
}

impl Bucketing {
    /// Buckets of one flag.
    pub fn new(algorithm: Algorithm, salt: &str) -> Self {
        let salt = if mutant!(SaltIgnored) { "" } else { salt };
        let salted = match algorithm {
            Algorithm::Mm3MulV1 | Algorithm::Unleash => {
                Salted::Murmur3(Murmur3::new(0).with(salt.as_bytes()).with(b":"))
            }
            Algorithm::GrowthBookV2 => Salted::Fnv(fnv1a32(salt)),
        };
        Self { algorithm, salted }
    }

    /// How they are made.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The bucket of a user, in 100 000ths: `0..100_000`.
    pub fn bucket(&self, unit: &str) -> u32 {
        match self.salted {
            Salted::Murmur3(prefix) => {
                let hash = prefix.with(unit.as_bytes()).finish();
                if self.algorithm == Algorithm::Unleash {
                    // Unleash counts from 1 and asks for `n <= percent`: the same as from 0 and `n < percent`.
                    return hash % 100 * self.algorithm.step();
                }
                let scaled = (u64::from(hash) * u64::from(FULL)) >> 32;
                u32::try_from(scaled).unwrap_or(FULL - 1)
            }
            Salted::Fnv(prefix) => {
                let mut text = itoa::Buffer::new();
                fnv1a32(text.format(go_on(prefix, unit))) % 10_000 * self.algorithm.step()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(algorithm: Algorithm, salt: &str, unit: &str) -> u32 {
        Bucketing::new(algorithm, salt).bucket(unit)
    }

    #[test]
    fn the_lowest_and_the_highest_hash_are_in_the_first_and_the_last_bucket() {
        // What is hashed is "{salt}:{unit}"; the preimages have no colon, so the hash is scaled here as it is there.
        let scaled = |hash: u32| (u64::from(hash) * u64::from(FULL)) >> 32;
        assert_eq!(
            [0, 1, i32::MAX as u32, 1 << 31, u32::MAX].map(scaled),
            [0, 0, 49_999, 50_000, 99_999]
        );
    }

    #[test]
    fn growthbook_second_hash() {
        for (seed, value, n) in [
            ("seed", "a", 505),
            ("seed", "b", 2_696),
            ("foo", "ab", 2_575),
            ("foo", "def", 2_019),
            ("89123klj", "8952klfjas09ujkasdf", 1_240),
            ("90850943850283058242805", "123", 7_516),
            ("()**(%$##$%#$#", "___)((*\":&", 128),
        ] {
            assert_eq!(bucket(Algorithm::GrowthBookV2, seed, value), n * 10, "{seed} {value}");
        }
    }

    #[test]
    fn unleash_gradual_rollout() {
        // The boundaries of Unleash's client specification: group AB12A at 50 %.
        let on = |unit| is_in(bucket(Algorithm::Unleash, "AB12A", unit), 50_000);
        assert!(on("122") && !on("155"));
    }

    #[test]
    fn boundaries_of_a_rollout() {
        assert!(is_in(24_999, 25_000) && !is_in(25_000, 25_000));
        assert!(is_in(FULL - 1, FULL) && !is_in(0, 0));
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm));
        }
    }
}
