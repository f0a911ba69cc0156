//! `Permit`: the right to run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pyo3::exceptions::{PyResourceWarning, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{PyTraverseError, PyVisit};

use super::super::awaitable::{ReadyNone, Stand, Steps};
use super::super::context::PyContext;
use super::super::loops::beside_exception;
use super::super::process::{CLOCK, Stamp};
use super::ask::{Wanted, in_core};
use super::lock;
use super::suspension::Suspension;
use crate::clock::{Clock, Micros, seconds};
use crate::limits::{CallResult, FairLimiter, Grant, Permit, Priority};
use crate::mutants::mutant;

/// The right to run, until it is released. Releases itself when it is collected, which counts as a leak. A context manager,
/// and its own awaitable: a permit that was free needs no other object to be awaited.
#[pyclass(frozen, name = "Permit", module = "isolane")]
pub(crate) struct PyPermit {
    inner: Permit,
    /// Held so that no other task gets its address, by which nested permits are known.
    task: Mutex<Option<Py<PyAny>>>,
    ctx: Option<Py<PyContext>>,
    timeout: f64,
    deadline: Micros,
    priority: Priority,
    /// A response releases it, not the end of the block.
    bound: AtomicBool,
    /// It was given back for a wait; whoever releases it meanwhile ends it for good.
    suspended: AtomicBool,
    /// Since when it is given back for a wait, and how long it was before.
    away_since: AtomicU64,
    away: AtomicU64,
    ended: AtomicBool,
    /// Where it was asked for, in Python's development mode.
    site: Option<Box<str>>,
    stamp: Stamp,
}

impl PyPermit {
    pub(super) fn new(
        limiter: Arc<FairLimiter>,
        grant: Grant,
        task: Option<Py<PyAny>>,
        ctx: Option<Py<PyContext>>,
        (timeout, deadline, priority): (f64, Micros, Priority),
        site: Option<Box<str>>,
    ) -> Self {
        Self {
            inner: Permit::new(limiter, grant),
            task: Mutex::new(task),
            ctx,
            timeout,
            deadline,
            priority,
            bound: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            away_since: AtomicU64::new(0),
            away: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            site,
            stamp: Stamp::now(),
        }
    }

    /// Takes charge of the permit: this object no longer releases it.
    pub(crate) fn give_away(&self) -> Option<Permit> {
        let grant = self.inner.take()?;
        Some(Permit::new(self.inner.limiter().clone(), grant))
    }

    pub(super) fn return_it(&self) -> bool {
        if self.suspended.load(Ordering::Acquire) {
            return !self.ended.swap(true, Ordering::AcqRel);
        }
        self.inner.release(CLOCK.monotonic())
    }

    /// The end of the block that the permit was taken for. What raised says nothing of the backend, unless it was recorded.
    pub(super) fn leave_block(&self, raised: bool) {
        if raised {
            self.inner.record_if_silent(CallResult::IGNORED);
        }
        let is_over = !self.inner.is_held() && !self.suspended.load(Ordering::Acquire);
        if !self.bound.load(Ordering::Acquire) && !is_over {
            self.return_it();
        }
    }

    /// Returns the grant for the length of a wait. Answers what to ask for afterwards.
    pub(super) fn suspend_now(&self, py: Python<'_>) -> Option<Wanted> {
        let grant = self.inner.take()?;
        self.away_since.store(CLOCK.monotonic(), Ordering::Relaxed);
        self.suspended.store(true, Ordering::Release);
        let wanted = Wanted {
            lane: grant.lane().clone(),
            ctx: self.ctx.as_ref().map(|ctx| ctx.clone_ref(py)),
            timeout: self.timeout,
            patience: in_core(self.timeout),
            priority: self.priority,
            cost: grant.cost(),
            resources: grant.wanted(),
            admitted: true,
            ask_once: false,
        };
        if mutant!(SuspendedKeepsUnit) {
            std::mem::forget(grant);
        } else {
            self.inner.limiter().release_ignored(grant, CLOCK.monotonic());
        }
        Some(wanted)
    }

    pub(super) fn limiter(&self) -> &Arc<FairLimiter> {
        self.inner.limiter()
    }

    /// Runs again under a new grant, in the task that asked for it.
    pub(super) fn resume(&self, grant: Grant, task: Option<Py<PyAny>>) {
        let old = std::mem::replace(&mut *lock(&self.task), task);
        drop(old);
        self.inner.replace(grant);
        self.end_wait();
        if self.ended.load(Ordering::Acquire) {
            // It was released meanwhile.
            self.inner.release(CLOCK.monotonic());
        }
    }

