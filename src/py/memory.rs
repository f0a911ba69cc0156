//! The memory accounts of users: what the application charges, what a gate reads, what can be reclaimed.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::context::PyContext;
use super::errors::MemoryLimitExceededError;
use super::process::{CLOCK, Stamp, registry};
use crate::cache::{Reclaim, Reclaimed};
use crate::clock::Clock;
use crate::lanes::{Charge, LaneHandle, OverLimit};

/// Seconds after which a refused client may come back: memory falls when runs end.
const RETRY_AFTER: u32 = 5;

struct Held {
    charge: Charge,
    /// The account must be the one that the next context of the user sees.
    _lane: LaneHandle,
}

/// Bytes charged to a user until they are released: `release()`, the end of a `with` block, or the end of this object, whichever
/// comes first.
#[pyclass(frozen, weakref, module = "isolane")]
pub(crate) struct MemoryCharge {
    held: Mutex<Option<Held>>,
    stamp: Stamp,
}

#[pymethods]
impl MemoryCharge {
    /// Bytes charged now; 0 after the release.
    #[getter]
    fn nbytes(&self) -> usize {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map_or(0, |held| held.charge.bytes())
    }

    /// Gives the bytes back. Calling it again does nothing.
    fn release(&self) {
        if self.stamp.is_current() {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(held);
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.release();
    }

    fn __repr__(&self) -> String {
        format!("<MemoryCharge {} bytes>", self.nbytes())
    }
}

fn exceeded(py: Python<'_>, over: OverLimit, wanted: usize) -> PyErr {
    let (whose, limit, remedy) = if over.is_total {
        ("The service holds", "global", "try again later, or raise the limit")
    } else {
        (
            "The user holds",
            "user",
            "end a run of this user or release what it holds, or raise the limit",
        )
    };
    let message = format!(
        "{whose} {} bytes and {wanted} more would exceed {}; {remedy} (retry after {RETRY_AFTER} s)",
        over.held, over.limit
    );
    MemoryLimitExceededError::raise(py, message, limit.to_owned(), RETRY_AFTER, over.held, over.limit)
}

/// Charges bytes to the context's user. With limits, raises `MemoryLimitExceededError` instead of going over one.
#[pyfunction]
#[pyo3(signature = (context, nbytes, user_limit = None, process_limit = None))]
pub(crate) fn charge_memory(
    context: &Bound<'_, PyContext>,
    nbytes: usize,
    user_limit: Option<usize>,
    process_limit: Option<usize>,
) -> PyResult<MemoryCharge> {
    let py = context.py();
    context.get().stamp().check(py)?;
    let lane = context.get().core().lane().clone();
    let (user, process) = (user_limit.unwrap_or(usize::MAX), process_limit.unwrap_or(usize::MAX));
    let charge =
        Charge::within(lane.account().clone(), nbytes, user, process).map_err(|over| exceeded(py, over, nbytes))?;
    Ok(MemoryCharge {
        held: Mutex::new(Some(Held { charge, _lane: lane })),
        stamp: Stamp::now(),
    })
}

/// Bytes charged to the context's user and to all users.
#[pyfunction]
pub(crate) fn memory_of(context: &Bound<'_, PyContext>) -> PyResult<(usize, usize)> {
    context.get().stamp().check(context.py())?;
    let lane = context.get().core().lane();
    Ok((lane.account().bytes(), lane.shared().account.bytes()))
}

/// Users with the bytes charged to them, the heaviest first. Looks at every lane.
#[pyfunction]
pub(crate) fn memory_users() -> Vec<(String, usize)> {
    let mut users: Vec<_> = (registry().bytes_by_user().into_iter())
        .map(|(user, bytes)| (user.as_str().to_owned(), bytes))
        .collect();
    users.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    users
}

fn sum(reclaimed: impl Iterator<Item = Reclaimed>) -> (usize, usize) {
    // One cache at a time: the values of each are dropped before the next is locked.
    reclaimed.fold((0, 0), |(entries, bytes), reclaimed| {
        (entries + reclaimed.entries, bytes + reclaimed.bytes)
    })
}

fn caches_of(user: &str) -> Vec<Arc<dyn Reclaim>> {
    registry()
        .find(user)
        .map(|lane| lane.caches().live())
        .unwrap_or_default()
}

/// Takes out what has expired in the caches of a user, or of all. Returns how many entries and bytes went.
#[pyfunction]
#[pyo3(signature = (user_id = None))]
pub(crate) fn expire_caches(user_id: Option<&str>) -> (usize, usize) {
    let caches = user_id.map_or_else(|| registry().caches(), caches_of);
    sum(caches.iter().map(|cache| cache.expire(CLOCK.monotonic())))
}

/// Takes entries of more than `larger_than` bytes out of all caches of a user. Returns how many entries and bytes went.
#[pyfunction]
pub(crate) fn shed_caches(user_id: &str, larger_than: usize) -> (usize, usize) {
    sum(caches_of(user_id).iter().map(|cache| cache.shed(larger_than)))
}

/// Empties all caches of a user. Returns how many entries and bytes went.
#[pyfunction]
pub(crate) fn clear_caches(user_id: &str) -> (usize, usize) {
    sum(caches_of(user_id).iter().map(|cache| cache.clear()))
}

/// Shows that the context waits for memory, or no longer does.
#[pyfunction]
pub(crate) fn show_throttled(context: &Bound<'_, PyContext>, waits: bool) {
    let core = context.get().core();
    if waits {
        core.park();
    } else {
        core.unpark();
    }
}
