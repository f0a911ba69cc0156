//! What was looked at: a detector that has seen nothing has found nothing, which proves nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::crossings::{self, Place};

/// A place where data leaves what one user may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Boundary {
    /// An event of a stream, when it is published and when it is written to a socket.
    WsOut,
    /// The body of a response.
    HttpOut,
    /// What a tool is given.
    ToolIn,
    /// What a tool answers.
    ToolOut,
    /// What a model is given.
    LlmIn,
    /// What a model answers.
    LlmOut,
    /// What is read from a cache.
    CacheGet,
    /// What is put into one.
    CachePut,
    /// A row of a database.
    DbRow,
    /// A record of the audit log.
    Audit,
    /// A line of a log.
    Log,
    /// An error that a user is shown.
    Error,
    /// The label of a metric.
    MetricLabel,
}

impl Boundary {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 13] = [
        Self::WsOut,
        Self::HttpOut,
        Self::ToolIn,
        Self::ToolOut,
        Self::LlmIn,
        Self::LlmOut,
        Self::CacheGet,
        Self::CachePut,
        Self::DbRow,
        Self::Audit,
        Self::Log,
        Self::Error,
        Self::MetricLabel,
    ];

    /// The name in settings, reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WsOut => "ws_out",
            Self::HttpOut => "http_out",
            Self::ToolIn => "tool_in",
            Self::ToolOut => "tool_out",
            Self::LlmIn => "llm_in",
            Self::LlmOut => "llm_out",
            Self::CacheGet => "cache_get",
            Self::CachePut => "cache_put",
            Self::DbRow => "db_row",
            Self::Audit => "audit",
            Self::Log => "log",
            Self::Error => "error",
            Self::MetricLabel => "metric_label",
        }
    }

    /// The boundary of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|boundary| boundary.name() == name)
    }

    /// Its bit in a set of boundaries.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What one boundary has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BoundaryFigures {
    /// Deliveries that were scanned.
    pub deliveries: u64,
    /// Bytes that were scanned.
    pub bytes: u64,
    /// Canaries of the user who was to see them.
    pub own: u64,
    /// Canaries, secrets and objects of somebody else.
    pub foreign: u64,
}

#[derive(Debug, Default)]
struct Counts {
    deliveries: AtomicU64,
    bytes: AtomicU64,
    own: AtomicU64,
    foreign: AtomicU64,
}

/// Counts of all boundaries.
#[derive(Debug, Default)]
pub struct Coverage([Counts; Boundary::ALL.len()]);

impl Coverage {
    /// Notes one scan. `is_delivery` is false for what was scanned before, on its way to another socket.
    pub fn note(&self, boundary: Boundary, bytes: usize, own: usize, foreign: usize, is_delivery: bool) {
        let counts = &self.0[boundary as usize];
        if is_delivery {
            counts.deliveries.fetch_add(1, Ordering::Relaxed);
            crossings::checked(Place::Scan(boundary), 1);
        }
        counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if own + foreign > 0 {
            counts.own.fetch_add(own as u64, Ordering::Relaxed);
            counts.foreign.fetch_add(foreign as u64, Ordering::Relaxed);
        }
    }

    /// What a boundary has seen so far.
    pub fn of(&self, boundary: Boundary) -> BoundaryFigures {
        let counts = &self.0[boundary as usize];
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        BoundaryFigures {
            deliveries: read(&counts.deliveries),
            bytes: read(&counts.bytes),
            own: read(&counts.own),
            foreign: read(&counts.foreign),
        }
    }
}

/// The probability of a leak in one delivery, from above, at 95 %: after `scanned` independent deliveries of which `leaks`
/// were leaks. Three over the number when there was none; never 0.
pub fn upper_bound(scanned: u64, leaks: u64) -> f64 {
    if scanned == 0 {
        return 1.0;
    }
    let expected = if leaks == 0 {
        3.0
    } else {
        // Half of the chi-squared quantile of 2(k + 1) degrees of freedom, by Wilson and Hilferty.
        let degrees = 2.0 * (leaks as f64 + 1.0);
        let spread = 2.0 / (9.0 * degrees);
        degrees * (1.0 - spread + 1.644_854 * spread.sqrt()).powi(3) / 2.0
    };
    (expected / scanned as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_known_by_their_names() {
        for boundary in Boundary::ALL {
            assert_eq!(Boundary::named(boundary.name()), Some(boundary));
            assert_eq!(Boundary::ALL[boundary as usize], boundary);
        }
        assert_eq!(Boundary::named("elsewhere"), None);
    }

    #[test]
    fn the_bound_is_never_nothing() {
        let near = |bound: f64, wanted: f64| (bound / wanted - 1.0).abs() < 0.01;
        assert!(near(upper_bound(0, 0), 1.0));
        assert!(near(upper_bound(2, 0), 1.0));
        assert!(near(upper_bound(3_000_000, 0), 1e-6));
        assert!(near(upper_bound(1_000, 1), 4.744e-3), "{}", upper_bound(1_000, 1));
        assert!(near(upper_bound(1_000, 5), 1.0513e-2), "{}", upper_bound(1_000, 5));
    }
}
