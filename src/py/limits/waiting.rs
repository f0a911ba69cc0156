//! Waiting for a permit on an event loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit, intern};

use super::super::awaitable::{ReadyNone, Stand, Steps, as_next};
use super::super::context::PyContext;
use super::super::errors::{limit_timeout, to_python};
use super::super::loops::{FutureSteps, LoopFuture, Step, beside_exception};
use super::super::process::CLOCK;
use super::ask::{Asker, Wanted, deadline};
use super::lock;
use super::permit::{PyPermit, site};
use super::slot::Slot;
use crate::clock::{Clock, Micros};
use crate::limits::{Decision, FairLimiter, Grant, Parked, Priority, Refusal, Ticket};
use crate::mutants::mutant;

/// What a permit is for.
pub(super) enum Goal {
    /// The caller, who releases it.
    Caller,
    /// A block, which has this slot.
    Slot(Py<Slot>),
    /// A permit that was suspended.
    Resume(Py<PyPermit>),
}

impl Goal {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Caller => Ok(()),
            Self::Slot(slot) => visit.call(slot),
            Self::Resume(permit) => visit.call(permit),
        }
    }

    fn fail(&self) {
        match self {
            Self::Caller => {}
            Self::Slot(slot) => slot.get().free(),
            Self::Resume(permit) => permit.get().stay_released(),
        }
    }
}

/// What becomes of a grant.
struct Delivery {
    ctx: Option<Py<PyContext>>,
    task: Option<Py<PyAny>>,
    timeout: f64,
    deadline: Micros,
    priority: Priority,
    site: Option<Box<str>>,
}

impl Delivery {
    fn of(py: Python<'_>, wanted: &Wanted, task: Option<Py<PyAny>>, now: Micros) -> Self {
        Self {
            ctx: wanted.ctx.as_ref().map(|ctx| ctx.clone_ref(py)),
            task,
            timeout: wanted.timeout,
            deadline: deadline(now, wanted.patience),
            priority: wanted.priority,
            site: site(py),
        }
    }

    /// Makes the permit of a grant. Answers what the awaitable yields.
    fn deliver<'py>(
        self,
        py: Python<'py>,
        limiter: &Arc<FairLimiter>,
        grant: Grant,
        goal: &Goal,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Goal::Resume(permit) = goal {
            permit.get().resume(grant, self.task);
            return ReadyNone::shared(py).map(Bound::into_any);
        }
        let asked = (self.timeout, self.deadline, self.priority);
        let permit = PyPermit::new(limiter.clone(), grant, self.task, self.ctx, asked, self.site);
        let permit = Py::new(py, permit)?;
        if let Goal::Slot(slot) = goal {
            slot.get().keep(py, &permit);
        }
        Ok(permit.into_bound(py).into_any())
    }
}

/// Takes a suspended permit up again if that needs no wait.
pub(super) fn resume_at_once(py: Python<'_>, permit: &PyPermit, wanted: &Wanted) {
    let asker = Asker::of(py, wanted.ctx.as_ref().map(|ctx| ctx.bind(py)));
    let granted = permit.limiter().grant_at_once(asker.request(wanted), CLOCK.monotonic());
    match granted {
        Ok(Some(grant)) => permit.resume(grant, asker.task),
        Ok(None) | Err(_) => permit.stay_released(),
    }
}

/// Asks for a permit. The awaitable yields it, or `None` for a permit that was suspended.
pub(super) fn ask<'py>(
    py: Python<'py>,
    limiter: &Arc<FairLimiter>,
    wanted: &Wanted,
    goal: Goal,
) -> PyResult<Bound<'py, PyAny>> {
    let asker = Asker::of(py, wanted.ctx.as_ref().map(|ctx| ctx.bind(py)));
    let request = asker.request(wanted);
    let now = CLOCK.monotonic();
    let granted = limiter
        .grant_at_once(request, now)
        .map_err(|refusal| to_python(py, refusal))?;
    if let Some(grant) = granted {
        return Delivery::of(py, wanted, asker.task, now).deliver(py, limiter, grant, &goal);
    }
    // The future is made only when there is a wait, and before the lock of the limiter is taken.
    let waiter = Arc::new(Waiter {
        future: LoopFuture::new(py)?,
        grant: Mutex::new(None),
        refusal: Mutex::new(None),
        timed_out: AtomicBool::new(false),
    });
    let parked = waiter.clone();
    let decision = limiter
        .request(request, now, || parked)
        .map_err(|refusal| to_python(py, refusal))?;
    let delivery = Delivery::of(py, wanted, asker.task, now);
    match decision {
        Decision::Granted(grant) => delivery.deliver(py, limiter, grant, &goal),
        Decision::Parked(ticket) => {
            let waiting = PermitAwaitable::new(limiter.clone(), delivery, waiter, ticket, goal);
            let waiting = Bound::new(py, waiting)?;
            PermitAwaitable::arm(&waiting)?;
            Ok(waiting.into_any())
        }
    }
}

