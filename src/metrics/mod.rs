//! What the core counts.

mod histogram;
mod shared;
mod types;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{BUCKETS, Histogram, bucket_of, end_of};
pub use shared::SharedHistogram;
pub use types::{MAX_OWN_TYPES, TypeCounts};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Nothing counted yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `many`.
    pub fn add(&self, many: u64) {
        self.0.fetch_add(many, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Events over all users.
#[derive(Debug, Default)]
pub struct EventCounters {
    /// Accepted into a log.
    pub published: Counter,
    /// Handed to a socket, counted for each socket.
    pub sent: Counter,
    /// Refused at publish, or lost with a socket whose client can ask for them again.
    pub failed: Counter,
    /// Folded into a snapshot.
    pub folded: Counter,
    /// Debug events removed from full logs.
    pub shed: Counter,
    /// Dropped from a snapshot because the snapshot itself was full.
    pub forgotten: Counter,
    /// From being published to being handed to a socket that was there, in microseconds: of each reading of a socket the oldest
    /// event's.
    pub delay: SharedHistogram,
    /// Accepted, by type.
    pub types: EventTypes,
}

/// Events by type: the six agent events, and the latest of an application's own.
pub type EventTypes = TypeCounts<6>;
