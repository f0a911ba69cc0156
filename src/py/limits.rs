//! `FairLimiter`, its slots and permits, and the awaitable that waits for one.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::awaitable::{ReadyNone, Stand, Steps, as_next};
use super::context::PyContext;
use super::errors::{limit_timeout, to_python};
use super::loops::{FutureSteps, LoopFuture, Step, beside_exception, current_task};
use super::process::{CLOCK, Stamp, lane_of, registry};
use crate::clock::Clock;
use crate::lanes::LaneHandle;
use crate::limits::{Decision, FairLimiter, Grant, LimitSettings, Parked, Permit, Request, Ticket};
use crate::mutants::mutant;
use crate::owner::Crossing;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limit(value: u32, name: &str) -> PyResult<NonZeroU32> {
    NonZeroU32::new(value).ok_or_else(|| PyValueError::new_err(format!("{name} must be at least 1, got 0")))
}

/// Permits per user and process, handed out fairly: first in, first out within a user, round robin over users, both limits in
/// one decision. One limiter may serve many event loops and threads.
///
/// `total` permits of the process (default 50), `per_user` of one user (default 5), `queue` and `per_user_queue` bound the
/// waiters (1000 and 100; steps of admitted runs are exempt), `timeout` in seconds is the default deadline of one request (2).
#[pyclass(frozen, name = "FairLimiter", module = "isolane")]
pub(crate) struct PyFairLimiter {
    inner: Arc<FairLimiter>,
    timeout: f64,
    stamp: Stamp,
}

impl PyFairLimiter {
    fn build(total: u32, per_user: u32, queue: usize, per_user_queue: usize, timeout: f64) -> PyResult<Self> {
        let settings = LimitSettings {
            total: limit(total, "total")?,
            per_user: limit(per_user, "per_user")?,
            queue,
            user_queue: per_user_queue,
        };
        Ok(Self {
            inner: Arc::new(FairLimiter::new(settings)),
            timeout: deadline(timeout)?,
            stamp: Stamp::now(),
        })
    }

    fn lane(&self, py: Python<'_>, user_id: &str, ctx: Option<&Bound<'_, PyContext>>) -> PyResult<LaneHandle> {
        self.stamp.check(py)?;
        let lane = lane_of(py, user_id)?;
        if let Some(ctx) = ctx {
            let context = ctx.get();
            context.stamp().check(py)?;
            context.check_fence(py)?;
            context
                .core()
                .lane()
                .tag()
                .same_owner(lane.tag(), Crossing::Bind)
                .map_err(|error| to_python(py, error))?;
        }
        Ok(lane)
    }
}

fn deadline(seconds: f64) -> PyResult<f64> {
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "timeout must be 0 or more seconds, got {seconds}"
        )));
    }
    Ok(seconds)
}

#[pymethods]
impl PyFairLimiter {
    #[new]
    #[pyo3(signature = (total = 50, per_user = 5, *, queue = 1000, per_user_queue = 100, timeout = 2.0))]
    fn new(total: u32, per_user: u32, queue: usize, per_user_queue: usize, timeout: f64) -> PyResult<Self> {
        Self::build(total, per_user, queue, per_user_queue, timeout)
    }

    /// `async with limiter.slot(user_id) as permit: …`. `timeout` in seconds covers the whole wait (default: the limiter's).
    /// With `ctx`, a permit that a context above it holds is lent. `admitted=True` marks a step of a run that was admitted
    /// before: the bounds of the queues do not apply. Raises `LimitRejected` at once, `LimitTimeout` after the wait.
    #[pyo3(signature = (user_id, *, timeout = None, ctx = None, admitted = false))]
    fn slot(
        slf: &Bound<'_, Self>,
        user_id: &str,
        timeout: Option<f64>,
        ctx: Option<&Bound<'_, PyContext>>,
        admitted: bool,
    ) -> PyResult<Slot> {
        let lane = slf.get().lane(slf.py(), user_id, ctx)?;
        let timeout = deadline(timeout.unwrap_or(slf.get().timeout))?;
        Slot::new(slf, lane, ctx.map(|ctx| ctx.clone().unbind()), timeout, admitted)
    }

