//! `TTLCache`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList};
use pyo3::{PyTraverseError, PyVisit};

use super::context::PyContext;
use super::errors::ContextStateError;
use super::isolation::gate;
use super::process::{CLOCK, Stamp, lane_of};
use super::stored::{Stored, charged};
use crate::cache::{Bounds, Cache, Reclaim, Shelf};
use crate::clock::{Clock, Micros, SECOND, micros, seconds};
use crate::isolation::Boundary;
use crate::lanes::LaneHandle;
use crate::owner::OwnerTag;

fn now() -> Micros {
    CLOCK.monotonic()
}

/// A dictionary of one user whose entries expire, with text as keys.
///
/// `owner` is the context or the user id that it is charged to. At most `maxsize` entries and `maxbytes` bytes are held; those
/// used longest ago make room. An entry lives `ttl` seconds after it was set, by isolane's clock. Expired entries go whenever the
/// cache is used or lanes are swept.
///
/// A value is charged by `estimate_size`, or as `set(..., size=…)` says. `weak=True` refers weakly to what allows it: such an
/// entry ends with its object, and only its key is charged. `compress=True` compresses text, bytes and trees of plain values of
/// more than `compress_over` bytes where that saves an eighth; what is read of them is a copy, made for each read. A weak cache
/// compresses what cannot be referred to weakly.
///
/// Iterating gives the keys in the order in which they were set, as they were when it began.
#[pyclass(frozen, weakref, name = "TTLCache", module = "isolane")]
pub(crate) struct TtlCache {
    shelf: Arc<Shelf<Stored>>,
    stamp: Stamp,
    weak: bool,
    compress: bool,
    compress_over: usize,
    /// Whether the context that it belongs to was cleaned up. Set and read under the lock of the entries.
    closed: AtomicBool,
}

impl TtlCache {
    /// The cache of a context, unless it is given another.
    pub(crate) fn of_lane(lane: LaneHandle) -> Self {
        let bounds = Bounds {
            entries: NonZeroUsize::new(1_000).expect("not zero"),
            bytes: 64 * 1024 * 1024,
            ttl: 300 * SECOND,
        };
        Self::make(lane, bounds, false, false, 4096)
    }

    fn make(lane: LaneHandle, bounds: Bounds, weak: bool, compress: bool, compress_over: usize) -> Self {
        Self {
            shelf: Shelf::new(lane, bounds),
            stamp: Stamp::now(),
            weak,
            compress,
            compress_over,
            closed: AtomicBool::new(false),
        }
    }

    /// Whose it is.
    pub(crate) fn tag(&self) -> &OwnerTag {
        self.shelf.tag()
    }

    /// Lets go of everything and takes nothing more.
    pub(crate) fn close(&self) {
        let mut gone = Vec::new();
        let mut cache = self.shelf.lock();
        self.closed.store(true, Ordering::Relaxed);
        cache.clear(&mut gone);
        drop(cache);
        drop(gone);
    }

    /// Does something under the lock, and drops what left the cache after it.
    fn locked<R>(&self, act: impl FnOnce(&mut Cache<Stored>, &mut Vec<Stored>) -> R) -> R {
        let mut gone = Vec::new();
        let result = act(&mut self.shelf.lock(), &mut gone);
        drop(gone);
        result
    }

