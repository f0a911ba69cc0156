//! `LogReplica`: what follows the logs of this process for whoever stores them.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::super::awaitable::{ReadyNone, Stand, Steps, as_next};
use super::super::loops::{FutureSteps, LoopFuture, Step, beside_exception};
use super::super::process::{Stamp, registry};
use super::append::LogAppend;
use super::mirror::level_of;
use crate::clock::{SECOND, seconds};
use crate::events::{Parking, Replicator, Wake};

/// Added to a wait: loops ring up to a millisecond early.
const LATE: u64 = SECOND / 1_000;

struct Waker(LoopFuture);

impl Wake for Waker {
    fn wake(&self) {
        self.0.complete();
    }
}

/// Follows all logs of this process that it writes itself, from now on and until `close`, for whoever stores them. There is one of
/// it. It has no queue: it is a position in each log, and what waits for a slow store is folded with its log.
#[pyclass(frozen, weakref, module = "isolane._core")]
pub(crate) struct LogReplica {
    inner: Arc<Replicator>,
    stamp: Stamp,
}

impl Drop for LogReplica {
    fn drop(&mut self) {
        if self.stamp.is_current() {
            self.inner.close(registry());
        }
    }
}

#[pymethods]
impl LogReplica {
    /// What is critical is to be taken at once, the rest `batch_ms` milliseconds later. Raises `RuntimeError` while there is
    /// another one.
    #[new]
    #[pyo3(signature = (*, batch_ms = 5))]
    fn new(batch_ms: u32) -> PyResult<Self> {
        let inner = Replicator::install(registry(), u64::from(batch_ms) * (SECOND / 1_000));
        let stamp = Stamp::now();
        let inner = inner.ok_or_else(|| {
            PyRuntimeError::new_err("this process has a LogReplica already; close that one before another is made")
        })?;
        Ok(Self { inner, stamp })
    }

    /// Follows nothing any more. Who waits for an event to be stored gets `RunClosed`. Closing twice is nothing.
    fn close(&self) {
        if self.stamp.is_current() {
            self.inner.close(registry());
        }
    }

    /// Waits until there is something to take.
    #[pyo3(signature = () -> "collections.abc.Awaitable[None]")]
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.stamp.check(py)?;
        if self.inner.is_closed() {
            return Err(PyRuntimeError::new_err("this LogReplica was closed"));
        }
        let waiting = ReplicaAwaitable {
            replicator: self.inner.clone(),
            round: Mutex::default(),
        };
        match waiting.park(py)? {
            None => Ok(ReadyNone::shared(py)?.into_any()),
            Some(_) => Ok(Bound::new(py, waiting)?.into_any()),
        }
    }

    /// What is to be stored, of each log what follows what was taken of it, about `max_bytes` in all.
    #[pyo3(signature = (max_bytes = 1 << 20))]
    fn take(&self, py: Python<'_>, max_bytes: usize) -> PyResult<Vec<LogAppend>> {
        self.stamp.check(py)?;
        let appends = self.inner.take(max_bytes);
        Ok(appends.iter().map(|append| LogAppend::new(py, append)).collect())
    }

    /// The store has everything up to a number, which is `LogAppend.upto`. Who waits for the level `stored` is told. Returns
    /// whether the log is followed.
    fn stored(&self, py: Python<'_>, run_id: &str, epoch: &str, upto: u64) -> PyResult<bool> {
        self.stamp.check(py)?;
        Ok(self.inner.stored(run_id, epoch, upto))
    }

    /// What was taken and not told to be stored is taken once more: the store failed. Returns whether the log is followed.
    fn again(&self, py: Python<'_>, run_id: &str, epoch: &str) -> PyResult<bool> {
        self.stamp.check(py)?;
        Ok(self.inner.again(run_id, epoch))
    }

    /// The store has lost what it had: the log is taken from its beginning, a snapshot and what follows. Returns whether the log
    /// is followed.
    fn rewind(&self, py: Python<'_>, run_id: &str, epoch: &str) -> PyResult<bool> {
        self.stamp.check(py)?;
        Ok(self.inner.rewind(run_id, epoch))
    }

    /// The store has a second writer: this worker was taken for dead. The log ends here as lost, what still publishes into it
    /// gets `RunClosed`, and it is not followed any more. Returns whether it was.
    #[pyo3(signature = (run_id, epoch, reason = "this worker was taken for dead, and its run was ended by another"))]
    fn refused(&self, py: Python<'_>, run_id: &str, epoch: &str, reason: &str) -> PyResult<bool> {
        self.stamp.check(py)?;
        Ok(self.inner.refused(run_id, epoch, reason))
    }

    /// Another worker has `sent` the events up to a number to a socket of the user, or its client has `acked` them. Returns
    /// whether the log is followed.
    fn reached(&self, py: Python<'_>, run_id: &str, epoch: &str, level: &str, upto: u64) -> PyResult<bool> {
        self.stamp.check(py)?;
        Ok(self.inner.reached(run_id, epoch, level_of(level)?, upto))
    }

    /// `logs` that are followed, how many of them have something to take (`marked`), and how many events are not known to be
    /// stored (`behind`).
    #[pyo3(signature = () -> "dict[str, int]")]
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.inner.figures();
        let dict = PyDict::new(py);
        dict.set_item("logs", figures.logs)?;
        dict.set_item("marked", figures.marked)?;
        dict.set_item("behind", figures.behind)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        format!("<LogReplica of {} logs>", self.inner.figures().logs)
    }
}