    /// A permit that is to be released by its holder: `permit = await limiter.acquire(user_id)`. Arguments as for `slot`.
    #[pyo3(signature = (user_id, *, timeout = None, ctx = None, admitted = false) -> "collections.abc.Awaitable[Permit]")]
    fn acquire<'py>(
        slf: &Bound<'py, Self>,
        user_id: &str,
        timeout: Option<f64>,
        ctx: Option<&Bound<'py, PyContext>>,
        admitted: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let slot = Self::slot(slf, user_id, timeout, ctx, admitted)?;
        slot.request(slf.py(), None)
    }

    /// A permit at once, or `None`.
    #[pyo3(signature = (user_id, *, ctx = None))]
    fn try_slot(
        &self,
        py: Python<'_>,
        user_id: &str,
        ctx: Option<&Bound<'_, PyContext>>,
    ) -> PyResult<Option<PyPermit>> {
        let lane = self.lane(py, user_id, ctx)?;
        let asker = Asker::of(py, ctx);
        let request = asker.request(&lane, false);
        let grant = self.inner.try_request(request, CLOCK.monotonic()).ok();
        Ok(grant.map(|grant| PyPermit::new(self.inner.clone(), grant, asker.task)))
    }

    /// A permit at once, or `LimitRejected` that says which limit refused and when to come back.
    #[pyo3(signature = (user_id, *, ctx = None))]
    fn slot_nowait(&self, py: Python<'_>, user_id: &str, ctx: Option<&Bound<'_, PyContext>>) -> PyResult<PyPermit> {
        let lane = self.lane(py, user_id, ctx)?;
        let asker = Asker::of(py, ctx);
        let request = asker.request(&lane, false);
        let grant = self
            .inner
            .try_request(request, CLOCK.monotonic())
            .map_err(|refusal| to_python(py, refusal))?;
        Ok(PyPermit::new(self.inner.clone(), grant, asker.task))
    }

    /// Counts: of the process, or of one user (`running`, `queued`).
    #[pyo3(signature = (user_id = None) -> "dict[str, int]")]
    fn stats<'py>(&self, py: Python<'py>, user_id: Option<&str>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        if let Some(user) = user_id {
            let lane = registry().find(user);
            let load = lane.map(|lane| self.inner.load(&lane)).unwrap_or_default();
            dict.set_item("running", load.running)?;
            dict.set_item("queued", load.queued)?;
            return Ok(dict);
        }
        let stats = self.inner.stats();
        dict.set_item("total", stats.total)?;
        dict.set_item("per_user", stats.per_user)?;
        dict.set_item("running", stats.running)?;
        dict.set_item("queued", stats.queued)?;
        dict.set_item("users", stats.users)?;
        dict.set_item("granted", stats.granted)?;
        dict.set_item("released", stats.released)?;
        dict.set_item("refused", stats.refused)?;
        dict.set_item("cancelled", stats.cancelled)?;
        dict.set_item("timed_out", stats.timed_out)?;
        dict.set_item("peak", stats.peak)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let stats = self.inner.stats();
        format!(
            "<FairLimiter {}/{} running, {} waiting>",
            stats.running, stats.total, stats.queued
        )
    }
}

/// The right to run, until it is released. Releases itself when it is collected. A context manager, and its own awaitable: a
/// permit that was free needs no other object to be awaited.
#[pyclass(frozen, name = "Permit", module = "isolane")]
pub(crate) struct PyPermit {
    /// Taken out when an engine takes charge of it.
    inner: Mutex<Option<Permit>>,
    /// Held so that no other task gets its address, by which nested permits are known.
    task: Option<Py<PyAny>>,
    stamp: Stamp,
}

