//! `AccountedCoroutine`: drives a coroutine step by step and measures each step.
//!
//! It passes on whatever comes: what is sent and thrown into it goes into the coroutine, and what the coroutine hands out or
//! raises comes out unchanged, without a frame of its own in the traceback.

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyTypeInfo, PyVisit, ffi, intern};

use super::awaitable::{Stand, as_next};
use super::errors::LoopBudgetExceeded;
use super::loopaccount::Meter;
use super::process::Stamp;
use crate::loopaccount::{Begun, LONG, Overdrawn, Stood, Stopwatch, seconds};
use crate::mutants::mutant;

/// Drives an awaitable as `await` would, and accounts for the time of each step. Made by `account` and `LoopAccount.drive`.
///
/// It is a coroutine to `asyncio`: awaited, made a task of, cancelled and closed like the coroutine that it drives, whose
/// `cr_frame`, `cr_code`, `cr_await` and `cr_running` are its own.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct AccountedCoroutine {
    /// What was given: a coroutine, as a rule.
    awaitable: Py<PyAny>,
    /// What is stepped: the same, or the iterator of an awaitable that is no coroutine.
    steps: Py<PyAny>,
    meter: Meter,
    stamp: Stamp,
}

/// Where a coroutine stands after a step that may be worth a closer look.
pub(super) enum After<'a, 'py> {
    /// It waits.
    Suspended(&'a Bound<'py, PyAny>),
    /// It ended with a value.
    Returned(&'a Bound<'py, PyAny>),
    /// It ended with an exception.
    Raised(&'a PyErr),
}

impl After<'_, '_> {
    pub(super) fn stood(&self) -> Stood {
        match self {
            After::Suspended(_) => Stood::Suspended,
            After::Returned(_) => Stood::Returned,
            After::Raised(_) => Stood::Raised,
        }
    }
}

impl AccountedCoroutine {
    pub(super) fn new(awaitable: &Bound<'_, PyAny>, meter: Meter) -> PyResult<Self> {
        let steps = steps_of(awaitable)?;
        Ok(Self {
            awaitable: awaitable.clone().unbind(),
            steps: steps.unbind(),
            meter,
            stamp: Stamp::now(),
        })
    }

    /// What is driven, for whoever looks for the frame that waits.
    pub(super) fn driven<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.awaitable.bind(py)
    }

    /// One step: `value` goes in, `result` is what came out.
    ///
    /// # Safety
    /// `value` must be a live object, and `result` writable.
    #[allow(unsafe_code)]
    unsafe fn send_raw(
        &self,
        py: Python<'_>,
        value: *mut ffi::PyObject,
        result: *mut *mut ffi::PyObject,
    ) -> ffi::PySendResult {
        // SAFETY: as the caller's; what is stepped is held by this object, which the caller holds.
        unsafe {
            if let Err(error) = self.stamp.check(py) {
                error.restore(py);
                *result = std::ptr::null_mut();
                return ffi::PySendResult::PYGEN_ERROR;
            }
            if let Some((scope, overdrawn)) = self.meter.overdrawn() {
                return raw(py, self.throw_budget(py, scope, overdrawn), result);
            }
            let begun = Stopwatch::shared().begin();
            let status = ffi::PyIter_Send(self.steps.as_ptr(), value, result);
            self.ended(py, begun, status, *result);
            status
        }
    }

    /// Accounts for a step that has come to an end. An exception that is on its way stays so.
    #[inline]
    #[allow(unsafe_code)]
    fn ended(&self, py: Python<'_>, begun: Begun, status: ffi::PySendResult, result: *mut ffi::PyObject) {
        let step = Stopwatch::shared().end(begun);
        if !self.stamp.is_current() {
            // The step forked: what it took belongs to the parent's account.
            return;
        }
        self.meter.record(step);
        if step.wall <= LONG {
            return;
        }
        let driven = self.driven(py);
        match status {
            ffi::PySendResult::PYGEN_NEXT => self.meter.look(py, step, &After::Suspended(driven)),
            ffi::PySendResult::PYGEN_RETURN => self.meter.look(py, step, &After::Returned(driven)),
            ffi::PySendResult::PYGEN_ERROR => {
                debug_assert!(result.is_null());
                if let Some(error) = PyErr::take(py) {
                    self.meter.look(py, step, &After::Raised(&error));
                    error.restore(py);
                }
            }
        }
    }

