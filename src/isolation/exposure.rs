//! What a user was given by somebody else than us, and what of it came out again.

use std::collections::{HashMap, VecDeque};

/// Most pairs of a user and a canary or secret that are remembered; the oldest goes.
const MAX_EXPOSURES: usize = 10_000;

/// Whether a user had something before we could have leaked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposure {
    /// It is our leak.
    None,
    /// The user brought it; it is seen to leave for the first time.
    First,
    /// The user brought it, and that was told.
    Known,
}

/// What came in, by the user who brought it.
#[derive(Debug, Default)]
pub(super) struct Exposures {
    told: HashMap<(u64, u64), bool>,
    order: VecDeque<(u64, u64)>,
}

impl Exposures {
    /// The user brought this. Answers whether that is new.
    pub(super) fn note(&mut self, user: u64, evidence: u64) -> bool {
        let pair = (user, evidence);
        if self.told.contains_key(&pair) {
            return false;
        }
        if self.order.len() >= MAX_EXPOSURES
            && let Some(oldest) = self.order.pop_front()
        {
            self.told.remove(&oldest);
        }
        self.told.insert(pair, false);
        self.order.push_back(pair);
        true
    }

    /// Whether the user brought this, and whether it was told before.
    pub(super) fn look(&mut self, user: u64, evidence: u64) -> Exposure {
        match self.told.get_mut(&(user, evidence)) {
            None => Exposure::None,
            Some(told) if *told => Exposure::Known,
            Some(told) => {
                *told = true;
                Exposure::First
            }
        }
    }

    /// Forgets what a user brought.
    pub(super) fn forget(&mut self, user: u64) {
        self.told.retain(|(of, _), _| *of != user);
        self.order.retain(|(of, _)| *of != user);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.told.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_brought_is_told_once_and_remembered_within_bounds() {
        let mut exposures = Exposures::default();
        assert!(exposures.note(1, 7) && !exposures.note(1, 7));
        assert_eq!(exposures.look(2, 7), Exposure::None, "only for who brought it");
        assert_eq!(exposures.look(1, 7), Exposure::First);
        assert_eq!(exposures.look(1, 7), Exposure::Known);
        for evidence in 0..MAX_EXPOSURES as u64 {
            exposures.note(3, evidence);
        }
        assert_eq!(exposures.len(), MAX_EXPOSURES);
        assert_eq!(exposures.look(1, 7), Exposure::None, "the oldest went");
        exposures.forget(3);
        assert_eq!(exposures.len(), 0);
    }
}