    fn find<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.stamp.check(py)?;
        let now = now();
        let found = self.locked(|cache, gone| cache.get(key, now, gone).map(|(stored, _)| stored.clone_ref(py)));
        found
            .map_or(Ok(None), |stored| stored.value(py))?
            .map(|value| self.given(value))
            .transpose()
    }

    /// Has the detector, if one is installed, look at what is handed out.
    fn given<'py>(&self, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if gate::is_on(Boundary::CacheGet) {
            gate::check_value(Boundary::CacheGet, self.tag().user().as_str(), &value)?;
        }
        Ok(value)
    }

    fn insert(&self, key: &str, value: &Bound<'_, PyAny>, size: Option<usize>) -> PyResult<()> {
        let py = value.py();
        self.stamp.check(py)?;
        if gate::is_on(Boundary::CachePut) {
            gate::check_value(Boundary::CachePut, self.tag().user().as_str(), value)?;
        }
        let serial = Arc::new(AtomicU64::new(0));
        let mut weak = None;
        if self.weak {
            weak = Stored::weak(value, &self.shelf, key, &serial)?;
        }
        let (stored, bytes) = match weak {
            Some(stored) => (stored, 0),
            None => self.stored(value, size)?,
        };
        let now = now();
        let set = self.locked(|cache, gone| {
            if self.closed.load(Ordering::Relaxed) {
                gone.push(stored);
                return None;
            }
            Some(
                cache
                    .insert(key, stored, bytes, now, gone)
                    .inspect(|number| serial.store(*number, Ordering::Release)),
            )
        });
        match set {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(PyValueError::new_err(error.to_string())),
            None => {
                let message =
                    "the context of this cache was cleaned up, so it takes nothing more; use the cache of the next run";
                Err(ContextStateError::raise(py, message.to_owned()))
            }
        }
    }

    fn stored(&self, value: &Bound<'_, PyAny>, size: Option<usize>) -> PyResult<(Stored, usize)> {
        let bytes = charged(value, size)?;
        let packed = if self.compress && bytes > self.compress_over {
            Stored::packed(value)?
        } else {
            None
        };
        let tried = self.compress;
        Ok(packed.unwrap_or_else(|| (Stored::Object(value.clone().unbind(), tried), bytes)))
    }

    fn entries(&self, py: Python<'_>) -> PyResult<Vec<(Arc<str>, Stored)>> {
        self.stamp.check(py)?;
        let now = now();
        Ok(self.locked(|cache, gone| {
            cache.expire(now, gone);
            let entries = cache.iter().map(|entry| (entry.key.clone(), entry.value.clone_ref(py)));
            entries.collect()
        }))
    }

    fn key_error(py: Python<'_>, key: &str) -> PyErr {
        PyKeyError::new_err(key.into_pyobject(py).map_or_else(|never| match never {}, Bound::unbind))
    }
}

