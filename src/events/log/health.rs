//! How the events of one run fare, and whether each of them is accounted for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::RunLog;
use super::read::Batch;
use crate::clock::Micros;
use crate::events::event::{Class, EventError};

/// An event is late when it was handed to a socket after more than this, unless somebody chose another time.
static LATE: AtomicU64 = AtomicU64::new(100_000);

/// From now on events of this process are late after this time.
pub fn set_late(after: Micros) {
    LATE.store(after, Ordering::Relaxed);
}

/// Counts of one log. What is exact is under the log's lock; these are not, so that a reader writes them without it.
#[derive(Debug, Default)]
pub(super) struct Health {
    handed: AtomicU32,
    late: AtomicU32,
    critical: AtomicU32,
    dropped: AtomicU32,
}

/// How the events of one run fare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Critical and content events handed to a socket that was there when they were published, counted for each socket.
    pub handed: u32,
    /// Of them, the late ones.
    pub late: u32,
    /// Critical events that were published.
    pub critical: u32,
    /// Of them, those for which there was no room.
    pub dropped: u32,
}

/// Where the events of a log are. Each number that was given out is in one of the three places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogAccount {
    /// Its number, in the order in which logs were opened.
    pub serial: u64,
    /// The latest number.
    pub head: u64,
    /// In the log.
    pub live: u64,
    /// In the snapshot, or dropped from it.
    pub folded: u64,
    /// Left out because it was progress or for debugging.
    pub shed: u64,
    /// Events in the log that are out of order, or without their text.
    pub misplaced: u64,
    /// Whether the stream has ended.
    pub is_over: bool,
}

impl LogAccount {
    /// Whether each event is accounted for.
    pub fn is_balanced(&self) -> bool {
        self.misplaced == 0 && self.head == self.live + self.folded + self.shed
    }
}

impl Health {
    /// A socket was handed a batch; only what came after `live_from` was published while it was there.
    pub(super) fn handed(&self, batch: &Batch<'_>, live_from: u64, now: Micros) {
        let after = LATE.load(Ordering::Relaxed);
        let (mut handed, mut late) = (0, 0);
        for item in &batch.items {
            // Progress and debugging may wait, and say so by their class.
            if item.number > live_from && item.class <= Class::Content as u8 {
                handed += 1;
                late += u32::from(now.saturating_sub(item.unix) > after);
            }
        }
        if handed > 0 {
            self.handed.fetch_add(handed, Ordering::Relaxed);
        }
        if late > 0 {
            self.late.fetch_add(late, Ordering::Relaxed);
        }
    }

    /// A critical event was published, or refused.
    pub(super) fn published(&self, result: &Result<u64, EventError>) {
        match result {
            Ok(_) => {}
            Err(EventError::Budget { .. }) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            // What its publisher did wrong was never an event.
            Err(_) => return,
        }
        self.critical.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Deliveries {
        Deliveries {
            handed: self.handed.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
            critical: self.critical.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

impl RunLog {
    /// How its events fare.
    pub fn deliveries(&self) -> Deliveries {
        self.health.read()
    }

    /// A socket was handed a batch.
    pub(in crate::events) fn note_handed(&self, batch: &Batch<'_>, live_from: u64, now: Micros) {
        self.health.handed(batch, live_from, now);
    }

    /// Executions that are closed from now on because their agents left them open say this code.
    pub fn set_end_code(&self, code: &str) {
        self.inner().end_code = Some(code.into());
    }

    /// Where its events are.
    pub fn account(&self) -> LogAccount {
        let inner = self.inner();
        let is_dropped = inner.lane.is_none();
        let live = inner.entries.len() as u64;
        // Of a log that was dropped as a whole nothing is left to count.
        let folded = if is_dropped { inner.head } else { inner.folded_events };
        LogAccount {
            serial: self.serial,
            head: inner.head,
            live,
            folded,
            shed: if is_dropped { 0 } else { inner.shed_events },
            misplaced: inner.entries.misplaced(inner.folded, inner.head),
            is_over: inner.ended.is_some(),
        }
    }
}

#[cfg(test)]
impl RunLog {
    /// Loses the oldest event without a trace: the damage that the account must find.
    pub(in crate::events) fn lose_one(&self) {
        self.inner().entries.pop_oldest();
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::{Moment, ProcessClock};
    use crate::events::{Draft, EventKind, Extra, LogBounds, SpanScope, StreamWriter, Streams};
    use crate::ids::{RequestId, RunId, ThreadId, UserId};
    use crate::lanes::{LaneHandle, Registry};

    fn log_of(bounds: LogBounds) -> (LaneHandle, StreamWriter) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let lane = registry.lane(&UserId::new("ann").expect("an id"));
        let (run, thread) = (
            RunId::new("run").expect("an id"),
            ThreadId::new("thread").expect("an id"),
        );
        let writer = Streams::open(&lane, &run, &thread, bounds).expect("a log");
        (lane, writer)
    }

    fn publish(lane: &LaneHandle, writer: &StreamWriter, kind: EventKind<'_>, payload: &str) -> bool {
        let scope = SpanScope {
            request: RequestId::new("request").expect("an id"),
            parent: None,
        };
        let draft = Draft {
            kind,
            agent: Some("agent"),
            message: None,
            payload,
            timed: false,
            extra: Extra::default(),
        };
        let now = Moment { monotonic: 9, unix: 9 };
        writer.log().publish(lane, &scope, draft, now).is_ok()
    }

    #[test]
    fn an_event_that_is_lost_is_missing_in_the_account() {
        let bounds = LogBounds {
            events: 4,
            ..LogBounds::default()
        };
        let (lane, writer) = log_of(bounds);
        assert!(publish(&lane, &writer, EventKind::Started, "{\"x\":1"));
        for _ in 0..9 {
            assert!(publish(&lane, &writer, EventKind::Thinking, "{\"x\":1"));
        }
        let account = writer.log().account();
        assert!(account.is_balanced() && account.folded > 0, "{account:?}");
        writer.log().lose_one();
        assert!(!writer.log().account().is_balanced());
    }

    #[test]
    fn critical_events_without_room_are_counted_and_wrong_ones_are_not() {
        let bounds = LogBounds {
            user_bytes: 1,
            ..LogBounds::default()
        };
        let (lane, writer) = log_of(bounds);
        assert!(!publish(&lane, &writer, EventKind::Started, "{\"x\":1"));
        assert!(!publish(&lane, &writer, EventKind::Thinking, "{\"x\":1"));
        let large = "x".repeat(100_000);
        assert!(!publish(&lane, &writer, EventKind::Started, &large));
        let of = writer.log().deliveries();
        assert_eq!((of.critical, of.dropped), (1, 1));
    }
}
