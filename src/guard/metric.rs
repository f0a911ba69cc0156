//! What is watched.

/// A health signal: a yes-or-no of one run or event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Metric {
    /// Something of one user met another. One is too many.
    IsolationViolation,
    /// A run ended in an error that is not its user's cancellation.
    RunError,
    /// A run took too long, what it waited for aside.
    SlowRun,
    /// An event was written to a client too late.
    SlowEvent,
    /// A critical event was not accepted.
    DroppedEvent,
}

impl Metric {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::IsolationViolation,
        Self::RunError,
        Self::SlowRun,
        Self::SlowEvent,
        Self::DroppedEvent,
    ];

    /// The name in policies, records and figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IsolationViolation => "isolation_violation",
            Self::RunError => "run_error",
            Self::SlowRun => "slow_run",
            Self::SlowEvent => "slow_event",
            Self::DroppedEvent => "dropped_event",
        }
    }

    /// The metric of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// The part that may be bad unless a policy says otherwise. None of the violations of isolation may.
    pub(super) const fn bound(self) -> f64 {
        match self {
            Self::IsolationViolation => 0.0,
            Self::RunError => 0.005,
            Self::SlowRun => 0.02,
            Self::SlowEvent => 0.01,
            Self::DroppedEvent => 0.0005,
        }
    }

    /// Whether one is enough.
    pub const fn is_absolute(self) -> bool {
        matches!(self, Self::IsolationViolation)
    }

    /// Whether it may be as bad as it is on the older side, where that is worse than the bound.
    pub(super) const fn follows_baseline(self) -> bool {
        matches!(self, Self::SlowRun)
    }
}

/// Which side of a rollout something happened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cohort {
    /// With the flag on.
    Modern,
    /// With the flag off.
    Legacy,
}

impl Cohort {
    /// The name in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
        }
    }

    /// The cohort of a name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Modern, Self::Legacy]
            .into_iter()
            .find(|cohort| cohort.name() == name)
    }
}
