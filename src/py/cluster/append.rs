//! What is to be stored of a log.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::events::{Append, Chunk, RunLog};

/// What a store is to keep of the log of one run, next. The store appends `entries`; with a `snapshot` it keeps that as well, and
/// needs no entry up to its number any more.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct LogAppend {
    user: String,
    run: String,
    thread: String,
    epoch: String,
    entries: Vec<(u64, Py<PyBytes>)>,
    snapshot: Option<(u64, Py<PyBytes>)>,
    after: u64,
    upto: u64,
    ended: Option<&'static str>,
    is_whole: bool,
}

impl LogAppend {
    pub(super) fn of(py: Python<'_>, log: &RunLog, chunk: &Chunk, is_whole: bool) -> Self {
        let packed = |(number, bytes): &(u64, Vec<u8>)| (*number, PyBytes::new(py, bytes).unbind());
        Self {
            user: log.owner().user().as_str().to_owned(),
            run: log.run().as_str().to_owned(),
            thread: log.thread().as_str().to_owned(),
            epoch: log.epoch().to_string(),
            entries: chunk.entries.iter().map(packed).collect(),
            snapshot: chunk.snapshot.as_ref().map(packed),
            after: chunk.after,
            upto: chunk.upto,
            ended: chunk.ended.map(crate::events::Outcome::name),
            is_whole,
        }
    }

    pub(super) fn new(py: Python<'_>, append: &Append) -> Self {
        Self::of(py, &append.log, &append.chunk, append.is_whole)
    }
}

#[pymethods]
impl LogAppend {
    /// The user.
    #[getter]
    fn user_id(&self) -> &str {
        &self.user
    }

    /// The run.
    #[getter]
    fn run_id(&self) -> &str {
        &self.run
    }

    /// The thread.
    #[getter]
    fn thread_id(&self) -> &str {
        &self.thread
    }

    /// The incarnation of the run's log.
    #[getter]
    fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The events by number, which grows. Numbers that are missing were left out, which the next one says.
    #[getter]
    fn entries(&self, py: Python<'_>) -> Vec<(u64, Py<PyBytes>)> {
        let cloned = |(number, bytes): &(u64, Py<PyBytes>)| (*number, bytes.clone_ref(py));
        self.entries.iter().map(cloned).collect()
    }

    /// What stands for everything up to a number, with that number.
    #[getter]
    fn snapshot(&self, py: Python<'_>) -> Option<(u64, Py<PyBytes>)> {
        let (number, bytes) = self.snapshot.as_ref()?;
        Some((*number, bytes.clone_ref(py)))
    }

    /// The number up to which the store has had everything before it.
    #[getter]
    fn after(&self) -> u64 {
        self.after
    }

    /// The number up to which the store has everything with this: what `LogReplica.stored` is told.
    #[getter]
    fn upto(&self) -> u64 {
        self.upto
    }

    /// How the stream ended: with it the store has everything. `None` while it goes on.
    #[getter]
    fn ended(&self) -> Option<&'static str> {
        self.ended
    }

    /// Whether it begins where the log does: what the store has of this incarnation is replaced.
    #[getter]
    fn whole(&self) -> bool {
        self.is_whole
    }

    fn __repr__(&self) -> String {
        let run = crate::ids::shorten(&self.run);
        format!(
            "<LogAppend {run} {} entries up to {}{}{}>",
            self.entries.len(),
            self.upto,
            if self.snapshot.is_some() { ", snapshot" } else { "" },
            self.ended.map_or_else(String::new, |outcome| format!(", {outcome}")),
        )
    }
}
