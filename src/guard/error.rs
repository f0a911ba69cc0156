//! What a guard refuses.

/// A policy that no guard can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}; {fix}")]
pub struct PolicyError {
    /// Where in the policy, as a JSON pointer.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Something that cannot be told to a guard, or done with it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GuardError {
    /// A name that is no metric's.
    #[error(
        "there is no metric {0:?}; known are isolation_violation, run_error, slow_run, slow_event and dropped_event"
    )]
    UnknownMetric(String),
    /// A name that is no cohort's.
    #[error("there is no cohort {0:?}; pass 'modern' for runs with the flag on and 'legacy' for the others")]
    UnknownCohort(String),
    /// A duration that is none.
    #[error("a duration must be 0 or more seconds, and finite; got {0}: measure it with a monotonic clock")]
    Duration(f64),
    /// More bad ones than there were.
    #[error(
        "of {seen} observations {bad} cannot be bad; pass how many there were in all, and how many of them were bad"
    )]
    Counts {
        /// Bad ones.
        bad: u64,
        /// All of them.
        seen: u64,
    },
    /// The rollout is rolled back.
    #[error("the rollout was rolled back because of {metric}; look into it, then resume(ack=..., actor=...)")]
    RolledBack {
        /// Why.
        metric: String,
    },
    /// Nothing to resume.
    #[error("the rollout is neither paused nor rolled back, so there is nothing to resume")]
    NothingToResume,
    /// Something is in the way of the next step.
    #[error("the rollout does not advance: {0}; pass force=True to advance without the samples and the dwell")]
    Held(String),
    /// The top of the ladder is reached.
    #[error("the rollout is at 100 % already")]
    Complete,
}
