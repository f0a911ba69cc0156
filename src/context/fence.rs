//! What keeps a run that was ended by force from writing on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::metrics::Counter;
use crate::mutants::mutant;

/// Something of a run that was ended by force was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the run was ended by force because its agent went on when it was cancelled, so what it still does is refused; let \
     asyncio.CancelledError pass in the agent"
)]
pub struct Fenced;

/// Stands before the contexts of one engine. While it is down it does nothing; once it is up, it stays up.
#[derive(Debug)]
pub struct Fence {
    is_up: AtomicBool,
    refused: Arc<Counter>,
}

impl Fence {
    /// A fence that is down, and what counts its refusals.
    pub fn new(refused: Arc<Counter>) -> Self {
        Self {
            is_up: AtomicBool::new(false),
            refused,
        }
    }

    /// From here on nothing passes.
    pub fn raise(&self) {
        self.is_up.store(true, Ordering::Release);
    }

    /// Whether nothing passes any more.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire) && !mutant!(ZombieWritesOn)
    }

    /// Lets a write pass, or counts that it did not.
    pub fn pass(&self) -> Result<(), Fenced> {
        if self.is_up() {
            self.refused.increment();
            return Err(Fenced);
        }
        Ok(())
    }
}
