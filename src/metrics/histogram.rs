//! A log-linear histogram of fixed size: what percentiles are read from.

/// Places of a [`Histogram`]: one for what is shorter than 64, then four for each doubling.
pub const BUCKETS: usize = 96;
/// Where the first octave begins. What is shorter is not told apart.
const FIRST: u64 = 1 << FIRST_BIT;
/// Equal parts into which each octave is divided.
const PER_OCTAVE: usize = 1 << PART_BITS;

const FIRST_BIT: u32 = 6;
const PART_BITS: u32 = 2;

/// The place of a value. The last place takes what is longer than all.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the parts of an octave are two bits
pub fn bucket_of(value: u64) -> usize {
    if value < FIRST {
        return 0;
    }
    let octave = value.ilog2();
    let part = (value >> (octave - PART_BITS)) as usize & (PER_OCTAVE - 1);
    (1 + (octave - FIRST_BIT) as usize * PER_OCTAVE + part).min(BUCKETS - 1)
}

/// The least value that is too large for a place; of the last place, which has no end, where it would end.
pub fn end_of(bucket: usize) -> u64 {
    let (octave, part) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
    (FIRST << octave) + part as u64 * (FIRST << octave >> PART_BITS)
}

/// How often values of which size were seen: in microseconds from 64 µs to about 13 minutes, each place at most a quarter
/// wider than where it begins. It holds its counts in itself and never grows.
///
/// The unit is the caller's: who records sixteenths of a microsecond has places from 4 µs on.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: [u32; BUCKETS],
    count: u64,
    sum: u64,
    longest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
            sum: 0,
            longest: 0,
        }
    }
}

impl Histogram {
    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        let bucket = &mut self.buckets[bucket_of(value)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.longest = self.longest.max(value);
    }

    /// A histogram of counts that were kept elsewhere, place by place.
    pub fn of(buckets: [u32; BUCKETS], count: u64, sum: u64, longest: u64) -> Self {
        Self {
            buckets,
            count,
            sum,
            longest,
        }
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.longest = self.longest.max(other.longest);
    }

    /// What was counted since an earlier reading of the same counts. The largest value is that of all.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            buckets: std::array::from_fn(|at| self.buckets[at].saturating_sub(before.buckets[at])),
            count: self.count.saturating_sub(before.count),
            sum: self.sum.saturating_sub(before.sum),
            longest: self.longest,
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The exact sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The exact largest value.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The value that a part `q` of all values (0 to 1) does not exceed, by the nearest rank: the end of the place in which
    /// it is, or the largest value where that is less. `None` when nothing was counted.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rank is from 1 to the count
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let total: u64 = self.buckets.iter().map(|many| u64::from(*many)).sum();
        if total == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, many) in self.buckets.iter().enumerate() {
            seen += u64::from(*many);
            if seen >= rank {
                let is_last = bucket == BUCKETS - 1;
                return Some(if is_last {
                    self.longest
                } else {
                    end_of(bucket).min(self.longest)
                });
            }
        }
        Some(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_follow_each_other_without_a_gap() {
        assert_eq!(
            (bucket_of(0), bucket_of(63), bucket_of(64), bucket_of(79)),
            (0, 0, 1, 1)
        );
        assert_eq!((bucket_of(80), bucket_of(127), bucket_of(128)), (2, 4, 5));
        for bucket in 0..BUCKETS - 1 {
            assert_eq!(bucket_of(end_of(bucket) - 1), bucket);
            assert_eq!(bucket_of(end_of(bucket)), bucket + 1);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        // In microseconds more than 13 minutes, so that nothing an application waits for is beyond it.
        assert!(end_of(BUCKETS - 2) > 13 * 60 * 1_000_000, "{}", end_of(BUCKETS - 2));
    }

    #[test]
    fn nothing_counted_has_no_percentile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn what_came_since_a_reading_is_counted_alone() {
        let mut all = Histogram::default();
        all.record(10_000);
        let before = all.clone();
        (0..9).for_each(|_| all.record(100));
        let since = all.since(&before);
        assert_eq!((since.count(), since.sum(), since.quantile(0.99)), (9, 900, Some(112)));
        assert_eq!(all.since(&all.clone()).quantile(0.5), None);
    }

    #[test]
    fn one_value_is_every_percentile() {
        let mut one = Histogram::default();
        one.record(7);
        assert_eq!(
            (one.quantile(0.0), one.quantile(0.5), one.quantile(1.0)),
            (Some(7), Some(7), Some(7))
        );
    }

    proptest! {
        #[test]
        fn a_percentile_is_never_below_the_exact_one_and_at_most_a_quarter_above(
            mut values in prop::collection::vec(64u64..800_000_000, 1..400), q in 0.0f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            let (mut left, mut right) = (Histogram::default(), Histogram::default());
            for (at, value) in values.iter().enumerate() {
                histogram.record(*value);
                if at % 2 == 0 { left.record(*value); } else { right.record(*value) }
            }
            left.merge(&right);
            values.sort_unstable();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rank is from 1 to the count
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let got = histogram.quantile(q).expect("values were recorded");
            prop_assert!(got >= exact && got <= exact + exact / 4 + 1, "{} for {}", got, exact);
            prop_assert_eq!(left.quantile(q), Some(got));
            prop_assert_eq!(histogram.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }
    }
}
