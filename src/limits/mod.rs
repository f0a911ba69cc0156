//! Concurrency limits: one atomic decision for a user's and the process's limit, and permits that children may borrow.

mod fair;
mod tree;

pub use fair::{
    Decision, FairLimiter, Grant, LimitSettings, LimiterStats, Parked, Permit, Refusal, Request, Scope, Ticket,
    UserLoad,
};
pub use tree::{MAX_NODES, Task};
