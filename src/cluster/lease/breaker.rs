//! Whether the store is asked at all: after failures in a row it is left alone for a while.

use crate::clock::{Micros, SECOND};
use crate::mutants::mutant;

/// Calls in a row that fail before the store is left alone.
pub(super) const MOST_FAILURES: u32 = 3;
/// For how long.
pub(super) const OPEN_FOR: Micros = SECOND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    /// Left alone until then.
    Open {
        until: Micros,
    },
    /// One call is under way that says whether it is back.
    Probing,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sends {
    All,
    /// One call alone.
    Probe,
    Nothing,
}

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// The last batch that failed: what was sent together fails together.
    failed: u64,
    pub(super) opened: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
            failed: 0,
            opened: 0,
        }
    }
}

impl Breaker {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    pub(super) fn sends(&self, now: Micros) -> Sends {
        match self.state {
            State::Closed { .. } => Sends::All,
            State::Open { until } if now >= until => Sends::Probe,
            State::Open { .. } | State::Probing => Sends::Nothing,
        }
    }

    /// When there is to be a probe.
    pub(super) fn probe_at(&self) -> Option<Micros> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::Probing => None,
        }
    }

    pub(super) fn probing(&mut self) {
        self.state = State::Probing;
    }

    pub(super) fn replied(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// Something of a batch failed.
    pub(super) fn failed(&mut self, batch: u64, now: Micros) {
        if batch == self.failed || mutant!(BreakerNeverOpens) {
            return;
        }
        self.failed = batch;
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::Probing => MOST_FAILURES,
            State::Open { .. } => return,
        };
        if failures < MOST_FAILURES {
            self.state = State::Closed { failures };
            return;
        }
        self.state = State::Open { until: now + OPEN_FOR };
        self.opened += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_batches_that_fail_in_a_row_open_it_and_a_probe_closes_it() {
        let mut breaker = Breaker::default();
        breaker.failed(1, 0);
        breaker.failed(1, 0);
        breaker.failed(1, 0);
        breaker.failed(2, 0);
        assert!(breaker.is_closed(), "what was sent together failed together");
        breaker.replied();
        breaker.failed(3, 0);
        breaker.failed(4, 0);
        assert!(breaker.is_closed(), "an answer begins the row anew");
        breaker.failed(5, 10);
        assert_eq!(breaker.sends(10), Sends::Nothing);
        assert_eq!(breaker.probe_at(), Some(10 + OPEN_FOR));
        assert_eq!(breaker.sends(10 + OPEN_FOR), Sends::Probe);
        breaker.probing();
        assert_eq!(breaker.sends(10 + OPEN_FOR), Sends::Nothing, "one probe at a time");
        breaker.failed(6, 20 + OPEN_FOR);
        assert_eq!(breaker.sends(20 + OPEN_FOR), Sends::Nothing);
        assert_eq!(breaker.sends(20 + 2 * OPEN_FOR), Sends::Probe);
        breaker.probing();
        breaker.replied();
        assert_eq!(breaker.sends(21 + 2 * OPEN_FOR), Sends::All);
        assert_eq!(breaker.opened, 2);
    }
}