    /// Measures a call into the coroutine that is no plain step.
    fn measured<'py>(
        &self,
        py: Python<'py>,
        call: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let begun = Stopwatch::shared().begin();
        let came = call(self.steps.bind(py));
        let step = Stopwatch::shared().end(begun);
        if self.stamp.is_current() {
            self.meter.record(step);
            if step.wall > LONG {
                let driven = self.driven(py);
                let after = match &came {
                    Ok(_) => After::Suspended(driven),
                    Err(error) if error.is_instance_of::<pyo3::exceptions::PyStopIteration>(py) => {
                        After::Returned(driven)
                    }
                    Err(error) => After::Raised(error),
                };
                self.meter.look(py, step, &after);
            }
        }
        came
    }

    /// Throws the error of a budget that is used up into the coroutine, so that it can clean up.
    fn throw_budget<'py>(
        &self,
        py: Python<'py>,
        scope: &'static str,
        overdrawn: Overdrawn,
    ) -> PyResult<Bound<'py, PyAny>> {
        let error = budget_error(py, self.meter.agent(), scope, overdrawn);
        let arguments = PyTuple::new(py, [error.into_value(py)])?;
        self.throw_in(py, &arguments)
    }

    fn throw_in<'py>(&self, py: Python<'py>, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.measured(py, |steps| match steps.getattr_opt(intern!(py, "throw"))? {
            Some(throw) if !mutant!(ThrownNotPassedOn) => throw.call1(arguments),
            // As `yield from` does with an iterator that has no such method.
            _ => Err(raised_by(arguments)?),
        })
    }
}

/// What is to be stepped when this is awaited.
#[allow(unsafe_code)]
fn steps_of<'py>(awaitable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = awaitable.py();
    // SAFETY: a live object.
    let is_coroutine = unsafe { ffi::PyCoro_CheckExact(awaitable.as_ptr()) } == 1;
    if is_coroutine || is_old_coroutine(awaitable)? {
        return Ok(awaitable.clone());
    }
    let Some(method) = awaitable.get_type().getattr_opt(intern!(py, "__await__"))? else {
        let kind = awaitable.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "an awaitable is needed, such as what calling an `async def` returns, got {kind}"
        )));
    };
    method.call1((awaitable,))
}

/// Whether it is a generator that `types.coroutine` has marked.
#[allow(unsafe_code)]
fn is_old_coroutine(awaitable: &Bound<'_, PyAny>) -> PyResult<bool> {
    const ITERABLE_COROUTINE: u32 = 0x100;
    let py = awaitable.py();
    // SAFETY: a live object.
    if unsafe { ffi::PyGen_CheckExact(awaitable.as_ptr()) } != 1 {
        return Ok(false);
    }
    let flags: u32 = awaitable
        .getattr(intern!(py, "gi_code"))?
        .getattr(intern!(py, "co_flags"))?
        .extract()?;
    Ok(flags & ITERABLE_COROUTINE != 0)
}

/// The exception that `throw` was called with.
fn raised_by(arguments: &Bound<'_, PyTuple>) -> PyResult<PyErr> {
    let kind = arguments.get_item(0)?;
    if let Ok(class) = kind.cast::<PyType>() {
        let value = arguments.get_item(1).ok().filter(|value| !value.is_none());
        return Ok(match value {
            Some(value) if value.is_instance(class)? => PyErr::from_value(value),
            Some(value) => PyErr::from_type(class.clone(), (value.unbind(),)),
            None => PyErr::from_type(class.clone(), ()),
        });
    }
    Ok(PyErr::from_value(kind))
}

fn budget_error(py: Python<'_>, agent: &str, scope: &'static str, overdrawn: Overdrawn) -> PyErr {
    let (limit, used) = (seconds(overdrawn.limit), seconds(overdrawn.used));
    let (what, where_set) = match scope {
        "run" => (format!("the run of agent {agent:?}"), "of the engine factory"),
        _ => (format!("agent {agent:?}"), "of the agent's class"),
    };
    let message = format!(
        "{what} used {used:.3} s of the event loop, and {limit:.3} s are allowed: call blocking and computing code with \
         await asyncio.to_thread(...), or raise loop_seconds {where_set}"
    );
    LoopBudgetExceeded::raise(py, message, scope.to_owned(), limit, used)
}

