//! Awaitables that answer at once: the answer is known before anybody awaits, so no future is made and no loop turn passes.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::type_object::PyTypeInfo;

/// What `await` of a value that is there does: it hands the value out without raising `StopIteration`.
pub(crate) trait Ready: PyTypeInfo {
    /// The answer, once.
    fn answer(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>>;
}

/// `am_send` of a [`Ready`] type.
#[allow(unsafe_code)]
unsafe extern "C" fn send_ready<T: Ready>(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: the interpreter calls the slot of a type with an object of that type, attached, and a place for the result.
    unsafe {
        let py = Python::assume_attached();
        let slf = Bound::from_borrowed_ptr(py, slf);
        match T::answer(slf.cast_unchecked::<T>()) {
            Ok(answer) => {
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
pub(crate) fn answer_without_exception<T: Ready>(py: Python<'_>) {
    let kind = T::type_object_raw(py);
    // SAFETY: the type was made by `PyO3` as a heap type with `__await__`, so it has this table and it is writable; no other
    // code runs before the module is imported.
    unsafe {
        let methods = (*kind).tp_as_async;
        if !methods.is_null() {
            (*methods).am_send = Some(send_ready::<T>);
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

impl Ready for ReadyNone {
    fn answer(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Ok(slf.py().None())
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

impl Ready for ReadyAwaitable {
    fn answer(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        match slf.get().take() {
            Answer::Value(value) => Ok(value),
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

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::answer(slf).and_then(|answer| Err(PyStopIteration::new_err((answer,))))
    }

    /// Steps the awaitable, as a coroutine is stepped.
    fn send(slf: &Bound<'_, Self>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Self::__next__(slf)
    }

    /// Forgets the answer.
    fn close(&self) {
        drop(self.take());
    }
}
