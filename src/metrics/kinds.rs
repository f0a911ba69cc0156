//! Events by what they are.

use super::Counter;

/// What an event counts as: the six agent events, an application's own, and messages of a snapshot.
pub const EVENT_KINDS: [&str; 8] = [
    "agent_started",
    "agent_thinking",
    "tool_executing",
    "tool_completed",
    "agent_completed",
    "agent_error",
    "custom",
    "snapshot",
];
/// The place of an application's own events among [`EVENT_KINDS`].
pub const CUSTOM: usize = 6;
/// The place of messages of a snapshot, which stand for events that were folded.
pub const SNAPSHOT: usize = 7;

/// Numbers of events that only grow, by the place of their kind among [`EVENT_KINDS`].
#[derive(Debug, Default)]
pub struct ByKind([Counter; EVENT_KINDS.len()]);

impl ByKind {
    /// Adds one.
    #[inline]
    pub fn increment(&self, kind: usize) {
        self.add(kind, 1);
    }

    /// Adds `many`.
    #[inline]
    pub fn add(&self, kind: usize, many: u64) {
        self.0[kind].add(many);
    }

    /// All of them together.
    pub fn get(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }

    /// Each kind that there was any of, with its name.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().map(Counter::get);
        EVENT_KINDS.into_iter().zip(counts).filter(|(_, many)| *many > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_apart_and_together() {
        let counts = ByKind::default();
        counts.increment(0);
        counts.add(CUSTOM, 3);
        assert_eq!(counts.get(), 4);
        assert_eq!(counts.each().collect::<Vec<_>>(), [("agent_started", 1), ("custom", 3)]);
    }
}
