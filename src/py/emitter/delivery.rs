//! Waiting for an event to be delivered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::super::awaitable::{ReadyNone, Stand, Steps, as_next};
use super::super::errors::to_python;
use super::super::loops::{FutureSteps, LoopFuture, Step, beside_exception};
use crate::events::{EventError, Level, RunLog, Wake};

/// Somebody who waits on an event loop.
struct Waiter {
    future: LoopFuture,
    timed_out: AtomicBool,
}

impl Wake for Waiter {
    fn wake(&self) {
        self.future.complete();
    }
}

/// What the loop calls when the time of a wait is over.
#[pyclass(frozen, module = "isolane._core", name = "_DeliveryTimeOver")]
struct TimeOver(Arc<Waiter>);

#[pymethods]
impl TimeOver {
    fn __call__(&self) {
        self.0.timed_out.store(true, Ordering::Relaxed);
        self.0.future.complete();
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Held by this timer and the awaitable alone: the log has let go, and only one of the two may visit.
        if Arc::strong_count(&self.0) == 2 {
            self.0.future.traverse(&visit)
        } else {
            Ok(())
        }
    }
}

/// Waits for an event to be delivered. Cancelled at any moment, it leaves nothing behind.
#[pyclass(frozen, module = "isolane._core", name = "_DeliveryAwaitable")]
pub(crate) struct DeliveryAwaitable {
    log: Arc<RunLog>,
    level: Level,
    number: u64,
    timeout: Option<f64>,
    waiter: Arc<Waiter>,
    steps: FutureSteps,
    timer: Mutex<Option<Py<PyAny>>>,
    settled: AtomicBool,
}

/// An awaitable that ends when the event `number` of the log has come so far.
pub(super) fn wait(
    py: Python<'_>,
    log: Arc<RunLog>,
    level: Level,
    number: u64,
    timeout: Option<f64>,
) -> PyResult<Bound<'_, PyAny>> {
    let waiter = Arc::new(Waiter {
        future: LoopFuture::new(py)?,
        timed_out: AtomicBool::new(false),
    });
    let waits = log
        .wait(level, number, waiter.clone())
        .map_err(|error| to_python(py, error))?;
    if !waits {
        return Ok(ReadyNone::shared(py)?.into_any());
    }
    let waiting = DeliveryAwaitable {
        log,
        level,
        number,
        timeout,
        waiter,
        steps: FutureSteps::default(),
        timer: Mutex::default(),
        settled: AtomicBool::new(false),
    };
    let waiting = Bound::new(py, waiting)?;
    if let Some(timeout) = timeout {
        let held = waiting.get();
        let over = Bound::new(py, TimeOver(held.waiter.clone()))?;
        let event_loop = held.waiter.future.event_loop(py);
        let timer = event_loop.call_method1(intern!(py, "call_later"), (timeout.max(0.0), over))?;
        *held.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer.unbind());
    }
    Ok(waiting.into_any())
}

impl DeliveryAwaitable {
    /// The wait is over: nobody wakes it any more. Answers `false` when it was over before.
    fn settle(&self, py: Python<'_>) -> bool {
        if self.settled.swap(true, Ordering::AcqRel) {
            return false;
        }
        let own: Arc<dyn Wake> = self.waiter.clone();
        self.log.stop_waiting(&own);
        let timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(timer) = timer {
            // A handle that has run already does not mind.
            let _ = timer.call_method0(py, intern!(py, "cancel"));
        }
        true
    }

    fn answer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if !self.settle(py) {
            return Err(PyRuntimeError::new_err(
                "cannot reuse an awaitable that was already awaited",
            ));
        }
        let reached = self.log.reached(self.level);
        if reached >= self.number {
            return Ok(py.None().into_bound(py));
        }
        if self.waiter.timed_out.load(Ordering::Relaxed) {
            return Err(self.timed_out(py, reached));
        }
        Err(to_python(py, EventError::Closed))
    }

    /// The class is written in Python: `TimeoutError` has the layout of `OSError`, which `PyO3` cannot extend.
    fn timed_out(&self, py: Python<'_>, reached: u64) -> PyErr {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let level = self.level.name();
        let message = format!(
            "event {} was not {level} within {:.3} s, the highest number that was {level} is {reached}; it stays in the log for \
             a client that comes later",
            self.number,
            self.timeout.unwrap_or_default()
        );
        let made = CLASS
            .import(py, "isolane.events", "DeliveryTimeout")
            .and_then(|class| class.call1((message, level, self.number, reached)));
        made.map_or_else(|error| error, PyErr::from_value)
    }

    fn after<'py>(&self, py: Python<'py>, step: PyResult<Step<'py>>) -> PyResult<Stand<'py>> {
        match step {
            Ok(Step::Pending(future)) => Ok(Stand::Pending(future)),
            Ok(Step::Done) => self.answer(py).map(Stand::Answered),
            Err(error) => {
                self.settle(py);
                Err(error)
            }
        }
    }
}

impl Steps for DeliveryAwaitable {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        let (py, waiting) = (slf.py(), slf.get());
        waiting.after(py, waiting.steps.next(py, &waiting.waiter.future))
    }
}

impl Drop for DeliveryAwaitable {
    fn drop(&mut self) {
        Python::try_attach(|py| beside_exception(py, || self.settle(py)));
    }
}

#[pymethods]
impl DeliveryAwaitable {
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

    /// Waits no longer.
    fn close(&self, py: Python<'_>) {
        self.settle(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // While the log or the timer holds the waiter as well, its future is reached from there: visiting it here would let
        // the collector take a task away that only waits.
        if Arc::strong_count(&self.waiter) == 1 {
            self.waiter.future.traverse(&visit)?;
        }
        self.steps.traverse(&visit)?;
        let Ok(timer) = self.timer.try_lock() else {
            return Ok(());
        };
        timer.as_ref().map_or(Ok(()), |timer| visit.call(timer))
    }
}