impl PyPermit {
    fn new(limiter: Arc<FairLimiter>, grant: Grant, task: Option<Py<PyAny>>) -> Self {
        Self {
            inner: Mutex::new(Some(Permit::new(limiter, grant))),
            task,
            stamp: Stamp::now(),
        }
    }

    /// Takes charge of the permit: this object no longer releases it.
    pub(crate) fn take(&self) -> Option<Permit> {
        lock(&self.inner).take()
    }

    fn return_it(&self) -> bool {
        let permit = lock(&self.inner).take();
        permit.is_some_and(|permit| permit.release(CLOCK.monotonic()))
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
            std::mem::forget(self.take());
        }
    }
}

#[pymethods]
impl PyPermit {
    /// Returns the permit. Returns whether it had not been returned before.
    fn release(&self, py: Python<'_>) -> PyResult<bool> {
        self.stamp.check(py)?;
        if mutant!(SlotKeptWhenConstructionFails) {
            std::mem::forget(self.take());
            return Ok(true);
        }
        Ok(self.return_it())
    }

    /// Whether it has not been returned.
    #[getter]
    fn held(&self) -> bool {
        lock(&self.inner).as_ref().is_some_and(Permit::is_held)
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

    #[pyo3(signature = (_kind = None, _exception = None, _traceback = None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<&Bound<'_, PyAny>>,
        _exception: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.stamp.check(py)?;
        self.return_it();
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.task.as_ref().map_or(Ok(()), |task| visit.call(task))
    }

    fn __repr__(&self) -> &'static str {
        if self.held() {
            "<Permit held>"
        } else {
            "<Permit released>"
        }
    }
}

/// Where in a run somebody asks, and in which task.
struct Asker {
    path: Option<Arc<[u64]>>,
    /// Only looked up with a context: nothing is nested without one.
    task: Option<Py<PyAny>>,
}

impl Asker {
    fn of(py: Python<'_>, ctx: Option<&Bound<'_, PyContext>>) -> Self {
        let path = ctx.map(|ctx| ctx.get().core().lineage().path().clone());
        let task = ctx.and_then(|_| current_task(py)).map(Bound::unbind);
        Self { path, task }
    }

    fn request<'a>(&'a self, lane: &'a LaneHandle, admitted: bool) -> Request<'a> {
        let task = self
            .task
            .as_ref()
            .map_or_else(thread_mark, |task| task.as_ptr() as usize);
        Request {
            lane,
            path: self.path.as_deref().unwrap_or_default(),
            task,
            admitted,
        }
    }
}

/// An address that no other thread has while this one lives.
fn thread_mark() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| std::ptr::from_ref(mark) as usize)
}

/// A permit for the length of a block: `async with`. Each slot is used once at a time.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct Slot {
    limiter: Py<PyFairLimiter>,
    lane: LaneHandle,
    ctx: Option<Py<PyContext>>,
    timeout: f64,
    admitted: bool,
    /// Whether a block has the slot, or waits for it.
    taken: AtomicBool,
    permit: Mutex<Option<Py<PyPermit>>>,
}

impl Slot {
    pub(crate) fn new(
        limiter: &Bound<'_, PyFairLimiter>,
        lane: LaneHandle,
        ctx: Option<Py<PyContext>>,
        timeout: f64,
        admitted: bool,
    ) -> PyResult<Self> {
        let timeout = deadline(timeout)?;
        Ok(Self {
            limiter: limiter.clone().unbind(),
            lane,
            ctx,
            timeout,
            admitted,
            taken: AtomicBool::new(false),
            permit: Mutex::new(None),
        })
    }

