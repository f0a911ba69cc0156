//! Verification: is what a context holds its own?

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefMethods;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple,
    PyWeakrefReference,
};

use super::context::{PyContext, reserved_in};
use super::errors::ContextIsolationError;
use super::json::entries;
use crate::context::{Identity, SessionBindings};
use crate::crossings::{self, Place, Tier};
use crate::owner::{Crossing, IsolationViolation, violation};

/// Values looked at in one verification.
const MAX_VALUES: usize = 10_000;

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sessions() -> MutexGuard<'static, SessionBindings> {
    static SESSIONS: OnceLock<Mutex<SessionBindings>> = OnceLock::new();
    lock(SESSIONS.get_or_init(Mutex::default))
}

/// Containers that a live context was found to own: by address, whose (a serial number), and the context itself.
type Claims = HashMap<usize, (u64, Py<PyWeakrefReference>)>;

fn claims() -> MutexGuard<'static, Claims> {
    static CLAIMS: OnceLock<Mutex<Claims>> = OnceLock::new();
    lock(CLAIMS.get_or_init(Mutex::default))
}

/// A context of a user holds the session.
pub(crate) fn bind_session(session: &Py<PyAny>, identity: &Identity) {
    sessions().bind(session.as_ptr() as usize, &identity.user);
}

/// A context of a user no longer holds the session.
pub(crate) fn unbind_session(session: &Py<PyAny>, identity: &Identity) {
    sessions().unbind(session.as_ptr() as usize, &identity.user);
}

/// A context lets go of the containers that it was found to own.
pub(crate) fn release_claims(serial: u64, containers: &mut Vec<Py<PyAny>>) {
    if containers.is_empty() {
        return;
    }
    let mut released = Vec::new();
    {
        let mut claims = claims();
        for container in containers.iter() {
            let address = container.as_ptr() as usize;
            if claims.get(&address).is_some_and(|(owner, _)| *owner == serial) {
                released.extend(claims.remove(&address));
            }
        }
    }
    // Dropping Python objects may run Python code, so it happens after the lock was let go.
    containers.clear();
    drop(released);
}

/// Something that a context holds and that is not its own.
#[pyclass(frozen, get_all, module = "isolane")]
#[derive(Debug, Clone)]
pub(crate) struct IsolationFinding {
    /// `shared_container`, `shared_session`, `reserved_key` or `foreign_object`.
    kind: String,
    /// Where in the context, e.g. `agent_context['rows'][0]`.
    path: String,
    /// What was found, without anybody's data.
    detail: String,
    /// Correlation id of the context.
    context: String,
    /// Correlation id of the other context, if one is known.
    other: Option<String>,
    /// Whose the context is. For operators: it stands in no text of the finding.
    user_id: String,
    /// Whose the other context is, if one is known.
    other_user_id: Option<String>,
}

impl IsolationFinding {
    /// Counts it as a violation: the context holds what is not its own.
    fn count(&self) {
        violation(Place::Verify, Tier::named(&self.kind).unwrap_or(Tier::ForeignObject));
    }

    pub(crate) fn into_error(self, py: Python<'_>) -> PyErr {
        self.count();
        let found = IsolationViolation {
            crossing: Crossing::Verify,
            detail: format!("{}: {}", self.path, self.detail),
        };
        ContextIsolationError::raise(py, found.to_string(), Crossing::Verify.name().to_owned())
    }
}

#[pymethods]
impl IsolationFinding {
    fn __repr__(&self) -> String {
        format!("<IsolationFinding {} at {}: {}>", self.kind, self.path, self.detail)
    }
}

enum Kind {
    /// Immutable, and nobody's.
    Plain,
    /// May be changed, so it must belong to one context.
    Container,
    /// Immutable, but what is in it may be changed.
    Sequence,
    Other,
}

fn kind(value: &Bound<'_, PyAny>) -> Kind {
    if value.is_none()
        || value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyBool>()
        || value.is_instance_of::<PyBytes>()
    {
        Kind::Plain
    } else if value.is_instance_of::<PyDict>()
        || value.is_instance_of::<PyList>()
        || value.is_instance_of::<PySet>()
        || value.is_instance_of::<PyByteArray>()
    {
        Kind::Container
    } else if value.is_instance_of::<PyTuple>() || value.is_instance_of::<PyFrozenSet>() {
        Kind::Sequence
    } else {
        Kind::Other
    }
}

