//! A permit for the length of a block.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::super::awaitable::ReadyNone;
use super::super::context::PyContext;
use super::ask::Wanted;
use super::permit::PyPermit;
use super::waiting::{Goal, ask};
use super::{PyFairLimiter, blocking, lock};

/// A permit for the length of a block: `async with`. Each slot is used once at a time.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct Slot {
    limiter: Py<PyFairLimiter>,
    pub(super) wanted: Wanted,
    /// Whether a block has the slot, or waits for it.
    taken: AtomicBool,
    permit: Mutex<Option<Py<PyPermit>>>,
}

impl Slot {
    pub(super) fn new(limiter: &Bound<'_, PyFairLimiter>, wanted: Wanted) -> Self {
        Self {
            limiter: limiter.clone().unbind(),
            wanted,
            taken: AtomicBool::new(false),
            permit: Mutex::new(None),
        }
    }

    /// A slot for the lock of a context.
    pub(crate) fn in_context(
        limiter: &Bound<'_, PyFairLimiter>,
        ctx: &Bound<'_, PyContext>,
        timeout: f64,
    ) -> PyResult<Self> {
        let lane = ctx.get().core().lane().clone();
        let wanted = Wanted::in_context(lane, ctx.clone().unbind(), timeout)?;
        Ok(Self::new(limiter, wanted))
    }

    /// Nobody waits with the slot any more, and nobody holds it.
    pub(super) fn free(&self) {
        self.taken.store(false, Ordering::Release);
    }

    pub(super) fn keep(&self, py: Python<'_>, permit: &Py<PyPermit>) {
        let old = lock(&self.permit).replace(permit.clone_ref(py));
        drop(old);
    }

    fn take_place(&self) -> PyResult<()> {
        if self.taken.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err(
                "this slot is in use; call limiter.slot() for each block",
            ));
        }
        Ok(())
    }

    fn leave(&self, raised: bool) {
        let permit = lock(&self.permit).take();
        if let Some(permit) = permit {
            permit.get().leave_block(raised);
        }
        self.free();
    }
}

#[pymethods]
impl Slot {
    #[pyo3(signature = () -> "collections.abc.Awaitable[Permit]")]
    fn __aenter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, slot) = (slf.py(), slf.get());
        slot.take_place()?;
        let asked = slot.limiter.get().checked(py).and_then(|limiter| {
            let goal = Goal::Slot(slf.clone().unbind());
            ask(py, limiter, &slot.wanted, goal)
        });
        if asked.is_err() {
            slot.free();
        }
        asked
    }

    #[pyo3(signature = (kind = None, _exception = None, _traceback = None) -> "collections.abc.Awaitable[None]")]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        kind: Option<&Bound<'py, PyAny>>,
        _exception: Option<&Bound<'py, PyAny>>,
        _traceback: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, ReadyNone>> {
        self.leave(kind.is_some());
        ReadyNone::shared(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.limiter)?;
        self.wanted.traverse(&visit)?;
        let Ok(permit) = self.permit.try_lock() else {
            return Ok(());
        };
        permit.as_ref().map_or(Ok(()), |permit| visit.call(permit))
    }
}

/// A permit for the length of a block of a thread: `with`. The thread sleeps while it waits; not for use inside a running
/// event loop.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct SyncSlot(Slot);

impl SyncSlot {
    pub(super) fn new(limiter: &Bound<'_, PyFairLimiter>, wanted: Wanted) -> Self {
        Self(Slot::new(limiter, wanted))
    }
}

#[pymethods]
impl SyncSlot {
    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<PyPermit>> {
        let slot = &self.0;
        slot.take_place()?;
        let permit = blocking::acquire(py, slot.limiter.get(), &slot.wanted);
        match &permit {
            Ok(permit) => slot.keep(py, permit),
            Err(_) => slot.free(),
        }
        permit
    }

    #[pyo3(signature = (kind = None, _exception = None, _traceback = None))]
    fn __exit__(
        &self,
        kind: Option<&Bound<'_, PyAny>>,
        _exception: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) {
        self.0.leave(kind.is_some());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.__traverse__(visit)
    }
}
