//! What a limiter counts, within a fixed number of bytes for each user and for all.

use hdrhistogram::Histogram as TotalHistogram;

use crate::clock::{Micros, SECOND};
use crate::metrics::Histogram;

/// Waits of a user that are kept one by one.
const RECENT: usize = 64;
/// With which permit of a user its percentiles begin: those who come once need none.
pub(super) const DETAIL_FROM: u64 = 4;
const LONGEST: Micros = 3_600 * SECOND;

/// Counts of one user.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UserCounts {
    pub(super) granted: u64,
    pub(super) waited: Micros,
    pub(super) released: u64,
    pub(super) held: Micros,
    pub(super) refused: u32,
    pub(super) timed_out: u32,
    pub(super) cancelled: u32,
    pub(super) leaked: u32,
}

/// Percentiles of one user, made when they are first needed and dropped when the user is idle.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) waits: Histogram,
    pub(super) holds: Histogram,
    /// Waits in seconds, as the upper halves of floating-point numbers: two to three digits.
    recent: [u16; RECENT],
    next: u8,
    filled: bool,
}

impl Default for Detail {
    fn default() -> Self {
        Self {
            waits: Histogram::default(),
            holds: Histogram::default(),
            recent: [0; RECENT],
            next: 0,
            filled: false,
        }
    }
}

impl Detail {
    pub(super) fn record_wait(&mut self, wait: Micros) {
        self.waits.record(wait);
        let seconds = wait as f32 / SECOND as f32;
        // Rounded: adding half of what is cut off carries into the part that is kept.
        let upper = seconds.to_bits().saturating_add(0x8000) >> 16;
        self.recent[usize::from(self.next)] = u16::try_from(upper).unwrap_or(u16::MAX);
        self.next += 1;
        if usize::from(self.next) == RECENT {
            self.next = 0;
            self.filled = true;
        }
    }

    /// In seconds, the latest last.
    pub(super) fn recent_waits(&self) -> Vec<f32> {
        let (late, early) = self.recent.split_at(usize::from(self.next));
        let early = if self.filled { early } else { &[] };
        early
            .iter()
            .chain(late)
            .map(|upper| f32::from_bits(u32::from(*upper) << 16))
            .collect()
    }
}

/// Durations: their number, mean and percentiles, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: Option<Micros>,
    /// Exceeded by one in twenty.
    pub p95: Option<Micros>,
    /// Exceeded by one in a hundred.
    pub p99: Option<Micros>,
}

impl Durations {
    pub(super) fn of_user(histogram: Option<&Histogram>, count: u64, sum: Micros) -> Self {
        let quantile = |q| histogram.and_then(|histogram| histogram.quantile(q));
        Self {
            count,
            mean: if count == 0 { 0.0 } else { sum as f64 / count as f64 },
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
        }
    }
}

/// Durations over all users: two digits of each are kept.
#[derive(Debug)]
pub(super) struct TotalDurations {
    histogram: TotalHistogram<u32>,
    sum: u64,
}

impl Default for TotalDurations {
    fn default() -> Self {
        Self {
            histogram: TotalHistogram::new_with_bounds(1, LONGEST, 2).expect("the bounds are valid"),
            sum: 0,
        }
    }
}

impl TotalDurations {
    #[inline]
    pub(super) fn record(&mut self, duration: Micros) {
        self.histogram.saturating_record(duration);
        self.sum = self.sum.saturating_add(duration);
    }

    pub(super) fn durations(&self) -> Durations {
        let count = self.histogram.len();
        let quantile = |q| (count > 0).then(|| self.histogram.value_at_quantile(q));
        Durations {
            count,
            mean: if count == 0 {
                0.0
            } else {
                self.sum as f64 / count as f64
            },
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
        }
    }
}

/// Counts over all users.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) granted: u64,
    pub(super) released: u64,
    pub(super) refused: u64,
    pub(super) cancelled: u64,
    pub(super) timed_out: u64,
    pub(super) leaked: u64,
    pub(super) released_twice: u64,
    pub(super) evicted: u64,
    pub(super) peak: u32,
}

/// A named resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceStats {
    /// Its name.
    pub name: Box<str>,
    /// Its limit, which an adaptive controller may have lowered.
    pub limit: u32,
    /// In use.
    pub running: u32,
    /// Most in use at the same time.
    pub peak: u32,
    /// How often it was given.
    pub granted: u64,
}

/// Counts of a limiter.
#[derive(Debug, Clone, PartialEq)]
pub struct LimiterStats {
    /// Permits of the process; an adaptive controller may have lowered them.
    pub total: u32,
    /// Permits of one user.
    pub per_user: u32,
    /// Units in use.
    pub running: u32,
    /// Waiters.
    pub queued: usize,
    /// Users that are remembered.
    pub users: usize,
    /// Permits given, those on lent units included.
    pub granted: u64,
    /// Permits returned.
    pub released: u64,
    /// Requests refused at once.
    pub refused: u64,
    /// Waiters that gave up.
    pub cancelled: u64,
    /// Waiters whose time ran out.
    pub timed_out: u64,
    /// Permits that were dropped without being returned.
    pub leaked: u64,
    /// Returns of a permit that had been returned.
    pub released_twice: u64,
    /// Users that were forgotten.
    pub evicted: u64,
    /// Most units in use at the same time.
    pub peak: u32,
    /// From the request to the grant.
    pub wait: Durations,
    /// From the grant to the return.
    pub hold: Durations,
    /// The named resources.
    pub resources: Vec<ResourceStats>,
}

/// Counts of one user in a limiter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserStats {
    /// The user's limit.
    pub limit: u32,
    /// The user's weight.
    pub weight: f32,
    /// Units in use.
    pub running: u32,
    /// Waiters.
    pub queued: u32,
    /// Permits given.
    pub granted: u64,
    /// Permits returned.
    pub released: u64,
    /// Requests refused at once.
    pub refused: u32,
    /// Waiters that gave up.
    pub cancelled: u32,
    /// Waiters whose time ran out.
    pub timed_out: u32,
    /// Permits that were dropped without being returned.
    pub leaked: u32,
    /// From the request to the grant.
    pub wait: Durations,
    /// From the grant to the return.
    pub hold: Durations,
    /// The last waits in seconds, the latest last.
    pub recent_waits: Vec<f32>,
}

/// The part of all requests that were answered with a permit.
pub fn success_rate(granted: u64, refused: u64, timed_out: u64) -> f64 {
    let asked = granted + refused + timed_out;
    if asked == 0 { 1.0 } else { granted as f64 / asked as f64 }
}
