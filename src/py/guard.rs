//! `GuardCore`: what decides about a rollout, and the figures of events that it is fed with.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::errors::FlagConfigError;
use super::process::{CLOCK, registry};
use crate::clock::{Clock, micros, seconds};
use crate::events::{self, LogAccount};
use crate::guard::{
    Cohort, Counts, Guard, GuardError, Metric, MetricStatus, Policy, PolicyError, RollbackMode, RollbackRecord, Step,
    Verdict,
};

fn refused(error: GuardError) -> PyErr {
    let message = error.to_string();
    match error {
        GuardError::RolledBack { .. } | GuardError::NothingToResume | GuardError::Held(_) | GuardError::Complete => {
            PyRuntimeError::new_err(message)
        }
        GuardError::UnknownMetric(_)
        | GuardError::UnknownCohort(_)
        | GuardError::Duration(_)
        | GuardError::Counts { .. } => PyValueError::new_err(message),
    }
}

fn invalid(py: Python<'_>, error: PolicyError) -> PyErr {
    let message = error.to_string();
    FlagConfigError::raise(py, message, error.path, error.problem, error.fix)
}

fn metric(name: &str) -> PyResult<Metric> {
    Metric::named(name).ok_or_else(|| refused(GuardError::UnknownMetric(name.to_owned())))
}

fn cohort(name: &str) -> PyResult<Cohort> {
    Cohort::named(name).ok_or_else(|| refused(GuardError::UnknownCohort(name.to_owned())))
}

fn mode(name: &str) -> PyResult<RollbackMode> {
    match name {
        "drain" => Ok(RollbackMode::Drain),
        "abort" => Ok(RollbackMode::Abort),
        _ => Err(PyValueError::new_err(format!(
            "mode must be 'drain' or 'abort', got {name:?}"
        ))),
    }
}

fn text_of(record: &RollbackRecord) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

/// The record as JSON, and whether it is the first one.
type Told = Option<(String, bool)>;

fn told(verdict: Option<Verdict>) -> Told {
    verdict.map(|verdict| (text_of(&verdict.record), verdict.is_first))
}

/// Decides about the rollout of one flag by what it is told, and acts upon nothing. `RolloutGuard` does.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct GuardCore {
    inner: Guard,
}

#[pymethods]
impl GuardCore {
    /// `policy` is JSON, and `path` says where it stands. Raises `FlagConfigError`.
    #[new]
    #[pyo3(signature = (flag, policy = "{}", path = ""))]
    fn new(py: Python<'_>, flag: &str, policy: &str, path: &str) -> PyResult<Self> {
        let policy = Policy::parse(policy, path).map_err(|error| invalid(py, error))?;
        Ok(Self {
            inner: Guard::new(flag, policy, CLOCK.now()),
        })
    }

    /// Takes in `seen` observations of a metric, of which `bad` were bad. Returns what is to be done at once: the record as
    /// JSON, and whether it is the first.
    #[pyo3(signature = (name, bad, seen = 1, side = "modern"))]
    fn observe(&self, name: &str, bad: u64, seen: u64, side: &str) -> PyResult<Told> {
        let counts = Counts { bad, seen };
        let verdict = self.inner.observe(metric(name)?, counts, cohort(side)?, CLOCK.now());
        verdict.map(told).map_err(refused)
    }

    /// Takes in how many seconds a run took without what it waited for.
    #[pyo3(signature = (duration, side = "modern"))]
    fn observe_run(&self, duration: f64, side: &str) -> PyResult<Told> {
        let verdict = self.inner.observe_run(duration, cohort(side)?, CLOCK.now());
        verdict.map(told).map_err(refused)
    }

    /// Takes in how many seconds an event was on its way.
    #[pyo3(signature = (delay, side = "modern"))]
    fn observe_delay(&self, delay: f64, side: &str) -> PyResult<Told> {
        let verdict = self.inner.observe_delay(delay, cohort(side)?, CLOCK.now());
        verdict.map(told).map_err(refused)
    }

    /// Rolls back by hand. Returns as `observe` does.
    fn roll_back(&self, reason: &str, actor: &str, how: &str) -> PyResult<Told> {
        let verdict = self.inner.roll_back_by_hand(reason, actor, mode(how)?, CLOCK.now());
        Ok(told(verdict))
    }

    /// The rollout was rolled back by somebody else, as `record` says. Returns whether that is new. Raises `ValueError` for a
    /// text that is no record.
    fn restore(&self, record: &str) -> PyResult<bool> {
        let record = serde_json::from_str(record)
            .map_err(|error| PyValueError::new_err(format!("this is no record of a rollback: {error}")))?;
        Ok(self.inner.restore(record, CLOCK.now()))
    }

    /// What the document of flags says: the rollout in parts of 100 000, and its revision.
    fn follow(&self, rollout: u32, revision: u64) {
        self.inner.follow(rollout, revision, CLOCK.now());
    }

