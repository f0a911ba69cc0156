//! `FlagDecision`.

use std::hash::{DefaultHasher, Hash, Hasher};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::flags::{Algorithm, Decision};

/// Whether a flag is on for a user, and why. `bool()` of it is `value`.
#[pyclass(frozen, eq, module = "isolane")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FlagDecision {
    decision: Decision,
}

impl From<Decision> for FlagDecision {
    fn from(decision: Decision) -> Self {
        Self { decision }
    }
}

#[pymethods]
impl FlagDecision {
    /// The name of the flag.
    #[getter]
    fn flag(&self) -> &str {
        &self.decision.flag
    }

    /// `on` or `off`.
    #[getter]
    fn variant(&self) -> &'static str {
        self.decision.variant()
    }

    /// Whether it is on.
    #[getter]
    fn value(&self) -> bool {
        self.decision.value
    }

    /// Why, in the words of `OpenFeature`: `STATIC`, `DEFAULT`, `TARGETING_MATCH`, `SPLIT`, `DISABLED`, `STALE` or `ERROR`.
    #[getter]
    fn reason(&self) -> &'static str {
        self.decision.reason.name()
    }

    /// What went wrong: `FLAG_NOT_FOUND`, `TARGETING_KEY_MISSING`, `INVALID_CONTEXT` or `GENERAL` (the attributes could not be
    /// had); `None` unless the reason is `ERROR`.
    #[getter]
    fn error_code(&self) -> Option<&'static str> {
        self.decision.error.map(crate::flags::ErrorCode::name)
    }

    /// Which step of the evaluation decided: `kill_switch`, `rollback`, `state`, `quarantine`, `deny`, `allow`, `requires`,
    /// `rule`, `rollout`, `control`, or `not_found`.
    #[getter]
    fn step(&self) -> &'static str {
        self.decision.step.name()
    }

    /// The bucket of the user, from 0 to 99999, or `None` where none was needed.
    #[getter]
    fn bucket(&self) -> Option<u32> {
        self.decision.bucket
    }

    /// The rollout that decided, in 100 000ths, or `None`.
    #[getter]
    fn threshold(&self) -> Option<u32> {
        self.decision.threshold
    }

    /// Which rule decided, counted from 0, or `None`.
    #[getter]
    fn rule_index(&self) -> Option<u16> {
        self.decision.rule
    }

    /// The revision of the document.
    #[getter]
    fn revision(&self) -> u64 {
        self.decision.revision
    }

    /// How the bucket was made, or `None` without a bucket.
    #[getter]
    fn algorithm(&self) -> Option<&'static str> {
        self.decision.algorithm.map(Algorithm::name)
    }

    /// All fields by name.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    pub(super) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item(intern!(py, "flag"), self.flag())?;
        dict.set_item(intern!(py, "variant"), self.variant())?;
        dict.set_item(intern!(py, "value"), self.value())?;
        dict.set_item(intern!(py, "reason"), self.reason())?;
        dict.set_item(intern!(py, "error_code"), self.error_code())?;
        dict.set_item(intern!(py, "step"), self.step())?;
        dict.set_item(intern!(py, "bucket"), self.bucket())?;
        dict.set_item(intern!(py, "threshold"), self.threshold())?;
        dict.set_item(intern!(py, "rule_index"), self.rule_index())?;
        dict.set_item(intern!(py, "revision"), self.revision())?;
        dict.set_item(intern!(py, "algorithm"), self.algorithm())?;
        Ok(dict)
    }

    fn __bool__(&self) -> bool {
        self.decision.value
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.decision.flag, self.decision.value, self.decision.bucket).hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let error = self.error_code().map(|code| format!(" {code}")).unwrap_or_default();
        format!(
            "<FlagDecision {}={} {}{error} by {} at revision {}>",
            self.decision.flag,
            self.variant(),
            self.reason(),
            self.step(),
            self.decision.revision
        )
    }
}
