//! Limits that follow their backends: which controller sets which limit of a limiter.

use std::sync::{Arc, PoisonError};

use super::adaptive::{Controller, Outcome};
use super::fair::Grant;
use super::resources::ResourceSet;
use super::state::State;
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

impl State {
    pub(super) fn govern(&mut self, governor: Governor) {
        self.apply(governor.governed, governor.limit());
        self.governors.retain(|other| other.governed != governor.governed);
        self.governors.push(governor);
    }

    pub(super) fn apply(&mut self, governed: Governed, limit: u32) {
        match governed {
            Governed::Total => self.cap = limit,
            Governed::Resource(index) => self.resources.set_cap(index, limit),
        }
    }

    /// Tells the controllers of the end of a call.
    pub(super) fn sample(&mut self, grant: &Grant, now: Micros) {
        let held = now.saturating_sub(grant.granted);
        let result = grant.result.unwrap_or(CallResult::OK);
        for at in 0..self.governors.len() {
            let governor = &self.governors[at];
            let governed = governor.governed;
            let inflight = match governed {
                // A lent unit is no call of its own.
                Governed::Total => grant.charged.map(|_| grant.inflight),
                Governed::Resource(index) => {
                    let mut of = grant.inflight_of.iter().flatten();
                    of.find(|(resource, _)| *resource == index)
                        .map(|(_, inflight)| *inflight)
                }
            };
            if let Some(inflight) = inflight {
                let limit = governor.sample(now, held, inflight, result);
                self.apply(governed, limit);
            }
        }
    }

    /// How many calls the adaptive resources of a grant have in flight.
    pub(super) fn inflight_of(&self, resources: ResourceSet) -> Option<Box<[(usize, u32)]>> {
        if self.governors.is_empty() || resources.is_empty() {
            return None;
        }
        let governed = self.governors.iter().filter_map(|governor| match governor.governed {
            Governed::Resource(index) if resources.contains(index) => Some(index),
            _ => None,
        });
        Some(
            governed
                .map(|index| (index, self.resources.all()[index].running))
                .collect(),
        )
    }
}
