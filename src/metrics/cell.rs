//! One series: a number, or a histogram, that any thread may change without a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::Micros;
use crate::mutants::mutant;

static ENABLED: AtomicBool = AtomicBool::new(true);

/// Whether anything is counted.
#[inline]
pub fn enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Switches counting on or off. Returns whether it was on.
pub fn set_enabled(on: bool) -> bool {
    ENABLED.swap(on, Ordering::Relaxed)
}

/// Buckets of a histogram, the last one without an end included, at most.
pub(super) const MAX_BUCKETS: usize = 24;

/// A series. What it is, a counter, a gauge or a histogram, its family knows: a counter's number is an integer, a gauge's
/// the bits of a float, and a histogram's the sum of what was observed in its smallest units.
///
/// Each has a line of the processor's cache to itself, so that threads that count different things do not wait for each
/// other.
#[derive(Debug)]
#[repr(align(64))]
pub struct Cell {
    value: AtomicU64,
    /// The largest value of each bucket but the last, in the smallest units.
    bounds: &'static [u64],
    /// How many were observed in each bucket alone: they are added up when they are read.
    buckets: Box<[AtomicU64]>,
}

impl Cell {
    /// One that has counted nothing. `bounds` are those of a histogram.
    pub(super) fn new(bounds: &'static [u64], is_histogram: bool) -> Self {
        let many = if is_histogram { bounds.len() + 1 } else { 0 };
        Self {
            value: AtomicU64::new(0),
            bounds,
            buckets: (0..many).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Counts one.
    #[inline]
    pub fn increment(&self) {
        self.increase(1);
    }

    /// Counts `many`.
    #[inline]
    pub fn increase(&self, many: u64) {
        if enabled() && !mutant!(MetricNotCounted) {
            self.value.fetch_add(many, Ordering::Relaxed);
        }
    }

    /// Sets a gauge.
    #[inline]
    pub fn set(&self, level: f64) {
        if enabled() {
            self.value.store(level.to_bits(), Ordering::Relaxed);
        }
    }

    /// Adds to a gauge, or takes from it.
    pub fn shift(&self, by: f64) {
        if !enabled() {
            return;
        }
        let add = |bits: u64| Some((f64::from_bits(bits) + by).to_bits());
        // It always has an answer.
        let _ = self.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Observes a value in the smallest units: nanoseconds of a histogram of seconds, else whole numbers.
    #[inline]
    pub fn observe(&self, units: u64) {
        if !enabled() {
            return;
        }
        // There are few bounds: comparing all of them takes no jump.
        let at = self.bounds.iter().filter(|bound| units > **bound).count();
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.value.fetch_add(units, Ordering::Relaxed);
        }
    }

    /// Observes a duration.
    #[inline]
    pub fn observe_micros(&self, duration: Micros) {
        self.observe(duration.saturating_mul(1_000));
    }

    /// The number of a counter, or the sum of a histogram in the smallest units.
    pub fn count(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    /// The level of a gauge.
    pub fn level(&self) -> f64 {
        f64::from_bits(self.count())
    }

    /// How many were observed.
    pub fn observed(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The counts of the buckets, each alone, into the beginning of `into`.
    pub(super) fn read_buckets<'a>(&self, into: &'a mut [u64; MAX_BUCKETS]) -> &'a [u64] {
        for (count, bucket) in into.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        &into[..self.buckets.len()]
    }

    /// Begins anew, in the child of a fork.
    pub(super) fn clear(&self) {
        for number in std::iter::once(&self.value).chain(&self.buckets) {
            number.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_in_its_bucket() {
        let cell = Cell::new(&[10, 20], true);
        for units in [0, 10, 11, 20, 21, 1_000] {
            cell.observe(units);
        }
        assert_eq!(cell.read_buckets(&mut [0; MAX_BUCKETS]), [2, 2, 2]);
        assert_eq!((cell.observed(), cell.count()), (6, 1_062));
        cell.clear();
        assert_eq!((cell.observed(), cell.count()), (0, 0));
    }

    #[test]
    fn threads_lose_no_count() {
        let (counter, gauge) = (Cell::new(&[], false), Cell::new(&[], false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counter.increment();
                        gauge.shift(1.0);
                        gauge.shift(-0.5);
                    }
                });
            }
        });
        assert_eq!((counter.count(), gauge.level()), (40_000, 20_000.0));
    }
}
