//! How much of the loop a run, or one execution of an agent, may use.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Nanos;
use crate::mutants::mutant;

/// A budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdrawn {
    /// What may be used.
    pub limit: Nanos,
    /// What was used.
    pub used: Nanos,
}

/// A limit on the time of the steps. It is told once, and again each time as much was used again: who catches the error and
/// goes on is told again, and who cleans up is left alone.
#[derive(Debug)]
pub struct Budget {
    limit: Nanos,
    next: AtomicU64,
}

impl Budget {
    /// A budget, or none.
    pub fn new(limit: Option<Nanos>) -> Self {
        let limit = limit.unwrap_or(Nanos::MAX);
        Self {
            limit,
            next: AtomicU64::new(limit),
        }
    }

    /// Whether more was used than may be, and that was not told yet.
    #[inline]
    pub fn overdrawn(&self, used: Nanos) -> Option<Overdrawn> {
        let next = self.next.load(Ordering::Relaxed);
        if used <= next || mutant!(LoopBudgetIgnored) {
            return None;
        }
        self.next.store(used.saturating_add(self.limit), Ordering::Relaxed);
        Some(Overdrawn {
            limit: self.limit,
            used,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_told_when_it_is_used_up_and_again_when_as_much_is() {
        let budget = Budget::new(Some(100));
        assert_eq!(budget.overdrawn(100), None);
        assert_eq!(budget.overdrawn(130), Some(Overdrawn { limit: 100, used: 130 }));
        assert_eq!(budget.overdrawn(230), None);
        assert_eq!(budget.overdrawn(231), Some(Overdrawn { limit: 100, used: 231 }));
    }

    #[test]
    fn without_a_limit_nothing_is_too_much() {
        assert_eq!(Budget::new(None).overdrawn(Nanos::MAX), None);
    }
}