    /// It is not to be had again after a wait.
    pub(super) fn stay_released(&self) {
        self.end_wait();
    }

    fn end_wait(&self) {
        if self.suspended.swap(false, Ordering::AcqRel) {
            self.away.fetch_add(self.away_now(), Ordering::Relaxed);
        }
    }

    fn away_now(&self) -> Micros {
        CLOCK
            .monotonic()
            .saturating_sub(self.away_since.load(Ordering::Relaxed))
    }
}

impl Steps for PyPermit {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        if slf.get().held() {
            Ok(Stand::Answered(slf.clone().into_any()))
        } else {
            Err(PyRuntimeError::new_err("the permit was released; ask for another one"))
        }
    }
}

impl Drop for PyPermit {
    fn drop(&mut self) {
        if !self.stamp.is_current() {
            // A copy of the parent's permit: the parent returns it.
            std::mem::forget(self.inner.take());
            return;
        }
        if self.bound.load(Ordering::Acquire) && !mutant!(BoundPermitLeaks) {
            // Its response was never sent, which is no fault of the holder.
            if let Some(grant) = self.inner.take() {
                self.inner.limiter().release_ignored(grant, CLOCK.monotonic());
            }
        }
        if let Some(site) = self.site.as_deref().filter(|_| self.inner.is_held()) {
            Python::try_attach(|py| beside_exception(py, || warn_of_leak(py, site)));
        }
    }
}

fn warn_of_leak(py: Python<'_>, site: &str) {
    let text = format!("a permit taken at {site} was not released; use `async with`, or call release()");
    let Ok(text) = std::ffi::CString::new(text) else { return };
    let category = py.get_type::<PyResourceWarning>();
    if let Err(error) = PyErr::warn(py, &category, &text, 1) {
        error.write_unraisable(py, None);
    }
}

/// Where Python code asks, in development mode; looking it up costs more than the permit.
pub(super) fn site(py: Python<'_>) -> Option<Box<str>> {
    static DEVELOPMENT: PyOnceLock<bool> = PyOnceLock::new();
    let development = *DEVELOPMENT.get_or_init(py, || {
        let flags = py.import("sys").and_then(|sys| sys.getattr("flags"));
        flags
            .and_then(|flags| flags.getattr("dev_mode"))
            .and_then(|mode| mode.is_truthy())
            .unwrap_or(false)
    });
    if !development {
        return None;
    }
    let frame = py.import("sys").and_then(|sys| sys.call_method0("_getframe")).ok()?;
    let file = frame
        .getattr("f_code")
        .and_then(|code| code.getattr("co_filename"))
        .ok()?;
    let line = frame.getattr("f_lineno").ok()?;
    Some(format!("{file}:{line}").into_boxed_str())
}

#[pymethods]
impl PyPermit {
    /// Returns the permit. Returns whether it had not been returned before; a second return is counted and does nothing.
    fn release(&self, py: Python<'_>) -> PyResult<bool> {
        self.stamp.check(py)?;
        if mutant!(SlotKeptWhenConstructionFails) {
            std::mem::forget(self.inner.take());
            return Ok(true);
        }
        Ok(self.return_it())
    }

    /// `async with permit.suspend(): …` gives the permit back for the length of the block, for a wait that needs no capacity,
    /// and queues for it again at its end. `timeout` in seconds is for that second wait; by default it is what was left when
    /// the permit was asked for, and at least the `timeout` of that request. The end of the block raises `LimitTimeout` when
    /// the permit is not to be had again; then it is not held.
    #[pyo3(signature = (timeout = None))]
    fn suspend(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Suspension> {
        let permit = slf.get();
        permit.stamp.check(slf.py())?;
        let left = seconds(permit.deadline.saturating_sub(CLOCK.monotonic()));
        Suspension::new(slf.clone().unbind(), timeout.unwrap_or(permit.timeout.max(left)))
    }

    /// Binds the permit to a response: it is released when the response has been sent, or its sending has failed or was
    /// cancelled, and also when it is never sent. Returns the response. The end of the block that took the permit then does
    /// not release it: `return permit.bind(StreamingResponse(…))`.
    #[pyo3(signature = (response) -> "typing.Any")]
    fn bind<'py>(slf: &Bound<'py, Self>, response: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        static BIND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        slf.get().stamp.check(py)?;
        if !slf.get().held() {
            return Err(PyRuntimeError::new_err(
                "the permit was released already; bind it while the block runs",
            ));
        }
        let bind = BIND.get_or_try_init(py, || {
            py.import("isolane.limits.responses")?
                .getattr("bind")
                .map(Bound::unbind)
        })?;
        let bound = bind.bind(py).call1((slf, response))?;
        slf.get().bound.store(true, Ordering::Release);
        Ok(bound)
    }

