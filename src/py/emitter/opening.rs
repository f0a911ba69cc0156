//! What the factories call: emitters are made, streams ended and listed.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::super::context::PyContext;
use super::super::errors::to_python;
use super::super::policy::with_placeholders;
use super::super::process::{CLOCK, lane_of, registry};
use super::{Target, UserWebSocketEmitter};
use crate::clock::{Clock, micros, seconds};
use crate::context::Identity;
use crate::events::{EventError, LogBounds, Outcome};
use crate::ids::ThreadId;
use crate::sanitize::EventMask;

pub(crate) fn bounds(
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
    progress_ttl: f64,
) -> LogBounds {
    LogBounds {
        events: max_events.max(1),
        bytes: max_run_bytes,
        user_bytes: max_user_bytes,
        event_bytes: max_event_bytes,
        retention: micros(retention),
        progress_ttl: micros(progress_ttl),
        ..LogBounds::default()
    }
}

fn event_mask(name: &str) -> PyResult<EventMask> {
    EventMask::ALL
        .into_iter()
        .find(|mask| mask.name() == name)
        .ok_or_else(|| PyValueError::new_err("sanitize must be secrets, all or off"))
}

/// Makes the emitter of a context's run, and opens its stream. Used by the factories.
#[pyfunction]
#[pyo3(signature = (
    ctx, *, max_events = 1000, max_run_bytes = 1 << 20, max_user_bytes = 4 << 20, max_event_bytes = 65536, retention = 300.0,
    progress_ttl = 30.0, sanitize = "secrets",
))]
pub(crate) fn emitter_for_context(
    ctx: &Bound<'_, PyContext>,
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
    progress_ttl: f64,
    sanitize: &str,
) -> PyResult<UserWebSocketEmitter> {
    let (py, context) = (ctx.py(), ctx.get());
    context.stamp().check(py)?;
    let bounds = bounds(
        max_events,
        max_run_bytes,
        max_user_bytes,
        max_event_bytes,
        retention,
        progress_ttl,
    );
    let mask = event_mask(sanitize)?;
    context.request(py)?.get().set_bounds(bounds, mask);
    let writer = context.open_stream(py)?;
    let owns_stream = context.core().lineage().path().len() == 1;
    Ok(UserWebSocketEmitter::bound(context, writer, owns_stream, mask))
}

/// Sets the bounds of a context's event stream, for when it is opened. Used by the factories.
#[pyfunction]
#[pyo3(signature = (
    ctx, *, max_events = 1000, max_run_bytes = 1 << 20, max_user_bytes = 4 << 20, max_event_bytes = 65536, retention = 300.0,
    progress_ttl = 30.0, sanitize = "secrets",
))]
pub(crate) fn bind_event_bounds(
    ctx: &Bound<'_, PyContext>,
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
    progress_ttl: f64,
    sanitize: &str,
) -> PyResult<()> {
    let bounds = bounds(
        max_events,
        max_run_bytes,
        max_user_bytes,
        max_event_bytes,
        retention,
        progress_ttl,
    );
    let mask = event_mask(sanitize)?;
    ctx.get().request(ctx.py())?.get().set_bounds(bounds, mask);
    Ok(())
}

/// Makes an emitter that serves all runs of a user. Used by the factory.
#[pyfunction]
#[pyo3(signature = (
    user_id, thread_id, connection_id = None, *, max_events = 1000, max_run_bytes = 1 << 20, max_user_bytes = 4 << 20,
    max_event_bytes = 65536, retention = 300.0,
    progress_ttl = 30.0, sanitize = "secrets",
))]
pub(crate) fn emitter_for_user(
    py: Python<'_>,
    user_id: &str,
    thread_id: &str,
    connection_id: Option<String>,
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
    progress_ttl: f64,
    sanitize: &str,
) -> PyResult<UserWebSocketEmitter> {
    let lane = lane_of(py, user_id)?;
    with_placeholders(|policy| Identity::check("thread_id", thread_id, policy))
        .map_err(|error| to_python(py, error))?;
    let thread = ThreadId::new(thread_id).map_err(|_| to_python(py, EventError::invalid("thread_id is no id")))?;
    let bounds = bounds(
        max_events,
        max_run_bytes,
        max_user_bytes,
        max_event_bytes,
        retention,
        progress_ttl,
    );
    Ok(UserWebSocketEmitter::make(
        lane,
        connection_id,
        Target::User {
            thread,
            bounds,
            runs: std::sync::Mutex::default(),
        },
        event_mask(sanitize)?,
    ))
}

/// Ends the stream of a context's run: open tool calls and executions get their last event. `outcome` is `completed`,
/// `partial`, `failed`, `cancelled` or `lost`; without one it follows from the executions.
#[pyfunction]
#[pyo3(signature = (ctx, outcome = None, reason = "the run ended"))]
pub(crate) fn end_stream(ctx: &Bound<'_, PyContext>, outcome: Option<&str>, reason: &str) -> PyResult<()> {
    let py = ctx.py();
    ctx.get().stamp().check(py)?;
    let outcome = match outcome {
        None => None,
        Some("completed") => Some(Outcome::Completed),
        Some("partial") => Some(Outcome::Partial),
        Some("failed") => Some(Outcome::Failed),
        Some("cancelled") => Some(Outcome::Cancelled),
        Some("lost") => Some(Outcome::Lost),
        Some(_) => {
            return Err(PyTypeError::new_err(
                "outcome must be completed, partial, failed, cancelled or lost",
            ));
        }
    };
    if let Some(writer) = ctx.get().request(py)?.get().writer() {
        writer.log().end(outcome, reason, CLOCK.unix(), CLOCK.monotonic());
    }
    Ok(())
}

/// Whether the event stream of a context's run was opened and has ended.
#[pyfunction]
pub(crate) fn stream_has_ended(ctx: &Bound<'_, PyContext>) -> PyResult<bool> {
    Ok(ctx
        .get()
        .request(ctx.py())?
        .get()
        .writer()
        .is_some_and(|writer| writer.log().is_over()))
}

/// The streams of a user that are not expired: `run_id`, `thread_id`, `epoch`, `head`, `outcome` and, for ended ones,
/// `ended_seconds_ago`; `worker` is the one that publishes it, `None` where that is this one.
#[pyfunction]
#[pyo3(signature = (user_id) -> "list[dict[str, typing.Any]]")]
pub(crate) fn user_streams<'py>(py: Python<'py>, user_id: &str) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let lane = registry().find(user_id);
    let Some(lane) = lane else { return Ok(Vec::new()) };
    let mut streams = Vec::new();
    for view in lane.streams().views() {
        let dict = PyDict::new(py);
        dict.set_item("run_id", view.run.as_str())?;
        dict.set_item("thread_id", view.thread.as_str())?;
        dict.set_item("epoch", &*view.epoch)?;
        dict.set_item("head", view.head)?;
        dict.set_item("outcome", view.ended.map(|(outcome, _)| outcome.name()))?;
        let ago = view.ended.map(|(_, at)| seconds(CLOCK.monotonic().saturating_sub(at)));
        dict.set_item("ended_seconds_ago", ago)?;
        dict.set_item("worker", view.worker.as_deref())?;
        streams.push(dict);
    }
    Ok(streams)
}
