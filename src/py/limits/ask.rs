//! What a request for a permit says, as Python gives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTraverseError, PyVisit};

use super::super::context::PyContext;
use super::super::loops::current_task;
use super::PyFairLimiter;
use crate::clock::{Micros, micros};
use crate::lanes::LaneHandle;
use crate::limits::{FairLimiter, Priority, Request, ResourceSet};

/// Seconds that somebody is willing to wait, checked.
pub(super) fn patience(seconds: f64) -> PyResult<f64> {
    seconds_of(seconds, "timeout")
}

/// A duration that a caller wrote, checked.
pub(super) fn seconds_of(seconds: f64, name: &str) -> PyResult<f64> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "{name} must be 0 or more seconds, got {seconds}"
        )));
    }
    Ok(seconds)
}

pub(super) fn priority(level: u8) -> PyResult<Priority> {
    Priority::new(level)
        .ok_or_else(|| PyValueError::new_err(format!("priority must be 1 (most urgent) to 4 (least), got {level}")))
}

pub(super) fn factor(value: f32, name: &str) -> PyResult<f32> {
    if !(1e-3..=1e6).contains(&value) {
        return Err(PyValueError::new_err(format!(
            "{name} must be between 0.001 and 1000000, got {value}"
        )));
    }
    Ok(value)
}

/// The set of named resources that a caller wrote as a name or several.
pub(super) fn resources(limiter: &FairLimiter, names: Option<&Bound<'_, PyAny>>) -> PyResult<ResourceSet> {
    let Some(names) = names else {
        return Ok(ResourceSet::NONE);
    };
    let list: Vec<String> = if let Ok(name) = names.cast::<PyString>() {
        vec![name.to_string()]
    } else {
        names
            .extract()
            .map_err(|_| PyTypeError::new_err("resources must be a name or a sequence of names"))?
    };
    limiter.resources(list.iter().map(String::as_str)).map_err(|name| {
        let known = limiter.resource_names().join(", ");
        PyValueError::new_err(format!(
            "the limiter has no resource {name:?}; it has: {}. Name it when the limiter is made: \
             FairLimiter(resources={{{name:?}: 10}})",
            if known.is_empty() { "none" } else { &known }
        ))
    })
}

/// Everything that a slot asks for.
pub(crate) struct Wanted {
    pub(super) lane: LaneHandle,
    pub(super) ctx: Option<Py<PyContext>>,
    pub(super) timeout: f64,
    /// The same for the core; `None` is for ever.
    pub(super) patience: Option<Micros>,
    pub(super) priority: Priority,
    pub(super) cost: f32,
    pub(super) resources: ResourceSet,
    pub(super) admitted: bool,
    pub(super) ask_once: bool,
}

impl Wanted {
    /// Checks what a caller of the limiter wrote.
    pub(super) fn of(
        limiter: &Bound<'_, PyFairLimiter>,
        user_id: &str,
        (level, timeout, cost): (u8, Option<f64>, f32),
        names: Option<&Bound<'_, PyAny>>,
        ctx: Option<&Bound<'_, PyContext>>,
        (admitted, ask_once): (bool, bool),
    ) -> PyResult<Self> {
        let held = limiter.get();
        let timeout = patience(timeout.unwrap_or(held.timeout))?;
        Ok(Self {
            lane: held.lane(limiter.py(), user_id, ctx)?,
            ctx: ctx.map(|ctx| ctx.clone().unbind()),
            timeout,
            patience: in_core(timeout),
            priority: priority(level)?,
            cost: factor(cost, "cost")?,
            resources: resources(&held.inner, names)?,
            admitted,
            ask_once,
        })
    }

    /// A wait within a run that was admitted before.
    pub(crate) fn in_context(lane: LaneHandle, ctx: Py<PyContext>, timeout: f64) -> PyResult<Self> {
        Ok(Self {
            lane,
            ctx: Some(ctx),
            timeout: patience(timeout)?,
            patience: in_core(timeout),
            priority: Priority::DEFAULT,
            cost: 1.0,
            resources: ResourceSet::NONE,
            admitted: true,
            ask_once: false,
        })
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ctx.as_ref().map_or(Ok(()), |ctx| visit.call(ctx))
    }
}

/// Where in a run somebody asks, and in which task.
pub(super) struct Asker {
    path: Option<Arc<[u64]>>,
    /// Only looked up with a context: nothing is nested without one.
    pub(super) task: Option<Py<PyAny>>,
}

impl Asker {
    pub(super) fn of(py: Python<'_>, ctx: Option<&Bound<'_, PyContext>>) -> Self {
        let path = ctx.map(|ctx| ctx.get().core().lineage().path().clone());
        let task = ctx.and_then(|_| current_task(py)).map(Bound::unbind);
        Self { path, task }
    }

    pub(super) fn request<'a>(&'a self, wanted: &'a Wanted) -> Request<'a> {
        let task = self
            .task
            .as_ref()
            .map_or_else(thread_mark, |task| task.as_ptr() as usize);
        Request {
            lane: &wanted.lane,
            path: self.path.as_deref().unwrap_or_default(),
            task,
            admitted: wanted.admitted,
            priority: wanted.priority,
            cost: wanted.cost,
            resources: wanted.resources,
            patience: wanted.patience,
            ask_once: wanted.ask_once,
        }
    }
}

/// When a wait that begins now is over; the greatest moment for one without end.
pub(super) fn deadline(now: Micros, patience: Option<Micros>) -> Micros {
    patience.map_or(Micros::MAX, |patience| now.saturating_add(patience))
}

/// A wait in seconds for the core.
pub(super) fn in_core(timeout: f64) -> Option<Micros> {
    timeout.is_finite().then(|| micros(timeout))
}

/// A number that no other thread has, nor ever had; odd, as no address of a task is.
fn thread_mark() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    thread_local! {
        static MARK: usize = NEXT.fetch_add(2, Ordering::Relaxed);
    }
    MARK.with(|mark| *mark)
}
