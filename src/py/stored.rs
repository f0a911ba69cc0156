//! A value as a cache holds it: the object, a weak reference to it, or its compressed form.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyWeakrefMethods, PyWeakrefReference,
};
use pyo3::{PyTraverseError, PyVisit};

use super::size::estimate_size;
use crate::cache::{Shelf, inflate, pack};

/// Nested deeper than this, a value stays as it is.
const MAX_DEPTH: usize = 64;

/// What the bytes are when they are uncompressed.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Bytes,
    /// A tree of plain values as `marshal` writes it, which loses nothing of them and is read by this process only.
    Tree,
}

/// A value that only copies are made of.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    data: Arc<[u8]>,
    length: usize,
    form: Form,
}

#[derive(Debug)]
pub(super) enum Stored {
    /// The object itself, and whether compressing it was tried in vain.
    Object(Py<PyAny>, bool),
    Weak(Py<PyWeakrefReference>),
    Packed(Packed),
}

/// Tells a cache that what it held weakly is gone.
#[pyclass(frozen, module = "isolane._core", name = "_Forget")]
struct Forget {
    cache: Weak<Shelf<Stored>>,
    key: Box<str>,
    serial: Arc<AtomicU64>,
}

#[pymethods]
impl Forget {
    fn __call__(&self, _reference: &Bound<'_, PyAny>) {
        if let Some(cache) = self.cache.upgrade() {
            let gone = cache
                .lock()
                .remove_entry(&self.key, self.serial.load(Ordering::Acquire));
            drop(gone);
        }
    }
}

impl Stored {
    /// A weak reference that takes the entry along when its object ends. The number of the entry is set when it is known.
    /// `None` when the object cannot be referred to weakly.
    pub(super) fn weak(
        value: &Bound<'_, PyAny>,
        cache: &Arc<Shelf<Self>>,
        key: &str,
        serial: &Arc<AtomicU64>,
    ) -> PyResult<Option<Self>> {
        let forget = Forget {
            cache: Arc::downgrade(cache),
            key: key.into(),
            serial: serial.clone(),
        };
        let reference = PyWeakrefReference::new_with(value, Bound::new(value.py(), forget)?);
        Ok(reference.ok().map(|reference| Self::Weak(reference.unbind())))
    }

    /// The value compressed and its bytes, if it is text, bytes or a tree of plain values and that saves an eighth.
    pub(super) fn packed(value: &Bound<'_, PyAny>) -> PyResult<Option<(Self, usize)>> {
        if let Ok(text) = value.cast_exact::<PyString>() {
            // Lone surrogates have no UTF-8.
            return Ok(text
                .to_str()
                .ok()
                .and_then(|text| Self::of(text.as_bytes(), Form::Text)));
        }
        if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            return Ok(Self::of(bytes.as_bytes(), Form::Bytes));
        }
        let is_tree = value.is_exact_instance_of::<PyDict>()
            || value.is_exact_instance_of::<PyList>()
            || value.is_exact_instance_of::<PyTuple>();
        if !is_tree || !is_plain(value, 0) {
            return Ok(None);
        }
        // What it refuses, it may refuse: then the value stays as it is.
        let Ok(written) = marshal(value.py())?.call_method1("dumps", (value,)) else {
            return Ok(None);
        };
        Ok(Self::of(written.cast::<PyBytes>()?.as_bytes(), Form::Tree))
    }

    fn of(data: &[u8], form: Form) -> Option<(Self, usize)> {
        let packed = pack(data)?;
        let bytes = packed.len();
        let packed = Packed {
            data: packed.into(),
            length: data.len(),
            form,
        };
        Some((Self::Packed(packed), bytes))
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Object(value, tried) => Self::Object(value.clone_ref(py), *tried),
            Self::Weak(reference) => Self::Weak(reference.clone_ref(py)),
            Self::Packed(packed) => Self::Packed(packed.clone()),
        }
    }

    /// The value; `None` when it was held weakly and is gone.
    pub(super) fn value(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
        match self {
            Self::Object(value, _) => Ok(Some(value.into_bound(py))),
            Self::Weak(reference) => Ok(reference.bind(py).upgrade()),
            Self::Packed(packed) => {
                let data = inflate(&packed.data, packed.length)?;
                let value = match packed.form {
                    Form::Text => PyString::from_bytes(py, &data)?.into_any(),
                    Form::Bytes => PyBytes::new(py, &data).into_any(),
                    Form::Tree => marshal(py)?.call_method1("loads", (PyBytes::new(py, &data),))?,
                };
                Ok(Some(value))
            }
        }
    }

    /// Whether compressing it is worth a try.
    pub(super) fn may_be_packed(&self) -> bool {
        matches!(self, Self::Object(_, false))
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Object(value, _) => visit.call(value),
            Self::Weak(reference) => visit.call(reference),
            Self::Packed(_) => Ok(()),
        }
    }
}

/// How the value is charged when it is held as an object.
pub(super) fn charged(value: &Bound<'_, PyAny>, given: Option<usize>) -> PyResult<usize> {
    given.map_or_else(|| estimate_size(value), Ok)
}

fn marshal(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MODULE
        .get_or_try_init(py, || py.import("marshal").map(|module| module.into_any().unbind()))
        .map(|module| module.bind(py))
}

/// Whether a tree is made of nothing but the plain types themselves: what `marshal` brings back as it was.
fn is_plain(value: &Bound<'_, PyAny>, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        return (dict.iter()).all(|(key, value)| is_plain(&key, depth + 1) && is_plain(&value, depth + 1));
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return list.iter().all(|item| is_plain(&item, depth + 1));
    }
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        return tuple.iter().all(|item| is_plain(&item, depth + 1));
    }
    value.is_none()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyBytes>()
}
