//! Awaitables that answer at once: the answer is known before anybody awaits, so no future is made and no loop turn passes.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::type_object::PyTypeInfo;

/// Where an awaitable stands after a step.
pub(crate) enum Stand<'py> {
    /// It waits: what the event loop is to be handed.
    Pending(Bound<'py, PyAny>),
    /// It has its answer.
    Answered(Bound<'py, PyAny>),
}

/// An awaitable of this module: its own iterator, which hands its answer out without raising `StopIteration` where the
/// interpreter can take it so.
pub(crate) trait Steps: PyTypeInfo {
    /// The next step.
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>>;

    /// The next step as `__next__` and `send` have it: an answer is a `StopIteration`.
    fn next<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        as_next(Self::step(slf)?)
    }
}

/// An answer as `StopIteration`.
pub(crate) fn as_next(stand: Stand<'_>) -> PyResult<Bound<'_, PyAny>> {
    match stand {
        Stand::Pending(pending) => Ok(pending),
        Stand::Answered(answer) => Err(PyStopIteration::new_err((answer.unbind(),))),
    }
}

/// `am_send` of a type that implements [`Steps`].
#[allow(unsafe_code)]
unsafe extern "C" fn send_step<T: Steps>(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: the interpreter calls the slot of a type with an object of that type, attached, and a place for the result.
    unsafe {
        let py = Python::assume_attached();
        let slf = Bound::from_borrowed_ptr(py, slf);
        match T::step(slf.cast_unchecked::<T>()) {
            Ok(Stand::Pending(pending)) => {
                *result = pending.into_ptr();
                ffi::PySendResult::PYGEN_NEXT
            }
            Ok(Stand::Answered(answer)) => {
                *result = answer.into_ptr();
                ffi::PySendResult::PYGEN_RETURN
            }
            Err(error) => {
                error.restore(py);
                *result = std::ptr::null_mut();
                ffi::PySendResult::PYGEN_ERROR
            }
        }
    }
}

/// Gives a type the `am_send` slot, which `PyO3` has no method for. `CPython` 3.11 asks it in `await`, later versions only in
/// `PyIter_Send`; without it `__next__` does the same at the price of an exception.
#[allow(unsafe_code)]
pub(crate) fn answer_without_exception<T: Steps>(py: Python<'_>) {
    let kind = T::type_object_raw(py);
    // SAFETY: the type was made by `PyO3` as a heap type with `__await__`, so it has this table and it is writable; no other
    // code runs before the module is imported.
    unsafe {
        let methods = (*kind).tp_as_async;
        if !methods.is_null() {
            (*methods).am_send = Some(send_step::<T>);
        }
    }
}

/// An awaitable that returns `None`, as often as one likes: there is one of it.
#[pyclass(frozen, module = "isolane._core", name = "_ReadyNone")]
pub(crate) struct ReadyNone;

impl ReadyNone {
    /// The one there is.
    pub(crate) fn shared(py: Python<'_>) -> PyResult<Bound<'_, Self>> {
        static SHARED: PyOnceLock<Py<ReadyNone>> = PyOnceLock::new();
        Ok(SHARED.get_or_try_init(py, || Py::new(py, Self))?.bind(py).clone())
    }
}

impl Steps for ReadyNone {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        Ok(Stand::Answered(slf.py().None().into_bound(slf.py())))
    }
}

#[pymethods]
impl ReadyNone {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    /// Steps the awaitable, as a coroutine is stepped.
    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Err(PyStopIteration::new_err(()))
    }

    /// There is nothing to close.
    fn close(&self) {}
}

enum Answer {
    Value(Py<PyAny>),
    Taken,
}

/// An awaitable whose answer is known. Awaiting it completes in the first step.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct ReadyAwaitable {
    answer: Mutex<Answer>,
}

impl Steps for ReadyAwaitable {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        match slf.get().take() {
            Answer::Value(value) => Ok(Stand::Answered(value.into_bound(slf.py()))),
            Answer::Taken => Err(PyRuntimeError::new_err(
                "cannot reuse an awaitable that was already awaited",
            )),
        }
    }
}

impl ReadyAwaitable {
    /// An awaitable that returns `value`.
    pub(crate) fn value(value: Py<PyAny>) -> Self {
        Self {
            answer: Mutex::new(Answer::Value(value)),
        }
    }

    fn take(&self) -> Answer {
        std::mem::replace(
            &mut *self.answer.lock().unwrap_or_else(PoisonError::into_inner),
            Answer::Taken,
        )
    }
}

#[pymethods]
impl ReadyAwaitable {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    /// Steps the awaitable, as a coroutine is stepped.
    fn send<'py>(slf: &Bound<'py, Self>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    /// Forgets the answer.
    fn close(&self) {
        drop(self.take());
    }
}
