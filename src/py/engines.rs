//! `EngineBook`: the slots, lifetimes and counts of one engine factory.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::context::PyContext;
use super::limits::{PyPermit, taken};
use super::process::{CLOCK, Stamp};
use crate::clock::{Clock, micros, seconds};
use crate::context::Fence;
use crate::engines::{EngineBook, EngineEnd};
use crate::metrics::{Counter, Id, Live, Scrape};

/// The books of the process, for the metrics.
static LIVE: Live<EngineBook> = Live::new();

/// How many engines live.
pub(super) fn collect(scrape: &mut Scrape) {
    let active: usize = LIVE.living().iter().map(|book| book.metrics().active).sum();
    scrape.level(Id::EnginesActive, &[], active as f64);
}

/// The parent's engines are not counted in the child of a fork.
pub(super) fn after_fork_in_child() {
    LIVE.clear();
}

/// The engines of one factory by number. Each owns its slot until it is closed; a deadline heap says which are due.
#[pyclass(frozen, name = "EngineBook", module = "isolane._core")]
pub(crate) struct PyEngineBook {
    inner: Arc<EngineBook>,
    stamp: Stamp,
}

impl PyEngineBook {
    pub(crate) fn book(&self) -> &EngineBook {
        &self.inner
    }
}

#[pymethods]
impl PyEngineBook {
    #[new]
    fn new() -> Self {
        let inner = Arc::default();
        LIVE.add(&inner);
        Self {
            inner,
            stamp: Stamp::now(),
        }
    }

    /// Registers an engine of the context, which owns the permit from now on, for `lifetime` seconds; `idle` is how many
    /// seconds it may live with nothing to run. Returns its number.
    #[pyo3(signature = (ctx, slot, lifetime, idle = f64::INFINITY))]
    fn open(
        &self,
        py: Python<'_>,
        ctx: &Bound<'_, PyContext>,
        slot: &Bound<'_, PyPermit>,
        lifetime: f64,
        idle: f64,
    ) -> PyResult<u64> {
        self.stamp.check(py)?;
        let slot = taken(slot)?;
        Ok(self.inner.open(
            ctx.get().core().identity().clone(),
            slot,
            CLOCK.monotonic(),
            micros(lifetime),
            micros(idle),
        ))
    }

    /// Notes that something runs in an engine, or that nothing does any more.
    fn set_busy(&self, number: u64, busy: bool) {
        self.inner.set_busy(number, busy, CLOCK.monotonic());
    }

    /// The number of the engine of the context's user that has been idle longest; `None` when each runs something.
    fn idlest(&self, ctx: &Bound<'_, PyContext>) -> Option<u64> {
        self.inner.idlest(&ctx.get().core().identity().user)
    }

    /// A fence for the contexts of one engine.
    fn fence(&self) -> PyFence {
        PyFence {
            inner: self.inner.fence(),
        }
    }

    /// Counts a permit that came back after it had been taken from its holder.
    fn late_release(&self) {
        self.inner.late_release();
    }

    /// Counts things that an engine still held when it was cleaned up.
    fn leaked(&self, many: u64) {
        self.inner.leaked(many);
    }

    /// Counts an engine that could not be built.
    fn failed(&self) {
        self.inner.failed();
    }

    /// Frees the slot of an engine; `how` is `closed`, `expired`, `idle`, `evicted` or `forced`. Returns whether it still had one.
    #[pyo3(signature = (number, how = "closed"))]
    fn close(&self, py: Python<'_>, number: u64, how: &str) -> PyResult<bool> {
        self.stamp.check(py)?;
        let end = match how {
            "closed" => EngineEnd::Closed,
            "expired" => EngineEnd::Expired,
            "idle" => EngineEnd::Idle,
            "evicted" => EngineEnd::Evicted,
            "forced" => EngineEnd::Forced,
            _ => {
                return Err(PyValueError::new_err(
                    "how must be 'closed', 'expired', 'idle', 'evicted' or 'forced'",
                ));
            }
        };
        Ok(self.inner.close(number, end, CLOCK.monotonic()))
    }

