//! Records of the runs of a context, and what they add up to.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::counting;
use super::state::RunCounts;
use crate::clock::Micros;

/// How many ended runs a context remembers.
pub const HISTORY: usize = 100;
/// How many runs a context may have going at the same time.
pub(super) const MAX_ACTIVE: usize = 1_000;
/// How many agent names are counted one by one; the rest is counted as `_other`.
const AGENT_NAMES: usize = 100;
/// How many child run ids a record keeps.
const CHILDREN: usize = 64;

/// How a run ended, in the order of [`RUN_OUTCOMES`](crate::metrics::RUN_OUTCOMES). All but the first are failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// It returned.
    Success,
    /// It raised.
    Failure,
    /// It was cancelled, or its context ended before it did.
    Cancelled,
    /// Its time was over.
    TimedOut,
    /// It got no permit, so it never ran.
    Refused,
}

/// One run of an agent.
#[derive(Debug, Clone)]
pub struct RunRecord<P> {
    /// Its id, unique in the context.
    pub id: String,
    /// The name of the agent.
    pub agent: String,
    /// Microseconds since the Unix epoch.
    pub started: Micros,
    /// Of the monotonic clock.
    pub started_monotonic: Micros,
    /// Microseconds since the Unix epoch.
    pub ended: Option<Micros>,
    /// How long it took, by the monotonic clock.
    pub duration: Option<Micros>,
    /// How it ended.
    pub outcome: Option<RunOutcome>,
    /// Runs that it started.
    pub children: Vec<String>,
    /// What the caller attached: metadata, the result, the error.
    pub payload: P,
}

/// Totals over all runs of a context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionMetrics {
    /// Runs started.
    pub total: u64,
    /// Runs that ended well.
    pub succeeded: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Time in ended runs.
    pub time: Micros,
    /// Most runs at the same time.
    pub peak: u32,
    /// When a run last started or ended, since the Unix epoch.
    pub last_activity: Micros,
    /// Runs per agent name.
    pub agents: BTreeMap<String, u64>,
}

/// Why a run could not be recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunFault {
    /// The id is in use.
    #[error("a run {0} is already active in this context; give each run its own id, or leave it out to have one made")]
    Duplicate(String),
    /// No such active run.
    #[error("no active run {0} in this context; each run ends once, after record_run_start")]
    Unknown(String),
    /// Too many at once.
    #[error(
        "{MAX_ACTIVE} runs are active in this context already; end runs with record_run_success or record_run_failure"
    )]
    Full,
}

/// The runs of one context. Not locked: the owner locks.
#[derive(Debug)]
pub struct RunBook<P> {
    active: HashMap<String, RunRecord<P>>,
    /// Ids of active runs, oldest first: the last one is the current.
    order: Vec<String>,
    history: VecDeque<RunRecord<P>>,
    metrics: ExecutionMetrics,
    parked: u32,
}

impl<P> Default for RunBook<P> {
    fn default() -> Self {
        Self {
            active: HashMap::new(),
            order: Vec::new(),
            history: VecDeque::new(),
            metrics: ExecutionMetrics::default(),
            parked: 0,
        }
    }
}

impl<P> RunBook<P> {
    /// Records that a run began.
    pub fn start(
        &mut self,
        id: &str,
        agent: &str,
        unix: Micros,
        monotonic: Micros,
        payload: P,
    ) -> Result<(), RunFault> {
        if self.active.contains_key(id) {
            return Err(RunFault::Duplicate(id.to_owned()));
        }
        if self.active.len() >= MAX_ACTIVE {
            return Err(RunFault::Full);
        }
        let record = RunRecord {
            id: id.to_owned(),
            agent: agent.to_owned(),
            started: unix,
            started_monotonic: monotonic,
            ended: None,
            duration: None,
            outcome: None,
            children: Vec::new(),
            payload,
        };
        self.active.insert(id.to_owned(), record);
        self.order.push(id.to_owned());
        self.metrics.total += 1;
        self.metrics.last_activity = unix;
        self.metrics.peak = self
            .metrics
            .peak
            .max(u32::try_from(self.active.len()).unwrap_or(u32::MAX));
        let known = self.metrics.agents.contains_key(agent) || self.metrics.agents.len() < AGENT_NAMES;
        *self
            .metrics
            .agents
            .entry(if known { agent } else { "_other" }.to_owned())
            .or_default() += 1;
        Ok(())
    }

