//! A user's execution context: identity, placeholder policy, lineage, run records, states, audit trail.

mod audit;
mod binding;
mod core;
mod counting;
mod fence;
mod identity;
mod lineage;
mod placeholder;
mod runs;
mod state;
mod trace;

pub use audit::{AuditEntry, AuditTrail};
pub use binding::SessionBindings;
pub use core::{ContextCore, ContextFault, after_fork_in_child};
pub use counting::collect;
pub use fence::{Fence, Fenced};
pub use identity::{CheckedIds, ContextError, Identity, Ids, shown};
pub use lineage::{Lineage, MAX_DEPTH};
pub use placeholder::{PlaceholderHit, PlaceholderPolicy};
pub use runs::{ExecutionMetrics, HISTORY, RunBook, RunFault, RunOutcome, RunRecord};
pub use state::{ContextState, IllegalMove, RunCounts, conclude, derive, is_legal};
pub use trace::{TraceContext, is_traced, set_tracing};

/// Keys that would let a caller's dictionary speak for the context; refused in either dictionary.
pub const RESERVED_KEYS: [&str; 7] = [
    "user_id",
    "thread_id",
    "run_id",
    "request_id",
    "created_at",
    "db_session",
    "websocket_client_id",
];
