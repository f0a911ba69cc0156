//! `AdaptiveController`: the limit that follows a backend.

use std::sync::{Arc, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::process::{CLOCK, Stamp};
use crate::clock::{Clock, Micros, micros, seconds};
use crate::limits::{Change, Controller, ControllerSettings, Outcome};
use crate::sync::{Mutex, MutexGuard};

/// Finds how many calls a shared backend takes at once, from how long they take: more while the latency stays that of a call
/// that does not wait, fewer when it grows or calls are dropped. Made for limits of 1 to 64 and calls that are slow and few.
///
/// `initial` is the limit to begin with (default 2), `min` and `max` bound it (1 and 64), `tolerance` is how many times the
/// latency without a queue is accepted (1.2; above 1 and at most 2). Give it to a `FairLimiter`, or ask `limit` before and call
/// `sample` after each call. It holds less than 2 KiB and may be used from many threads. Raises `ValueError` for settings that
/// are out of order.
#[pyclass(frozen, name = "AdaptiveController", module = "isolane")]
pub(crate) struct AdaptiveController {
    core: Arc<Mutex<Controller>>,
    stamp: Stamp,
}

impl AdaptiveController {
    /// The controller itself, for a limiter that shares it.
    pub(crate) fn core(&self) -> Arc<Mutex<Controller>> {
        self.core.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call came to, by its word.
pub(crate) fn outcome(word: &str) -> PyResult<Outcome> {
    match word {
        "ok" => Ok(Outcome::Ok),
        "dropped" => Ok(Outcome::Dropped),
        "ignored" => Ok(Outcome::Ignored),
        _ => Err(PyValueError::new_err(format!(
            "outcome must be 'ok', 'dropped' or 'ignored', got {word:?}: a time-out, 429 or 5xx is 'dropped', a cancelled call \
             'ignored'"
        ))),
    }
}

/// Units of work, which must be a positive number.
pub(crate) fn units(units: f64) -> PyResult<f64> {
    if units.is_finite() && units > 0.0 {
        return Ok(units);
    }
    Err(PyValueError::new_err(format!(
        "units must be a number above 0, got {units}: leave it out when calls are of one kind"
    )))
}

fn moment(value: f64, name: &str) -> PyResult<Micros> {
    if value.is_finite() && value >= 0.0 {
        return Ok(micros(value));
    }
    Err(PyValueError::new_err(format!(
        "{name} must be 0 or more seconds, got {value}"
    )))
}

#[pymethods]
impl AdaptiveController {
    #[new]
    #[pyo3(signature = (initial = 2, min = 1, max = 64, *, tolerance = 1.2))]
    fn new(initial: u32, min: u32, max: u32, tolerance: f64) -> PyResult<Self> {
        let settings = ControllerSettings {
            initial,
            min,
            max,
            tolerance,
        };
        let controller = Controller::new(settings).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self {
            core: Arc::new(Mutex::new(controller)),
            stamp: Stamp::now(),
        })
    }

    /// The limit in force now. It is lower for a window when the controller measures the latency without a queue.
    #[getter]
    fn limit(&self) -> u32 {
        self.lock().limit()
    }

    /// Takes the end of one call. Returns whether the limit changed.
    ///
    /// `latency` in seconds from its admission, without the wait before it; `inflight` calls at its admission, itself included;
    /// `outcome` is `ok`, `dropped` (time-out, 429, 5xx) or `ignored` (cancelled, or a refusal that says nothing of the
    /// backend); `units` of work, such as tokens, by which the latency is divided (1); `now` in seconds of a clock that never
    /// goes back, for simulations (the process's monotonic clock). Raises `ValueError` for what is none of these.
    #[pyo3(signature = (latency, inflight, outcome = "ok", units = 1.0, now = None))]
    fn sample(
        &self,
        py: Python<'_>,
        latency: f64,
        inflight: u32,
        outcome: &str,
        units: f64,
        now: Option<f64>,
    ) -> PyResult<bool> {
        self.stamp.check(py)?;
        let outcome = self::outcome(outcome)?;
        let units = self::units(units)?;
        let latency = moment(latency, "latency")?;
        let now = now.map_or_else(|| Ok(CLOCK.monotonic()), |now| moment(now, "now"))?;
        Ok(self.lock().sample(now, latency, inflight, outcome, units))
    }

    /// How many calls at once it takes for the best: `limit` without what it measures at present.
    fn predict_optimal_capacity(&self) -> u32 {
        self.lock().predicted()
    }

    /// What it is doing, for operators: `phase` (`start`, `steady`, `probe`, `search`), `limit`, `estimate` (the limit before it
    /// is rounded down), `baseline` (seconds of a call that does not wait, or `None`), `ratio` (latency relative to it, or
    /// `None`), `medians` (seconds, of the last ten windows), `collected` (calls in the open window) and `changes`, the last
    /// sixteen of the limit, each with `at` (seconds of the clock of the samples), `before`, `after` and `reason`.
    #[pyo3(signature = () -> "dict[str, object]")]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = self.lock().state();
        let dict = PyDict::new(py);
        dict.set_item("phase", state.phase)?;
        dict.set_item("limit", state.limit)?;
        dict.set_item("estimate", state.estimate)?;
        dict.set_item("baseline", state.baseline.map(|baseline| baseline / 1e6))?;
        dict.set_item("ratio", state.ratio)?;
        dict.set_item(
            "medians",
            state.medians.iter().map(|median| median / 1e6).collect::<Vec<_>>(),
        )?;
        dict.set_item("collected", state.collected)?;
        let changes = state.changes.iter().map(|change| described(py, change));
        dict.set_item("changes", PyList::new(py, changes.collect::<PyResult<Vec<_>>>()?)?)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let controller = self.lock();
        let settings = controller.settings();
        format!(
            "<AdaptiveController {} of {} to {}>",
            controller.limit(),
            settings.min,
            settings.max
        )
    }
}

fn described<'py>(py: Python<'py>, change: &Change) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("at", seconds(change.at))?;
    dict.set_item("before", change.from)?;
    dict.set_item("after", change.to)?;
    dict.set_item("reason", change.reason.name())?;
    Ok(dict)
}
