//! What a call takes when nothing waits.

/// How many measurements are averaged.
const KEPT: usize = 5;

/// The mean of the last measurements of the latency without a queue, in microseconds per unit.
#[derive(Debug, Clone, Default)]
pub(super) struct Baseline {
    measured: [f64; KEPT],
    count: usize,
}

impl Baseline {
    pub(super) fn value(&self) -> Option<f64> {
        let measured = &self.measured[..self.count];
        (!measured.is_empty()).then(|| measured.iter().sum::<f64>() / measured.len() as f64)
    }

    /// How many measurements the value is made of.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes one more measurement into the mean.
    pub(super) fn add(&mut self, median: f64) {
        if self.count == KEPT {
            self.measured.rotate_left(1);
            self.count -= 1;
        }
        self.measured[self.count] = median;
        self.count += 1;
    }

    /// Forgets what was measured before.
    pub(super) fn reset(&mut self, median: f64) {
        self.count = 0;
        self.add(median);
    }

    /// Moves the value towards a measurement by a share of the difference.
    pub(super) fn follow(&mut self, median: f64, share: f64) {
        let Some(value) = self.value() else {
            return self.add(median);
        };
        // All of them, so that one more measurement weighs no more than it did.
        let factor = (value + share * (median - value)) / value;
        for measured in &mut self.measured[..self.count] {
            *measured *= factor;
        }
    }
}
