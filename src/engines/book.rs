//! The engines of one factory: who has a slot, until when, and what became of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Micros;
use crate::context::Identity;
use crate::limits::Permit;
use crate::mutants::mutant;

/// Why an engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineEnd {
    /// Its user closed it.
    Closed,
    /// Its lifetime was over.
    Expired,
    /// It was closed by force, with work still pending.
    Forced,
}

/// Counts of a factory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineMetrics {
    /// Engines that got a slot and were built.
    pub created: u64,
    /// Engines that live.
    pub active: usize,
    /// Engines that ended, for whatever reason.
    pub cleaned: u64,
    /// Of them, those whose lifetime was over.
    pub expired: u64,
    /// Of them, those closed by force.
    pub forced: u64,
    /// Engines whose construction failed after they had a slot.
    pub failed: u64,
    /// Most engines at the same time.
    pub peak: usize,
    /// Users with a living engine.
    pub users: usize,
    /// Overdue engines that only the audit sweep found.
    pub found_by_audit: u64,
}

/// A living engine as the summary shows it.
#[derive(Debug, Clone)]
pub struct EngineView {
    /// Its number in the factory.
    pub number: u64,
    /// Whose it is.
    pub identity: Identity,
    /// How long it lives.
    pub age: Micros,
    /// How long it may still live.
    pub left: Micros,
}

struct Record {
    identity: Identity,
    created: Micros,
    deadline: Micros,
    slot: Permit,
}

#[derive(Default)]
struct State {
    engines: HashMap<u64, Record>,
    /// Deadlines of engines, ended ones included until they are met.
    deadlines: BinaryHeap<Reverse<(Micros, u64)>>,
    next: u64,
    metrics: EngineMetrics,
}

impl State {
    fn drop_ended_deadlines(&mut self) {
        while let Some(Reverse((_, number))) = self.deadlines.peek() {
            if self.engines.contains_key(number) {
                return;
            }
            self.deadlines.pop();
        }
    }
}

/// Engines by number. A slot belongs to its record, so it is freed with it, whatever the engine's own cleanup does.
#[derive(Default)]
pub struct EngineBook {
    state: Mutex<State>,
}

impl fmt::Debug for EngineBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBook")
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}

impl EngineBook {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an engine that owns `slot`. Answers its number.
    pub fn open(&self, identity: Identity, slot: Permit, now: Micros, lifetime: Micros) -> u64 {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let deadline = now.saturating_add(lifetime);
        state.deadlines.push(Reverse((deadline, number)));
        state.engines.insert(
            number,
            Record {
                identity,
                created: now,
                deadline,
                slot,
            },
        );
        state.metrics.created += 1;
        state.metrics.peak = state.metrics.peak.max(state.engines.len());
        number
    }

    /// Notes that an engine could not be built; its slot has gone back already.
    pub fn failed(&self) {
        self.state().metrics.failed += 1;
    }

    /// Frees the slot of an engine. Answers whether it still had one.
    pub fn close(&self, number: u64, end: EngineEnd, now: Micros) -> bool {
        let record = {
            let mut state = self.state();
            let Some(record) = state.engines.remove(&number) else {
                return false;
            };
            state.metrics.cleaned += 1;
            match end {
                EngineEnd::Closed => {}
                EngineEnd::Expired => state.metrics.expired += 1,
                EngineEnd::Forced => state.metrics.forced += 1,
            }
            // Ended engines stay in the heap until they are met; here their number is bounded.
            if state.deadlines.len() > 2 * state.engines.len() + 64 {
                let state = &mut *state;
                state
                    .deadlines
                    .retain(|Reverse((_, number))| state.engines.contains_key(number));
            }
            record
        };
        if mutant!(SlotKeptOnClose) {
            std::mem::forget(record);
            return true;
        }
        // Returning the slot may wake somebody, so it happens after the lock was let go.
        record.slot.release(now);
        true
    }

