//! asyncio event loops: which one runs, and how a future of one is completed from anywhere.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

fn cached<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    cell.get_or_try_init(py, || py.import(module)?.getattr(name).map(Bound::unbind))
        .map(|value| value.bind(py))
}

/// Whether the interpreter is about to end: threads that wake each other's loops then could be ended inside this module.
static ENDING: AtomicBool = AtomicBool::new(false);
/// Calls into other threads' loops that have not returned.
static WAKING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread ends the interpreter: it is not ended by it, and what it still does in `atexit` may wake others.
    static IS_ENDING_IT: Cell<bool> = const { Cell::new(false) };
}

/// Holds the end of the interpreter off while a call is under way.
///
/// Before 3.14 `CPython` ends a daemon thread that wants the interpreter back while it is going away by unwinding its stack, and
/// that ends the process when it meets Rust. Waking a loop gives the interpreter up for a moment, so it is not begun after
/// [`_before_exit`], which waits for those that were.
struct Waking;

impl Waking {
    fn begin() -> Option<Self> {
        WAKING.fetch_add(1, Ordering::SeqCst);
        let waking = Self;
        (!ENDING.load(Ordering::SeqCst) || IS_ENDING_IT.get()).then_some(waking)
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        WAKING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// In the child of a fork nothing is under way, whatever the parent was doing.
pub(crate) fn after_fork_in_child() {
    WAKING.store(0, Ordering::SeqCst);
    ENDING.store(false, Ordering::SeqCst);
}

/// Called by `atexit`: from here on no thread wakes the loop of another.
#[pyfunction]
pub(crate) fn _before_exit(py: Python<'_>) {
    IS_ENDING_IT.set(true);
    ENDING.store(true, Ordering::SeqCst);
    // What was begun needs the interpreter to come back, so it is let go. A loop's thread that hangs does not keep the exit.
    py.detach(|| {
        let patience = Instant::now() + Duration::from_millis(200);
        while WAKING.load(Ordering::SeqCst) > 0 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// The loop that runs in this thread; an error that says so when there is none.
pub(crate) fn running(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    cached(py, &GET, "asyncio", "get_running_loop")?.call0()
}

fn is_running(event_loop: &Bound<'_, PyAny>) -> bool {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = event_loop.py();
    cached(py, &GET, "asyncio", "_get_running_loop")
        .and_then(PyAnyMethods::call0)
        .is_ok_and(|running| running.is(event_loop))
}

/// Whether an event loop runs in this thread.
pub(crate) fn is_any_running(py: Python<'_>) -> bool {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    cached(py, &GET, "asyncio", "_get_running_loop")
        .and_then(PyAnyMethods::call0)
        .is_ok_and(|running| !running.is_none())
}

/// The task that runs in this thread, or `None` outside of one.
pub(crate) fn current_task(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    // Raises when no loop runs.
    let task = cached(py, &GET, "asyncio", "current_task").ok()?.call0().ok()?;
    Some(task).filter(|task| !task.is_none())
}

/// Runs what may call Python where an exception may be on its way: destructors run while the interpreter unwinds, and Python
/// must not be called with an exception set. It is put aside, and set again afterwards.
pub(crate) fn beside_exception<R>(py: Python<'_>, run: impl FnOnce() -> R) -> R {
    let raised = PyErr::take(py);
    let result = run();
    if let Some(raised) = raised {
        raised.restore(py);
    }
    result
}

/// Whether the value is a coroutine.
pub(crate) fn is_coroutine(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    static CHECK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    cached(value.py(), &CHECK, "asyncio", "iscoroutine")?
        .call1((value,))?
        .is_truthy()
}

/// A future of an event loop that is completed once, with `None`.
#[derive(Debug)]
pub(crate) struct LoopFuture {
    event_loop: Py<PyAny>,
    future: Py<PyAny>,
}

impl LoopFuture {
    /// A new future of the loop that runs in this thread.
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        let event_loop = running(py)?;
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        Ok(Self {
            event_loop: event_loop.unbind(),
            future: future.unbind(),
        })
    }

    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.event_loop.bind(py)
    }

    /// Completes the future: at once when its loop runs in this thread, else through the loop. A loop that is closed has
    /// nobody left who waits.
    /// Answers whether there was somebody to tell.
    pub(crate) fn complete(&self) -> bool {
        // Not attached means that the interpreter is going away, and every waiter with it.
        Python::try_attach(|py| beside_exception(py, || self.complete_attached(py))).unwrap_or(false)
    }

    fn complete_attached(&self, py: Python<'_>) -> bool {
        let event_loop = self.event_loop.bind(py);
        if is_running(event_loop) {
            set_result(self.future.bind(py));
            return true;
        }
        let Some(_waking) = Waking::begin() else { return false };
        let result = wake_function(py).and_then(|wake| {
            event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (wake, self.future.bind(py)))
        });
        let Err(error) = result else { return true };
        let closed = event_loop
            .call_method0(intern!(py, "is_closed"))
            .and_then(|closed| closed.is_truthy());
        if !closed.unwrap_or(false) {
            error.write_unraisable(py, Some(event_loop));
        }
        false
    }

    /// Completes the future in so many seconds, unless it is completed before. Called on its loop. Answers the timer.
    pub(crate) fn complete_after(&self, py: Python<'_>, seconds: f64) -> PyResult<Py<PyAny>> {
        let arguments = (seconds, wake_function(py)?, self.future.bind(py));
        let timer = self
            .event_loop
            .bind(py)
            .call_method1(intern!(py, "call_later"), arguments)?;
        Ok(timer.unbind())
    }

    /// Cancels a timer of the loop. One of a loop that does not run in this thread is left to ring: nobody hears it.
    pub(crate) fn cancel_timer(&self, py: Python<'_>, timer: &Py<PyAny>) {
        let event_loop = self.event_loop.bind(py);
        if is_running(event_loop)
            && let Err(error) = timer.bind(py).call_method0(intern!(py, "cancel"))
        {
            error.write_unraisable(py, Some(event_loop));
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.future)
    }
}

/// What a step of an awaitable came to.
pub(crate) enum Step<'py> {
    /// It waits: what the event loop is to be handed.
    Pending(Bound<'py, PyAny>),
    /// It is done.
    Done,
}

/// The steps of awaiting a [`LoopFuture`], taken one by one: what an awaitable needs that decides itself when it is done.
#[derive(Debug, Default)]
pub(crate) struct FutureSteps(Mutex<Option<Py<PyAny>>>);

impl FutureSteps {
    fn of<'py>(&self, py: Python<'py>, future: &LoopFuture) -> PyResult<Bound<'py, PyAny>> {
        let held = self.lock().as_ref().map(|steps| steps.clone_ref(py));
        if let Some(steps) = held {
            return Ok(steps.into_bound(py));
        }
        // A future iterates as it is awaited.
        let steps = future.future.bind(py).try_iter()?.into_any();
        *self.lock() = Some(steps.clone().unbind());
        Ok(steps)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next step.
    #[allow(unsafe_code)]
    pub(crate) fn next<'py>(&self, py: Python<'py>, future: &LoopFuture) -> PyResult<Step<'py>> {
        let steps = self.of(py, future)?;
        let mut result = std::ptr::null_mut();
        // SAFETY: `steps` is an iterator, this thread is attached, and a result is a new reference.
        unsafe {
            match ffi::PyIter_Send(steps.as_ptr(), ffi::Py_None(), &raw mut result) {
                ffi::PySendResult::PYGEN_NEXT => Ok(Step::Pending(Bound::from_owned_ptr(py, result))),
                ffi::PySendResult::PYGEN_RETURN => {
                    drop(Bound::from_owned_ptr(py, result));
                    Ok(Step::Done)
                }
                ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
            }
        }
    }

    /// Throws an exception into the wait.
    pub(crate) fn throw<'py>(
        &self,
        py: Python<'py>,
        future: &LoopFuture,
        exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Step<'py>> {
        let thrown = self
            .of(py, future)?
            .call_method1(intern!(py, "throw"), exception.clone());
        match thrown {
            Ok(pending) => Ok(Step::Pending(pending)),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => Ok(Step::Done),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(steps) = self.0.try_lock() else { return Ok(()) };
        steps.as_ref().map_or(Ok(()), |steps| visit.call(steps))
    }
}

fn set_result(future: &Bound<'_, PyAny>) {
    let py = future.py();
    let Err(error) = future.call_method1(intern!(py, "set_result"), (py.None(),)) else {
        return;
    };
    // A future that is done, or was cancelled in the meantime, is left alone.
    let done = future
        .call_method0(intern!(py, "done"))
        .and_then(|done| done.is_truthy());
    if !done.unwrap_or(false) {
        error.write_unraisable(py, Some(future));
    }
}

/// What `call_soon_threadsafe` calls on the loop's own thread.
fn wake_function(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static WAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    WAKE.get_or_try_init(py, || {
        let wake = PyCFunction::new_closure(py, None, None, |args, _| -> PyResult<()> {
            set_result(&args.get_item(0)?);
            Ok(())
        })?;
        Ok(wake.into_any().unbind())
    })
    .map(|wake| wake.bind(py))
}
