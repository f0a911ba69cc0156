//! What the older side does, as a bound for the newer one.

use super::eprocess::Counts;

/// Observations after which the bound is reckoned anew at the latest, as a part of those seen: it moves little in between.
const RECKON_PART: u64 = 64;
/// Halvings of the interval in which the bound lies: it is exact to better than a millionth.
const HALVINGS: u32 = 24;

/// An upper bound for the rate of what was seen, good at every moment with the same confidence.
///
/// The set of rates against which a mixture of bets has not gained `1 / (1 - confidence)` is a confidence sequence (Robbins
/// 1970). The bets are those of Krichevsky and Trofimov (1981): a Beta(1/2, 1/2) prior, whose likelihood is a product of
/// `(bad + 1/2) / (seen + 1)`. A bound for a fixed number of observations, as Clopper and Pearson's or Wilson's, would be
/// too low now and then when it is looked at again and again.
#[derive(Debug, Clone)]
pub struct Baseline {
    counts: Counts,
    /// The logarithm of what the mixture gives to what was seen.
    mixture: f64,
    threshold: f64,
    /// As last reckoned, and after how many observations.
    upper: f64,
    reckoned_at: u64,
}

impl Baseline {
    /// Nothing seen: the bound is 1.
    pub fn new(confidence: f64) -> Self {
        Self {
            counts: Counts::default(),
            mixture: 0.0,
            threshold: -(1.0 - confidence).ln(),
            upper: 1.0,
            reckoned_at: 0,
        }
    }

    /// What was seen.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes in one observation.
    pub fn observe(&mut self, bad: bool) {
        let Counts { bad: bads, seen } = self.counts;
        let likes = if bad { bads } else { seen - bads };
        self.mixture += ((likes as f64 + 0.5) / (seen as f64 + 1.0)).ln();
        self.counts.add(Counts {
            bad: u64::from(bad),
            seen: 1,
        });
    }

    /// Counts only, where no bound is wanted.
    pub(super) fn count(&mut self, counts: Counts) {
        self.counts.add(counts);
    }

    /// The bound, which is reckoned again when there is a little more than there was.
    pub fn upper(&mut self) -> f64 {
        let fresh = self.counts.seen - self.reckoned_at;
        if fresh > self.reckoned_at / RECKON_PART {
            self.reckoned_at = self.counts.seen;
            self.upper = self.reckon();
        }
        self.upper
    }

    fn reckon(&self) -> f64 {
        let (bad, good) = (self.counts.bad as f64, (self.counts.seen - self.counts.bad) as f64);
        let is_excluded = |rate: f64| {
            let likelihood = bad * rate.ln() + if good > 0.0 { good * (-rate).ln_1p() } else { 0.0 };
            self.mixture - likelihood >= self.threshold
        };
        let (mut low, mut high) = (self.counts.rate(), 1.0);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if is_excluded(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bad: u64, good: u64) -> Baseline {
        let mut baseline = Baseline::new(0.99);
        (0..bad).for_each(|_| baseline.observe(true));
        (0..good).for_each(|_| baseline.observe(false));
        baseline
    }

    #[test]
    fn nothing_seen_bounds_nothing() {
        assert!((Baseline::new(0.99).upper() - 1.0).abs() < f64::EPSILON);
        assert!(of(0, 1).upper() > 0.9);
    }

    #[test]
    fn the_more_is_seen_the_nearer_is_the_bound() {
        let bounds: Vec<f64> = [20, 200, 2_000, 20_000]
            .map(|many| of(many / 20, many - many / 20).upper())
            .into();
        assert!(bounds.windows(2).all(|pair| pair[0] > pair[1]), "{bounds:?}");
        assert!(bounds[3] > 0.05 && bounds[3] < 0.058, "{bounds:?}");
        assert!(of(0, 1_000).upper() < 0.012);
        assert!((of(50, 0).upper() - 1.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn the_bound_is_above_what_was_seen(list in prop::collection::vec(any::<bool>(), 1..500)) {
            let mut baseline = Baseline::new(0.99);
            for bad in list {
                baseline.observe(bad);
                let upper = baseline.upper();
                prop_assert!(upper > 0.0 && upper <= 1.0);
            }
            baseline.reckoned_at = 0;
            prop_assert!(baseline.upper() >= baseline.counts().rate());
        }
    }
}
