//! A histogram into which many threads record.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::histogram::{BUCKETS, Histogram, bucket_of};

/// The counts of a [`Histogram`] as atomics. A reader that comes between two of them may see a value in its place that is not
/// in the sum yet.
#[derive(Debug)]
pub struct SharedHistogram {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU64,
    sum: AtomicU64,
    longest: AtomicU64,
}

impl Default for SharedHistogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }
}

impl SharedHistogram {
    /// Counts a value.
    pub fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.longest.fetch_max(value, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Histogram {
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        Histogram::of(
            buckets,
            self.count.load(Ordering::Relaxed),
            self.sum.load(Ordering::Relaxed),
            self.longest.load(Ordering::Relaxed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_record_into_one_histogram() {
        let shared = SharedHistogram::default();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let shared = &shared;
                scope.spawn(move || (0..1_000).for_each(|value| shared.record(100 * (thread + 1) + value % 7)));
            }
        });
        let read = shared.read();
        assert_eq!((read.count(), read.longest()), (4_000, 406));
        let low = read.quantile(0.25).expect("values were recorded");
        assert!((106..=133).contains(&low), "{low}");
    }
}
