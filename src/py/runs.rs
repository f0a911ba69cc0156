//! Records of runs as Python sees them: snapshots that change nothing.

use pyo3::prelude::*;
use pyo3::types::{PyDateTime, PyDict, PyTzInfo};

use super::request::{Note, NoteId};
use crate::clock::{Civil, Micros, seconds};
use crate::context::{ContextState, ExecutionMetrics, RunOutcome, RunRecord};

/// Where a context or a run is in its life. `value` is the name in lower case.
#[pyclass(frozen, eq, hash, module = "isolane")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms)]
pub(crate) enum ExecutionStatus {
    /// Being constructed.
    INITIALIZING,
    /// Ready, nothing running.
    ACTIVE,
    /// At least one run executes.
    EXECUTING,
    /// Nothing executes and at least one run waits for a permit.
    THROTTLED,
    /// Ended, and no run failed.
    COMPLETED,
    /// Ended, some runs failed and some did not.
    PARTIAL_FAILURE,
    /// Ended, and every run failed.
    FAILED,
    /// Resources freed.
    CLEANED,
}

impl From<ContextState> for ExecutionStatus {
    fn from(state: ContextState) -> Self {
        match state {
            ContextState::Initializing => Self::INITIALIZING,
            ContextState::Active => Self::ACTIVE,
            ContextState::Executing => Self::EXECUTING,
            ContextState::Throttled => Self::THROTTLED,
            ContextState::Completed => Self::COMPLETED,
            ContextState::PartialFailure => Self::PARTIAL_FAILURE,
            ContextState::Failed => Self::FAILED,
            ContextState::Cleaned => Self::CLEANED,
        }
    }
}

#[pymethods]
impl ExecutionStatus {
    /// The name in lower case, e.g. `partial_failure`.
    #[getter]
    fn value(&self) -> &'static str {
        match self {
            Self::INITIALIZING => ContextState::Initializing,
            Self::ACTIVE => ContextState::Active,
            Self::EXECUTING => ContextState::Executing,
            Self::THROTTLED => ContextState::Throttled,
            Self::COMPLETED => ContextState::Completed,
            Self::PARTIAL_FAILURE => ContextState::PartialFailure,
            Self::FAILED => ContextState::Failed,
            Self::CLEANED => ContextState::Cleaned,
        }
        .name()
    }

    /// The name in upper case.
    #[getter]
    fn name(&self) -> String {
        self.value().to_uppercase()
    }

    fn __str__(&self) -> &'static str {
        self.value()
    }
}

/// An aware UTC `datetime` of a moment.
pub(crate) fn datetime(py: Python<'_>, unix: Micros) -> PyResult<Bound<'_, PyDateTime>> {
    // Through the timestamp's parts, not through a float, which would lose microseconds.
    let civil = Civil::of(unix);
    let utc = PyTzInfo::utc(py)?;
    PyDateTime::new(
        py,
        i32::from(civil.year),
        civil.month,
        civil.day,
        civil.hour,
        civil.minute,
        civil.second,
        civil.micros,
        Some(&utc),
    )
}

/// One run of an agent in a context. A snapshot: read it again for the newest state.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct ExecutionRun {
    record: RunRecord<NoteId>,
    note: Note,
}

impl ExecutionRun {
    pub(crate) fn new(record: RunRecord<NoteId>, note: Note) -> Self {
        Self { record, note }
    }
}

#[pymethods]
impl ExecutionRun {
    /// The id, unique in its context.
    #[getter]
    fn run_id(&self) -> &str {
        &self.record.id
    }

    /// The name of the agent.
    #[getter]
    fn agent_type(&self) -> &str {
        &self.record.agent
    }

    /// When it began, an aware UTC datetime.
    #[getter]
    fn started_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDateTime>> {
        datetime(py, self.record.started)
    }

