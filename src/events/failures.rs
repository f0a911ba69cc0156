//! What was not accepted lately, for each user.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use crate::clock::Micros;
use crate::sync::Mutex;

/// Failed events that are kept for a user.
const KEPT: usize = 256;

/// An event that was not accepted. Never its payload.
#[derive(Debug, Clone)]
pub struct FailedEvent {
    /// When, since the Unix epoch.
    pub unix: Micros,
    /// The id that its producer chose.
    pub event_id: Option<Arc<str>>,
    /// Its type.
    pub event_type: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
}

/// The latest failed events of a user.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<VecDeque<FailedEvent>>);

impl Failures {
    /// Keeps one, and forgets the oldest of too many.
    pub(super) fn add(&self, failed: FailedEvent) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(failed);
    }

    /// Those that are kept, the oldest first.
    pub(super) fn list(&self) -> Vec<FailedEvent> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().cloned().collect()
    }
}
