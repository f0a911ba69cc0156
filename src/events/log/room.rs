//! Room for one more event: what goes when a log is full.

use super::entry::Entry;
use super::{Inner, RunLog};
use crate::clock::Micros;
use crate::events::event::{Class, EventError};
use crate::lanes::LaneHandle;
use crate::mutants::mutant;

/// Events of a log that are folded at once to make room for another log.
const FOLD_AT_ONCE: u64 = 64;

impl RunLog {
    /// Sheds and folds until one more event of `bytes` fits, or says what is full.
    pub(super) fn make_room(
        &self,
        inner: &mut Inner,
        lane: &LaneHandle,
        bytes: usize,
        now: Micros,
    ) -> Result<(), EventError> {
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
            let larger = inner.user_charge.bytes();
            if lane.streams().drop_oldest_ended() || lane.streams().fold_larger(self, larger, now) {
                continue;
            }
            if !self.free_one(inner, lane, now) {
                return Err(EventError::Budget {
                    what: "the user's event memory",
                    scope: "user",
                    limit: self.bounds.user_bytes,
                });
            }
            inner.settle();
        }
        let mut freed = false;
        while inner.entries.len() >= self.bounds.events || inner.bytes() + wanted > self.bounds.bytes {
            if !self.free_one(inner, lane, now) {
                break;
            }
            freed = true;
        }
        if freed {
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
    pub(in crate::events) fn try_fold_some(&self, larger_than: usize, now: Micros) -> bool {
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
        let mut freed = 0;
        while freed < FOLD_AT_ONCE && self.free_one(&mut inner, &lane, now) {
            freed += 1;
        }
        inner.settle();
        drop(inner);
        freed > 0
    }

    /// Drops one event that may be left out, or folds the oldest. Answers whether there was one.
    fn free_one(&self, inner: &mut Inner, lane: &LaneHandle, now: Micros) -> bool {
        let events = &lane.shared().events;
        if let Some((class, kind)) = inner.entries.shed(now, self.bounds.progress_ttl) {
            inner.shed_events += 1;
            if class == Class::Debug {
                events.shed.increment(kind);
            } else {
                events.outdated.increment(kind);
            }
            return true;
        }
        let Some(entry) = inner.entries.pop_oldest() else {
            return false;
        };
        events.folded.increment(usize::from(entry.kind));
        if mutant!(OldestDroppedSilently) {
            return true;
        }
        inner.folded = entry.number;
        inner.folded_events += 1;
        if mutant!(FoldDropsAll) {
            return true;
        }
        inner.fold.take(entry);
        self.shrink_fold(inner, lane);
        true
    }

    pub(super) fn shrink_fold(&self, inner: &mut Inner, lane: &LaneHandle) {
        let before = inner.fold.forgotten();
        let spans = &inner.spans;
        // The snapshot gets half of what the books leave.
        let room = self.bounds.bytes.saturating_sub(inner.book_bytes()) / 2;
        inner
            .fold
            .shrink(room, self.bounds.events, |index| spans.is_open(index));
        for (kind, (now, before)) in inner.fold.forgotten().iter().zip(before).enumerate() {
            if *now > before {
                lane.shared().events.forgotten.add(kind, now - before);
            }
        }
    }
}
