//! The time for which a permit is given back while its holder waits for something else.

use std::sync::Mutex;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::super::awaitable::ReadyNone;
use super::ask::{Wanted, in_core, patience};
use super::lock;
use super::permit::PyPermit;
use super::waiting::{Goal, ask, resume_at_once};

/// `async with permit.suspend()`: see `Permit.suspend`.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct Suspension {
    permit: Py<PyPermit>,
    timeout: f64,
    /// What is asked for at the end of the block, while the block runs.
    wanted: Mutex<Option<Wanted>>,
}

impl Suspension {
    pub(super) fn new(permit: Py<PyPermit>, timeout: f64) -> PyResult<Self> {
        Ok(Self {
            permit,
            timeout: patience(timeout)?,
            wanted: Mutex::new(None),
        })
    }
}

#[pymethods]
impl Suspension {
    #[pyo3(signature = () -> "collections.abc.Awaitable[None]")]
    fn __aenter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, ReadyNone>> {
        let Some(mut wanted) = self.permit.get().suspend_now(py) else {
            return Err(PyRuntimeError::new_err(
                "the permit is not held: it was released, or is suspended already",
            ));
        };
        wanted.timeout = self.timeout;
        wanted.patience = in_core(self.timeout);
        *lock(&self.wanted) = Some(wanted);
        ReadyNone::shared(py)
    }

    #[pyo3(signature = (kind = None, _exception = None, _traceback = None) -> "collections.abc.Awaitable[None]")]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        kind: Option<&Bound<'py, PyAny>>,
        _exception: Option<&Bound<'py, PyAny>>,
        _traceback: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(wanted) = lock(&self.wanted).take() else {
            return ReadyNone::shared(py).map(Bound::into_any);
        };
        let permit = self.permit.get();
        if kind.is_some_and(|kind| !kind.is_none()) {
            // What was raised, a cancellation above all, does not wait.
            resume_at_once(py, permit, &wanted);
            return ReadyNone::shared(py).map(Bound::into_any);
        }
        let goal = Goal::Resume(self.permit.clone_ref(py));
        ask(py, permit.limiter(), &wanted, goal).inspect_err(|_| permit.stay_released())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.permit)?;
        let Ok(wanted) = self.wanted.try_lock() else {
            return Ok(());
        };
        wanted.as_ref().map_or(Ok(()), |wanted| wanted.traverse(&visit))
    }
}
