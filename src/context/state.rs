//! The state of a context, derived from its runs; and the one table of legal moves.

/// Where a context is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContextState {
    /// Being constructed.
    Initializing,
    /// Ready, nothing running.
    Active,
    /// At least one run executes.
    Executing,
    /// Nothing executes and at least one run waits for a permit.
    Throttled,
    /// Ended, and no run failed.
    Completed,
    /// Ended, some runs failed and some did not.
    PartialFailure,
    /// Ended, and every run failed.
    Failed,
    /// Resources freed. Final.
    Cleaned,
}

impl ContextState {
    /// The name, as the seeds write values: lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::Active => "active",
            Self::Executing => "executing",
            Self::Throttled => "throttled",
            Self::Completed => "completed",
            Self::PartialFailure => "partial_failure",
            Self::Failed => "failed",
            Self::Cleaned => "cleaned",
        }
    }

    /// Whether the context has ended.
    pub const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::PartialFailure | Self::Failed | Self::Cleaned
        )
    }
}

/// What the state is derived from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// Runs that execute.
    pub executing: u32,
    /// Runs that wait for a permit.
    pub parked: u32,
    /// Runs that ended well.
    pub succeeded: u64,
    /// Runs that failed.
    pub failed: u64,
}

/// The state of a context that has not ended, from its runs.
pub const fn derive(counts: RunCounts) -> ContextState {
    if counts.executing > 0 {
        ContextState::Executing
    } else if counts.parked > 0 {
        ContextState::Throttled
    } else {
        ContextState::Active
    }
}

/// The state in which a context ends, from its runs.
pub const fn conclude(counts: RunCounts) -> ContextState {
    match (counts.succeeded, counts.failed) {
        (_, 0) => ContextState::Completed,
        (0, _) => ContextState::Failed,
        _ => ContextState::PartialFailure,
    }
}

/// A move that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the context is {}, it cannot become {}", from.name(), to.name())]
pub struct IllegalMove {
    /// The state it was in.
    pub from: ContextState,
    /// The state that was asked for.
    pub to: ContextState,
}

/// The table of legal moves. A context that ends while runs are unfinished counts them as failed first, so Executing and
/// Throttled may end as anything.
pub const fn is_legal(from: ContextState, to: ContextState) -> bool {
    use ContextState as S;
    match from {
        S::Initializing => matches!(to, S::Active | S::Failed),
        S::Active => matches!(
            to,
            S::Executing | S::Throttled | S::Completed | S::PartialFailure | S::Failed
        ),
        S::Executing | S::Throttled => {
            matches!(
                to,
                S::Active | S::Executing | S::Throttled | S::Completed | S::PartialFailure | S::Failed
            )
        }
        S::Completed | S::PartialFailure | S::Failed => matches!(to, S::Cleaned),
        S::Cleaned => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContextState as S;

    const ALL: [S; 8] = [
        S::Initializing,
        S::Active,
        S::Executing,
        S::Throttled,
        S::Completed,
        S::PartialFailure,
        S::Failed,
        S::Cleaned,
    ];

    /// The table once more, as the architecture draws it: rows are from, columns are to, in the order of `ALL`.
    const DRAWN: [&str; 8] = [
        ".x....x.", // Initializing
        "..xxxxx.", // Active
        ".xxxxxx.", // Executing
        ".xxxxxx.", // Throttled
        ".......x", // Completed
        ".......x", // PartialFailure
        ".......x", // Failed
        "........", // Cleaned
    ];

    #[test]
    fn the_table_is_the_drawn_one() {
        for (from, row) in ALL.into_iter().zip(DRAWN) {
            for (to, mark) in ALL.into_iter().zip(row.chars()) {
                assert_eq!(is_legal(from, to), mark == 'x', "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn states_follow_from_the_runs() {
        let counts = |executing, parked, succeeded, failed| RunCounts {
            executing,
            parked,
            succeeded,
            failed,
        };
        assert_eq!(derive(counts(0, 0, 9, 9)), S::Active);
        assert_eq!(derive(counts(1, 3, 0, 0)), S::Executing);
        assert_eq!(derive(counts(0, 1, 0, 0)), S::Throttled);
        assert_eq!(conclude(counts(0, 0, 0, 0)), S::Completed);
        assert_eq!(conclude(counts(0, 0, 2, 0)), S::Completed);
        assert_eq!(conclude(counts(0, 0, 2, 1)), S::PartialFailure);
        assert_eq!(conclude(counts(0, 0, 0, 1)), S::Failed);
    }
}
