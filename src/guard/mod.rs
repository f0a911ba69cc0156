//! Watches a rollout, and ends it as soon as there is proof that it does harm.
//!
//! Each health signal is a yes-or-no of one run or event. An e-process for each says how strongly what was seen speaks
//! against the rate that is accepted; it may be looked at after every observation without crying wolf. Time, evidence and
//! the clock come in as values.

mod baseline;
mod eprocess;
mod error;
mod ladder;
mod metric;
mod policy;
mod record;
mod stage;
mod status;
#[cfg(test)]
mod tests;
mod watch;

pub use baseline::Baseline;
pub use eprocess::{Counts, EProcess};
pub use error::{GuardError, PolicyError};
pub use ladder::{FULL, Ladder};
pub use metric::{Cohort, Metric};
pub use policy::{MetricPolicy, Policy};
pub use record::{RollbackMode, RollbackRecord};
pub use stage::{Guard, Step, Verdict, one};
pub use status::{GuardState, GuardStatus, MetricState, MetricStatus};
