//! A field that is made when it is first read.

use once_cell::sync::OnceCell;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

/// Like `OnceCell`, but making the value may run Python code: nothing is locked meanwhile, and of two that are made at the
/// same time the first one stays.
#[derive(Debug)]
pub(crate) struct Lazy<T>(OnceCell<T>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Lazy<T> {
    pub(crate) const fn new() -> Self {
        Self(OnceCell::new())
    }

    pub(crate) fn with(value: Option<T>) -> Self {
        value.map_or_else(Self::new, |value| Self(OnceCell::with_value(value)))
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.0.get()
    }

    pub(crate) fn set(&self, value: T) {
        drop(self.0.set(value));
    }

    pub(crate) fn get_or_make<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if let Some(value) = self.0.get() {
            return Ok(value);
        }
        let value = make()?;
        Ok(self.0.get_or_init(|| value))
    }
}

impl<T> Lazy<Py<T>> {
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.get().map_or(Ok(()), |object| visit.call(object))
    }
}
