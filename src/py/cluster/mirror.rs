//! `LogMirror`: the log of another worker.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use super::super::emitter::bounds;
use super::super::errors::to_python;
use super::super::process::{CLOCK, Stamp, lane_of};
use super::append::LogAppend;
use crate::clock::Clock;
use crate::events::{EventError, Level, MirrorError, Outcome, RunLog, Streams};
use crate::ids::{RunId, ThreadId};

/// The log of a run that another worker writes. The user's sockets here read it like any other: same epoch, numbers and frames.
/// Nobody but this object appends to it. Collected before its end, it drops the log.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct LogMirror {
    log: Mutex<Arc<RunLog>>,
    stamp: Stamp,
}

impl Drop for LogMirror {
    fn drop(&mut self) {
        let log = self.log();
        if self.stamp.is_current() && !log.is_over() {
            log.forget();
        }
    }
}

fn refused(py: Python<'_>, error: MirrorError) -> PyErr {
    match error {
        MirrorError::Malformed(error) => PyValueError::new_err(error.to_string()),
        MirrorError::Event(error) => to_python(py, error),
    }
}

fn pieces(entries: &[(u64, PyBackedBytes)]) -> impl Iterator<Item = (u64, &[u8])> {
    entries.iter().map(|(number, bytes)| (*number, &**bytes))
}

pub(super) fn outcome_of(name: &str) -> PyResult<Outcome> {
    let wrong = || PyTypeError::new_err("outcome must be completed, partial, failed, cancelled or lost");
    Outcome::ALL
        .into_iter()
        .find(|outcome| outcome.name() == name)
        .ok_or_else(wrong)
}

