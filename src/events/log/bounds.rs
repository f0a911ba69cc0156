//! How much one log may hold, and for how long.

use crate::clock::{Micros, SECOND};
use crate::events::MAX_EVENT_BYTES;

/// How much one log may hold, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct LogBounds {
    /// Events before the oldest are folded.
    pub events: usize,
    /// Bytes before the oldest are folded.
    pub bytes: usize,
    /// Bytes of all logs of the user.
    pub user_bytes: usize,
    /// Bytes that the core holds for all users.
    pub process_bytes: usize,
    /// Bytes of one event.
    pub event_bytes: usize,
    /// How long an ended log stays readable.
    pub retention: Micros,
    /// How long a progress event is worth sending.
    pub progress_ttl: Micros,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self {
            events: 1_000,
            bytes: 1 << 20,
            user_bytes: 4 << 20,
            process_bytes: 512 << 20,
            event_bytes: MAX_EVENT_BYTES,
            retention: 300 * SECOND,
            progress_ttl: 30 * SECOND,
        }
    }
}
