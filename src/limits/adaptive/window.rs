//! The outcomes between two decisions of the controller.

use crate::clock::Micros;

/// How many latencies a window holds at most. Beyond that a median gains less than it costs.
pub(super) const LARGEST: usize = 128;

/// What a call came to, for the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered: its latency counts.
    Ok,
    /// It failed as an overloaded backend fails: time-out, 429, 5xx. Its latency says nothing.
    Dropped,
    /// It says nothing of the backend, as a cancelled call.
    Ignored,
}

/// Outcomes of calls that were admitted under one limit.
#[derive(Debug, Clone)]
pub(super) struct Window {
    latencies: [f32; LARGEST],
    answered: usize,
    dropped: usize,
    full: usize,
    highest: u32,
}

/// What a window came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    /// The median latency in microseconds per unit, or none when every call was dropped.
    pub(super) median: Option<f64>,
    /// Share of dropped calls.
    pub(super) dropped: f64,
    /// Share of calls that were admitted when the limit was reached.
    pub(super) full: f64,
    /// The most calls in flight.
    pub(super) highest: u32,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self {
            latencies: [0.0; LARGEST],
            answered: 0,
            dropped: 0,
            full: 0,
            highest: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.answered + self.dropped
    }

    pub(super) fn clear(&mut self) {
        self.answered = 0;
        self.dropped = 0;
        self.full = 0;
        self.highest = 0;
    }

    #[allow(clippy::cast_possible_truncation)] // seven digits are more than a median of this many needs
    pub(super) fn add(&mut self, latency: Micros, units: f64, inflight: u32, limit: u32, dropped: bool) {
        if self.len() >= LARGEST {
            return;
        }
        if dropped {
            self.dropped += 1;
        } else {
            let units = if units.is_finite() && units > 0.0 { units } else { 1.0 };
            // Never zero: ratios of medians must stay finite.
            let latency = (latency.max(1) as f64 / units).clamp(1e-6, 1e18);
            self.latencies[self.answered] = latency as f32;
            self.answered += 1;
        }
        self.full += usize::from(inflight >= limit);
        self.highest = self.highest.max(inflight);
    }

    /// What the window came to; it is empty afterwards.
    pub(super) fn close(&mut self) -> Summary {
        let all = self.len().max(1) as f64;
        let answered = &mut self.latencies[..self.answered];
        let middle = answered.len() / 2;
        let median =
            (!answered.is_empty()).then(|| f64::from(*answered.select_nth_unstable_by(middle, f32::total_cmp).1));
        let summary = Summary {
            median,
            dropped: self.dropped as f64 / all,
            full: self.full as f64 / all,
            highest: self.highest,
        };
        self.clear();
        summary
    }
}