    /// Asks for the permit. The awaitable yields it, and leaves it with `slot` if there is one.
    fn request<'py>(&self, py: Python<'py>, slot: Option<Py<Self>>) -> PyResult<Bound<'py, PyAny>> {
        let limiter = self.limiter.get();
        limiter.stamp.check(py)?;
        let asker = Asker::of(py, self.ctx.as_ref().map(|ctx| ctx.bind(py)));
        let request = asker.request(&self.lane, self.admitted);
        // The future is made only when there is a wait, and before the lock of the limiter is taken.
        let grant = limiter
            .inner
            .grant_at_once(request, CLOCK.monotonic())
            .map_err(|refusal| to_python(py, refusal))?;
        if let Some(grant) = grant {
            return self.ready(py, grant, asker.task, slot.as_ref());
        }
        let waiter = Arc::new(Waiter {
            future: LoopFuture::new(py)?,
            grant: Mutex::new(None),
            timed_out: AtomicBool::new(false),
        });
        let parked = waiter.clone();
        match limiter.inner.request(request, CLOCK.monotonic(), || parked) {
            Ok(Decision::Granted(grant)) => self.ready(py, grant, asker.task, slot.as_ref()),
            Err(refusal) => Err(to_python(py, refusal)),
            Ok(Decision::Parked(ticket)) => {
                let ctx = self.ctx.as_ref().map(|ctx| ctx.clone_ref(py));
                let waiting = PermitAwaitable::new(
                    limiter.inner.clone(),
                    waiter,
                    ticket,
                    ctx,
                    asker.task,
                    self.timeout,
                    slot,
                );
                let waiting = Bound::new(py, waiting)?;
                PermitAwaitable::arm(&waiting)?;
                Ok(waiting.into_any())
            }
        }
    }

    /// An awaitable that yields the permit in its first step.
    fn ready<'py>(
        &self,
        py: Python<'py>,
        grant: Grant,
        task: Option<Py<PyAny>>,
        slot: Option<&Py<Self>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let permit = Py::new(py, PyPermit::new(self.limiter.get().inner.clone(), grant, task))?;
        if let Some(slot) = slot {
            slot.get().keep(py, &permit);
        }
        Ok(permit.into_bound(py).into_any())
    }

    fn free(&self) {
        self.taken.store(false, Ordering::Release);
    }

    fn keep(&self, py: Python<'_>, permit: &Py<PyPermit>) {
        let old = lock(&self.permit).replace(permit.clone_ref(py));
        drop(old);
    }
}

#[pymethods]
impl Slot {
    #[pyo3(signature = () -> "collections.abc.Awaitable[Permit]")]
    fn __aenter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        if slf.get().taken.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err(
                "this slot is in use; call limiter.slot() for each block",
            ));
        }
        let asked = slf.get().request(slf.py(), Some(slf.clone().unbind()));
        if asked.is_err() {
            slf.get().free();
        }
        asked
    }

    #[pyo3(signature = (_kind = None, _exception = None, _traceback = None) -> "collections.abc.Awaitable[None]")]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _kind: Option<&Bound<'py, PyAny>>,
        _exception: Option<&Bound<'py, PyAny>>,
        _traceback: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, ReadyNone>> {
        let permit = lock(&self.permit).take();
        if let Some(permit) = permit {
            permit.get().return_it();
        }
        self.free();
        ReadyNone::shared(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.limiter)?;
        if let Some(ctx) = &self.ctx {
            visit.call(ctx)?;
        }
        let Ok(permit) = self.permit.try_lock() else {
            return Ok(());
        };
        permit.as_ref().map_or(Ok(()), |permit| visit.call(permit))
    }
}

/// Somebody who waits for a permit on an event loop.
struct Waiter {
    future: LoopFuture,
    grant: Mutex<Option<Grant>>,
    timed_out: AtomicBool,
}

impl Parked for Waiter {
    fn grant(&self, grant: Grant) {
        *lock(&self.grant) = Some(grant);
    }

    fn wake(&self) -> Option<Grant> {
        // A waiter whose loop is closed will never look: what it was granted goes on to the next.
        if self.future.complete() {
            None
        } else {
            lock(&self.grant).take()
        }
    }
}

/// What the loop calls when the time of a waiter is over.
#[pyclass(frozen, module = "isolane._core", name = "_TimeOver")]
struct TimeOver(Arc<Waiter>);

