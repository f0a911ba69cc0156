//! `RolePolicy`: a policy of roles, and its atomic replacement.

use std::sync::{Arc, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use super::super::errors::PolicyLoadError;
use super::super::process::Stamp;
use crate::sync::Mutex;
use crate::tools::{PolicyFault, RoleSet, RoleSpec, RuleSpec, Ruling};

/// The roles of a `PermissionEngine`: `{role: {"allow": [...], "deny": [...], "inherits": [...]}}`.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct RolePolicy {
    current: Mutex<Arc<RoleSet>>,
    allow_blanket: bool,
    stamp: Stamp,
}

impl RolePolicy {
    pub(super) fn current(&self) -> Arc<RoleSet> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn kind(value: &Bound<'_, PyAny>) -> String {
    let name = value.get_type().name();
    name.map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

fn text(value: &Bound<'_, PyAny>, path: &str) -> Result<String, PolicyFault> {
    let text = value.cast::<PyString>().ok().and_then(|text| text.to_str().ok());
    text.map(str::to_owned)
        .ok_or_else(|| PolicyFault::new(path, format!("a string is wanted, got: {}", kind(value))))
}

/// What is in a list or a tuple. A single text is not taken apart into its letters.
fn items<'py>(value: &Bound<'py, PyAny>, path: &str) -> Result<Vec<Bound<'py, PyAny>>, PolicyFault> {
    if let Ok(list) = value.cast::<PyList>() {
        return Ok(list.iter().collect());
    }
    if let Ok(tuple) = value.cast::<PyTuple>() {
        return Ok(tuple.iter().collect());
    }
    Err(PolicyFault::new(
        path,
        format!("a list is wanted, got: {}", kind(value)),
    ))
}

fn texts(value: &Bound<'_, PyAny>, path: &str) -> Result<Vec<String>, PolicyFault> {
    let items = items(value, path)?;
    let item = |(at, item)| text(item, &format!("{path}[{at}]"));
    items.iter().enumerate().map(item).collect()
}

fn rule(value: &Bound<'_, PyAny>, path: &str) -> Result<RuleSpec, PolicyFault> {
    if value.is_instance_of::<PyString>() {
        return Ok(RuleSpec {
            actions: vec![text(value, path)?],
            resources: Vec::new(),
        });
    }
    let Ok(dict) = value.cast::<PyDict>() else {
        let why = format!(
            "an action or a dict with actions and resources is wanted, got: {}",
            kind(value)
        );
        return Err(PolicyFault::new(path, why));
    };
    let mut spec = RuleSpec::default();
    for (key, value) in dict.iter() {
        let key = text(&key, path)?;
        let path = format!("{path}.{key}");
        match key.as_str() {
            "actions" => spec.actions = texts(&value, &path)?,
            "resources" => {
                spec.resources = texts(&value, &path)?;
                if spec.resources.is_empty() {
                    return Err(PolicyFault::new(path, "leave it out for every resource, or name some"));
                }
            }
            _ => {
                return Err(PolicyFault::new(
                    path,
                    "a rule has 'actions' and 'resources' and nothing else",
                ));
            }
        }
    }
    Ok(spec)
}

fn role(name: &str, value: &Bound<'_, PyAny>) -> Result<RoleSpec, PolicyFault> {
    let Ok(dict) = value.cast::<PyDict>() else {
        let why = format!("a dict with allow, deny and inherits is wanted, got: {}", kind(value));
        return Err(PolicyFault::new(name, why));
    };
    let mut spec = RoleSpec {
        name: name.to_owned(),
        ..RoleSpec::default()
    };
    let rules = |value: &Bound<'_, PyAny>, path: &str| {
        let items = items(value, path)?;
        let item = |(at, item)| rule(item, &format!("{path}[{at}]"));
        items.iter().enumerate().map(item).collect::<Result<Vec<_>, _>>()
    };
    for (key, value) in dict.iter() {
        let key = text(&key, name)?;
        let path = format!("{name}.{key}");
        match key.as_str() {
            "allow" => spec.allow = rules(&value, &path)?,
            "deny" => spec.deny = rules(&value, &path)?,
            "inherits" => spec.inherits = texts(&value, &path)?,
            _ => {
                return Err(PolicyFault::new(
                    path,
                    "a role has 'allow', 'deny' and 'inherits' and nothing else",
                ));
            }
        }
    }
    Ok(spec)
}

fn compiled(py: Python<'_>, roles: &Bound<'_, PyDict>, allow_blanket: bool) -> PyResult<Arc<RoleSet>> {
    let specs = || {
        let mut specs = Vec::with_capacity(roles.len());
        for (name, value) in roles.iter() {
            specs.push(role(&text(&name, "roles")?, &value)?);
        }
        RoleSet::build(specs, allow_blanket)
    };
    specs().map(Arc::new).map_err(|fault| {
        let message = format!("the policy was not loaded: {fault}");
        PolicyLoadError::raise(py, message, fault.path)
    })
}

#[pymethods]
impl RolePolicy {
    #[new]
    #[pyo3(signature = (roles: "dict[str, object]", *, allow_blanket = false))]
    fn new(py: Python<'_>, roles: &Bound<'_, PyDict>, allow_blanket: bool) -> PyResult<Self> {
        Ok(Self {
            current: Mutex::new(compiled(py, roles, allow_blanket)?),
            allow_blanket,
            stamp: Stamp::now(),
        })
    }

    /// Puts another policy in place of this one, for all checks that begin from now on. Returns its revision. Raises
    /// `PolicyLoadError` for one that is not valid: then the one before stays in force.
    #[pyo3(signature = (roles: "dict[str, object]"))]
    fn load(&self, py: Python<'_>, roles: &Bound<'_, PyDict>) -> PyResult<String> {
        self.stamp.check(py)?;
        let new = compiled(py, roles, self.allow_blanket)?;
        let revision = new.revision().to_string();
        let old = std::mem::replace(&mut *self.current.lock().unwrap_or_else(PoisonError::into_inner), new);
        drop(old);
        Ok(revision)
    }

    /// Names the policy in force: the same for the same rules, in whatever order they are written.
    #[getter]
    fn revision(&self) -> String {
        self.current().revision().to_string()
    }

    /// What the roles, and everyone's, say of an action on a resource: whether it is permitted, and the rules that decided.
    #[pyo3(signature = (roles, action, resource = ""))]
    fn rule(&self, roles: Vec<String>, action: &str, resource: &str) -> (bool, Vec<String>) {
        let roles: Vec<Box<str>> = roles.into_iter().map(String::into_boxed_str).collect();
        let texts = |ids: Vec<Arc<str>>| ids.iter().map(ToString::to_string).collect();
        match self.current().rule(&roles, action, resource) {
            Ruling::Allowed(ids) => (true, texts(ids)),
            Ruling::Denied(ids) => (false, texts(ids)),
            Ruling::Silent => (false, Vec::new()),
        }
    }

    /// Whether the roles, and everyone's, permit an action on anything at all.
    fn may_ever(&self, roles: Vec<String>, action: &str) -> bool {
        let roles: Vec<Box<str>> = roles.into_iter().map(String::into_boxed_str).collect();
        self.current().may_ever(&roles, action)
    }

    fn __len__(&self) -> usize {
        self.current().len()
    }
}