/// A result as `am_send` hands it out.
///
/// # Safety
/// `result` must be writable.
#[allow(unsafe_code)]
unsafe fn raw(py: Python<'_>, came: PyResult<Bound<'_, PyAny>>, result: *mut *mut ffi::PyObject) -> ffi::PySendResult {
    use pyo3::exceptions::PyStopIteration;

    // SAFETY: as the caller's; a result is a new reference.
    unsafe {
        match came {
            Ok(pending) => {
                *result = pending.into_ptr();
                ffi::PySendResult::PYGEN_NEXT
            }
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                match error.value(py).getattr(intern!(py, "value")) {
                    Ok(value) => {
                        *result = value.into_ptr();
                        ffi::PySendResult::PYGEN_RETURN
                    }
                    Err(error) => {
                        error.restore(py);
                        *result = std::ptr::null_mut();
                        ffi::PySendResult::PYGEN_ERROR
                    }
                }
            }
            Err(error) => {
                error.restore(py);
                *result = std::ptr::null_mut();
                ffi::PySendResult::PYGEN_ERROR
            }
        }
    }
}

/// `am_send` of the type.
#[allow(unsafe_code)]
unsafe extern "C" fn send_step(
    slf: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: the interpreter calls the slot of a type with an object of that type, attached, and a place for the result.
    unsafe {
        let py = Python::assume_attached();
        let slf = Bound::from_borrowed_ptr(py, slf);
        slf.cast_unchecked::<AccountedCoroutine>()
            .get()
            .send_raw(py, value, result)
    }
}

/// Gives the type its `am_send` slot. With `ISOLANE_NO_AM_SEND` set it does without, as on an interpreter that has none.
#[allow(unsafe_code)]
pub(crate) fn step_without_exception(py: Python<'_>) {
    if std::env::var_os("ISOLANE_NO_AM_SEND").is_some() {
        return;
    }
    let kind = AccountedCoroutine::type_object_raw(py);
    // SAFETY: as of `answer_without_exception`.
    unsafe {
        let methods = (*kind).tp_as_async;
        if !methods.is_null() {
            (*methods).am_send = Some(send_step);
        }
    }
}

#[pymethods]
impl AccountedCoroutine {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::send(slf, slf.py().None().bind(slf.py()))
    }

    /// Steps the coroutine.
    #[allow(unsafe_code)]
    fn send<'py>(slf: &Bound<'py, Self>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let mut result = std::ptr::null_mut();
        // SAFETY: a live object and a place for the result, which is a new reference.
        unsafe {
            match slf.get().send_raw(py, value.as_ptr(), &raw mut result) {
                ffi::PySendResult::PYGEN_NEXT => Ok(Bound::from_owned_ptr(py, result)),
                ffi::PySendResult::PYGEN_RETURN => as_next(Stand::Answered(Bound::from_owned_ptr(py, result))),
                ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
            }
        }
    }

    /// Throws an exception into the coroutine.
    #[pyo3(signature = (*_exception))]
    fn throw<'py>(&self, py: Python<'py>, _exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        if _exception.is_empty() || _exception.len() > 3 {
            return Err(PyTypeError::new_err("throw takes an exception"));
        }
        self.throw_in(py, _exception)
    }

    /// Closes the coroutine.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.measured(py, |steps| match steps.getattr_opt(intern!(py, "close"))? {
            Some(close) => close.call0(),
            None => Ok(py.None().into_bound(py)),
        })
    }

    /// What the account of its run has counted: see `LoopAccount.figures`.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.meter.figures(py)
    }

    /// The coroutine's own `cr_frame`, `cr_code`, `cr_await`, `cr_running`, `__name__` and `__qualname__`.
    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let text = name.to_str()?;
        if text.starts_with("cr_") || text.starts_with("gi_") || matches!(text, "__name__" | "__qualname__") {
            return self.awaitable.bind(py).getattr(name);
        }
        Err(PyAttributeError::new_err(format!(
            "'AccountedCoroutine' object has no attribute '{text}'"
        )))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.awaitable)?;
        visit.call(&self.steps)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<AccountedCoroutine of {}>", self.awaitable.bind(py).repr()?))
    }
}