#[pymethods]
impl TtlCache {
    #[new]
    #[pyo3(signature = (owner, maxsize = 1000, ttl = 300.0, *, maxbytes = 67_108_864, weak = false, compress = false,
        compress_over = 4096))]
    fn new(
        owner: &Bound<'_, PyAny>,
        maxsize: usize,
        ttl: f64,
        maxbytes: usize,
        weak: bool,
        compress: bool,
        compress_over: usize,
    ) -> PyResult<Self> {
        let py = owner.py();
        let lane = if let Ok(context) = owner.cast::<PyContext>() {
            context.get().stamp().check(py)?;
            context.get().core().lane().clone()
        } else if let Ok(user) = owner.extract::<&str>() {
            lane_of(py, user)?
        } else {
            return Err(PyTypeError::new_err(
                "owner must be the context or the user id that the cache belongs to",
            ));
        };
        let entries = NonZeroUsize::new(maxsize)
            .filter(|entries| u32::try_from(entries.get()).is_ok_and(|entries| entries < u32::MAX))
            .ok_or_else(|| PyValueError::new_err(format!("maxsize must be at least 1, got {maxsize}")))?;
        let ttl = Some(micros(ttl))
            .filter(|ttl| *ttl > 0)
            .ok_or_else(|| PyValueError::new_err(format!("ttl must be more than 0 seconds, got {ttl}")))?;
        let bounds = Bounds {
            entries,
            bytes: maxbytes,
            ttl,
        };
        Ok(Self::make(lane, bounds, weak, compress, compress_over))
    }

    /// The most entries that it holds.
    #[getter]
    fn maxsize(&self) -> usize {
        self.shelf.lock().bounds().entries.get()
    }

    /// The most bytes of keys and values that it holds.
    #[getter]
    fn maxbytes(&self) -> usize {
        self.shelf.lock().bounds().bytes
    }

    /// Seconds that an entry lives.
    #[getter]
    fn ttl(&self) -> f64 {
        seconds(self.shelf.lock().bounds().ttl)
    }

    /// Entries held, without expired ones.
    #[getter]
    fn currsize(&self) -> usize {
        self.__len__()
    }

    /// Bytes charged to the user for this cache: keys, values and its own tables.
    #[getter]
    fn nbytes(&self) -> usize {
        self.shelf.bytes()
    }

    fn __len__(&self) -> usize {
        let now = now();
        self.locked(|cache, gone| {
            cache.expire(now, gone);
            cache.len()
        })
    }

    fn __contains__(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        self.stamp.check(py)?;
        Ok(self.shelf.lock().contains(key, now()))
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Bound<'py, PyAny>> {
        self.find(py, key)?.ok_or_else(|| Self::key_error(py, key))
    }

    fn __setitem__(&self, key: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.insert(key, value, None)
    }

    fn __delitem__(&self, py: Python<'_>, key: &str) -> PyResult<()> {
        self.stamp.check(py)?;
        let now = now();
        let removed = self.locked(|cache, gone| cache.remove(key, now, gone));
        removed.map(drop).ok_or_else(|| Self::key_error(py, key))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.keys(py)?)?.try_iter()
    }

    /// The value of the key, or `default`. It counts as used.
    #[pyo3(signature = (key, default = None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.find(py, key)?.or(default))
    }

    /// Sets the value of the key, as `cache[key] = value`. `size` says how many bytes it takes, instead of the estimate. Raises
    /// `ValueError` for a value that is larger than `maxbytes`; then the earlier value stays.
    #[pyo3(signature = (key, value, *, size = None))]
    fn set(&self, key: &str, value: &Bound<'_, PyAny>, size: Option<usize>) -> PyResult<()> {
        self.insert(key, value, size)
    }

    /// The value of the key, which is set to `default` when there is none.
    #[pyo3(signature = (key, default = None))]
    fn setdefault<'py>(
        &self,
        py: Python<'py>,
        key: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Some(found) = self.find(py, key)? {
            return Ok(Some(found));
        }
        let value = default.unwrap_or_else(|| py.None().into_bound(py));
        self.insert(key, &value, None)?;
        Ok(Some(value))
    }

    /// Takes the value of the key out. Without one: `default` if it is given, else `KeyError`.
    #[pyo3(signature = (key, *default) -> "typing.Any")]
    fn pop<'py>(
        &self,
        py: Python<'py>,
        key: &str,
        default: &Bound<'py, pyo3::types::PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.stamp.check(py)?;
        if default.len() > 1 {
            return Err(PyTypeError::new_err("pop takes a key and at most one default"));
        }
        let now = now();
        let removed = self.locked(|cache, gone| cache.remove(key, now, gone));
        if let Some(value) = removed.map_or(Ok(None), |stored| stored.value(py))? {
            return self.given(value);
        }
        default.get_item(0).map_err(|_| Self::key_error(py, key))
    }

    /// Takes out the entry that was used longest ago, as `(key, value)`. Raises `KeyError` when there is none.
    fn popitem<'py>(&self, py: Python<'py>) -> PyResult<(String, Bound<'py, PyAny>)> {
        self.stamp.check(py)?;
        let now = now();
        while let Some((key, stored)) = self.locked(|cache, gone| cache.pop_oldest(now, gone)) {
            if let Some(value) = stored.value(py)? {
                return Ok((key.as_ref().to_owned(), self.given(value)?));
            }
        }
        Err(PyKeyError::new_err("the cache is empty"))
    }

    /// Takes everything out.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.stamp.check(py)?;
        self.locked(Cache::clear);
        Ok(())
    }

    /// Takes out what has expired. Returns how many entries.
    fn expire(&self, py: Python<'_>) -> PyResult<usize> {
        self.stamp.check(py)?;
        let now = now();
        Ok(self.locked(|cache, gone| cache.expire(now, gone)))
    }

    /// Takes out entries of more than `nbytes`. Returns how many.
    fn shed(&self, py: Python<'_>, nbytes: usize) -> PyResult<usize> {
        self.stamp.check(py)?;
        Ok(self.locked(|cache, gone| cache.shed(nbytes, gone)))
    }

    /// Compresses values that were set uncompressed, until those looked at were `limit` bytes (default 1 MiB): compressing takes
    /// some milliseconds for that, in which nothing else runs. Returns how many bytes that saved.
    #[pyo3(signature = (limit = 1_048_576))]
    fn compress(&self, py: Python<'_>, limit: usize) -> PyResult<usize> {
        self.stamp.check(py)?;
        let mut looked_at = 0;
        let mut wanted = Vec::new();
        {
            let cache = self.shelf.lock();
            for entry in cache.iter() {
                if looked_at >= limit {
                    break;
                }
                if entry.value.may_be_packed() && entry.bytes > self.compress_over {
                    looked_at += entry.bytes;
                    let (key, stored) = (entry.key.clone(), entry.value.clone_ref(py));
                    wanted.push((key, stored, entry.bytes, entry.serial));
                }
            }
        }
        let mut saved = 0;
        for (key, stored, bytes, serial) in wanted {
            let Some(value) = stored.value(py)? else { continue };
            let (stored, bytes) =
                Stored::packed(&value)?.unwrap_or_else(|| (Stored::Object(value.unbind(), true), bytes - key.len()));
            saved += self.locked(|cache, gone| cache.replace(&key, serial, stored, bytes, gone));
        }
        Ok(saved)
    }

    /// The keys, oldest first.
    fn keys(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let entries = self.entries(py)?;
        Ok(entries.into_iter().map(|(key, _)| key.as_ref().to_owned()).collect())
    }

    /// The values, oldest first. They do not count as used.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let items = self.items(py)?;
        Ok(items.into_iter().map(|(_, value)| value).collect())
    }

    /// Keys and values, oldest first. They do not count as used.
    fn items<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
        let mut items = Vec::new();
        for (key, stored) in self.entries(py)? {
            if let Some(value) = stored.value(py)? {
                items.push((key.as_ref().to_owned(), self.given(value)?));
            }
        }
        Ok(items)
    }

    /// Counts: `hits`, `misses`, `evictions`, `expirations`, `entries`, `bytes`.
    #[pyo3(signature = () -> "dict[str, int]")]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.shelf.lock().stats();
        let dict = PyDict::new(py);
        dict.set_item("hits", stats.hits)?;
        dict.set_item("misses", stats.misses)?;
        dict.set_item("evictions", stats.evictions)?;
        dict.set_item("expirations", stats.expirations)?;
        dict.set_item("entries", stats.entries)?;
        dict.set_item("bytes", stats.bytes)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let cache = self.shelf.lock();
        let stats = cache.stats();
        format!("<TTLCache {} entries, {} bytes>", stats.entries, stats.bytes)
    }

    /// What `copy` and `pickle` ask.
    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a TTLCache can be neither copied nor pickled: it belongs to one user in one process. Make a new one, or copy the \
             values that are needed",
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // The collector must not wait. No Python code runs under this lock, so it is only missed beside another thread.
        let Some(cache) = self.shelf.try_lock() else {
            return Ok(());
        };
        cache.iter().try_for_each(|entry| entry.value.traverse(&visit))
    }

    fn __clear__(&self) {
        let mut gone = Vec::new();
        if let Some(mut cache) = self.shelf.try_lock() {
            cache.clear(&mut gone);
        }
        drop(gone);
    }
}