    /// Says what the call came to, for adaptive limits: `ok`, `dropped` (a time-out, 429 or 5xx of the backend) or `ignored` (it
    /// says nothing of the backend). `units` of work divide its latency. Without it a block that ends is `ok`, and one that
    /// raises is `ignored`. Raises `ValueError` for another word, `RuntimeError` after the permit was released.
    #[pyo3(signature = (outcome, units = 1.0))]
    fn record(&self, outcome: &str, units: f64) -> PyResult<()> {
        #[allow(clippy::cast_possible_truncation)] // digits, not size
        let result = CallResult {
            outcome: super::super::adaptive::outcome(outcome)?,
            units: super::super::adaptive::units(units)? as f32,
        };
        if self.inner.record(result) {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(
            "the permit was released already; record the outcome before the block ends",
        ))
    }

    /// Seconds for which it was suspended, a suspension that goes on included.
    #[getter]
    fn suspended_seconds(&self) -> f64 {
        let now = if self.suspended.load(Ordering::Acquire) {
            self.away_now()
        } else {
            0
        };
        seconds(self.away.load(Ordering::Relaxed).saturating_add(now))
    }

    /// Whether it has not been returned.
    #[getter]
    fn held(&self) -> bool {
        self.inner.is_held()
    }

    /// A number that grows with each grant of the limiter: whoever keeps the largest it has seen can refuse what comes late
    /// from an earlier holder. 0 after the permit was returned.
    #[getter]
    fn fence(&self) -> u64 {
        self.inner.fence()
    }

    /// The fence of the lease under which it runs, of a limiter that is shared by a cluster: it grows over all processes. Sinks
    /// that keep the largest they have seen can refuse what comes late from whoever lost its lease. `None` without a lease.
    #[getter]
    fn lease_fence(&self) -> Option<u64> {
        self.inner.lease().0
    }

    /// Whether the lease under which it runs was lost: another process may have let somebody run in its place.
    #[getter]
    fn is_lost(&self) -> bool {
        self.inner.lease().1
    }

    /// When the wait for the permit would have been over, by `time.monotonic()`; `None` for a wait without end. What follows
    /// the permit in the same request can keep to it.
    #[getter]
    fn deadline(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        if self.deadline == Micros::MAX {
            return Ok(None);
        }
        super::on_pythons_clock(py, self.deadline).map(Some)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    // `asyncio.gather` and `wait_for` go through `yield from`, which iterates.
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    fn send<'py>(slf: &Bound<'py, Self>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    /// The same as `release`: what was asked for and is not awaited after all.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.release(py).map(drop)
    }

    #[pyo3(signature = (kind = None, _exception = None, _traceback = None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Option<&Bound<'_, PyAny>>,
        _exception: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.stamp.check(py)?;
        self.leave_block(kind.is_some());
        Ok(())
    }

    #[pyo3(signature = () -> "collections.abc.Awaitable[Permit]")]
    fn __aenter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (kind = None, _exception = None, _traceback = None) -> "collections.abc.Awaitable[None]")]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        kind: Option<&Bound<'py, PyAny>>,
        _exception: Option<&Bound<'py, PyAny>>,
        _traceback: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, ReadyNone>> {
        self.stamp.check(py)?;
        self.leave_block(kind.is_some());
        ReadyNone::shared(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(ctx) = &self.ctx {
            visit.call(ctx)?;
        }
        let Ok(task) = self.task.try_lock() else { return Ok(()) };
        task.as_ref().map_or(Ok(()), |task| visit.call(task))
    }

    fn __repr__(&self) -> &'static str {
        if self.held() {
            "<Permit held>"
        } else {
            "<Permit released>"
        }
    }
}

/// Refuses what is not a permit of this module.
pub(crate) fn taken(permit: &Bound<'_, PyPermit>) -> PyResult<Permit> {
    permit
        .get()
        .give_away()
        .ok_or_else(|| PyTypeError::new_err("the permit was released or given away already"))
}
