//! Policies: which ids are placeholders, and how strict a context is.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use pyo3::prelude::*;

use crate::context::PlaceholderPolicy;

/// Decides whether an id is a placeholder that somebody forgot to fill in.
///
/// `exact` are words refused as a whole, `prefixes` are beginnings refused in values of fewer than `pattern_max_length`
/// characters (default 20). Values are compared trimmed and in lower case. `allow` wins over both. `allow_test=True` lets
/// values pass that begin with `test_`. What is left out has the default of the service's rules.
#[pyclass(frozen, eq, hash, name = "PlaceholderPolicy", module = "isolane")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PyPlaceholderPolicy {
    pub(crate) inner: Arc<PlaceholderPolicy>,
}

impl std::hash::Hash for PyPlaceholderPolicy {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        format!("{:?}", self.inner).hash(state);
    }
}

#[pymethods]
impl PyPlaceholderPolicy {
    #[new]
    #[pyo3(signature = (exact = None, prefixes = None, allow = None, pattern_max_length = 20, allow_test = false))]
    fn new(
        exact: Option<Vec<String>>,
        prefixes: Option<Vec<String>>,
        allow: Option<Vec<String>>,
        pattern_max_length: usize,
        allow_test: bool,
    ) -> Self {
        let exact = exact.unwrap_or_else(|| PlaceholderPolicy::EXACT.map(str::to_owned).to_vec());
        let prefixes = prefixes.unwrap_or_else(|| PlaceholderPolicy::PREFIXES.map(str::to_owned).to_vec());
        let allow = allow.unwrap_or_default();
        Self {
            inner: Arc::new(PlaceholderPolicy::new(
                exact.iter().map(String::as_str),
                prefixes.iter().map(String::as_str),
                allow.iter().map(String::as_str),
                pattern_max_length,
                allow_test,
            )),
        }
    }

    /// Whether values that begin with `test_` pass.
    #[getter]
    fn allow_test(&self) -> bool {
        self.inner.allows_test()
    }

    /// Whether the value would be refused as a placeholder.
    fn is_placeholder(&self, value: &str) -> bool {
        self.inner.check(value).is_some()
    }
}

/// How a context treats its data.
///
/// `strict=True` makes `agent_context` and `audit_metadata` read-only and turns a run id that names another thread into an
/// error. `placeholders` replaces the process's placeholder policy for one context.
#[pyclass(frozen, eq, hash, get_all, name = "ContextPolicy", module = "isolane")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PyContextPolicy {
    /// Whether the dictionaries are read-only and id mismatches are errors. Default: `False`.
    pub(crate) strict: bool,
    #[pyo3(name = "placeholders")]
    pub(crate) placeholders: Option<PyPolicyRef>,
}

/// A policy inside a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PyPolicyRef(pub(crate) PyPlaceholderPolicy);

impl<'py> IntoPyObject<'py> for PyPolicyRef {
    type Target = PyPlaceholderPolicy;
    type Output = Bound<'py, PyPlaceholderPolicy>;
    type Error = PyErr;

    #[cfg(feature = "stubs")]
    const OUTPUT_TYPE: pyo3::inspect::PyStaticExpr = <PyPlaceholderPolicy as pyo3::type_object::PyTypeInfo>::TYPE_HINT;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        Bound::new(py, self.0)
    }
}

#[pymethods]
impl PyContextPolicy {
    #[new]
    #[pyo3(signature = (*, strict = false, placeholders = None))]
    fn new(strict: bool, placeholders: Option<&Bound<'_, PyPlaceholderPolicy>>) -> Self {
        Self {
            strict,
            placeholders: placeholders.map(|policy| PyPolicyRef(policy.get().clone())),
        }
    }
}

fn process_policy() -> &'static RwLock<Arc<PlaceholderPolicy>> {
    static POLICY: OnceLock<RwLock<Arc<PlaceholderPolicy>>> = OnceLock::new();
    POLICY.get_or_init(RwLock::default)
}

/// Asks the placeholder policy of the process. `ask` must not run Python code.
pub(crate) fn with_placeholders<R>(ask: impl FnOnce(&PlaceholderPolicy) -> R) -> R {
    ask(&process_policy().read().unwrap_or_else(PoisonError::into_inner))
}

/// Sets the placeholder policy of the process, once, at start-up. Returns the one that was in force.
#[pyfunction]
pub(crate) fn set_placeholder_policy(policy: &Bound<'_, PyPlaceholderPolicy>) -> PyPlaceholderPolicy {
    let new = policy.get().inner.clone();
    let old = std::mem::replace(
        &mut *process_policy().write().unwrap_or_else(PoisonError::into_inner),
        new,
    );
    PyPlaceholderPolicy { inner: old }
}
