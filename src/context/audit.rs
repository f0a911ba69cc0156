//! What happened to a context, as a record that nobody can edit.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Micros;

/// Entries kept after the first one.
const KEPT: usize = 63;

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When, in microseconds since the Unix epoch.
    pub at: Micros,
    /// What happened.
    pub event: &'static str,
    /// To what: a request id, a run id, a state.
    pub subject: Arc<str>,
}

/// The first entry and the latest ones; what fell out between is counted.
#[derive(Debug, Default)]
pub struct AuditTrail {
    first: Option<AuditEntry>,
    latest: VecDeque<AuditEntry>,
    dropped: u64,
}

impl AuditTrail {
    /// Adds a line.
    pub fn record(&mut self, at: Micros, event: &'static str, subject: Arc<str>) {
        let entry = AuditEntry { at, event, subject };
        if self.first.is_none() {
            self.first = Some(entry);
            return;
        }
        if self.latest.len() == KEPT {
            self.latest.pop_front();
            self.dropped += 1;
        }
        self.latest.push_back(entry);
    }

    /// All lines kept, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &AuditEntry> {
        self.first.iter().chain(&self.latest)
    }

    /// How many lines fell out.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_latest_lines_are_kept() {
        let mut trail = AuditTrail::default();
        for i in 0..100 {
            trail.record(i, "event", i.to_string().into());
        }
        let kept: Vec<_> = trail.entries().map(|entry| entry.at).collect();
        assert_eq!((kept.len(), kept[0], kept[1], kept[63]), (64, 0, 37, 99));
        assert_eq!(trail.dropped(), 36);
    }
}
