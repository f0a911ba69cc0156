//! A Python object that is made when it is first read.

#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

/// Like `OnceLock<Py<T>>` in the room of one pointer, and making the object may run Python code: nothing is locked meanwhile,
/// and of two that are made at the same time the first one stays.
pub(crate) struct Lazy<T> {
    /// Null, or one reference that this cell owns. Set once and never changed after.
    object: AtomicPtr<ffi::PyObject>,
    kind: PhantomData<Py<T>>,
}

impl<T> fmt::Debug for Lazy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lazy").field(&self.get().is_some()).finish()
    }
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Lazy<T> {
    pub(crate) const fn new() -> Self {
        Self {
            object: AtomicPtr::new(std::ptr::null_mut()),
            kind: PhantomData,
        }
    }

    pub(crate) fn with(object: Option<Py<T>>) -> Self {
        Self {
            object: AtomicPtr::new(object.map_or(std::ptr::null_mut(), Py::into_ptr)),
            kind: PhantomData,
        }
    }

    pub(crate) fn get(&self) -> Option<&Py<T>> {
        if self.object.load(Ordering::Acquire).is_null() {
            return None;
        }
        // SAFETY: `Py<T>` is a transparent pointer that is not null, as is what this cell holds from now on: nobody writes to it
        // again while it is borrowed.
        Some(unsafe { &*self.object.as_ptr().cast::<Py<T>>() })
    }

    pub(crate) fn set(&self, object: Py<T>) {
        let new = object.into_ptr();
        let set = self
            .object
            .compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
        if set.is_err() {
            // SAFETY: `new` is the reference that was given up above and that nobody took over.
            drop(unsafe { std::ptr::read((&raw const new).cast::<Py<T>>()) });
        }
    }

    pub(crate) fn get_or_make<E>(&self, make: impl FnOnce() -> Result<Py<T>, E>) -> Result<&Py<T>, E> {
        if let Some(object) = self.get() {
            return Ok(object);
        }
        self.set(make()?);
        Ok(self.get().expect("set by this thread or by another"))
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.get().map_or(Ok(()), |object| visit.call(object))
    }
}

impl<T> Drop for Lazy<T> {
    fn drop(&mut self) {
        if !self.object.get_mut().is_null() {
            // SAFETY: the cell owns this reference and is gone after this.
            drop(unsafe { std::ptr::read(self.object.as_ptr().cast::<Py<T>>()) });
        }
    }
}