impl LogMirror {
    fn log(&self) -> Arc<RunLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[pymethods]
impl LogMirror {
    /// The mirror of an incarnation of a run's log, which `worker` writes. It takes the place of an earlier incarnation. Raises
    /// `InvalidEvent` where this process has that incarnation already or publishes the run itself, `ContextIsolationError` when
    /// the run id is another user's here, and `BudgetExceeded` when the user has too many streams. The other arguments are the
    /// mirror's own bounds.
    #[new]
    #[pyo3(signature = (
        user_id, run_id, thread_id, epoch, *, worker = "", max_events = 1000, max_run_bytes = 1 << 20,
        max_user_bytes = 4 << 20, retention = 300.0, progress_ttl = 30.0,
    ))]
    fn new(
        py: Python<'_>,
        user_id: &str,
        run_id: &str,
        thread_id: &str,
        epoch: &str,
        worker: &str,
        max_events: usize,
        max_run_bytes: usize,
        max_user_bytes: usize,
        retention: f64,
        progress_ttl: f64,
    ) -> PyResult<Self> {
        let lane = lane_of(py, user_id)?;
        let no_id = |_| to_python(py, EventError::invalid("run_id or thread_id is no id"));
        let (run, thread) = (
            RunId::new(run_id).map_err(no_id)?,
            ThreadId::new(thread_id).map_err(no_id)?,
        );
        if epoch.is_empty() || epoch.len() > 64 || !epoch.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(PyValueError::new_err("epoch must be 1 to 64 letters and digits"));
        }
        let bounds = bounds(max_events, max_run_bytes, max_user_bytes, 0, retention, progress_ttl);
        let log = Streams::mirror(&lane, &run, &thread, epoch, worker, bounds).map_err(|error| to_python(py, error))?;
        Ok(Self {
            log: Mutex::new(log),
            stamp: Stamp::now(),
        })
    }

    /// The user.
    #[getter]
    fn user_id(&self) -> String {
        self.log().owner().user().as_str().to_owned()
    }

    /// The run.
    #[getter]
    fn run_id(&self) -> String {
        self.log().run().as_str().to_owned()
    }

    /// The thread.
    #[getter]
    fn thread_id(&self) -> String {
        self.log().thread().as_str().to_owned()
    }

    /// The incarnation: after `adopt` the new one.
    #[getter]
    fn epoch(&self) -> String {
        self.log().epoch().to_string()
    }

    /// The worker that writes it.
    #[getter]
    fn worker(&self) -> String {
        self.log().mirrored_from().unwrap_or_default().to_owned()
    }

    /// The latest number that it has.
    #[getter]
    fn position(&self) -> u64 {
        self.log().head()
    }

    /// How the stream ended, or `None`.
    #[getter]
    fn outcome(&self) -> Option<&'static str> {
        self.log().view().ended.map(|(outcome, _)| outcome.name())
    }

    /// Whether the log was dropped: by `drop`, to make room, at the end of its retention, or for a later incarnation.
    #[getter]
    fn is_gone(&self) -> bool {
        self.log().is_forgotten()
    }

    /// Whether a socket of the user here is reading it.
    #[getter]
    fn is_read(&self) -> bool {
        let log = self.log();
        let Some(lane) = super::super::process::registry().find(log.owner().user().as_str()) else {
            return false;
        };
        let connections = lane.streams().connections();
        connections.iter().any(|connection| connection.behind(&log).is_some())
    }

    /// The highest number that was `sent` to some socket here, or `acked` by its client.
    fn reached(&self, level: &str) -> PyResult<u64> {
        Ok(self.log().reached(level_of(level)?))
    }

    /// Takes entries as `LogAppend` has them. What it has already is passed over. Returns `False`, and takes nothing more, at a
    /// gap: then `reset` it. Raises `ValueError`, and takes nothing, when anything cannot be read or is of another log;
    /// `BudgetExceeded` when the user has no room, and `RunClosed` when it has ended or is gone.
    fn append(&self, py: Python<'_>, entries: Vec<(u64, PyBackedBytes)>) -> PyResult<bool> {
        self.stamp.check(py)?;
        let taken = self.log().mirror_append(pieces(&entries), CLOCK.now());
        taken.map_err(|error| refused(py, error))
    }

    /// Goes on from a snapshot, and takes the entries that follow it. A snapshot of before the mirror's own position is passed
    /// over. Returns and raises what `append` does.
    #[pyo3(signature = (upto, snapshot, entries = Vec::new()))]
    fn reset(
        &self,
        py: Python<'_>,
        upto: u64,
        snapshot: PyBackedBytes,
        entries: Vec<(u64, PyBackedBytes)>,
    ) -> PyResult<bool> {
        self.stamp.check(py)?;
        let taken = self.log().mirror_reset(upto, &snapshot, pieces(&entries), CLOCK.now());
        taken.map_err(|error| refused(py, error))
    }

    /// The stream has ended, and everything before its end was taken. Ending it twice is nothing.
    fn end(&self, py: Python<'_>, outcome: &str) -> PyResult<()> {
        self.stamp.check(py)?;
        let ended = self.log().mirror_end(outcome_of(outcome)?, CLOCK.now());
        ended.map_err(|error| to_python(py, error))
    }

    /// Drops the log, ended or not. Its readers are told that it is gone.
    fn drop(&self) {
        if self.stamp.is_current() {
            self.log().forget();
        }
    }

    /// Ends the run of a worker that is gone, under a new epoch: what was read of it becomes the snapshot, what is open is closed
    /// with one `agent_error` of this code each, and the stream ends as lost. The sockets here go on in it. Returns what a store
    /// is to keep of the new incarnation, all of it. Raises `RunClosed` when the stream has ended or is gone.
    #[pyo3(signature = (reason, code = "worker_lost"))]
    fn adopt(&self, py: Python<'_>, reason: &str, code: &str) -> PyResult<LogAppend> {
        self.stamp.check(py)?;
        let adopted = self.log().adopt(code, reason, CLOCK.now());
        let (log, chunk) = adopted.map_err(|error| to_python(py, error))?;
        let append = LogAppend::of(py, &log, &chunk, true);
        let old = std::mem::replace(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner), log);
        drop(old);
        Ok(append)
    }

    fn __repr__(&self) -> String {
        let log = self.log();
        format!(
            "<LogMirror {} at {}>",
            crate::ids::shorten(log.run().as_str()),
            log.head()
        )
    }
}

pub(super) fn level_of(name: &str) -> PyResult<Level> {
    let all = [Level::Sent, Level::Acked];
    let found = all.into_iter().find(|level| level.name() == name);
    found.ok_or_else(|| PyValueError::new_err("level must be sent or acked"))
}

/// Whether the run goes on in another worker, and this one only shows its events: then it is cancelled there.
#[pyfunction]
pub(crate) fn stream_is_mirrored(py: Python<'_>, user_id: &str, run_id: &str) -> PyResult<bool> {
    let log = lane_of(py, user_id)?.streams().find(run_id);
    Ok(log.is_some_and(|log| log.is_mirror() && !log.is_over()))
}
