//! Why a rollout was rolled back, for people and for what reads the audit log.

use serde::{Deserialize, Serialize};

use crate::clock::Micros;

/// What becomes of runs that are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RollbackMode {
    /// They finish.
    Drain,
    /// They are cancelled.
    Abort,
}

impl RollbackMode {
    /// The word in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Abort => "abort",
        }
    }
}

/// Why and when a rollout was rolled back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackRecord {
    /// The flag.
    pub flag: String,
    /// What was too bad, or `manual`.
    pub metric: String,
    /// The part that was bad, 0 to 1; none for a rollback by hand.
    pub measured: Option<f64>,
    /// The part that is accepted, 0 to 1.
    pub threshold: Option<f64>,
    /// How many observations that rests on.
    pub n: u64,
    /// The evidence; none where one observation is enough, or none was needed.
    pub e_value: Option<f64>,
    /// The rollout at that time, in parts of 100 000.
    pub stage: u32,
    /// The revision of the document of flags at that time.
    pub revision: u64,
    /// When, in microseconds since the Unix epoch.
    pub at: Micros,
    /// What becomes of runs that are under way.
    pub mode: RollbackMode,
    /// Who did it: `guard`, or a person.
    pub actor: String,
    /// A sentence that says why.
    pub reason: String,
}

/// A part as people write it.
pub(super) fn percent(part: f64) -> String {
    let text = format!("{:.3}", part * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn parts_are_written_as_percent() {
        assert_eq!(percent(0.005), "0.5 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.0005), "0.05 %");
    }
}
