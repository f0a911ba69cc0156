//! Room for one more event: what goes when a log is full.

use super::entry::Entry;
use super::{Inner, RunLog};
use crate::events::event::EventError;
use crate::lanes::LaneHandle;
use crate::mutants::mutant;

/// Events of a log that are folded at once to make room for another log.
const FOLD_AT_ONCE: u64 = 64;

impl RunLog {
    /// Folds until one more event of `bytes` fits, or says what is full.
    pub(super) fn make_room(&self, inner: &mut Inner, lane: &LaneHandle, bytes: usize) -> Result<(), EventError> {
        // The envelope of a message, generously.
        let wanted = bytes + size_of::<Entry>() + 512;
        let shared = lane.shared();
        while shared.logs.bytes() + wanted > self.bounds.process_bytes {
            if !shared.drop_oldest_ended() {
                return Err(EventError::Budget {
                    what: "the process's event memory",
                    scope: "process",
                    limit: self.bounds.process_bytes,
                });
            }
        }
        while lane.streams().account().bytes() + wanted > self.bounds.user_bytes && !mutant!(UserBudgetIgnored) {
            if lane.streams().drop_oldest_ended() || lane.streams().fold_larger(self, inner.user_charge.bytes()) {
                continue;
            }
            if !inner.fold_oldest() {
                return Err(EventError::Budget {
                    what: "the user's event memory",
                    scope: "user",
                    limit: self.bounds.user_bytes,
                });
            }
            shared.events.folded.increment();
            self.shrink_fold(inner, lane);
            inner.settle();
        }
        let mut folded = 0;
        while inner.entries.len() >= self.bounds.events || inner.bytes() + wanted > self.bounds.bytes {
            if !inner.fold_oldest() {
                break;
            }
            folded += 1;
            self.shrink_fold(inner, lane);
        }
        if folded > 0 {
            shared.events.folded.add(folded);
            // The event may still be refused.
            inner.settle();
        }
        if inner.fixed_bytes() + wanted > self.bounds.bytes {
            return Err(EventError::Budget {
                what: "the run's event memory",
                scope: "run",
                limit: self.bounds.bytes,
            });
        }
        Ok(())
    }

    /// Folds some of this log, to make room for another of the same user. Answers whether anything could be folded. Does not
    /// wait for a publisher: two that make room for each other must not wait for each other.
    pub(in crate::events) fn try_fold_some(&self, larger_than: usize) -> bool {
        let taken = if mutant!(LogsWaitForEachOther) {
            Some(self.inner())
        } else {
            self.inner.try_lock().ok()
        };
        let Some(mut inner) = taken else {
            return false;
        };
        let Some(lane) = inner.lane.clone().filter(|_| inner.user_charge.bytes() > larger_than) else {
            return false;
        };
        let mut folded = 0;
        while folded < FOLD_AT_ONCE && inner.fold_oldest() {
            folded += 1;
        }
        lane.shared().events.folded.add(folded);
        self.shrink_fold(&mut inner, &lane);
        inner.settle();
        drop(inner);
        folded > 0
    }

    fn shrink_fold(&self, inner: &mut Inner, lane: &LaneHandle) {
        let before = inner.fold.forgotten();
        let spans = &inner.spans;
        // The snapshot gets half of what the books leave.
        let room = self.bounds.bytes.saturating_sub(spans.bytes() + inner.names.bytes) / 2;
        inner
            .fold
            .shrink(room, self.bounds.events, |index| spans.is_open(index));
        let forgotten = inner.fold.forgotten() - before;
        if forgotten > 0 {
            lane.shared().events.forgotten.add(forgotten);
        }
    }
}
