//! What the core counts.

mod histogram;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{BUCKETS, Histogram, bucket_of, end_of};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
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
}
