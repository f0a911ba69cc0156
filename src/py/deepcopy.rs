//! Deep copies of dictionaries: JSON-like trees here, anything else by `copy.deepcopy`.
//!
//! Works on borrowed references: a reference taken and given back for each of a tree's values costs more than the copy. Each of
//! them is held by a shallow copy that nobody else has yet. The original is only looked at while it is copied: making an object
//! may run the collector, and with it any Python code, which may change the original.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ptr::addr_of_mut;

use foldhash::fast::RandomState;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::mutants::mutant;

/// Nested deeper than this is left to `copy.deepcopy`, which has the interpreter's own guard against overflow.
const MAX_DEPTH: usize = 128;

/// A tree that this module does not copy itself. What was copied of it is dropped.
struct NotJsonLike;

/// A borrowed reference to an object that a shallow copy of this module holds, or the caller.
type Borrowed = *mut ffi::PyObject;

/// Copies of containers with more than one reference, by the address of the original: aliases and cycles are kept.
struct Copier<'py> {
    py: Python<'py>,
    root: Borrowed,
    /// The copy of the root, a borrowed reference to what is being made.
    root_copy: Borrowed,
    aliases: HashMap<usize, Alias, RandomState>,
}

struct Alias {
    /// Held, so that no other container gets its address.
    _original: Py<PyAny>,
    copy: Py<PyAny>,
}

/// # Safety
/// `value` is a live object and the thread is attached.
unsafe fn is_immutable(value: Borrowed) -> bool {
    // SAFETY: the caller's promise. The type objects are static.
    unsafe {
        let kind = ffi::Py_TYPE(value);
        kind == addr_of_mut!(ffi::PyUnicode_Type)
            || kind == addr_of_mut!(ffi::PyLong_Type)
            || kind == addr_of_mut!(ffi::PyFloat_Type)
            || kind == addr_of_mut!(ffi::PyBool_Type)
            || value == ffi::Py_None()
            || kind == addr_of_mut!(ffi::PyBytes_Type)
    }
}

