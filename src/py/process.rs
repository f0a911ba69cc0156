//! The process: its registry, its clock, and the guard against use after a fork.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::errors::{ForkedProcessError, to_python};
use super::policy::with_placeholders;
use crate::clock::{Clock, Micros, Moment, ProcessClock};
use crate::context::Identity;
use crate::lanes::{LaneHandle, Registry};
use crate::mutants::mutant;

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

    fn now(&self) -> Moment {
        CLOCK.now()
    }
}

fn slot() -> &'static RwLock<&'static Registry> {
    static REGISTRY: OnceLock<RwLock<&'static Registry>> = OnceLock::new();
    REGISTRY.get_or_init(|| RwLock::new(fresh_registry()))
}

/// Lives as long as the process: the parent's lanes are not dropped in the child of a fork, which could run the clean-up of
/// things that the parent still uses.
fn fresh_registry() -> &'static Registry {
    Box::leak(Box::new(Registry::new(Box::new(ClockOfProcess))))
}

/// The lanes of this process.
pub(crate) fn registry() -> &'static Registry {
    *slot().read().unwrap_or_else(PoisonError::into_inner)
}

/// The lane of a user who is known by the id alone. A user who has a lane was let in by the policy of a context; anybody else
/// is asked by the process's.
pub(crate) fn lane_of(py: Python<'_>, user_id: &str) -> PyResult<LaneHandle> {
    let registry = registry();
    if let Some(lane) = registry.find(user_id) {
        return Ok(lane);
    }
    let user = with_placeholders(|policy| Identity::user(user_id, policy)).map_err(|error| to_python(py, error))?;
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
        if self.0 == GENERATION.load(Ordering::Relaxed) || mutant!(ForkNotNoticed) {
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

/// Raises `ImportError` in an interpreter that is not the first one: types, caches and lanes belong to the process, and isolating
/// two interpreters from each other is not what they do. From 3.12 on the interpreter itself refuses.
#[allow(unsafe_code)]
pub(crate) fn refuse_sub_interpreter() -> PyResult<()> {
    // SAFETY: called while the module is imported, so this thread is attached to an interpreter.
    let number = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if number == 0 {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "isolane cannot be imported in a sub-interpreter: its lanes belong to the process. Import it in the main interpreter, or \
         use a process of its own",
    ))
}

/// Called in the child of a fork: nothing of the parent's lanes is used again.
#[pyfunction]
pub(crate) fn _after_fork_in_child() {
    crate::ids::after_fork_in_child();
    super::loops::after_fork_in_child();
    super::loopaccount::after_fork_in_child();
    super::isolation::gate::after_fork_in_child();
    crate::crossings::after_fork_in_child();
    super::metrics::after_fork_in_child();
    GENERATION.fetch_add(1, Ordering::Relaxed);
    *slot().write().unwrap_or_else(PoisonError::into_inner) = fresh_registry();
}
