//! Figures of the delivery of events: of all sockets, of one user's, and of how long it takes.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::process::{CLOCK, registry};
use crate::clock::{Clock, Micros, micros, seconds};
use crate::events::{Connection, CursorMode, EventKind, LogBounds};
use crate::metrics::{EventTypes, Histogram, SharedHistogram};
use crate::mutants::mutant;

/// Durations, of which percentiles are read. At most a quarter more than exact; below 64 µs nothing is told apart.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct LatencyHistogram(SharedHistogram);

#[pymethods]
impl LatencyHistogram {
    #[new]
    fn new() -> Self {
        Self(SharedHistogram::default())
    }

    /// Counts a duration in seconds. A negative one counts as nothing.
    fn record(&self, duration: f64) {
        self.0.record(micros(duration));
    }

    /// What was counted: `count`, and in seconds `mean`, `p50`, `p95`, `p99`, `longest`; these are `None` while nothing was.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        figures_of(py, &self.0.read())
    }
}

fn figures_of<'py>(py: Python<'py>, histogram: &Histogram) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let count = histogram.count();
    let of_some = |value: Micros| (count > 0).then(|| seconds(value));
    dict.set_item("count", count)?;
    dict.set_item("mean", of_some(histogram.sum() / count.max(1)))?;
    for (name, part) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        dict.set_item(name, histogram.quantile(part).map(seconds))?;
    }
    dict.set_item("longest", of_some(histogram.longest()))?;
    Ok(dict)
}

/// Counts by type, without those that are zero; what has no name of its own is `other`.
pub(super) fn types_of<'py>(py: Python<'py>, types: &EventTypes) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let agent_events = EventKind::AGENT_EVENTS.into_iter().zip(types.fixed());
    for (name, many) in agent_events.filter(|(_, many)| *many > 0) {
        dict.set_item(name, many)?;
    }
    let (own, mut others) = types.own_types();
    for (name, many) in own {
        if &*name == "other" {
            others += many;
        } else {
            dict.set_item(&*name, many)?;
        }
    }
    if others > 0 {
        dict.set_item("other", others)?;
    }
    Ok(dict)
}

/// Events of all users: `latency`, from being published to being handed to a socket (`count`, and in seconds `mean`, `p50`,
/// `p95`, `p99`, `longest`), and `types`, accepted events by type: the six, the latest 50 other types, and `other`.
///
/// Of what a socket is handed at once the oldest event counts. What was published before the client asked for the stream does
/// not count: its age says when the client came.
#[pyfunction]
#[pyo3(signature = () -> "dict[str, typing.Any]")]
pub(crate) fn event_figures(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let events = &registry().shared().events;
    let dict = PyDict::new(py);
    dict.set_item("latency", figures_of(py, &events.delay.read())?)?;
    dict.set_item("types", types_of(py, &events.types)?)?;
    Ok(dict)
}

fn ago(now: Micros, at: Micros) -> f64 {
    seconds(now.saturating_sub(at))
}

/// The sockets of a user that are not about to be closed, the one attached first in front: `connection_id`, `framed`, `unread`
/// (events that wait for it), and in seconds `attached_seconds`, `read_seconds` (since something was last read for it) and
/// `asked_seconds` (for how long it owes an answer to a ping, or `None`).
#[pyfunction]
#[pyo3(signature = (user_id) -> "list[dict[str, typing.Any]]")]
pub(crate) fn user_connections<'py>(py: Python<'py>, user_id: &str) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    let Some(lane) = registry().find(user_id) else {
        return Ok(list);
    };
    let now = CLOCK.monotonic();
    let open = lane.streams().connections();
    for connection in open.iter().filter(|connection| connection.close_code().is_none()) {
        let view = connection.view();
        let dict = PyDict::new(py);
        dict.set_item("connection_id", connection.id())?;
        dict.set_item("framed", view.mode == CursorMode::Framed)?;
        dict.set_item("unread", view.unread)?;
        dict.set_item("attached_seconds", ago(now, view.attached))?;
        dict.set_item("read_seconds", ago(now, view.last_read))?;
        dict.set_item("asked_seconds", view.asked.map(|at| ago(now, at)))?;
        list.append(dict)?;
    }
    Ok(list)
}

/// Says that a socket of a user is to be closed with `code`. Returns whether there was one of that name that was not to be closed
/// already. Another user's socket is not found.
#[pyfunction]
pub(crate) fn close_connection(user_id: &str, connection_id: &str, code: u16) -> bool {
    let Some(lane) = registry().find(user_id) else {
        return false;
    };
    let connections = if mutant!(ForeignSocketClosed) {
        registry().connections()
    } else {
        lane.streams().connections()
    };
    let mut open = connections.iter().filter(|held| held.close_code().is_none());
    let Some(connection) = open.find(|held| held.id() == connection_id) else {
        return false;
    };
    connection.close(code);
    true
}

/// What a look at the delivery finds: `sockets`, `framed`, `silent` (framed sockets that owe an answer to a ping for longer than
/// `pong_seconds`), `unread` (events that wait, of the socket with the most), `streams` (that have not ended), `full_logs` (that
/// are full to the part `full`) and `event_memory` (the part of their bound that the events of all users take).
#[pyfunction]
#[pyo3(signature = (pong_seconds, full) -> "dict[str, typing.Any]")]
pub(crate) fn delivery_figures(py: Python<'_>, pong_seconds: f64, full: f64) -> PyResult<Bound<'_, PyDict>> {
    let registry = registry();
    let (now, patience) = (CLOCK.monotonic(), micros(pong_seconds));
    let connections = registry.connections();
    let views: Vec<_> = connections
        .iter()
        .map(|connection| Connection::view(connection))
        .collect();
    let framed = views.iter().filter(|view| view.mode == CursorMode::Framed);
    let is_silent = |asked: Option<Micros>| asked.is_some_and(|at| now.saturating_sub(at) > patience);
    let logs = registry.logs();
    let live = || logs.iter().filter(|log| !log.is_over());
    let dict = PyDict::new(py);
    dict.set_item("sockets", views.len())?;
    dict.set_item("framed", framed.clone().count())?;
    dict.set_item("silent", framed.filter(|view| is_silent(view.asked)).count())?;
    dict.set_item("unread", views.iter().map(|view| view.unread).max().unwrap_or(0))?;
    dict.set_item("streams", live().count())?;
    dict.set_item("full_logs", live().filter(|log| log.is_full(full)).count())?;
    let room = LogBounds::default().process_bytes;
    dict.set_item("event_memory", registry.shared().logs.bytes() as f64 / room as f64)?;
    Ok(dict)
}