    /// When the next engine is due, by the monotonic clock.
    pub fn next_deadline(&self) -> Option<Micros> {
        let mut state = self.state();
        state.drop_ended_deadlines();
        state.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Takes the engines that are due off the heap. They keep their slots until they are closed.
    pub fn due(&self, now: Micros) -> Vec<u64> {
        let mut state = self.state();
        let mut due = Vec::new();
        while let Some(Reverse((deadline, number))) = state.deadlines.peek().copied() {
            if deadline > now || mutant!(EngineNeverDue) {
                break;
            }
            state.deadlines.pop();
            if state.engines.contains_key(&number) {
                due.push(number);
            }
        }
        due
    }

    /// The audit sweep: engines that are overdue by more than `grace` and that nobody closed. Looks at all of them.
    pub fn overdue(&self, now: Micros, grace: Micros) -> Vec<u64> {
        let mut state = self.state();
        let overdue: Vec<u64> = state
            .engines
            .iter()
            .filter(|(_, record)| record.deadline.saturating_add(grace) < now)
            .map(|(number, _)| *number)
            .collect();
        state.metrics.found_by_audit += overdue.len() as u64;
        overdue
    }

    /// Living engines, oldest first.
    pub fn view(&self, now: Micros) -> Vec<EngineView> {
        let state = self.state();
        let mut view: Vec<EngineView> = state
            .engines
            .iter()
            .map(|(number, record)| EngineView {
                number: *number,
                identity: record.identity.clone(),
                age: now.saturating_sub(record.created),
                left: record.deadline.saturating_sub(now),
            })
            .collect();
        view.sort_by_key(|engine| engine.number);
        view
    }

    /// Counts.
    pub fn metrics(&self) -> EngineMetrics {
        let state = self.state();
        let users: std::collections::HashSet<_> = state
            .engines
            .values()
            .map(|record| record.identity.user.as_str())
            .collect();
        EngineMetrics {
            active: state.engines.len(),
            users: users.len(),
            ..state.metrics
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ProcessClock;
    use crate::context::{Ids, PlaceholderPolicy};
    use crate::lanes::{LaneHandle, Registry};
    use crate::limits::{FairLimiter, LimitSettings, Request};

    fn setup() -> (Arc<FairLimiter>, LaneHandle, Identity) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let ids = Ids {
            user: "ann",
            thread: "thread-1",
            run: "run-1",
            request: None,
        };
        let identity = Identity::new(ids, &PlaceholderPolicy::default()).expect("valid");
        let settings = LimitSettings::new(u32::MAX, 2);
        (
            Arc::new(FairLimiter::new(settings)),
            registry.lane(&identity.user),
            identity,
        )
    }

    fn slot(limiter: &Arc<FairLimiter>, lane: &LaneHandle) -> Option<Permit> {
        let request = Request::new(lane);
        limiter
            .try_request(request, 0)
            .ok()
            .map(|grant| Permit::new(limiter.clone(), grant))
    }

    #[test]
    fn a_slot_is_freed_once_and_for_good() {
        let (limiter, lane, identity) = setup();
        let book = EngineBook::default();
        let first = book.open(identity.clone(), slot(&limiter, &lane).expect("free"), 0, 300);
        let second = book.open(identity, slot(&limiter, &lane).expect("free"), 10, 300);
        assert!(slot(&limiter, &lane).is_none(), "two engines are the limit");
        assert!(book.close(first, EngineEnd::Closed, 20));
        assert!(!book.close(first, EngineEnd::Closed, 20), "closing again is nothing");
        assert!(slot(&limiter, &lane).is_some());
        assert_eq!(book.next_deadline(), Some(310));
        assert_eq!(book.due(309), Vec::<u64>::new());
        assert_eq!(book.due(310), vec![second]);
        assert_eq!(book.due(310), Vec::<u64>::new(), "an engine is due once");
        assert_eq!(book.overdue(400, 5), vec![second]);
        assert!(book.close(second, EngineEnd::Expired, 400));
        let metrics = book.metrics();
        assert_eq!(
            (metrics.created, metrics.cleaned, metrics.expired, metrics.active),
            (2, 2, 1, 0)
        );
        assert_eq!(limiter.stats().running, 0);
    }
}