#[pymethods]
impl TimeOver {
    fn __call__(&self) {
        self.0.timed_out.store(true, Ordering::Relaxed);
        self.0.future.complete();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Held by this timer and the awaitable alone: the limiter has let go, and only one of the two may visit.
        if Arc::strong_count(&self.0) == 2 {
            self.0.future.traverse(&visit)
        } else {
            Ok(())
        }
    }
}

/// Waits for a permit. Cancelled at any moment, it leaves nothing behind: a permit that it was granted goes to the next.
#[pyclass(frozen, module = "isolane._core", name = "_PermitAwaitable")]
pub(crate) struct PermitAwaitable {
    limiter: Arc<FairLimiter>,
    waiter: Arc<Waiter>,
    ticket: Ticket,
    ctx: Option<Py<PyContext>>,
    task: Mutex<Option<Py<PyAny>>>,
    timeout: f64,
    slot: Option<Py<Slot>>,
    steps: FutureSteps,
    timer: Mutex<Option<Py<PyAny>>>,
    settled: AtomicBool,
}

impl PermitAwaitable {
    fn new(
        limiter: Arc<FairLimiter>,
        waiter: Arc<Waiter>,
        ticket: Ticket,
        ctx: Option<Py<PyContext>>,
        task: Option<Py<PyAny>>,
        timeout: f64,
        slot: Option<Py<Slot>>,
    ) -> Self {
        if let Some(ctx) = &ctx {
            ctx.get().core().park();
        }
        let (task, steps, timer) = (Mutex::new(task), FutureSteps::default(), Mutex::new(None));
        Self {
            limiter,
            waiter,
            ticket,
            ctx,
            task,
            timeout,
            slot,
            steps,
            timer,
            settled: AtomicBool::new(false),
        }
    }

    /// Starts the clock of the wait.
    fn arm(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, waiting) = (slf.py(), slf.get());
        if waiting.timeout.is_finite() {
            let over = Bound::new(py, TimeOver(waiting.waiter.clone()))?;
            let event_loop = waiting.waiter.future.event_loop(py);
            let timer = event_loop.call_method1(intern!(py, "call_later"), (waiting.timeout, over))?;
            *lock(&waiting.timer) = Some(timer.unbind());
        }
        Ok(())
    }

    /// The wait is over. Answers `false` when it was over before.
    fn settle(&self, py: Python<'_>) -> bool {
        if self.settled.swap(true, Ordering::AcqRel) {
            return false;
        }
        if let Some(ctx) = &self.ctx {
            ctx.get().core().unpark();
        }
        let timer = lock(&self.timer).take();
        if let Some(timer) = timer {
            // A handle that has run already does not mind.
            let _ = timer.call_method0(py, intern!(py, "cancel"));
        }
        true
    }

    /// Gives up: leaves the queue, or hands the permit on if it was granted in the meantime.
    fn abandon(&self, py: Python<'_>) {
        if !self.settle(py) {
            return;
        }
        if self.limiter.abandon(self.ticket, false).is_none() && !mutant!(PermitLostOnCancel) {
            self.return_grant();
        }
        self.free_slot();
    }

    fn free_slot(&self) {
        if let Some(slot) = &self.slot {
            slot.get().free();
        }
    }

    fn return_grant(&self) {
        let grant = lock(&self.waiter.grant).take();
        if let Some(grant) = grant {
            self.limiter.release(grant, CLOCK.monotonic());
        }
    }

    /// The future is done: a permit, or the time is over.
    fn answer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if !self.settle(py) {
            return Err(PyRuntimeError::new_err(
                "cannot reuse an awaitable that was already awaited",
            ));
        }
        let grant = lock(&self.waiter.grant).take();
        if let Some(grant) = grant {
            let task = lock(&self.task).take();
            let permit = Py::new(py, PyPermit::new(self.limiter.clone(), grant, task))?;
            if let Some(slot) = &self.slot {
                slot.get().keep(py, &permit);
            }
            return Ok(permit.into_bound(py).into_any());
        }
        self.free_slot();
        if let Some(refusal) = self
            .limiter
            .abandon(self.ticket, self.waiter.timed_out.load(Ordering::Relaxed))
        {
            return Err(limit_timeout(py, &refusal, self.timeout));
        }
        // Granted between the two looks, which takes another thread.
        self.return_grant();
        Err(PyRuntimeError::new_err(
            "the permit was granted and returned; ask again",
        ))
    }

    /// Passes on what a step of the future came to.
    fn after<'py>(&self, py: Python<'py>, step: PyResult<Step<'py>>) -> PyResult<Stand<'py>> {
        match step {
            Ok(Step::Pending(future)) => Ok(Stand::Pending(future)),
            Ok(Step::Done) => self.answer(py).map(Stand::Answered),
            Err(error) => {
                self.abandon(py);
                Err(error)
            }
        }
    }
}

