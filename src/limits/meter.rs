//! What requests come to, over all limiters that hand out permits to run.

use std::sync::LazyLock;

use crate::clock::Micros;
use crate::metrics::{Cell, Id};
use crate::mutants::mutant;

/// What a request came to, in the order of [`PERMIT_OUTCOMES`](crate::metrics::PERMIT_OUTCOMES).
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    TimedOut = 1,
    Refused,
    Cancelled,
}

static OUTCOMES: LazyLock<[&Cell; 4]> = LazyLock::new(|| [0, 1, 2, 3].map(|outcome| Id::Permits.at(&[outcome])));
static WAITS: LazyLock<&Cell> = LazyLock::new(|| Id::PermitWait.only());

/// Counts for a limiter, or not: the slots of engines and threads and the connections of pools are no permits to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    pub(super) on: bool,
}

impl Meter {
    /// A permit was granted. One that goes back because whoever asked is gone stays counted: a counter only grows.
    #[inline]
    pub(super) fn granted(self, waited: Micros) {
        if self.on {
            OUTCOMES[0].increment();
            WAITS.observe_micros(waited);
        }
    }

    #[inline]
    pub(super) fn other(self, outcome: Outcome) {
        if self.on && !mutant!(PermitRefusalNotMetered) {
            OUTCOMES[outcome as usize].increment();
        }
    }
}