    /// Seconds until the next engine is due, 0 when one is, `None` without engines.
    fn next_due_in(&self) -> Option<f64> {
        self.inner
            .next_deadline()
            .map(|deadline| seconds(deadline.saturating_sub(CLOCK.monotonic())))
    }

    /// Takes the engines that are due off the heap: their numbers, and why, `expired` or `idle`.
    fn due(&self) -> Vec<(u64, &'static str)> {
        let due = self.inner.due(CLOCK.monotonic());
        let name = |why| if why == EngineEnd::Idle { "idle" } else { "expired" };
        due.into_iter().map(|(number, why)| (number, name(why))).collect()
    }

    /// The audit sweep: engines overdue by more than `grace` seconds that nobody closed.
    fn overdue(&self, grace: f64) -> Vec<u64> {
        self.inner.overdue(CLOCK.monotonic(), micros(grace))
    }

    /// Living engines, oldest first.
    #[pyo3(signature = () -> "list[dict[str, typing.Any]]")]
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let engines = self.inner.view(CLOCK.monotonic());
        let mut view = Vec::with_capacity(engines.len());
        for engine in engines {
            let dict = PyDict::new(py);
            dict.set_item("number", engine.number)?;
            dict.set_item("user_id", engine.identity.user.as_str())?;
            dict.set_item("run_id", engine.identity.run.as_str())?;
            dict.set_item("request_id", engine.identity.request.as_str())?;
            dict.set_item("age_seconds", seconds(engine.age))?;
            dict.set_item("seconds_left", seconds(engine.left))?;
            view.push(dict);
        }
        Ok(view)
    }

    /// Counts.
    #[pyo3(signature = () -> "dict[str, int]")]
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = self.inner.metrics();
        let dict = PyDict::new(py);
        dict.set_item("engines_created", metrics.created)?;
        dict.set_item("engines_active", metrics.active)?;
        dict.set_item("engines_cleaned", metrics.cleaned)?;
        dict.set_item("engines_expired", metrics.expired)?;
        dict.set_item("engines_forced", metrics.forced)?;
        dict.set_item("engines_idle", metrics.idle)?;
        dict.set_item("engines_evicted", metrics.evicted)?;
        dict.set_item("engines_leaked", metrics.leaked)?;
        dict.set_item("late_writes_refused", metrics.late_writes)?;
        dict.set_item("late_releases_refused", metrics.late_releases)?;
        dict.set_item("creation_errors", metrics.failed)?;
        dict.set_item("concurrent_peak", metrics.peak)?;
        dict.set_item("total_users", metrics.users)?;
        dict.set_item("found_by_audit", metrics.found_by_audit)?;
        Ok(dict)
    }
}

/// Stands before the contexts of one engine, and keeps what they do from taking effect once it is raised.
#[pyclass(frozen, name = "Fence", module = "isolane._core")]
pub(crate) struct PyFence {
    inner: Arc<Fence>,
}

#[pymethods]
impl PyFence {
    /// A fence whose refusals nobody counts. One of a factory is made by `EngineBook.fence`.
    #[new]
    fn new() -> Self {
        Self {
            inner: Arc::new(Fence::new(Arc::new(Counter::default()))),
        }
    }

    /// Puts a context, and all below it, behind the fence.
    fn guard(&self, ctx: &Bound<'_, PyContext>) {
        ctx.get().core().guard(&self.inner);
    }

    /// From here on what these contexts do raises `RunFenced`.
    #[pyo3(name = "raise_")]
    fn raise(&self) {
        self.inner.raise();
    }

    /// Whether it is raised.
    #[getter]
    fn is_up(&self) -> bool {
        self.inner.is_up()
    }
}