/// One parking of a wait.
struct Round {
    waker: Arc<Waker>,
    steps: FutureSteps,
    /// Rings when what may wait is to be taken.
    timer: Option<Py<PyAny>>,
}

/// Waits for something to take. Who is told of something that may wait parks anew, until then.
#[pyclass(frozen, module = "isolane._core", name = "_ReplicaAwaitable")]
pub(crate) struct ReplicaAwaitable {
    replicator: Arc<Replicator>,
    round: Mutex<Option<Arc<Round>>>,
}

impl ReplicaAwaitable {
    /// The round that goes on, or a new one; `None` when there is something to take.
    fn park(&self, py: Python<'_>) -> PyResult<Option<Arc<Round>>> {
        let held = self.round.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if held.is_some() {
            return Ok(held);
        }
        let waker = Arc::new(Waker(LoopFuture::new(py)?));
        let left = match self.replicator.park(waker.clone()) {
            Parking::Ready => return Ok(None),
            Parking::Until(left) => left,
        };
        let timer = left.map(|left| waker.0.complete_after(py, seconds(left + LATE)));
        let round = Arc::new(Round {
            timer: timer.transpose()?,
            waker,
            steps: FutureSteps::default(),
        });
        *self.round.lock().unwrap_or_else(PoisonError::into_inner) = Some(round.clone());
        Ok(Some(round))
    }

    /// Waits no longer. A waker that another wait has parked since is left alone.
    fn stop(&self, py: Python<'_>) {
        let round = self.round.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(round) = round else { return };
        let own: Arc<dyn Wake> = round.waker.clone();
        self.replicator.unpark_if(&own);
        if let Some(timer) = &round.timer {
            round.waker.0.cancel_timer(py, timer);
        }
    }

    fn after<'py>(&self, py: Python<'py>, step: PyResult<Step<'py>>) -> PyResult<Stand<'py>> {
        let mut step = step;
        loop {
            match step {
                Ok(Step::Pending(future)) => return Ok(Stand::Pending(future)),
                Ok(Step::Done) => self.stop(py),
                Err(error) => {
                    self.stop(py);
                    return Err(error);
                }
            }
            let Some(round) = self.park(py)? else {
                return Ok(Stand::Answered(py.None().into_bound(py)));
            };
            step = round.steps.next(py, &round.waker.0);
        }
    }
}

impl Steps for ReplicaAwaitable {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        let (py, waiting) = (slf.py(), slf.get());
        let Some(round) = waiting.park(py)? else {
            return Ok(Stand::Answered(py.None().into_bound(py)));
        };
        waiting.after(py, round.steps.next(py, &round.waker.0))
    }
}

impl Drop for ReplicaAwaitable {
    fn drop(&mut self) {
        Python::try_attach(|py| beside_exception(py, || self.stop(py)));
    }
}

#[pymethods]
impl ReplicaAwaitable {
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
        let Some(round) = self.park(py)? else {
            return as_next(Stand::Answered(py.None().into_bound(py)));
        };
        as_next(self.after(py, round.steps.throw(py, &round.waker.0, exception))?)
    }

    /// Waits no longer.
    fn close(&self, py: Python<'_>) {
        self.stop(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(round) = self.round.try_lock() else {
            return Ok(());
        };
        let Some(round) = &*round else { return Ok(()) };
        // While the replicator holds the waker as well, its future is reached from there.
        if Arc::strong_count(&round.waker) == 1 {
            round.waker.0.traverse(&visit)?;
        }
        round.timer.as_ref().map_or(Ok(()), |timer| visit.call(timer))?;
        round.steps.traverse(&visit)
    }
}