    /// The rollout of the next step when it is due, else why it is not.
    #[pyo3(signature = () -> "int | list[str]")]
    fn tick(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self.inner.tick(CLOCK.now()) {
            Step::Advance(rollout) => rollout.into_pyobject(py)?.into_any().unbind(),
            Step::Hold(holds) => holds.into_pyobject(py)?.into_any().unbind(),
        })
    }

    /// The rollout of the next step by hand. Raises `RuntimeError` when something holds it.
    fn next_by_hand(&self, force: bool) -> PyResult<u32> {
        self.inner.next_by_hand(force, CLOCK.now()).map_err(refused)
    }

    /// Keeps the rollout where it is. Returns whether that is new.
    fn pause(&self) -> bool {
        self.inner.pause()
    }

    /// Ends a pause or a rollback. Returns the record of the rollback, as JSON, if it was one.
    fn resume(&self) -> PyResult<Option<String>> {
        let record = self.inner.resume(CLOCK.now()).map_err(refused)?;
        Ok(record.as_ref().map(text_of))
    }

    /// Why it was rolled back, as JSON, while it is.
    #[getter]
    fn record(&self) -> Option<String> {
        self.inner.record().as_ref().map(text_of)
    }

    /// The policy's times in seconds: after which a run and an event are slow; and what becomes of runs under way.
    #[getter]
    fn limits(&self) -> (f64, f64, &'static str) {
        let policy = self.inner.policy();
        (seconds(policy.slow_run), seconds(policy.slow_event), policy.mode.name())
    }

    /// How it stands.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let status = self.inner.status(CLOCK.now());
        let dict = PyDict::new(py);
        dict.set_item("flag", self.inner.flag())?;
        dict.set_item("state", status.state.name())?;
        dict.set_item("rollout", status.rollout)?;
        dict.set_item("next", status.next)?;
        dict.set_item("dwell", seconds(status.dwell))?;
        dict.set_item("paused", status.paused)?;
        dict.set_item("holds", status.holds)?;
        let metrics = PyDict::new(py);
        for metric in &status.metrics {
            metrics.set_item(metric.metric.name(), of_metric(py, metric)?)?;
        }
        dict.set_item("metrics", metrics)?;
        dict.set_item("record", status.record.as_ref().map(text_of))?;
        Ok(dict)
    }
}

fn of_metric<'py>(py: Python<'py>, metric: &MetricStatus) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("state", metric.state.name())?;
    dict.set_item("bad", metric.bad)?;
    dict.set_item("seen", metric.seen)?;
    dict.set_item("bound", metric.bound)?;
    dict.set_item("e_value", metric.e_value)?;
    dict.set_item("dry_run", metric.dry_run)?;
    dict.set_item("legacy_bad", metric.legacy_bad)?;
    dict.set_item("legacy_seen", metric.legacy_seen)?;
    Ok(dict)
}

/// How the events of a run fare: handed to sockets that were there, of them late; critical ones published, of them without
/// room. `None` when the run has no log.
#[pyfunction]
pub(crate) fn run_deliveries(user_id: &str, run_id: &str) -> Option<(u32, u32, u32, u32)> {
    let log = registry().find(user_id)?.streams().find(run_id)?;
    let of = log.deliveries();
    Some((of.handed, of.late, of.critical, of.dropped))
}

/// From now on events are late after so many seconds, in the whole process. Raises `ValueError` for no duration.
#[pyfunction]
pub(crate) fn set_late_after(duration: f64) -> PyResult<()> {
    if !duration.is_finite() || duration < 0.0 {
        return Err(refused(GuardError::Duration(duration)));
    }
    events::set_late(micros(duration));
    Ok(())
}

/// Executions of the context's run that are closed from now on because their agents left them open say this code.
#[pyfunction]
pub(crate) fn set_end_code(user_id: &str, run_id: &str, code: &str) {
    if let Some(log) = registry().find(user_id).and_then(|lane| lane.streams().find(run_id)) {
        log.set_end_code(code);
    }
}

/// Where the events of each log are: `log` (its number), `head` (the latest number given out), `live`, `folded`, `shed`,
/// `misplaced`, `ended`, and `balanced`. Names nobody.
#[pyfunction]
#[pyo3(signature = () -> "list[dict[str, typing.Any]]")]
pub(crate) fn log_accounts(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    registry()
        .logs()
        .iter()
        .map(|log| of_account(py, log.account()))
        .collect()
}

fn of_account(py: Python<'_>, account: LogAccount) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("log", account.serial)?;
    dict.set_item("head", account.head)?;
    dict.set_item("live", account.live)?;
    dict.set_item("folded", account.folded)?;
    dict.set_item("shed", account.shed)?;
    dict.set_item("misplaced", account.misplaced)?;
    dict.set_item("ended", account.is_over)?;
    dict.set_item("balanced", account.is_balanced())?;
    Ok(dict)
}
