//! All errors of the core, gathered.

use crate::context::{ContextError, ContextFault};
use crate::events::EventError;
use crate::limits::Refusal;
use crate::owner::IsolationViolation;

/// Whatever the core can refuse. One variant for each room.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A context could not be made.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Something cannot be done with a context in its state.
    #[error(transparent)]
    Fault(#[from] ContextFault),
    /// An event was not accepted.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A limit refused.
    #[error(transparent)]
    Limit(#[from] Refusal),
    /// An object of another user was refused.
    #[error(transparent)]
    Isolation(#[from] IsolationViolation),
}
