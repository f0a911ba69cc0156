//! What an emitter has published.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDateTime, PyDict, PyTzInfo};

use super::UserWebSocketEmitter;
use crate::clock::{Micros, seconds};
use crate::events::{EventKind, Level};
use crate::metrics::EventTypes;
use crate::py::delivery::types_of;

/// Accepted events by type, and when the latest was.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    types: EventTypes,
    /// In microseconds since the Unix epoch; 0 before the first.
    latest: AtomicU64,
}

impl UserWebSocketEmitter {
    /// Counts an event that was accepted, for the emitter and for the process.
    pub(super) fn note_accepted(&self, kind: EventKind<'_>, unix: Micros) {
        let (place, name) = (kind.place(), kind.name());
        self.accepted.types.count(place, name);
        self.accepted.latest.store(unix, Ordering::Relaxed);
        self.lane.shared().events.types.count(place, name);
    }

    /// The figures as `EventStats`.
    pub(super) fn event_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static STATS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let figures = PyDict::new(py);
        figures.set_item("events_published", self.published.get())?;
        figures.set_item("events_refused", self.refused.get())?;
        let writers = self.writers();
        let logs = || writers.iter().map(|(writer, _)| writer.log());
        let head: u64 = logs().map(|log| log.head()).sum();
        let sent: u64 = logs().map(|log| log.reached(Level::Sent)).sum();
        figures.set_item("stream_head", head)?;
        figures.set_item("events_sent", sent)?;
        figures.set_item("queue_size", head.saturating_sub(sent))?;
        figures.set_item("event_type_counts", types_of(py, &self.accepted.types)?)?;
        let latest = Some(self.accepted.latest.load(Ordering::Relaxed)).filter(|at| *at != 0);
        let utc = PyTzInfo::utc(py)?;
        let at = latest.map(|at| PyDateTime::from_timestamp(py, seconds(at), Some(&utc)));
        figures.set_item("last_event_time", at.transpose()?)?;
        let make = STATS.get_or_try_init(py, || {
            let module = py.import("isolane.events.statistics")?;
            module.getattr("stats_of_emitter").map(Bound::unbind)
        })?;
        make.bind(py).call1((figures,))
    }
}
