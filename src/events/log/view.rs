//! What is told of a stream as a whole.

use std::sync::Arc;

use crate::clock::Micros;
use crate::ids::{RunId, ThreadId};

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All agents completed.
    Completed,
    /// Some did.
    Partial,
    /// None did.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its writer went away without ending it.
    Lost,
}

impl Outcome {
    /// All, in the order in which they are counted.
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::Partial,
        Self::Failed,
        Self::Cancelled,
        Self::Lost,
    ];

    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// What a welcome says of a stream.
#[derive(Debug, Clone)]
pub struct StreamView {
    /// Orders streams by when they were opened.
    pub serial: u64,
    /// The run.
    pub run: RunId,
    /// The thread.
    pub thread: ThreadId,
    /// This incarnation of the log.
    pub epoch: Arc<str>,
    /// The latest number.
    pub head: u64,
    /// How it ended, if it has, and when by the monotonic clock.
    pub ended: Option<(Outcome, Micros)>,
    /// Which worker writes it, if that is another one.
    pub worker: Option<Box<str>>,
}
