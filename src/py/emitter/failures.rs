//! `FailedEvent`: an event that was not accepted.

use pyo3::prelude::*;

use crate::clock::seconds;
use crate::events;

/// An event that was not accepted. Its payload is not kept. Fields: `time` (seconds since the epoch), `event_id` (the one that
/// its producer chose, else an empty text), `event_type`, and `reason`.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct FailedEvent(events::FailedEvent);

impl FailedEvent {
    pub(super) fn new(failed: events::FailedEvent) -> Self {
        Self(failed)
    }
}

#[pymethods]
impl FailedEvent {
    /// When, in seconds since the epoch.
    #[getter]
    fn time(&self) -> f64 {
        seconds(self.0.unix)
    }

    /// The id that its producer chose, else an empty text.
    #[getter]
    fn event_id(&self) -> &str {
        self.0.event_id.as_deref().unwrap_or_default()
    }

    /// Its type; an empty text when that was no text.
    #[getter]
    fn event_type(&self) -> &str {
        &self.0.event_type
    }

    /// The name of the exception that was raised, and its text.
    #[getter]
    fn reason(&self) -> &str {
        &self.0.reason
    }

    fn __repr__(&self) -> String {
        format!("<FailedEvent {}: {}>", self.0.event_type, self.0.reason)
    }
}