impl Steps for PermitAwaitable {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        let (py, waiting) = (slf.py(), slf.get());
        waiting.after(py, waiting.steps.next(py, &waiting.waiter.future))
    }
}

impl Drop for PermitAwaitable {
    fn drop(&mut self) {
        Python::try_attach(|py| beside_exception(py, || self.abandon(py)));
    }
}

#[pymethods]
impl PermitAwaitable {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    fn send<'py>(slf: &Bound<'py, Self>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    #[pyo3(signature = (*exception))]
    fn throw<'py>(&self, py: Python<'py>, exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        as_next(self.after(py, self.steps.throw(py, &self.waiter.future, exception))?)
    }

    fn close(&self, py: Python<'_>) {
        self.abandon(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(ctx) = &self.ctx {
            visit.call(ctx)?;
        }
        if let Some(slot) = &self.slot {
            visit.call(slot)?;
        }
        // While the limiter or the timer holds the waiter as well, its future is reached from there: visiting it here would
        // let the collector take a task away that only waits.
        if Arc::strong_count(&self.waiter) == 1 {
            self.waiter.future.traverse(&visit)?;
        }
        self.steps.traverse(&visit)?;
        for cell in [&self.task, &self.timer] {
            if let Ok(object) = cell.try_lock()
                && let Some(object) = &*object
            {
                visit.call(object)?;
            }
        }
        Ok(())
    }
}

static DEFAULT: RwLock<Option<(Stamp, Py<PyFairLimiter>)>> = RwLock::new(None);

/// The limiter of the process, which contexts and engine factories use unless they are given another: 50 permits, 5 per user.
#[pyfunction]
pub(crate) fn default_limiter(py: Python<'_>) -> PyResult<Py<PyFairLimiter>> {
    {
        let held = DEFAULT.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, limiter)) = held.as_ref().filter(|(stamp, _)| stamp.is_current()) {
            return Ok(limiter.clone_ref(py));
        }
    }
    let limiter = Py::new(py, PyFairLimiter::build(50, 5, 1000, 100, 2.0)?)?;
    set_default_limiter(py, limiter.clone_ref(py))?;
    Ok(limiter)
}

/// Replaces the limiter of the process. To be called at start-up: permits that are held stay with the old one.
#[pyfunction]
pub(crate) fn set_default_limiter(py: Python<'_>, limiter: Py<PyFairLimiter>) -> PyResult<()> {
    limiter.get().stamp.check(py)?;
    let new = Some((Stamp::now(), limiter));
    let old = std::mem::replace(&mut *DEFAULT.write().unwrap_or_else(PoisonError::into_inner), new);
    drop(old);
    Ok(())
}

/// Refuses what is not a permit of this module.
pub(crate) fn taken(permit: &Bound<'_, PyPermit>) -> PyResult<Permit> {
    permit
        .get()
        .take()
        .ok_or_else(|| PyTypeError::new_err("the permit was released or given away already"))
}
