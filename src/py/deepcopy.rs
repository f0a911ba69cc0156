//! Deep copies of dictionaries: JSON-like trees here, anything else by `copy.deepcopy`.

use std::collections::HashMap;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};

/// Nested deeper than this is left to `copy.deepcopy`, which has the interpreter's own guard against overflow.
const MAX_DEPTH: usize = 128;

/// A tree that this module does not copy itself.
struct NotJsonLike;

/// How many references the interpreter counts.
#[allow(unsafe_code)]
fn references(value: &Bound<'_, PyAny>) -> ffi::Py_ssize_t {
    // SAFETY: the pointer is of a live object, and `Bound` says that this thread is attached.
    unsafe { ffi::Py_REFCNT(value.as_ptr()) }
}

enum Copied<'py> {
    /// Immutable: shared.
    Same,
    New(Bound<'py, PyAny>),
}

struct Copier<'py> {
    /// Containers that have more than one reference, so that aliases and cycles are kept.
    memo: HashMap<usize, Bound<'py, PyAny>>,
}

fn is_immutable(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyBytes>()
}

impl<'py> Copier<'py> {
    fn copy(&mut self, value: &Bound<'py, PyAny>, depth: usize) -> Result<Copied<'py>, NotJsonLike> {
        if is_immutable(value) {
            return Ok(Copied::Same);
        }
        if depth > MAX_DEPTH {
            return Err(NotJsonLike);
        }
        // One reference is the parent's, one is ours: more means that the container may be met again.
        let shared = depth == 0 || references(value) > 2;
        if shared && let Some(copy) = self.memo.get(&(value.as_ptr() as usize)) {
            return Ok(Copied::New(copy.clone()));
        }
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            return self.copy_dict(dict, shared, depth).map(Copied::New);
        }
        if let Ok(list) = value.cast_exact::<PyList>() {
            return self.copy_list(list, shared, depth).map(Copied::New);
        }
        Err(NotJsonLike)
    }

    fn copy_dict(
        &mut self,
        dict: &Bound<'py, PyDict>,
        shared: bool,
        depth: usize,
    ) -> Result<Bound<'py, PyAny>, NotJsonLike> {
        // Copies all entries at once; then only the containers among them are replaced.
        let copy = dict.copy().map_err(|_| NotJsonLike)?;
        if shared {
            self.memo.insert(dict.as_ptr() as usize, copy.clone().into_any());
        }
        for (key, value) in dict.iter() {
            if !is_immutable(&key) {
                return Err(NotJsonLike);
            }
            if let Copied::New(inner) = self.copy(&value, depth + 1)? {
                copy.set_item(key, inner).map_err(|_| NotJsonLike)?;
            }
        }
        Ok(copy.into_any())
    }

    fn copy_list(
        &mut self,
        list: &Bound<'py, PyList>,
        shared: bool,
        depth: usize,
    ) -> Result<Bound<'py, PyAny>, NotJsonLike> {
        let copy = list.get_slice(0, list.len());
        if shared {
            self.memo.insert(list.as_ptr() as usize, copy.clone().into_any());
        }
        for (at, value) in list.iter().enumerate() {
            if let Copied::New(inner) = self.copy(&value, depth + 1)? {
                copy.set_item(at, inner).map_err(|_| NotJsonLike)?;
            }
        }
        Ok(copy.into_any())
    }
}

/// A deep copy of `dict`: aliases and cycles inside it are kept, nothing mutable is shared with it.
pub(crate) fn deep_copy<'py>(dict: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
    static DEEPCOPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if dict.is_empty() && dict.is_exact_instance_of::<PyDict>() {
        return Ok(PyDict::new(dict.py()));
    }
    let mut copier = Copier { memo: HashMap::new() };
    if let Ok(Copied::New(copy)) = copier.copy(dict.as_any(), 0) {
        return Ok(copy.cast_into::<PyDict>()?);
    }
    let py = dict.py();
    let deepcopy = DEEPCOPY.get_or_try_init(py, || py.import("copy")?.getattr("deepcopy").map(Bound::unbind))?;
    Ok(deepcopy.bind(py).call1((dict,))?.cast_into::<PyDict>()?)
}
