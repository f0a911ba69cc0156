//! The process: its registry, its clock, and the guard against use after a fork.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use pyo3::prelude::*;

use super::errors::{ForkedProcessError, to_python};
use super::policy::placeholders;
use crate::clock::{Clock, Micros, ProcessClock};
use crate::context::Identity;
use crate::ids::UserId;
use crate::lanes::{LaneHandle, Registry};

/// Grows in the child of each fork. Handles carry the value they were made under.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The clock of the process, kept apart from the registry so that a fork does not change the time.
pub(crate) static CLOCK: ProcessClock = ProcessClock::new();

struct ClockOfProcess;

impl Clock for ClockOfProcess {
    fn monotonic(&self) -> Micros {
        CLOCK.monotonic()
    }

    fn unix(&self) -> Micros {
        CLOCK.unix()
    }
}

fn slot() -> &'static RwLock<Arc<Registry>> {
    static REGISTRY: OnceLock<RwLock<Arc<Registry>>> = OnceLock::new();
    REGISTRY.get_or_init(|| RwLock::new(Arc::new(Registry::new(Box::new(ClockOfProcess)))))
}

/// The lanes of this process.
pub(crate) fn registry() -> Arc<Registry> {
    slot().read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The lane of a user who is known by the id alone. A user who has a lane was let in by the policy of a context; anybody else
/// is asked by the process's.
pub(crate) fn lane_of(py: Python<'_>, user_id: &str) -> PyResult<LaneHandle> {
    let registry = registry();
    if let Ok(user) = UserId::new(user_id)
        && let Some(lane) = registry.find(&user)
    {
        return Ok(lane);
    }
    let user = Identity::user(user_id, &placeholders()).map_err(|error| to_python(py, error))?;
    Ok(registry.lane(&user))
}

/// The process in which a handle was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp(u64);

impl Stamp {
    pub(crate) fn now() -> Self {
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Raises `ForkedProcessError` when the handle came from before a fork.
    pub(crate) fn check(self, py: Python<'_>) -> PyResult<()> {
        if self.0 == GENERATION.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = "This object was made before a fork and belongs to the parent process: its event loop, permits and \
                       sockets are not here. Make a new one in the child.";
        Err(ForkedProcessError::raise(py, message.to_owned()))
    }

    /// Whether the handle belongs to this process.
    pub(crate) fn is_current(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

/// Called in the child of a fork: nothing of the parent's lanes is used again.
#[pyfunction]
pub(crate) fn _after_fork_in_child() {
    crate::ids::after_fork_in_child();
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let fresh = Arc::new(Registry::new(Box::new(ClockOfProcess)));
    let old = std::mem::replace(&mut *slot().write().unwrap_or_else(PoisonError::into_inner), fresh);
    // The parent's lanes are left as they are: dropping them could run the clean-up of things that the parent still uses.
    std::mem::forget(old);
}
