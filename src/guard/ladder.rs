//! The steps of a rollout.

use super::error::PolicyError;

/// All users, in the unit of rollouts: a part of 100 000.
pub const FULL: u32 = 100_000;

/// Most steps.
const MAX_STEPS: usize = 64;

/// Ever larger parts of all users, the last of which is all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder(Vec<u32>);

impl Default for Ladder {
    fn default() -> Self {
        // 0.1, 1, 5, 10, 25, 50 and 100 %.
        Self(vec![100, 1_000, 5_000, 10_000, 25_000, 50_000, FULL])
    }
}

impl Ladder {
    /// A ladder of these steps, in parts of 100 000.
    pub fn new(steps: Vec<u32>, path: &str) -> Result<Self, PolicyError> {
        let rises = steps.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = steps.first().is_some_and(|first| *first > 0) && steps.last() == Some(&FULL);
        if !rises || !fits || steps.len() > MAX_STEPS {
            return Err(PolicyError {
                path: path.to_owned(),
                problem: format!("{steps:?} is no ladder"),
                fix: format!("write at most {MAX_STEPS} rising steps above 0, of which the last is {FULL} (100 %)"),
            });
        }
        Ok(Self(steps))
    }

    /// The steps.
    pub fn steps(&self) -> &[u32] {
        &self.0
    }

    /// The first step above a rollout; none at the top.
    pub fn above(&self, rollout: u32) -> Option<u32> {
        self.0.iter().copied().find(|step| *step > rollout)
    }
}
