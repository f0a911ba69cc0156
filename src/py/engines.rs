//! `EngineBook`: the slots, lifetimes and counts of one engine factory.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::context::PyContext;
use super::limits::{PyPermit, taken};
use super::process::{CLOCK, Stamp};
use crate::clock::{Clock, micros, seconds};
use crate::engines::{EngineBook, EngineEnd};

/// The engines of one factory by number. Each owns its slot until it is closed; a deadline heap says which are due.
#[pyclass(frozen, name = "EngineBook", module = "isolane._core")]
pub(crate) struct PyEngineBook {
    inner: EngineBook,
    stamp: Stamp,
}

#[pymethods]
impl PyEngineBook {
    #[new]
    fn new() -> Self {
        Self {
            inner: EngineBook::default(),
            stamp: Stamp::now(),
        }
    }

    /// Registers an engine of the context, which owns the permit from now on, for `lifetime` seconds. Returns its number.
    fn open(
        &self,
        py: Python<'_>,
        ctx: &Bound<'_, PyContext>,
        slot: &Bound<'_, PyPermit>,
        lifetime: f64,
    ) -> PyResult<u64> {
        self.stamp.check(py)?;
        let slot = taken(slot)?;
        Ok(self.inner.open(
            ctx.get().core().identity().clone(),
            slot,
            CLOCK.monotonic(),
            micros(lifetime),
        ))
    }

    /// Counts an engine that could not be built.
    fn failed(&self) {
        self.inner.failed();
    }

    /// Frees the slot of an engine; `how` is `closed`, `expired` or `forced`. Returns whether it still had one.
    #[pyo3(signature = (number, how = "closed"))]
    fn close(&self, py: Python<'_>, number: u64, how: &str) -> PyResult<bool> {
        self.stamp.check(py)?;
        let end = match how {
            "closed" => EngineEnd::Closed,
            "expired" => EngineEnd::Expired,
            "forced" => EngineEnd::Forced,
            _ => return Err(PyValueError::new_err("how must be 'closed', 'expired' or 'forced'")),
        };
        Ok(self.inner.close(number, end, CLOCK.monotonic()))
    }

    /// Seconds until the next engine is due, 0 when one is, `None` without engines.
    fn next_due_in(&self) -> Option<f64> {
        self.inner
            .next_deadline()
            .map(|deadline| seconds(deadline.saturating_sub(CLOCK.monotonic())))
    }

    /// Takes the engines that are due off the heap.
    fn due(&self) -> Vec<u64> {
        self.inner.due(CLOCK.monotonic())
    }

    /// The audit sweep: engines overdue by more than `grace` seconds that nobody closed.
    fn overdue(&self, grace: f64) -> Vec<u64> {
        self.inner.overdue(CLOCK.monotonic(), micros(grace))
    }

    /// Living engines, oldest first.
    #[pyo3(signature = () -> "list[dict[str, typing.Any]]")]
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let engines = self.inner.view(CLOCK.monotonic());
        let mut view = Vec::with_capacity(engines.len());
        for engine in engines {
            let dict = PyDict::new(py);
            dict.set_item("number", engine.number)?;
            dict.set_item("user_id", engine.identity.user.as_str())?;
            dict.set_item("run_id", engine.identity.run.as_str())?;
            dict.set_item("request_id", engine.identity.request.as_str())?;
            dict.set_item("age_seconds", seconds(engine.age))?;
            dict.set_item("seconds_left", seconds(engine.left))?;
            view.push(dict);
        }
        Ok(view)
    }

    /// Counts.
    #[pyo3(signature = () -> "dict[str, int]")]
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = self.inner.metrics();
        let dict = PyDict::new(py);
        dict.set_item("engines_created", metrics.created)?;
        dict.set_item("engines_active", metrics.active)?;
        dict.set_item("engines_cleaned", metrics.cleaned)?;
        dict.set_item("engines_expired", metrics.expired)?;
        dict.set_item("engines_forced", metrics.forced)?;
        dict.set_item("creation_errors", metrics.failed)?;
        dict.set_item("concurrent_peak", metrics.peak)?;
        dict.set_item("total_users", metrics.users)?;
        dict.set_item("found_by_audit", metrics.found_by_audit)?;
        Ok(dict)
    }
}
