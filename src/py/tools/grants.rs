//! `GrantBook`: what owners let others reach.

use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::super::process::{CLOCK, Stamp};
use crate::clock::{Clock, micros};
use crate::ids::UserId;
use crate::tools::{GrantFault, GrantKind, Grants, NewGrant, Pattern};

/// The grants that `Grants` keeps.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct GrantBook {
    core: Arc<Grants>,
    stamp: Stamp,
}

impl GrantBook {
    pub(super) fn core(&self) -> Arc<Grants> {
        self.core.clone()
    }
}

fn user(id: &str, what: &str) -> PyResult<UserId> {
    UserId::new(id).map_err(|fault| PyValueError::new_err(format!("{what} {fault}")))
}

fn pattern(text: &str, what: &str) -> PyResult<Pattern> {
    Pattern::new(text).map_err(|why| PyValueError::new_err(format!("{what}: {why}")))
}

#[pymethods]
impl GrantBook {
    #[new]
    fn new() -> Self {
        Self {
            core: Arc::default(),
            stamp: Stamp::now(),
        }
    }

    /// Lets `reader` reach what is `owner`'s: everything, or the resources whose name the pattern matches; with all actions that
    /// the reader's roles allow, or those that a pattern matches; for ever, or for so many seconds.
    #[pyo3(signature = (owner, reader, resource = None, actions = Vec::new(), seconds = None, *, support = false))]
    fn give(
        &self,
        py: Python<'_>,
        owner: &str,
        reader: &str,
        resource: Option<&str>,
        actions: Vec<String>,
        seconds: Option<f64>,
        support: bool,
    ) -> PyResult<()> {
        self.stamp.check(py)?;
        if seconds.is_some_and(|seconds| !(seconds.is_finite() && seconds > 0.0)) {
            return Err(PyValueError::new_err(
                "seconds must be more than 0, or None for a grant without an end",
            ));
        }
        let now = CLOCK.monotonic();
        let actions = actions.iter().map(|action| pattern(action, "actions"));
        let grant = NewGrant {
            kind: if support { GrantKind::Support } else { GrantKind::Shared },
            resource: resource.map(|resource| pattern(resource, "resource")).transpose()?,
            actions: actions.collect::<PyResult<_>>()?,
            until: seconds.map(|seconds| now.saturating_add(micros(seconds))),
        };
        let (owner, reader) = (user(owner, "owner_user")?, user(reader, "with_user")?);
        self.core
            .give(&owner, &reader, grant, now)
            .map_err(|fault| match fault {
                GrantFault::Own => PyValueError::new_err(fault.to_string()),
                GrantFault::Full { .. } => PyRuntimeError::new_err(fault.to_string()),
            })
    }

    /// Takes grants back: those of one resource, or all that `owner` gave `reader`. Returns how many there were.
    #[pyo3(signature = (owner, reader, resource = None))]
    fn revoke(&self, py: Python<'_>, owner: &str, reader: &str, resource: Option<&str>) -> PyResult<usize> {
        self.stamp.check(py)?;
        let resource = resource.map(|resource| pattern(resource, "resource")).transpose()?;
        Ok(self.core.revoke(owner, reader, resource.as_ref()))
    }

    /// Takes back all that a user gave and was given. Returns how many grants there were.
    fn forget(&self, py: Python<'_>, user_id: &str) -> PyResult<usize> {
        self.stamp.check(py)?;
        Ok(self.core.forget(user_id))
    }

    /// Whether `reader` may reach a resource of `owner`'s, or, without one, everything.
    #[pyo3(signature = (owner, reader, resource = None, action = None))]
    fn allows(
        &self,
        py: Python<'_>,
        owner: &str,
        reader: &str,
        resource: Option<&str>,
        action: Option<&str>,
    ) -> PyResult<bool> {
        self.stamp.check(py)?;
        let now = CLOCK.monotonic();
        Ok(self.core.allows(owner, reader, resource, action, now).is_some())
    }

    fn __len__(&self) -> usize {
        self.core.len()
    }
}
