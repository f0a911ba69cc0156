//! `Verdict`: what a check came to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::super::process::CLOCK;
use crate::clock::Clock;
use crate::tools::{Verdict, ViolationKind};

/// A check that is open until `close`; refused until then, and whenever it was not carried out to its end.
#[pyclass(frozen, name = "Verdict", module = "isolane._core")]
pub(crate) struct PyVerdict {
    core: Mutex<Verdict>,
}

impl PyVerdict {
    pub(super) fn core(&self) -> MutexGuard<'_, Verdict> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Verdict> for PyVerdict {
    fn from(verdict: Verdict) -> Self {
        Self {
            core: Mutex::new(verdict),
        }
    }
}

#[pymethods]
impl PyVerdict {
    #[new]
    fn new() -> Self {
        Self {
            core: Mutex::new(Verdict::open(CLOCK.monotonic())),
        }
    }

    /// Notes a violation, by the name of its kind.
    #[pyo3(signature = (kind, code, resource = None))]
    fn violate(&self, kind: &str, code: String, resource: Option<&str>) -> PyResult<()> {
        let kind = ViolationKind::of(kind).ok_or_else(|| PyValueError::new_err("kind must be a ViolationType"))?;
        self.core().violate(kind, code, resource);
        Ok(())
    }

    /// Notes what decided.
    fn decided_by(&self, policies: Vec<String>) {
        self.core().decided_by(policies.into_iter().map(Arc::from));
    }

    /// Everything that is to be checked was.
    fn complete(&self) {
        self.core().complete();
    }

    /// Ends the check. Returns whether it is to be recorded: the first time it is.
    fn close(&self) -> bool {
        self.core().close(CLOCK.monotonic())
    }

    /// Takes a permission back that cannot be recorded.
    fn withdraw(&self) {
        self.core().withdraw("audit_unavailable");
    }

    /// Whether the request may go on.
    #[getter]
    fn permitted(&self) -> bool {
        self.core().is_permitted()
    }

    /// Whether the check was carried out to its end.
    #[getter]
    fn evaluated(&self) -> bool {
        self.core().is_evaluated()
    }

    /// Kind, code, resource and severity of each violation.
    #[getter]
    fn violations(&self) -> Vec<(&'static str, String, Option<String>, &'static str)> {
        let verdict = self.core();
        let found = verdict.violations().iter();
        found
            .map(|each| {
                let resource = each.resource.as_ref().map(ToString::to_string);
                (each.kind.name(), each.code.to_string(), resource, each.kind.severity())
            })
            .collect()
    }

    /// How many violations there are.
    #[getter]
    fn violation_count(&self) -> usize {
        self.core().violations().len()
    }

    /// What decided.
    #[getter]
    fn policies(&self) -> Vec<String> {
        self.core().policies().iter().map(ToString::to_string).collect()
    }

    /// Which policy was asked.
    #[getter]
    fn revision(&self) -> Option<String> {
        self.core().revision().map(ToString::to_string)
    }

    /// How long the check took.
    #[getter]
    fn micros(&self) -> u64 {
        self.core().micros()
    }
}