/// Walks the values below `roots`, at most [`MAX_VALUES`], each container once. `visit` gets the path and the value.
fn walk<'py>(
    roots: Vec<(String, Bound<'py, PyAny>)>,
    mut visit: impl FnMut(&str, &Bound<'py, PyAny>, &Kind) -> PyResult<()>,
) -> PyResult<()> {
    let mut seen = HashSet::new();
    let mut stack = roots;
    let mut left = MAX_VALUES;
    while let Some((path, value)) = stack.pop() {
        if left == 0 {
            return Ok(());
        }
        left -= 1;
        let kind = kind(&value);
        if matches!(kind, Kind::Plain) || !seen.insert(value.as_ptr() as usize) {
            continue;
        }
        visit(&path, &value, &kind)?;
        if let Ok(dict) = value.cast::<PyDict>() {
            for (key, inner) in entries(dict) {
                let key = key
                    .repr()
                    .map_or_else(|_| "…".to_owned(), |key| key.to_string_lossy().into_owned());
                stack.push((format!("{path}[{}]", crate::ids::cut(&key, 40)), inner));
            }
        } else if let Ok(list) = value.cast::<PyList>() {
            stack.extend(
                list.iter()
                    .enumerate()
                    .map(|(at, inner)| (format!("{path}[{at}]"), inner)),
            );
        } else if matches!(kind, Kind::Sequence) || value.is_instance_of::<PySet>() {
            for inner in value.try_iter()? {
                stack.push((format!("{path}[…]"), inner?));
            }
        }
    }
    Ok(())
}

/// The dictionaries of a context, as far as there are any: what nobody has read yet cannot be shared.
fn dictionaries<'py>(context: &Bound<'py, PyContext>) -> impl Iterator<Item = (&'static str, Bound<'py, PyDict>)> {
    let (py, inner) = (context.py(), context.get());
    let dictionaries = [
        ("agent_context", inner.agent_data()),
        ("audit_metadata", inner.audit_data()),
    ];
    dictionaries
        .into_iter()
        .filter_map(move |(name, dict)| Some((name, dict?.bind(py).clone())))
}

fn roots<'py>(context: &Bound<'py, PyContext>) -> Vec<(String, Bound<'py, PyAny>)> {
    dictionaries(context)
        .map(|(name, dict)| (name.to_owned(), dict.into_any()))
        .collect()
}

/// The user of an object that carries one, if it is another than `user`.
fn is_foreign(value: &Bound<'_, PyAny>, user: &str) -> bool {
    // Whatever reading the attribute raises, the object does not say whose it is.
    let Ok(owner) = value.getattr(intern!(value.py(), "user_id")) else {
        return false;
    };
    owner
        .cast::<PyString>()
        .is_ok_and(|owner| owner.to_string_lossy() != user)
}

fn still_holds(context: &Bound<'_, PyContext>, address: usize) -> PyResult<bool> {
    let mut holds = false;
    walk(roots(context), |_, value, _| {
        holds |= value.as_ptr() as usize == address;
        Ok(())
    })?;
    Ok(holds)
}

/// All that is not the context's own.
pub(crate) fn inspect(context: &Bound<'_, PyContext>) -> PyResult<Vec<IsolationFinding>> {
    crossings::checked(Place::Verify, 1);
    let inner = context.get();
    let identity = inner.core().identity();
    let finding = |kind: &str, path: &str, detail: &str, other: Option<Known>| IsolationFinding {
        kind: kind.to_owned(),
        path: path.to_owned(),
        detail: detail.to_owned(),
        context: identity.correlation(),
        user_id: identity.user.as_str().to_owned(),
        other_user_id: other.as_ref().map(|other| other.user.clone()),
        other: other.map(|other| other.correlation),
    };
    let mut findings = Vec::new();

    if inner.core().lane().tag().user() != &identity.user {
        findings.push(finding(
            "foreign_object",
            "lane",
            "the context is in the lane of another user",
            None,
        ));
    }
    if let Some(session) = inner.session_object()
        && sessions().is_shared(session.as_ptr() as usize)
    {
        let detail =
            "Database session is shared between contexts of different users; give each request its own session";
        findings.push(finding("shared_session", "db_session", detail, None));
    }
    for (name, dict) in dictionaries(context) {
        for key in reserved_in(&dict)? {
            let detail = "a reserved key was written into the dictionary, which would let it speak for the context";
            findings.push(finding("reserved_key", &format!("{name}['{key}']"), detail, None));
        }
    }

    let mut containers = Vec::new();
    let user = identity.user.as_str();
    walk(roots(context), |path, value, kind| {
        match kind {
            Kind::Container => containers.push((path.to_owned(), value.clone())),
            Kind::Other if is_foreign(value, user) => {
                let detail = "Cross-user contamination detected: the object belongs to another user";
                findings.push(finding("foreign_object", path, detail, None));
            }
            Kind::Plain | Kind::Sequence | Kind::Other => {}
        }
        Ok(())
    })?;
    for (path, other) in claim(context, &containers)? {
        let detail = "the container is held by another live context as well; give each a copy of its own";
        findings.push(finding("shared_container", &path, detail, Some(other)));
    }
    Ok(findings)
}