impl<'py> Copier<'py> {
    /// A copy of a container.
    ///
    /// # Safety
    /// `value` is a live object of the tree.
    unsafe fn container(&mut self, value: Borrowed, depth: usize) -> Result<Bound<'py, PyAny>, NotJsonLike> {
        if value == self.root {
            // SAFETY: the copy of the root lives until `copy_tree` returns it.
            return Ok(unsafe { Bound::from_borrowed_ptr(self.py, self.root_copy) });
        }
        // One reference is the parent's, one that of the parent's shallow copy: more means that it may be met again.
        // SAFETY: the caller's promise.
        let shared = unsafe { ffi::Py_REFCNT(value) } > 2;
        if shared && let Some(alias) = self.aliases.get(&(value as usize)) {
            return Ok(alias.copy.bind(self.py).clone());
        }
        if depth > MAX_DEPTH {
            return Err(NotJsonLike);
        }
        // SAFETY: the caller's promise; both functions get an object of the exact type that they expect.
        unsafe {
            let kind = ffi::Py_TYPE(value);
            if kind == addr_of_mut!(ffi::PyDict_Type) {
                let copy = self.new_object(ffi::PyDict_Copy(value))?;
                self.remember(shared, value, &copy);
                self.fill_dict(copy.as_ptr(), depth)?;
                Ok(copy)
            } else if kind == addr_of_mut!(ffi::PyList_Type) {
                let copy = self.new_object(ffi::PyList_GetSlice(value, 0, ffi::PyList_GET_SIZE(value)))?;
                self.remember(shared, value, &copy);
                self.fill_list(copy.as_ptr(), depth)?;
                Ok(copy)
            } else {
                Err(NotJsonLike)
            }
        }
    }

    /// # Safety
    /// `made` is a new reference or null with an exception set.
    unsafe fn new_object(&self, made: Borrowed) -> Result<Bound<'py, PyAny>, NotJsonLike> {
        // SAFETY: the caller's promise. Out of memory is left for `copy.deepcopy` to meet again.
        unsafe { Bound::from_owned_ptr_or_err(self.py, made) }.map_err(|_| NotJsonLike)
    }

    /// # Safety
    /// `value` is a live object.
    unsafe fn remember(&mut self, shared: bool, value: Borrowed, copy: &Bound<'py, PyAny>) {
        if shared {
            let alias = Alias {
                // SAFETY: the caller's promise.
                _original: unsafe { Bound::from_borrowed_ptr(self.py, value) }.unbind(),
                copy: copy.clone().unbind(),
            };
            self.aliases.insert(value as usize, alias);
        }
    }

    /// Replaces the containers in a shallow copy of a dict.
    ///
    /// # Safety
    /// `copy` is a dict that nobody else has yet.
    unsafe fn fill_dict(&mut self, copy: Borrowed, depth: usize) -> Result<(), NotJsonLike> {
        let (mut at, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `copy` holds the keys and values, and it may get another value for a key that it has while it is gone through.
        unsafe {
            while ffi::PyDict_Next(copy, &raw mut at, &raw mut key, &raw mut value) != 0 {
                if !is_immutable(key) {
                    return Err(NotJsonLike);
                }
                if is_immutable(value) || depth > 0 && mutant!(DeepCopySharesNested) {
                    continue;
                }
                let inner = self.container(value, depth + 1)?;
                if ffi::PyDict_SetItem(copy, key, inner.as_ptr()) != 0 {
                    ffi::PyErr_Clear();
                    return Err(NotJsonLike);
                }
            }
        }
        Ok(())
    }

    /// Replaces the containers in a shallow copy of a list.
    ///
    /// # Safety
    /// `copy` is a list that nobody else has yet; its items hang in the tree.
    unsafe fn fill_list(&mut self, copy: Borrowed, depth: usize) -> Result<(), NotJsonLike> {
        // SAFETY: the index is within the list, whose length does not change; the item that is replaced gives back the
        // reference that the shallow copy took.
        unsafe {
            for at in 0..ffi::PyList_GET_SIZE(copy) {
                let value = ffi::PyList_GET_ITEM(copy, at);
                if is_immutable(value) || depth > 0 && mutant!(DeepCopySharesNested) {
                    continue;
                }
                let inner = self.container(value, depth + 1)?;
                ffi::PyList_SET_ITEM(copy, at, inner.into_ptr());
                ffi::Py_DECREF(value);
            }
        }
        Ok(())
    }
}

fn copy_tree<'py>(dict: &Bound<'py, PyDict>) -> Result<Bound<'py, PyDict>, NotJsonLike> {
    if !dict.is_exact_instance_of::<PyDict>() {
        return Err(NotJsonLike);
    }
    let copy = dict.copy().map_err(|_| NotJsonLike)?;
    let mut copier = Copier {
        py: dict.py(),
        root: dict.as_ptr(),
        root_copy: copy.as_ptr(),
        aliases: HashMap::default(),
    };
    // SAFETY: `copy` is this function's own.
    unsafe { copier.fill_dict(copy.as_ptr(), 0) }?;
    Ok(copy)
}

/// A deep copy of `dict`: aliases and cycles inside it are kept, nothing mutable is shared with it.
pub(crate) fn deep_copy<'py>(dict: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
    static DEEPCOPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if let Ok(copy) = copy_tree(dict) {
        return Ok(copy);
    }
    let py = dict.py();
    let deepcopy = DEEPCOPY.get_or_try_init(py, || py.import("copy")?.getattr("deepcopy").map(Bound::unbind))?;
    Ok(deepcopy.bind(py).call1((dict,))?.cast_into::<PyDict>()?)
}

/// The deep copy that contexts make of their dictionaries, alone, to be measured beside `copy.deepcopy`.
#[pyfunction]
pub(crate) fn _deep_copy<'py>(value: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
    deep_copy(value)
}
