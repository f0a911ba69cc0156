//! Concurrency limits: one atomic decision for a user's and the process's limit, permits that children may borrow, and the
//! limit that follows a backend.

mod adaptive;
mod fair;
mod tree;

pub use adaptive::{Change, Controller, ControllerSettings, ControllerState, Outcome, Reason, SettingsError};
pub use fair::{
    Decision, FairLimiter, Grant, LimitSettings, LimiterStats, Parked, Permit, Refusal, Request, Scope, Ticket,
    UserLoad,
};
pub use tree::{MAX_NODES, Task};
