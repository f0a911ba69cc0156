//! The exceptions, and the one place where an error of the core becomes one of them.
//!
//! Each is a subclass of the standard exception that fits, carries what it says as fields, and has the text as its only
//! argument.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use crate::context::{ContextError, ContextFault};
use crate::error::Error;
use crate::events::EventError;
use crate::limits::{Reason, Refusal, Scope};
use crate::owner::IsolationViolation;

macro_rules! exceptions {
    ($($(#[$doc:meta])* $name:ident($base:ty) { $($field:ident: $type:ty = $default:expr),* $(,)? })+) => {$(
        $(#[$doc])*
        #[pyclass(extends = $base, subclass, frozen, module = "isolane")]
        #[derive(Debug)]
        pub(crate) struct $name {
            message: String,
            $($field: $type,)*
        }

        #[pymethods]
        impl $name {
            #[new]
            #[pyo3(signature = (message, $($field = $default),*))]
            fn new(message: String, $($field: $type),*) -> Self {
                Self { message, $($field),* }
            }

            $(
                #[getter]
                fn $field(&self) -> $type {
                    self.$field.clone()
                }
            )*

            fn __str__(&self) -> &str {
                &self.message
            }
        }

        impl $name {
            #[allow(clippy::allow_attributes, clippy::too_many_arguments)]
            pub(crate) fn raise(py: Python<'_>, message: String, $($field: $type),*) -> PyErr {
                let made = Py::new(py, Self { message: message.clone(), $($field),* })
                    .and_then(|error| {
                        let error = error.into_bound(py).into_any();
                        error.setattr("args", PyTuple::new(py, [message])?)?;
                        Ok(error)
                    });
                match made {
                    Ok(error) => PyErr::from_value(error),
                    Err(error) => error,
                }
            }
        }
    )+};
}

exceptions! {
    /// A context could not be made, or changed as asked.
    ///
    /// Fields: `field` (which one), `value` (shortened), `rule` (one word), `fix` (what to do).
    InvalidContextError(PyValueError) {
        field: String = String::new(), value: String = String::new(), rule: String = String::new(), fix: String = String::new(),
    }
    /// An object of one user met a boundary of another. The text names nobody.
    ///
    /// Field: `boundary`, one of `publish`, `subscribe`, `write`, `bind`, `verify`, `access`.
    ContextIsolationError(PyRuntimeError) { boundary: String = String::new() }
    /// Something that the state of the context does not allow.
    ContextStateError(PyRuntimeError) {}
    /// A limit refused at once.
    ///
    /// Fields: `limit` (`user`, `global`, `tree`, `cluster`), `retry_after` (whole seconds), `running`, `queued`, `reason` (`full`:
    /// nothing is free and the caller does not wait; `queue`: too many wait; `predicted`: not to be had in time, by what permits
    /// were held for lately; `nesting`; `unavailable`: what the cluster's limit is kept in does not answer), and `resource`, the
    /// named resource that is lacking, or an empty text.
    LimitRejected(PyRuntimeError) {
        limit: String = "global".to_owned(), retry_after: u32 = 1, running: u32 = 0, queued: usize = 0,
        reason: String = "full".to_owned(), resource: String = String::new(),
    }
    /// An event breaks the order of its span, or its type or payload is not allowed. Nothing was published.
    InvalidEvent(PyValueError) {}
    /// The run's event stream has ended.
    RunClosed(PyRuntimeError) {}
    /// An event is larger than is allowed. Fields: `size` and `limit`, in bytes.
    EventTooLarge(PyValueError) { size: usize = 0, limit: usize = 0 }
    /// A bound is reached and nothing more can be folded away to make room. Fields: `limit`, and `scope`: `run`, `user` or
    /// `process`.
    BudgetExceeded(PyRuntimeError) { limit: usize = 0, scope: String = "run".to_owned() }
    /// A policy of roles is not valid. The one before it stays in force.
    ///
    /// Field: `path`, where in the policy it is wrong.
    PolicyLoadError(PyValueError) { path: String = String::new() }
    /// A document of flags is not valid, or older than the one in force, which stays.
    ///
    /// Fields: `path` (a JSON pointer to where it is wrong), `problem`, `fix`.
    FlagConfigError(PyValueError) {
        path: String = String::new(), problem: String = String::new(), fix: String = String::new(),
    }
    /// A run, or one execution of an agent, used more of the event loop than it may.
    ///
    /// Fields: `scope` (`agent` or `run`), `limit` and `used` in seconds.
    LoopBudgetExceeded(PyRuntimeError) { scope: String = "agent".to_owned(), limit: f64 = 0.0, used: f64 = 0.0 }
    /// A user, or all users together, hold more memory than is allowed.
    /// Fields: `limit` (`user` or `global`), `retry_after` (whole seconds), `used` and `allowed` in bytes.
    MemoryLimitExceededError(PyRuntimeError) {
        limit: String = "user".to_owned(), retry_after: u32 = 5, used: usize = 0, allowed: usize = 0,
    }
    /// A value is too large, or nested too deep, to be looked through for secrets. Field: `limit` (`bytes` or `depth`).
    SanitizeLimitError(PyValueError) { limit: String = "bytes".to_owned() }
    /// The object was made before a fork and belongs to the parent process.
    ForkedProcessError(PyRuntimeError) {}
}

/// The run was ended by force: its agent went on when it was cancelled, and what it still does is refused.
#[pyclass(extends = RunClosed, subclass, frozen, module = "isolane")]
#[derive(Debug)]
pub(crate) struct RunFenced {}

#[pymethods]
impl RunFenced {
    #[new]
    fn new(message: String) -> PyClassInitializer<Self> {
        PyClassInitializer::from(RunClosed::new(message)).add_subclass(Self {})
    }
}

impl RunFenced {
    fn raise(py: Python<'_>, message: String) -> PyErr {
        let made = Py::new(py, Self::new(message.clone())).and_then(|error| {
            let error = error.into_bound(py).into_any();
            error.setattr("args", PyTuple::new(py, [message])?)?;
            Ok(error)
        });
        made.map_or_else(|error| error, PyErr::from_value)
    }
}

/// Makes a `LimitTimeout` of the refusal that a waiter would get now. The class is written in Python: `TimeoutError` has the
/// layout of `OSError`, which `PyO3` cannot extend.
pub(crate) fn limit_timeout(py: Python<'_>, refusal: &Refusal, seconds: f64) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = format!("No permit within {seconds:.3} s: {}", refusal_text(refusal));
    let fields = (
        message,
        refusal.scope.name(),
        refusal.retry_after,
        refusal.running,
        refusal.queued,
        refusal.resource.as_deref().unwrap_or_default(),
    );
    match CLASS
        .import(py, "isolane.limits", "LimitTimeout")
        .and_then(|class| class.call1(fields))
    {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

fn refusal_text(refusal: &Refusal) -> String {
    let remedy = match (refusal.scope, refusal.reason) {
        (Scope::Tree, _) => "run fewer nested agents at once",
        (Scope::User, Reason::Predicted) => "the user's permits come back too late: wait longer, or raise per_user",
        (Scope::User, _) => "wait for a run of this user to end, or raise per_user",
        (Scope::Process, _) if refusal.resource.is_some() => "try again later, or raise the limit of this resource",
        (Scope::Process, Reason::Predicted) => "permits come back too late: wait longer, or raise total",
        (Scope::Process, _) => "try again later, or raise total",
        (Scope::Cluster, Reason::Unavailable) => "what this limit is kept in does not answer; try again soon",
        (Scope::Cluster, _) => "every lease of the cluster is in use; wait for a run in another process to end",
    };
    format!("{refusal}; {remedy} (retry after {} s)", refusal.retry_after)
}

/// Makes the exception for an error of the core.
pub(crate) fn to_python(py: Python<'_>, error: impl Into<Error>) -> PyErr {
    match error.into() {
        Error::Context(error) => {
            let message = error.to_string();
            let ContextError {
                field,
                value,
                rule,
                fix,
                ..
            } = error;
            InvalidContextError::raise(py, message, field.to_owned(), value, rule.to_owned(), fix)
        }
        Error::Fault(ContextFault::Run(fault)) => PyValueError::new_err(fault.to_string()),
        Error::Fault(ContextFault::Fenced(fenced)) => RunFenced::raise(py, fenced.to_string()),
        Error::Fault(ContextFault::Move(fault)) => ContextStateError::raise(py, fault.to_string()),
        Error::Isolation(violation) | Error::Event(EventError::Isolation(violation)) => isolation(py, &violation),
        Error::Limit(refusal) => LimitRejected::raise(
            py,
            refusal_text(&refusal),
            refusal.scope.name().to_owned(),
            refusal.retry_after,
            refusal.running,
            refusal.queued,
            refusal.reason.name().to_owned(),
            refusal.resource.as_deref().unwrap_or_default().to_owned(),
        ),
        Error::Event(error) => {
            let message = error.to_string();
            match error {
                EventError::Closed | EventError::Elsewhere => RunClosed::raise(py, message),
                EventError::TooLarge { bytes, limit } => EventTooLarge::raise(py, message, bytes, limit),
                EventError::Budget { limit, scope, .. } => BudgetExceeded::raise(py, message, limit, scope.to_owned()),
                EventError::Invalid { .. } | EventError::Isolation(_) => InvalidEvent::raise(py, message),
            }
        }
    }
}

fn isolation(py: Python<'_>, violation: &IsolationViolation) -> PyErr {
    ContextIsolationError::raise(py, violation.to_string(), violation.crossing.name().to_owned())
}
