//! The right to publish into a log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Outcome, RunLog};
use crate::mutants::mutant;

/// The right to publish into a log. When the last one is dropped without the stream having been ended, it ends by itself: no
/// reader waits for ever for an agent that is gone.
#[derive(Debug)]
pub struct StreamWriter {
    log: Arc<RunLog>,
}

impl StreamWriter {
    /// The log.
    pub fn log(&self) -> &Arc<RunLog> {
        &self.log
    }
}

impl Clone for StreamWriter {
    fn clone(&self) -> Self {
        self.log.writer()
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        let writers = if mutant!(WriterCountRaces) {
            let writers = self.log.writers.load(Ordering::Acquire);
            self.log.writers.store(writers - 1, Ordering::Release);
            writers
        } else {
            self.log.writers.fetch_sub(1, Ordering::AcqRel)
        };
        if writers != 1 || self.log.is_over() {
            return;
        }
        let (shared, open) = {
            let inner = self.log.inner();
            let Some(lane) = &inner.lane else { return };
            (lane.shared().clone(), !inner.spans.open().is_empty())
        };
        let outcome = open.then_some(Outcome::Lost);
        self.log.end(
            outcome,
            "the run was dropped before it ended",
            shared.clock.unix(),
            shared.clock.monotonic(),
        );
    }
}

impl RunLog {
    /// Somebody publishes into the log, and ends it when nobody else does any more.
    pub(in crate::events) fn writer(self: &Arc<Self>) -> StreamWriter {
        self.writers.fetch_add(1, Ordering::AcqRel);
        StreamWriter { log: self.clone() }
    }

    /// The same, unless the stream has ended or its last writer has left and is about to end it.
    pub(in crate::events) fn join(self: &Arc<Self>) -> Option<StreamWriter> {
        let one_more = |writers: usize| (writers > 0 || mutant!(LeftStreamJoined)).then(|| writers + 1);
        let joined = self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        let writer = joined.ok().map(|_| StreamWriter { log: self.clone() })?;
        (!self.is_over()).then_some(writer)
    }
}
