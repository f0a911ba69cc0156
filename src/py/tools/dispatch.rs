//! `DispatchBook`: the tool calls of one factory of dispatchers.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyDict, PyInt, PyTuple};

use super::super::context::PyContext;
use super::super::errors::LimitRejected;
use super::super::process::{CLOCK, Stamp};
use super::policy::RolePolicy;
use super::resources::{Understood, held};
use super::verdict::PyVerdict;
use super::wall::{OwnershipWall, Request};
use crate::clock::{Clock, Micros, micros, seconds};
use crate::tools::{CallEnd, DispatchBook, Verdict};

/// Calls by number: who makes them, until when, how they ended.
#[pyclass(frozen, name = "DispatchBook", module = "isolane._core")]
pub(crate) struct PyDispatchBook {
    core: DispatchBook,
    stamp: Stamp,
}

impl PyDispatchBook {
    fn begun(&self, py: Python<'_>, context: &PyContext, tool: &str, timeout: Option<Micros>) -> PyResult<u64> {
        let user = context.core().lane().key();
        self.core.begin(user, tool, timeout, CLOCK.monotonic()).map_err(|full| {
            let limit = "user".to_owned();
            let (reason, resource) = ("full".to_owned(), "tool_calls".to_owned());
            LimitRejected::raise(py, full.to_string(), limit, 1, full.running, 0, reason, resource)
        })
    }
}

#[pymethods]
impl PyDispatchBook {
    #[new]
    fn new(per_user: u32) -> PyResult<Self> {
        if per_user == 0 {
            return Err(PyValueError::new_err("calls_per_user must be at least 1"));
        }
        Ok(Self {
            core: DispatchBook::new(per_user),
            stamp: Stamp::now(),
        })
    }

    /// A call of the context's user begins; it is due in so many seconds, or never. Returns its number. Raises `LimitRejected`
    /// when the user has too many under way.
    #[pyo3(signature = (context, tool, timeout = None))]
    fn begin(&self, py: Python<'_>, context: &Bound<'_, PyContext>, tool: &str, timeout: Option<f64>) -> PyResult<u64> {
        self.stamp.check(py)?;
        self.begun(py, context.get(), tool, timeout.map(micros))
    }

    /// Checks a call as `OwnershipWall.evaluate` does, with the roles of the context, and lets it begin if nothing was found.
    /// Returns its number; or the verdict that refuses it, which is closed. Raises what `begin` raises.
    #[pyo3(signature = (
        wall, policy, context, action, resource, mentioned: "tuple[typing.Any, ...]", tool, timeout,
    ) -> "int | Verdict")]
    fn admit<'py>(
        &self,
        wall: &Bound<'py, OwnershipWall>,
        policy: &Bound<'py, RolePolicy>,
        context: &Bound<'py, PyContext>,
        action: &str,
        resource: PyBackedStr,
        mentioned: &Bound<'py, PyTuple>,
        tool: &str,
        timeout: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = wall.py();
        self.stamp.check(py)?;
        wall.get().check_process(py)?;
        let request = Request {
            action,
            resources: Understood::of(resource),
            mentioned: held(mentioned, "mentioned"),
            policy: Some(policy.get().current()),
            roles: None,
        };
        let mut verdict = Verdict::open(CLOCK.monotonic());
        wall.get().judge(context.get(), &request, &mut verdict);
        verdict.complete();
        verdict.close(CLOCK.monotonic());
        if !verdict.is_permitted() {
            return Ok(Bound::new(py, PyVerdict::from(verdict))?.into_any());
        }
        let number = self.begun(py, context.get(), tool, Some(micros(timeout)))?;
        Ok(PyInt::new(py, number).into_any())
    }

    /// A call ended: `ok`, `failed`, `timed_out` or `cancelled`. Returns the milliseconds that it took, and `None` when its end
    /// was noted before.
    fn end(&self, number: u64, how: &str) -> PyResult<Option<f64>> {
        let end = CallEnd::of(how)
            .ok_or_else(|| PyValueError::new_err("how must be 'ok', 'failed', 'timed_out' or 'cancelled'"))?;
        let took = self.core.end(number, end, CLOCK.monotonic());
        Ok(took.map(|took| took as f64 / 1_000.0))
    }

    /// Counts a call that was refused before it began.
    fn refuse(&self, tool: &str) {
        self.core.refuse(tool);
    }

    /// Takes the calls whose deadline has passed.
    fn due(&self) -> Vec<u64> {
        self.core.due(CLOCK.monotonic())
    }

    /// Seconds until the next call is due, 0 when one is, `None` without any.
    fn next_due_in(&self) -> Option<f64> {
        let deadline = self.core.next_deadline()?;
        Some(seconds(deadline.saturating_sub(CLOCK.monotonic())))
    }

    /// Calls under way.
    #[getter]
    fn running(&self) -> usize {
        self.core.running()
    }

    /// Counts of each tool, and percentiles of how long its calls took, in milliseconds.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.core.figures();
        let tools = PyDict::new(py);
        for (name, tool) in &figures.tools {
            let dict = PyDict::new(py);
            dict.set_item("ok", tool.ok)?;
            dict.set_item("failed", tool.failed)?;
            dict.set_item("timed_out", tool.timed_out)?;
            dict.set_item("cancelled", tool.cancelled)?;
            dict.set_item("refused", tool.refused)?;
            dict.set_item("total_ms", tool.took.sum() as f64 / 1_000.0)?;
            for (key, part) in [("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)] {
                dict.set_item(key, tool.took.quantile(part).map(|took| took as f64 / 1_000.0))?;
            }
            tools.set_item(&**name, dict)?;
        }
        let all = PyDict::new(py);
        all.set_item("tools", tools)?;
        all.set_item("running", figures.running)?;
        all.set_item("peak", figures.peak)?;
        Ok(all)
    }
}