/// What a finding says of another context.
struct Known {
    correlation: String,
    user: String,
}

/// Records the containers as the context's own. Answers the paths of those that another live context still holds, and what is
/// said of that context.
fn claim(context: &Bound<'_, PyContext>, containers: &[(String, Bound<'_, PyAny>)]) -> PyResult<Vec<(String, Known)>> {
    context.get().verified.store(true, Ordering::Release);
    let claimed = || context.get().claims.lock().unwrap_or_else(PoisonError::into_inner);
    if containers.is_empty() && claimed().is_empty() {
        return Ok(Vec::new());
    }
    let py = context.py();
    let serial = context.get().serial();
    let weak = PyWeakrefReference::new(context)?;
    let mut held = Vec::new();
    let mut disputed = Vec::new();
    let mut replaced = Vec::new();
    {
        let mut claims = claims();
        for (path, container) in containers {
            let address = container.as_ptr() as usize;
            match claims.get(&address) {
                Some((owner, other)) if *owner != serial => {
                    disputed.push((path, container, other.clone_ref(py)));
                }
                _ => {
                    replaced.extend(claims.insert(address, (serial, weak.clone().unbind())));
                    held.push(container.clone().unbind());
                }
            }
        }
    }
    let mut found = Vec::new();
    for (path, container, other) in disputed {
        let address = container.as_ptr() as usize;
        if let Some(other) = other.bind(py).upgrade()
            && let Ok(other) = other.cast::<PyContext>()
            && still_holds(other, address)?
        {
            let identity = other.get().core().identity();
            let known = Known {
                correlation: identity.correlation(),
                user: identity.user.as_str().to_owned(),
            };
            found.push((path.clone(), known));
            continue;
        }
        // The other one is gone or has let go of it.
        replaced.extend(claims().insert(address, (serial, weak.clone().unbind())));
        held.push(container.clone().unbind());
    }
    let mut old = std::mem::replace(&mut *claimed(), held);
    release_stale(context, serial, &mut old);
    drop(replaced);
    Ok(found)
}

/// Records a dictionary that a verified context has just made.
pub(super) fn claim_later(context: &Bound<'_, PyContext>, dict: &Bound<'_, PyDict>) -> PyResult<()> {
    let weak = PyWeakrefReference::new(context)?;
    let inner = context.get();
    let replaced = claims().insert(dict.as_ptr() as usize, (inner.serial(), weak.unbind()));
    let mut held = inner.claims.lock().unwrap_or_else(PoisonError::into_inner);
    held.push(dict.clone().into_any().unbind());
    drop(held);
    drop(replaced);
    Ok(())
}

/// Lets go of containers that an earlier verification found and this one did not.
fn release_stale(context: &Bound<'_, PyContext>, serial: u64, old: &mut Vec<Py<PyAny>>) {
    let current: HashSet<usize> = context
        .get()
        .claims
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .map(|container| container.as_ptr() as usize)
        .collect();
    let kept: Vec<_> = {
        let stale = |container: &Py<PyAny>| !current.contains(&(container.as_ptr() as usize));
        let (stale, kept): (Vec<_>, Vec<_>) = std::mem::take(old).into_iter().partition(stale);
        *old = stale;
        kept
    };
    release_claims(serial, old);
    drop(kept);
}

/// Compares all live contexts with each other: everything that `verify_isolation` finds, and containers shared by contexts
/// that were never verified. Walks the heap to find them: a diagnostic, not for a request.
#[pyfunction]
pub(crate) fn audit_isolation(py: Python<'_>) -> PyResult<Vec<IsolationFinding>> {
    let objects = py.import("gc")?.call_method0("get_objects")?;
    let mut contexts = Vec::new();
    for object in objects.try_iter()? {
        if let Ok(context) = object?.cast_into::<PyContext>()
            && context.get().stamp().is_current()
        {
            contexts.push(context);
        }
    }
    contexts.sort_by_key(|context| context.get().serial());
    let mut findings = Vec::new();
    for context in contexts {
        for finding in inspect(&context)? {
            finding.count();
            findings.push(finding);
        }
    }
    Ok(findings)
}

/// How often each boundary of this process has found something so far: attempts that it refused, and what had crossed it.
/// `isolane.security.crossings` tells the two apart.
#[pyfunction]
pub(crate) fn isolation_violations() -> HashMap<&'static str, u64> {
    crate::owner::violation_counts().into_iter().collect()
}
