//! Limits that follow their backends: which controller sets which limit of a limiter.

use std::sync::{Arc, PoisonError};

use super::adaptive::{Controller, Outcome};
use crate::clock::Micros;
use crate::sync::Mutex;

/// What a call came to, and how much work it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CallResult {
    /// What it came to.
    pub outcome: Outcome,
    /// Units of work, by which its latency is divided.
    pub units: f32,
}

impl CallResult {
    /// An answer of one unit.
    pub const OK: Self = Self {
        outcome: Outcome::Ok,
        units: 1.0,
    };
    /// Nothing can be learned from it.
    pub const IGNORED: Self = Self {
        outcome: Outcome::Ignored,
        units: 1.0,
    };
}

/// Which limit a controller sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Governed {
    /// The process's.
    Total,
    /// That of a named resource, by its number.
    Resource(usize),
}

/// A controller in charge of a limit. The lock of the controller is taken under that of the limiter, never the other way.
#[derive(Debug)]
pub(super) struct Governor {
    pub(super) governed: Governed,
    controller: Arc<Mutex<Controller>>,
}

impl Governor {
    pub(super) fn new(governed: Governed, controller: Arc<Mutex<Controller>>) -> Self {
        Self { governed, controller }
    }

    pub(super) fn limit(&self) -> u32 {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner).limit()
    }

    /// Takes the end of a call. Answers the limit from here on.
    pub(super) fn sample(&self, now: Micros, held: Micros, inflight: u32, result: CallResult) -> u32 {
        let mut controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        controller.sample(now, held, inflight, result.outcome, f64::from(result.units));
        controller.limit()
    }
}
