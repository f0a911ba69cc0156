//! How large a Python value is: an estimate, since nobody can know what else refers to its parts.

use std::collections::HashSet;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyModule, PySet, PyString, PyTuple, PyType,
};

/// Objects that one estimate looks at.
const MAX_OBJECTS: usize = 1_000;

/// Containers of more parts than this are reckoned from some of them.
const FEW: usize = 256;

/// So many.
const SOME: usize = 64;

/// Nested deeper than this, a container counts without its parts.
const MAX_DEPTH: usize = 32;

/// What is assumed of an object that does not say: an empty instance.
const UNKNOWN: usize = 56;

struct Walk<'py> {
    size_of: &'py Bound<'py, PyAny>,
    seen: HashSet<usize, foldhash::fast::RandomState>,
}

impl<'py> Walk<'py> {
    /// Bytes of the value and its parts; 0 when it was counted already.
    fn size(&mut self, value: &Bound<'py, PyAny>, depth: usize) -> usize {
        if !self.seen.insert(value.as_ptr() as usize) {
            return 0;
        }
        // What fails to say how large it is must not keep a value out of a cache.
        let own = self.size_of.call1((value,)).and_then(|bytes| bytes.extract::<usize>());
        let own = own.unwrap_or(UNKNOWN);
        if depth == MAX_DEPTH {
            return own;
        }
        let (parts, count) = parts(value);
        let (mut bytes, mut looked_at) = (0_usize, 0);
        for part in &parts {
            if self.seen.len() >= MAX_OBJECTS {
                break;
            }
            bytes = bytes.saturating_add(self.size(part, depth + 1));
            looked_at += 1;
        }
        let of_parts = if looked_at == 0 {
            count * UNKNOWN
        } else if looked_at == count {
            bytes
        } else {
            bytes / looked_at * count
        };
        own.saturating_add(of_parts)
    }
}

/// Whether the value has no parts: asking it for its fields costs more than all the rest.
fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_none()
}

/// Parts of a value, or some of them, and how many there are. They are held before any is looked at: that may run Python code,
/// which may change the container.
fn parts<'py>(value: &Bound<'py, PyAny>) -> (Vec<Bound<'py, PyAny>>, usize) {
    if is_plain(value) {
        return (Vec::new(), 0);
    }
    let some = |count| if count > FEW { SOME } else { count };
    if let Ok(dict) = value.cast::<PyDict>() {
        let entries = dict.iter().take(some(dict.len()));
        return (entries.flat_map(|(key, value)| [key, value]).collect(), dict.len() * 2);
    }
    if let Ok(list) = value.cast::<PyList>() {
        let count = list.len();
        let indices = (0..some(count)).map(|index| index * count / some(count));
        return (indices.filter_map(|index| list.get_item(index).ok()).collect(), count);
    }
    if let Ok(tuple) = value.cast::<PyTuple>() {
        let count = tuple.len();
        let indices = (0..some(count)).map(|index| index * count / some(count));
        return (indices.filter_map(|index| tuple.get_item(index).ok()).collect(), count);
    }
    if let Ok(set) = value.cast::<PySet>() {
        return (set.iter().take(some(set.len())).collect(), set.len());
    }
    if let Ok(set) = value.cast::<PyFrozenSet>() {
        return (set.iter().take(some(set.len())).collect(), set.len());
    }
    if !value.is_instance_of::<PyType>()
        && !value.is_instance_of::<PyModule>()
        && let Ok(Some(fields)) = value.getattr_opt(intern!(value.py(), "__dict__"))
        && fields.is_exact_instance_of::<PyDict>()
    {
        return (vec![fields], 1);
    }
    (Vec::new(), 0)
}

/// Estimates how many bytes a value takes: `sys.getsizeof` of it and of what is in its dictionaries, lists, tuples, sets and
/// fields.
///
/// It looks at 1000 objects at most. Of a container with more than 256 parts it looks at 64 and reckons the rest like them. What
/// is shared inside counts once; what is shared with others counts in full. What other containers hold, slots, and memory that an
/// object does not report do not count.
#[pyfunction]
pub(crate) fn estimate_size(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let size_of = GET
        .get_or_try_init(py, || py.import("sys")?.getattr("getsizeof").map(Bound::unbind))?
        .bind(py);
    let mut walk = Walk {
        size_of,
        seen: HashSet::default(),
    };
    Ok(walk.size(value, 0))
}
