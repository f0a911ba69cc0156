//! `FlagSnapshot`.

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::decision::FlagDecision;
use super::engine::FlagEngine;
use super::values;
use crate::flags::{Decision, Snapshot, Unit};
use crate::mutants::mutant;

/// The flags of one moment, for one user: whatever is rolled out or back later, its answers stay. A context keeps one for its
/// run and all children. What the application knows of the user is asked for once, when a rule first wants it.
#[pyclass(frozen, module = "isolane")]
#[derive(Debug)]
pub(crate) struct FlagSnapshot {
    inner: Snapshot,
    /// Who is asked for attributes, unless they were given.
    engine: Option<Py<FlagEngine>>,
}

impl FlagSnapshot {
    /// Of the engine's state now.
    pub(super) fn of(engine: &Bound<'_, FlagEngine>, unit: Unit<'_>, given: Option<&Bound<'_, PyAny>>) -> Self {
        let inner = Snapshot::new(engine.get().state(), unit);
        if let Some(given) = given {
            inner.keep(values::attributes(inner.state().document(), given));
        }
        let engine = (given.is_none() && engine.get().asks()).then(|| engine.clone().unbind());
        Self { inner, engine }
    }

    /// Of the installed engine, for a context of this user.
    pub(crate) fn installed(py: Python<'_>, user: &str) -> Option<Py<Self>> {
        let engine = super::engine::installed(py)?;
        // Without memory for it the context has none, which all its readers must expect anyway.
        Py::new(py, Self::of(engine.bind(py), Unit::of(user), None)).ok()
    }

    fn find_attributes(&self, py: Python<'_>, flag: &str) {
        if self.inner.wants_attributes(flag)
            && let Some(engine) = &self.engine
        {
            let found = engine.get().ask(py, self.inner.state().document(), self.inner.unit());
            self.inner.keep(found);
        }
    }

    fn decided(&self, py: Python<'_>, flag: &str) -> Decision {
        self.find_attributes(py, flag);
        let decision = self.inner.decide(flag);
        if mutant!(ShownFlagsCount) {
            self.inner.state().count(&decision);
        }
        decision
    }
}

#[pymethods]
impl FlagSnapshot {
    /// Whose it is; empty, when it is nobody's.
    #[getter]
    fn user_id(&self) -> &str {
        self.inner.user().unwrap_or_default()
    }

    /// The revision of the document.
    #[getter]
    fn revision(&self) -> u64 {
        self.inner.state().document().revision()
    }

    /// Whether the document could not be read anew at that moment.
    #[getter]
    fn is_stale(&self) -> bool {
        self.inner.state().is_stale()
    }

    /// Whether a flag is on, and why. Never raises: what is not a flag is off.
    #[pyo3(signature = (flag: "str") -> "FlagDecision")]
    fn decide(&self, flag: &Bound<'_, PyAny>) -> FlagDecision {
        let decision = self.decided(flag.py(), values::flag_name(flag));
        self.inner.state().count(&decision);
        decision.into()
    }

    /// Whether a flag is on.
    #[pyo3(signature = (flag: "str") -> "bool")]
    fn is_on(&self, flag: &Bound<'_, PyAny>) -> bool {
        let name = values::flag_name(flag);
        self.find_attributes(flag.py(), name);
        self.inner.is_on(name)
    }

    /// The names of the flags, in order.
    fn keys(&self) -> Vec<&str> {
        self.inner.state().document().flags().map(|flag| &**flag).collect()
    }

    /// `revision`, `is_stale`, and `decisions`: what `to_dict()` of each flag's decision says.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    pub(crate) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let decisions = PyDict::new(py);
        for flag in self.inner.state().document().flags() {
            decisions.set_item(&**flag, FlagDecision::from(self.decided(py, flag)).to_dict(py)?)?;
        }
        let dict = PyDict::new(py);
        dict.set_item(intern!(py, "revision"), self.revision())?;
        dict.set_item(intern!(py, "is_stale"), self.is_stale())?;
        dict.set_item(intern!(py, "decisions"), decisions)?;
        Ok(dict)
    }

    fn __getitem__(&self, flag: &Bound<'_, PyAny>) -> PyResult<FlagDecision> {
        if !self.__contains__(flag) {
            return Err(PyKeyError::new_err(flag.clone().unbind()));
        }
        Ok(self.decide(flag))
    }

    fn __contains__(&self, flag: &Bound<'_, PyAny>) -> bool {
        self.inner.state().document().contains(values::flag_name(flag))
    }

    fn __len__(&self) -> usize {
        self.inner.state().document().flags().len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyList::new(py, self.keys())?.try_iter()?.into_any())
    }

    fn __repr__(&self) -> String {
        format!(
            "<FlagSnapshot user={} {} flags at revision {}>",
            crate::ids::shorten(self.user_id()),
            self.__len__(),
            self.revision()
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.engine.as_ref().map_or(Ok(()), |engine| visit.call(engine))
    }
}
