//! Awaitables that answer at once: the answer is known before anybody awaits, so no future is made and no loop turn passes.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;

enum Answer {
    Value(Py<PyAny>),
    Taken,
}

/// An awaitable whose answer is known. Awaiting it completes in the first step.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct ReadyAwaitable {
    answer: Mutex<Answer>,
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

    fn __next__(&self) -> PyResult<Py<PyAny>> {
        match self.take() {
            Answer::Value(value) => Err(PyStopIteration::new_err((value,))),
            Answer::Taken => Err(PyRuntimeError::new_err(
                "cannot reuse an awaitable that was already awaited",
            )),
        }
    }

    /// Steps the awaitable, as a coroutine is stepped.
    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__()
    }

    /// Forgets the answer.
    fn close(&self) {
        drop(self.take());
    }
}