    /// Records that a run ended; `note` may attach the result. The record that falls out of the history is handed back, so
    /// that the caller can drop what is in it after unlocking.
    pub fn end(
        &mut self,
        id: &str,
        outcome: RunOutcome,
        unix: Micros,
        monotonic: Micros,
        note: impl FnOnce(&mut P),
    ) -> Result<Option<RunRecord<P>>, RunFault> {
        let mut record = self.active.remove(id).ok_or_else(|| RunFault::Unknown(id.to_owned()))?;
        self.order.retain(|other| other != id);
        let duration = monotonic.saturating_sub(record.started_monotonic);
        record.ended = Some(unix);
        record.duration = Some(duration);
        record.outcome = Some(outcome);
        note(&mut record.payload);
        if outcome == RunOutcome::Success {
            self.metrics.succeeded += 1;
        } else {
            self.metrics.failed += 1;
        }
        counting::run_ended(&record.agent, outcome, duration);
        self.metrics.time += duration;
        self.metrics.last_activity = unix;
        self.history.push_back(record);
        Ok(if self.history.len() > HISTORY {
            self.history.pop_front()
        } else {
            None
        })
    }

    /// Notes that a run started another one.
    pub fn add_child(&mut self, id: &str, child: &str) -> Result<(), RunFault> {
        let record = self
            .active
            .get_mut(id)
            .ok_or_else(|| RunFault::Unknown(id.to_owned()))?;
        if record.children.len() < CHILDREN {
            record.children.push(child.to_owned());
        }
        Ok(())
    }

    /// A run began to wait for a permit.
    pub fn park(&mut self) {
        self.parked += 1;
    }

    /// A run no longer waits for a permit.
    pub fn unpark(&mut self) {
        self.parked = self.parked.saturating_sub(1);
    }

    /// What the context's state is derived from.
    pub fn counts(&self) -> RunCounts {
        RunCounts {
            executing: u32::try_from(self.active.len()).unwrap_or(u32::MAX),
            parked: self.parked,
            succeeded: self.metrics.succeeded,
            failed: self.metrics.failed,
        }
    }

    /// The run that began last and has not ended.
    pub fn current(&self) -> Option<&str> {
        self.order.last().map(String::as_str)
    }

    /// Runs that have not ended, oldest first.
    pub fn active(&self) -> impl Iterator<Item = &RunRecord<P>> {
        self.order.iter().filter_map(|id| self.active.get(id))
    }

    /// Ended runs, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &RunRecord<P>> {
        self.history.iter()
    }

    /// A run by its id, the latest one when the id was used again.
    pub fn get(&self, id: &str) -> Option<&RunRecord<P>> {
        self.active
            .get(id)
            .or_else(|| self.history.iter().rev().find(|record| record.id == id))
    }

    /// Totals over all runs.
    pub fn metrics(&self) -> &ExecutionMetrics {
        &self.metrics
    }

    /// Ids of the runs that have not ended.
    pub fn unfinished(&self) -> Vec<String> {
        self.order.clone()
    }

    /// Forgets the ended runs; hands them back so that the caller can drop what is in them after unlocking.
    pub fn forget_history(&mut self) -> VecDeque<RunRecord<P>> {
        std::mem::take(&mut self.history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_once_and_totals_add_up() {
        let mut book = RunBook::<()>::default();
        book.start("r1", "data", 10, 10, ()).expect("starts");
        book.start("r2", "data", 20, 20, ()).expect("starts");
        assert_eq!(
            book.start("r2", "data", 20, 20, ()),
            Err(RunFault::Duplicate("r2".into()))
        );
        assert_eq!(book.current(), Some("r2"));
        assert!(
            book.end("r2", RunOutcome::Failure, 30, 50, |()| ())
                .expect("ends")
                .is_none()
        );
        assert!(book.end("r2", RunOutcome::Success, 30, 50, |()| ()).is_err());
        assert_eq!(book.current(), Some("r1"));
        assert_eq!((book.counts().executing, book.counts().failed), (1, 1));
        assert_eq!((book.metrics().time, book.metrics().peak), (30, 2));
    }

    #[test]
    fn history_and_names_are_bounded() {
        let mut book = RunBook::<()>::default();
        for i in 0..500 {
            let id = format!("r{i}");
            book.start(&id, &format!("agent{i}"), 0, 0, ()).expect("starts");
            book.end(&id, RunOutcome::Success, 0, 0, |()| ()).expect("ends");
        }
        assert_eq!(book.history().count(), HISTORY);
        assert_eq!(book.metrics().agents.len(), AGENT_NAMES + 1);
        assert_eq!(book.metrics().agents["_other"], 400);
    }
}
