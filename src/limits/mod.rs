//! Concurrency limits: one atomic decision for a user's and the process's limit and for named resources, in a fair order, and
//! permits that children may borrow; and the limit that follows a backend.

mod adaptive;
mod fair;
mod governors;
mod leased;
mod meter;
mod order;
mod permit;
mod queue;
mod refusal;
mod request;
mod resources;
mod returning;
mod state;
mod stats;
mod tree;
mod users;
mod waiting;

pub use adaptive::{
    Change, Controller, ControllerSettings, ControllerState, Outcome, Reason as ChangeReason, SettingsError,
};
pub use fair::{FairLimiter, Grant, Limit, Parked};
pub use governors::{CallResult, Governed};
pub(crate) use leased::{Answer, Draft};
pub use permit::Permit;
pub use queue::Ticket;
pub use request::{Decision, LimitSettings, Priority, Reason, Refusal, Request, Scope, Task};
pub use resources::{MAX_RESOURCES, ResourceSet};
pub use stats::{Durations, LimiterStats, ResourceStats, UserStats, success_rate};
pub use tree::{HeldState, MAX_DEPTH, MAX_NODES, RunPermit};
