//! What is measured, and what the core counts for itself.
//!
//! | file | what is in it |
//! |---|---|
//! | `families` | the table of what a scrape tells: names, labels, buckets |
//! | `cell` | one series, changed without a lock; the switch |
//! | `vocabulary` | the names of a label that is capped |
//! | `kinds` | events by what they are |
//! | `live` | what is asked at a scrape, for as long as it lives |
//! | `scrape`, `text` | the cells and what the rooms keep themselves, read at one moment; its two texts |
//! | `histogram`, `shared`, `types` | percentiles, and counts by type, of what has figures of its own |

mod cell;
mod families;
mod histogram;
mod kinds;
mod live;
mod scrape;
mod shared;
mod text;
mod types;
mod vocabulary;

use std::sync::atomic::{AtomicU64, Ordering};

pub use cell::{Cell, enabled, set_enabled};
pub use families::{
    AGENTS, CONTEXT_OUTCOMES, DECISION_REASONS, FAMILIES, FLAG_REASONS, FLAGS, Family, GUARD_METRICS, Id, Kind, Label,
    PERMIT_OUTCOMES, RULES, RUN_OUTCOMES, SYMBOLS, TOOL_OUTCOMES, TOOLS, VERSIONS, Values, after_fork_in_child, named,
};
pub use histogram::{BUCKETS, Histogram, bucket_of, end_of};
pub use kinds::{ByKind, CUSTOM, EVENT_KINDS, SNAPSHOT};
pub use live::{Live, MAX_LIVE};
pub use scrape::{Collect, Scrape, Value};
pub use shared::SharedHistogram;
pub use text::{Format, render};
pub use types::{MAX_OWN_TYPES, TypeCounts};
pub use vocabulary::{MAX_NAMES, OTHER, Vocabulary};

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
    pub published: ByKind,
    /// Handed to a socket, counted for each socket.
    pub sent: ByKind,
    /// Refused at publish, or lost with a socket whose client can ask for them again.
    pub failed: ByKind,
    /// Folded into a snapshot.
    pub folded: ByKind,
    /// Debug events removed from full logs.
    pub shed: ByKind,
    /// Progress that was out of date, removed from full logs.
    pub outdated: ByKind,
    /// Dropped from a snapshot because the snapshot itself was full.
    pub forgotten: ByKind,
    /// Left out for one socket: it was behind, or they were out of date. Counted for each socket.
    pub skipped: ByKind,
    /// From being published to being handed to a socket that was there, in microseconds: of each reading of a socket the oldest
    /// event's.
    pub delay: SharedHistogram,
    /// Streams that were opened, each one run.
    pub opened: Counter,
    /// Of them, those that ended, in the order of `Outcome::ALL`.
    pub ended: [Counter; 5],
    /// From the opening of a stream to its end, in microseconds.
    pub run_time: SharedHistogram,
    /// Accepted, by type.
    pub types: EventTypes,
}

/// Events by type: the six agent events, and the latest of an application's own.
pub type EventTypes = TypeCounts<6>;
