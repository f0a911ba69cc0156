//! Where contexts get their place in a trace from.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use crate::context::{TraceContext, set_tracing};

/// Answers where what runs now stands, or `None`. Set while somebody traces.
static SOURCE: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// Sets what is asked for the place of a new context in a trace, or takes it away: `source(user_id)` answers `traceparent`,
/// `tracestate` and whether another process began the span, or `None`. Answers the source before. While there is none nothing
/// asks, and events name no trace.
#[pyfunction]
#[pyo3(signature = (source: "collections.abc.Callable[[str], tuple[str, str | None, bool] | None] | None"))]
pub(crate) fn _set_trace_source(source: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
    set_tracing(source.is_some());
    let mut held = SOURCE.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *held, source)
}

/// Where a new context of a user stands. Who traces badly does not keep a run from beginning: an error is told to nobody but
/// `sys.unraisablehook`.
pub(super) fn place_of(py: Python<'_>, user: &str) -> Option<TraceContext> {
    let source = {
        let held = SOURCE.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|source| source.clone_ref(py))?
    };
    let answer = source
        .bind(py)
        .call1((user,))
        .and_then(|answer| answer.extract::<Option<(String, Option<String>, bool)>>());
    match answer {
        Ok(place) => place.and_then(|(parent, state, remote)| TraceContext::new(&parent, state.as_deref(), remote)),
        Err(error) => {
            error.write_unraisable(py, Some(source.bind(py)));
            None
        }
    }
}