    /// When it ended, or `None`.
    #[getter]
    fn completed_at<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        self.record.ended.map(|ended| datetime(py, ended)).transpose()
    }

    /// `EXECUTING`, `COMPLETED` or `FAILED`.
    #[getter]
    fn status(&self) -> ExecutionStatus {
        match self.record.outcome {
            None => ExecutionStatus::EXECUTING,
            Some(RunOutcome::Success) => ExecutionStatus::COMPLETED,
            Some(_) => ExecutionStatus::FAILED,
        }
    }

    /// What it returned.
    #[getter]
    fn result(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.note.result.as_ref().map(|object| object.clone_ref(py))
    }

    /// What it raised.
    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.note.error.as_ref().map(|object| object.clone_ref(py))
    }

    /// What the caller attached when it began.
    #[getter]
    fn metadata(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.note.metadata.as_ref().map(|object| object.clone_ref(py))
    }

    /// Ids of the runs that it started, at most 64.
    #[getter]
    fn child_run_ids(&self) -> Vec<String> {
        self.record.children.clone()
    }

    /// Seconds it took, or `None` while it runs.
    fn get_duration(&self) -> Option<f64> {
        self.record.duration.map(seconds)
    }

    fn __repr__(&self) -> String {
        format!(
            "<ExecutionRun {} of {} {}>",
            crate::ids::cut(&self.record.id, 24),
            self.record.agent,
            self.status().value()
        )
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        self.note.traverse(&visit)
    }
}

/// Totals over the runs of a context. A snapshot.
#[pyclass(frozen, name = "ExecutionMetrics", module = "isolane")]
pub(crate) struct PyExecutionMetrics {
    inner: ExecutionMetrics,
}

impl PyExecutionMetrics {
    pub(crate) fn of(metrics: &ExecutionMetrics) -> Self {
        Self { inner: metrics.clone() }
    }
}

#[pymethods]
impl PyExecutionMetrics {
    /// Runs started.
    #[getter]
    fn total_runs(&self) -> u64 {
        self.inner.total
    }

    /// Runs that ended well.
    #[getter]
    fn successful_runs(&self) -> u64 {
        self.inner.succeeded
    }

    /// Runs that failed.
    #[getter]
    fn failed_runs(&self) -> u64 {
        self.inner.failed
    }

    /// Milliseconds in ended runs.
    #[getter]
    fn total_execution_time_ms(&self) -> f64 {
        self.inner.time as f64 / 1e3
    }

    /// Milliseconds of the average ended run, 0 without any.
    #[getter]
    fn avg_execution_time_ms(&self) -> f64 {
        let ended = self.inner.succeeded + self.inner.failed;
        if ended == 0 {
            0.0
        } else {
            self.total_execution_time_ms() / ended as f64
        }
    }

    /// Most runs at the same time.
    #[getter]
    fn concurrent_runs_peak(&self) -> u32 {
        self.inner.peak
    }

    /// When a run last began or ended, or `None`.
    #[getter]
    fn last_activity<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDateTime>>> {
        Some(self.inner.last_activity)
            .filter(|at| *at > 0)
            .map(|at| datetime(py, at))
            .transpose()
    }

    /// Runs by agent name; beyond 100 names the rest is `_other`.
    #[getter]
    fn agent_type_counts(&self) -> std::collections::BTreeMap<String, u64> {
        self.inner.agents.clone()
    }

    /// Share of ended runs that ended well, between 0 and 1; 1 without any.
    fn get_success_rate(&self) -> f64 {
        let ended = self.inner.succeeded + self.inner.failed;
        if ended == 0 {
            1.0
        } else {
            self.inner.succeeded as f64 / ended as f64
        }
    }

    /// All of it as a dictionary.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn get_performance_summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = PyDict::new(py);
        summary.set_item("total_runs", self.inner.total)?;
        summary.set_item("successful_runs", self.inner.succeeded)?;
        summary.set_item("failed_runs", self.inner.failed)?;
        summary.set_item("success_rate", self.get_success_rate())?;
        summary.set_item("avg_execution_time_ms", self.avg_execution_time_ms())?;
        summary.set_item("total_execution_time_ms", self.total_execution_time_ms())?;
        summary.set_item("concurrent_runs_peak", self.inner.peak)?;
        summary.set_item("agent_type_counts", self.agent_type_counts())?;
        Ok(summary)
    }
}
