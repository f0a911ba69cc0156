//! Why the limit is what it is: the last changes, for people.

use crate::clock::Micros;

/// How many changes are kept.
const KEPT: usize = 16;

/// Why the limit changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No queue was seen: more is tried.
    Raised,
    /// Latency grew with the calls in flight.
    Queueing,
    /// Calls were dropped.
    Drops,
    /// At least half of the calls were dropped.
    Outage,
    /// A lower limit for one window, to measure the latency without a queue.
    Probe,
    /// The end of that.
    ProbeEnd,
    /// Latency jumped, or did not fall with the limit: lower limits are tried to learn why.
    Search,
    /// The search found that only the queue had grown.
    QueueFound,
    /// The search found that the calls themselves take longer.
    BaselineMoved,
}

impl Reason {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Queueing => "queueing",
            Self::Drops => "drops",
            Self::Outage => "outage",
            Self::Probe => "probe",
            Self::ProbeEnd => "probe_end",
            Self::Search => "search",
            Self::QueueFound => "queue_found",
            Self::BaselineMoved => "baseline_moved",
        }
    }
}

/// One change of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When, by the clock of the samples.
    pub at: Micros,
    /// The limit before.
    pub from: u32,
    /// The limit since.
    pub to: u32,
    /// Why.
    pub reason: Reason,
}

#[derive(Debug, Clone, Default)]
pub(super) struct History {
    changes: [Option<Change>; KEPT],
    next: usize,
}

impl History {
    pub(super) fn push(&mut self, change: Change) {
        self.changes[self.next] = Some(change);
        self.next = (self.next + 1) % KEPT;
    }

    /// The changes, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Change> + '_ {
        let (later, earlier) = self.changes.split_at(self.next);
        earlier.iter().chain(later).copied().flatten()
    }
}
