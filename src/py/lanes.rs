//! The lanes of this process, for statistics, sweeps and tests.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::process::{CLOCK, registry};
use crate::clock::{Clock, micros, seconds};
use crate::metrics::{Id, Scrape};

/// Users and what is charged to them, for the metrics.
pub(super) fn collect(scrape: &mut Scrape) {
    let registry = registry();
    let stats = registry.stats();
    scrape.level(Id::UsersActive, &[], stats.lanes.saturating_sub(stats.idle) as f64);
    scrape.level(Id::MemoryBytes, &[], stats.bytes as f64);
    scrape.level(Id::UserMemoryMax, &[], registry.most_bytes() as f64);
}

/// Counts of the process: `lanes`, `idle`, `evicted`, `bytes`, `events_published`, `events_sent`, `events_failed`,
/// `events_folded`, `events_shed`, `events_forgotten`.
#[pyfunction]
#[pyo3(signature = () -> "dict[str, int]")]
pub(crate) fn lane_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let registry = registry();
    let stats = registry.stats();
    let events = &registry.shared().events;
    let dict = PyDict::new(py);
    dict.set_item("lanes", stats.lanes)?;
    dict.set_item("idle", stats.idle)?;
    dict.set_item("evicted", stats.evicted)?;
    dict.set_item("bytes", stats.bytes)?;
    dict.set_item("events_published", events.published.get())?;
    dict.set_item("events_sent", events.sent.get())?;
    dict.set_item("events_failed", events.failed.get())?;
    dict.set_item("events_folded", events.folded.get())?;
    dict.set_item("events_shed", events.shed.get())?;
    dict.set_item("events_forgotten", events.forgotten.get())?;
    Ok(dict)
}

/// What this process holds for one user: `bytes`, `peak_bytes` (the most at once), `event_bytes`, `handles` (contexts, permits, engines, connections and
/// unexpired logs), `streams`, `connections`; `None` when there is no lane.
#[pyfunction]
#[pyo3(signature = (user_id) -> "dict[str, int] | None")]
pub(crate) fn lane_usage<'py>(py: Python<'py>, user_id: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(lane) = registry().find(user_id) else {
        return Ok(None);
    };
    let dict = PyDict::new(py);
    dict.set_item("bytes", lane.account().bytes())?;
    dict.set_item("peak_bytes", lane.account().peak())?;
    dict.set_item("event_bytes", lane.streams().account().bytes())?;
    // Without the handle that this function holds itself.
    dict.set_item("handles", lane.handles() - 1)?;
    dict.set_item("streams", lane.streams().views().len())?;
    dict.set_item("connections", lane.streams().connections().len())?;
    Ok(Some(dict))
}

/// Drops logs whose retention is over and entries of caches whose time is; with `idle_lanes=True` also every lane that nothing
/// uses. Returns how many lanes went.
#[pyfunction]
#[pyo3(signature = (*, idle_lanes = false))]
pub(crate) fn sweep_lanes(idle_lanes: bool) -> usize {
    super::memory::expire_caches(None);
    registry().sweep(idle_lanes)
}

/// Sets how many idle lanes are kept (default 10 000); the ones idle longest go first.
#[pyfunction]
pub(crate) fn set_max_idle_lanes(lanes: usize) {
    registry().set_max_idle(lanes);
}

/// Seconds of the monotonic clock that deadlines and retention use.
#[pyfunction]
pub(crate) fn monotonic() -> f64 {
    seconds(CLOCK.monotonic())
}

/// Seconds since 1970 by the clock of the core.
#[pyfunction]
pub(crate) fn unix_time() -> f64 {
    seconds(CLOCK.unix())
}

/// For tests: stops the clock of the core (`True`) or gives it back to the system (`False`).
#[pyfunction]
pub(crate) fn _manual_clock(on: bool) {
    if on {
        CLOCK.manual.switch_on();
    } else {
        CLOCK.manual.switch_off();
    }
}

/// For tests: moves the stopped clock forward.
#[pyfunction]
pub(crate) fn _advance_clock(by_seconds: f64) {
    CLOCK.manual.advance(micros(by_seconds));
}
