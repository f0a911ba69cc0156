//! Evidence against "at most this part is bad", good at every moment.
//!
//! An e-process is a bet against the bound: what a bettor would have who began with 1 and may not expect to gain while the
//! bound holds. By Ville's inequality (1939) it reaches `1 / alpha` with probability at most `alpha`, however often it is
//! looked at. This one is the mean of likelihood ratios against a grid of worse rates, which is Robbins' method of mixtures
//! (1970). For any rate at or below the bound each ratio shrinks on average, so the bound need not be met exactly.

use crate::mutants::mutant;

/// Rates that are bet on.
const ALTERNATIVES: usize = 8;
/// The worst of them, for bounds below it: what is bad half of the time is seen within a few observations anyway.
const WORST: f64 = 0.5;

/// What one good and one bad observation do to each bet, as logarithms, for one bound.
#[derive(Debug, Clone, Copy)]
struct Odds {
    good: [f64; ALTERNATIVES],
    bad: [f64; ALTERNATIVES],
}

impl Odds {
    /// The alternatives are evenly spaced between the bound and the worst rate, as logarithms of odds.
    fn of(bound: f64) -> Self {
        let logit = |rate: f64| (rate / (1.0 - rate)).ln();
        let worst = if bound < WORST / 2.0 {
            WORST
        } else {
            f64::midpoint(1.0, bound)
        };
        let (low, high) = (logit(bound), logit(worst));
        let mut odds = Self {
            good: [0.0; ALTERNATIVES],
            bad: [0.0; ALTERNATIVES],
        };
        for at in 0..ALTERNATIVES {
            let part = (at + 1) as f64 / ALTERNATIVES as f64;
            let rate = 1.0 / (1.0 + (-(low + part * (high - low))).exp());
            let (against, bound) = if mutant!(GuardBetsOnTheBound) {
                (bound, rate)
            } else {
                (rate, bound)
            };
            odds.good[at] = (-against).ln_1p() - (-bound).ln_1p();
            odds.bad[at] = against.ln() - bound.ln();
        }
        odds
    }
}

/// Evidence that more than a bound is bad.
#[derive(Debug, Clone)]
pub struct EProcess {
    bound: f64,
    /// `None` for a bound so near to 1 that nothing could be worse: nothing speaks against it then.
    odds: Option<Odds>,
    /// What the bets had gained, as logarithms, when the bound was last moved.
    gained: [f64; ALTERNATIVES],
    /// Seen since then.
    since: Counts,
    /// Seen in all.
    total: Counts,
}

/// How many were seen, and how many of them were bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of them, the bad ones.
    pub bad: u64,
    /// All of them.
    pub seen: u64,
}

impl Counts {
    /// The part that was bad; 0 when nothing was seen.
    pub fn rate(self) -> f64 {
        if self.seen == 0 {
            0.0
        } else {
            self.bad as f64 / self.seen as f64
        }
    }

    pub(super) fn add(&mut self, more: Self) {
        self.bad = self.bad.saturating_add(more.bad);
        self.seen = self.seen.saturating_add(more.seen);
    }
}

impl EProcess {
    /// Bets on nothing above this: the ratio of a bound so high would say nothing.
    pub const HIGHEST_BOUND: f64 = 0.95;

    /// No evidence yet against `bound`, a part of all between 0 and 1.
    pub fn new(bound: f64) -> Self {
        let mut new = Self {
            bound: 1.0,
            odds: None,
            gained: [0.0; ALTERNATIVES],
            since: Counts::default(),
            total: Counts::default(),
        };
        new.move_bound(bound);
        new
    }

    /// The bound that what comes next is held against.
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// What was seen.
    pub fn counts(&self) -> Counts {
        self.total
    }

    /// Holds what comes next against another bound, which must be chosen without knowing it. What was gained stays.
    pub fn move_bound(&mut self, bound: f64) {
        if (bound - self.bound).abs() < f64::EPSILON {
            return;
        }
        self.gained = self.bets();
        self.since = Counts::default();
        self.bound = bound;
        self.odds = (bound > 0.0 && bound <= Self::HIGHEST_BOUND).then(|| Odds::of(bound));
    }

    /// Takes in what was seen. Of several at once the order does not matter.
    #[inline]
    pub fn observe(&mut self, counts: Counts) {
        self.since.add(counts);
        self.total.add(counts);
    }

