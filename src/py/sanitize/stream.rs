//! A text in pieces, for Python.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use super::super::process::Stamp;
use super::SanitizerCore;
use crate::clock::micros;
use crate::sanitize::Stream;

/// One text of one user that comes in pieces.
#[pyclass(frozen, module = "isolane._core", name = "SanitizerStream")]
#[derive(Debug)]
pub(crate) struct SanitizerStream {
    core: Py<SanitizerCore>,
    user: String,
    stream: Mutex<Stream>,
    stamp: Stamp,
}

impl SanitizerStream {
    fn with<T>(&self, py: Python<'_>, act: impl FnOnce(&mut Stream, &SanitizerCore) -> T) -> PyResult<T> {
        self.stamp.check(py)?;
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(act(&mut stream, self.core.get()))
    }
}

#[pymethods]
impl SanitizerStream {
    #[new]
    fn new(core: Py<SanitizerCore>, user_id: String) -> Self {
        let kinds = core.get().kinds;
        Self {
            core,
            user: user_id,
            stream: Mutex::new(Stream::new(kinds)),
            stamp: Stamp::now(),
        }
    }

    /// Takes a piece, and gives what can go out.
    fn feed(&self, py: Python<'_>, piece: &str, now: f64) -> PyResult<String> {
        self.with(py, |stream, core| {
            stream.feed(piece, micros(now), &core.key().of(&self.user))
        })
    }

    /// Gives what was held for 50 ms.
    fn flush(&self, py: Python<'_>, now: f64) -> PyResult<String> {
        self.with(py, |stream, core| stream.flush(micros(now), &core.key().of(&self.user)))
    }

    /// Gives all that is held.
    fn close(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |stream, core| stream.close(&core.key().of(&self.user)))
    }

    /// Bytes that are held back.
    #[getter]
    fn held(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |stream, _| stream.held())
    }

    /// Findings that were masked.
    #[getter]
    fn masked(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |stream, _| stream.found())
    }
}