/// Somebody who waits for a permit on an event loop.
struct Waiter {
    future: LoopFuture,
    grant: Mutex<Option<Grant>>,
    refusal: Mutex<Option<Refusal>>,
    timed_out: AtomicBool,
}

impl Parked for Waiter {
    fn grant(&self, grant: Grant) {
        *lock(&self.grant) = Some(grant);
    }

    fn refuse(&self, refusal: Refusal) {
        *lock(&self.refusal) = Some(refusal);
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
        if mutant!(TimeNeverOver) {
            return;
        }
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
    timeout: f64,
    delivery: Mutex<Option<Delivery>>,
    goal: Goal,
    steps: FutureSteps,
    timer: Mutex<Option<Py<PyAny>>>,
    settled: AtomicBool,
}

impl PermitAwaitable {
    fn new(limiter: Arc<FairLimiter>, delivery: Delivery, waiter: Arc<Waiter>, ticket: Ticket, goal: Goal) -> Self {
        // Attached: the caller is a call from Python.
        let ctx = Python::attach(|py| delivery.ctx.as_ref().map(|ctx| ctx.clone_ref(py)));
        if let Some(ctx) = &ctx {
            ctx.get().core().park();
        }
        Self {
            limiter,
            waiter,
            ticket,
            ctx,
            timeout: delivery.timeout,
            delivery: Mutex::new(Some(delivery)),
            goal,
            steps: FutureSteps::default(),
            timer: Mutex::new(None),
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
        let now = CLOCK.monotonic();
        if self.limiter.abandon(self.ticket, false, now).is_none() && !mutant!(PermitLostOnCancel) {
            self.return_grant();
        }
        self.goal.fail();
    }

    fn return_grant(&self) {
        let grant = lock(&self.waiter.grant).take();
        if let Some(grant) = grant {
            self.limiter.release_unused(grant, CLOCK.monotonic());
        }
    }

    /// The future is done: a permit, or the time is over.
    fn answer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if !self.settle(py) {
            return Err(PyRuntimeError::new_err(
                "cannot reuse an awaitable that was already awaited",
            ));
        }
        let (grant, delivery) = (lock(&self.waiter.grant).take(), lock(&self.delivery).take());
        if let Some(fenced) = self.ctx.as_ref().and_then(|ctx| ctx.get().check_fence(py).err()) {
            // The run was ended by force while this waited.
            match grant {
                Some(grant) => self.limiter.release_unused(grant, CLOCK.monotonic()),
                None => drop(self.limiter.abandon(self.ticket, false, CLOCK.monotonic())),
            }
            self.goal.fail();
            return Err(fenced);
        }
        if let (Some(grant), Some(delivery)) = (grant, delivery) {
            let answer = delivery.deliver(py, &self.limiter, grant, &self.goal)?;
            let resumed = matches!(self.goal, Goal::Resume(_));
            return Ok(if resumed { py.None().into_bound(py) } else { answer });
        }
        self.goal.fail();
        let refused = lock(&self.waiter.refusal).take();
        if let Some(refusal) = refused {
            return Err(to_python(py, refusal));
        }
        if let Some(refusal) = self.limiter.abandon(
            self.ticket,
            self.waiter.timed_out.load(Ordering::Relaxed),
            CLOCK.monotonic(),
        ) {
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
        self.goal.traverse(&visit)?;
        // While the limiter or the timer holds the waiter as well, its future is reached from there: visiting it here would
        // let the collector take a task away that only waits.
        if Arc::strong_count(&self.waiter) == 1 {
            self.waiter.future.traverse(&visit)?;
        }
        self.steps.traverse(&visit)?;
        if let Ok(delivery) = self.delivery.try_lock()
            && let Some(delivery) = &*delivery
        {
            if let Some(ctx) = &delivery.ctx {
                visit.call(ctx)?;
            }
            if let Some(task) = &delivery.task {
                visit.call(task)?;
            }
        }
        let Ok(timer) = self.timer.try_lock() else {
            return Ok(());
        };
        timer.as_ref().map_or(Ok(()), |timer| visit.call(timer))
    }
}