    /// Whether anything could speak against the bound.
    pub fn can_tell(&self) -> bool {
        self.odds.is_some()
    }

    #[inline]
    fn bets(&self) -> [f64; ALTERNATIVES] {
        let mut bets = self.gained;
        if let Some(odds) = &self.odds {
            let (bad, good) = (self.since.bad as f64, (self.since.seen - self.since.bad) as f64);
            for (at, bet) in bets.iter_mut().enumerate() {
                *bet += bad * odds.bad[at] + good * odds.good[at];
            }
        }
        bets
    }

    /// The natural logarithm of the evidence: 0 is none, `ln(1000)` is enough at an alpha of one in a thousand.
    pub fn log_evidence(&self) -> f64 {
        let bets = self.bets();
        let best = bets.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = bets.iter().map(|bet| (bet - best).exp()).sum();
        best + (sum / ALTERNATIVES as f64).ln()
    }

    /// The evidence itself, at most the largest finite number.
    pub fn evidence(&self) -> f64 {
        self.log_evidence().exp().min(f64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(process: &mut EProcess, bad: u64, seen: u64) {
        process.observe(Counts { bad, seen });
    }

    #[test]
    fn nothing_seen_is_no_evidence() {
        for bound in [0.0005, 0.005, 0.02, 0.3, 0.6, 0.9, 0.95] {
            let process = EProcess::new(bound);
            assert!(process.log_evidence().abs() < 1e-12, "{bound}");
            assert!(process.can_tell(), "{bound}");
        }
    }

    #[test]
    fn a_bound_that_nothing_can_exceed_is_never_spoken_against() {
        for bound in [0.96, 1.0] {
            let mut process = EProcess::new(bound);
            seen(&mut process, 1_000, 1_000);
            assert!(process.log_evidence().abs() < 1e-12);
            assert!(!process.can_tell());
            assert_eq!(process.counts().seen, 1_000);
        }
    }

    #[test]
    fn evidence_of_all_bad_ends_at_the_largest_number() {
        let mut process = EProcess::new(0.0005);
        seen(&mut process, 1_000_000, 1_000_000);
        assert!(process.evidence().is_finite());
        assert!(process.evidence() > 1e300);
    }

    #[test]
    fn what_was_gained_stays_when_the_bound_moves() {
        let mut process = EProcess::new(0.005);
        seen(&mut process, 3, 10);
        let before = process.log_evidence();
        process.move_bound(0.02);
        assert!((process.log_evidence() - before).abs() < 1e-9);
        process.move_bound(1.0);
        seen(&mut process, 5, 5);
        assert!((process.log_evidence() - before).abs() < 1e-9);
    }

    proptest! {
        /// The expected value after one more observation, at any rate up to the bound, is at most what it was: what makes it
        /// an e-process.
        #[test]
        fn nobody_may_expect_to_gain_while_the_bound_holds(
            bound in 0.0001..0.95_f64, part in 0.0..=1.0_f64, bad in 0_u64..50, good in 0_u64..5_000,
        ) {
            let mut now = EProcess::new(bound);
            now.observe(Counts { bad, seen: bad + good });
            let (mut worse, mut better) = (now.clone(), now.clone());
            worse.observe(Counts { bad: 1, seen: 1 });
            better.observe(Counts { bad: 0, seen: 1 });
            let rate = bound * part;
            let (base, worse, better) = (now.log_evidence(), worse.log_evidence(), better.log_evidence());
            let expected = rate * (worse - base).exp() + (1.0 - rate) * (better - base).exp();
            prop_assert!(expected <= 1.0 + 1e-9, "{expected}");
            prop_assert!(worse > base && better < base);
        }

        /// Many at once are as many one by one.
        #[test]
        fn several_at_once_are_as_one_by_one(bound in 0.001..0.5_f64, list in prop::collection::vec(any::<bool>(), 0..200)) {
            let (mut one, mut all) = (EProcess::new(bound), EProcess::new(bound));
            for bad in &list {
                one.observe(Counts { bad: u64::from(*bad), seen: 1 });
            }
            all.observe(Counts { bad: list.iter().filter(|bad| **bad).count() as u64, seen: list.len() as u64 });
            prop_assert!((one.log_evidence() - all.log_evidence()).abs() < 1e-9);
        }
    }
}
