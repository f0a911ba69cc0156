//! How many commands a client may give.

use crate::clock::{Micros, SECOND};

/// Commands at once.
const BURST: u64 = 64;
/// Commands a second after that.
const RATE: u64 = 32;

/// A token bucket. What it holds is counted in microseconds of refilling, so that nothing is lost by rounding.
#[derive(Debug)]
pub(super) struct Bucket {
    held: u64,
    at: Micros,
}

const COST: u64 = SECOND / RATE;

impl Bucket {
    pub(super) fn new(now: Micros) -> Self {
        Self {
            held: BURST * COST,
            at: now,
        }
    }

    /// Allows some commands more, once.
    pub(super) fn allow(&mut self, commands: usize) {
        self.held += COST * commands as u64;
    }

    /// Whether one more command may be given now.
    pub(super) fn take(&mut self, now: Micros) -> bool {
        if self.held < BURST * COST {
            let refilled = self.held.saturating_add(now.saturating_sub(self.at));
            self.held = refilled.min(BURST * COST);
        }
        self.at = now;
        let allowed = self.held >= COST;
        if allowed {
            self.held -= COST;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_then_so_many_a_second() {
        let mut bucket = Bucket::new(5);
        let taken = |bucket: &mut Bucket, now| (0..1_000).filter(|_| bucket.take(now)).count() as u64;
        assert_eq!(taken(&mut bucket, 5), BURST);
        assert_eq!(taken(&mut bucket, 5 + SECOND), RATE);
        assert_eq!(taken(&mut bucket, 5 + 100 * SECOND), BURST);
        bucket.allow(10);
        assert_eq!(taken(&mut bucket, 5 + 100 * SECOND), 10);
        // Time that is told late does not count twice, nor go back.
        assert_eq!(taken(&mut bucket, 0), 0);
    }
}
