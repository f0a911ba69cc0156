//! What a context holds beside its data: a cache, tasks, and the figures about them.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PySet;

use super::cache::TtlCache;
use super::context::PyContext;
use super::errors::{ContextStateError, to_python};
use super::process::CLOCK;
use crate::clock::{Clock, seconds};
use crate::context::ContextState;
use crate::owner::Crossing;

fn task_function<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    cell.get_or_try_init(py, || {
        py.import("isolane.contexts.tasks")?.getattr(name).map(Bound::unbind)
    })
    .map(|function| function.bind(py))
}

fn ended(py: Python<'_>, what: &str) -> PyErr {
    let message = format!("the context has ended, so {what}; use the context of the next run");
    ContextStateError::raise(py, message)
}

impl PyContext {
    /// The cache, made when it is first asked for.
    pub(super) fn cache_of<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, TtlCache>> {
        self.stamp().check(py)?;
        if self.core().state() == ContextState::Cleaned {
            return Err(ended(py, "it has no cache any more"));
        }
        let own = self.own(py)?.get();
        if let Some(cache) = own.cache(py) {
            return Ok(cache.into_bound(py));
        }
        let made = Bound::new(py, TtlCache::of_lane(self.core().lane().clone()))?;
        Ok(own.set_cache_once(py, &made).map_or(made, |held| held.into_bound(py)))
    }

    /// Starts a task that ends with the context.
    pub(super) fn start_task<'py>(
        context: &Bound<'py, Self>,
        coroutine: Bound<'py, PyAny>,
        name: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static START: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = context.py();
        let inner = context.get();
        inner.stamp().check(py)?;
        let request = inner.request(py)?.get();
        if inner.core().state().is_over() || request.has_ended() {
            // Else Python warns that it was never awaited.
            coroutine.call_method0("close")?;
            return Err(ended(py, "it starts no tasks"));
        }
        let (own, all) = (inner.own(py)?.get().tasks(py)?, request.tasks(py)?);
        task_function(py, &START, "start")?.call1((coroutine, name, own, all))
    }

    /// What cancels the tasks of the context, and of a root those of its children. `None` when there are none.
    pub(super) fn canceller<'py>(&self, py: Python<'py>, is_root: bool) -> PyResult<Option<Bound<'py, PyAny>>> {
        static CANCELLER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let own = self.own_if_made(py).and_then(|own| own.get().take_tasks());
        let all = if is_root {
            self.request_if_made(py).and_then(|request| request.get().take_tasks())
        } else {
            None
        };
        let some = |tasks: &Py<PySet>| !tasks.bind(py).is_empty();
        let Some(tasks) = all.into_iter().chain(own).find(some) else {
            return Ok(None);
        };
        task_function(py, &CANCELLER, "canceller")?.call1((tasks,)).map(Some)
    }
}

/// Gives a context a cache of other settings, before its cache is first used.
///
/// Raises `ContextIsolationError` for a cache of another user and `ContextStateError` when the context has one.
#[pyfunction]
pub(crate) fn bind_context_cache(context: &Bound<'_, PyContext>, cache: &Bound<'_, TtlCache>) -> PyResult<()> {
    let py = context.py();
    let inner = context.get();
    inner.stamp().check(py)?;
    let tag = inner.core().lane().tag();
    tag.same_owner(cache.get().tag(), Crossing::Bind)
        .map_err(|violation| to_python(py, violation))?;
    match inner.own(py)?.get().set_cache_once(py, cache) {
        None => Ok(()),
        Some(_) => Err(ContextStateError::raise(
            py,
            "the context has a cache already; give it another before the first use".to_owned(),
        )),
    }
}

/// What `ResourceMetrics` is made of: bytes of the user, connections of the user, tasks of the context, and the per cent of one
/// processor that the user took since this was last asked of the context, by what `cpu_seconds` was then and is now.
#[pyfunction]
pub(crate) fn resources_of(context: &Bound<'_, PyContext>, cpu_seconds: f64) -> PyResult<(usize, usize, usize, f64)> {
    let py = context.py();
    let inner = context.get();
    inner.stamp().check(py)?;
    let lane = inner.core().lane();
    let own = inner.own(py)?.get();
    let now = CLOCK.monotonic();
    let percent = match own.note_cpu(now, cpu_seconds) {
        Some((then, before)) if now > then => (cpu_seconds - before).max(0.0) / seconds(now - then) * 100.0,
        _ => 0.0,
    };
    let connections = lane.streams().connections().len();
    Ok((lane.account().bytes(), connections, own.pending_tasks(py), percent))
}
