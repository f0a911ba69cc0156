//! The engines of one factory: who has a slot, until when, and what became of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Micros;
use crate::context::{Fence, Identity};
use crate::ids::UserId;
use crate::limits::Permit;
use crate::metrics::Counter;
use crate::mutants::mutant;

/// Why an engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineEnd {
    /// Its user closed it.
    Closed,
    /// Its lifetime was over.
    Expired,
    /// Nothing had run in it for as long as it may be idle.
    Idle,
    /// It made room for another engine of its user.
    Evicted,
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
    /// Of them, those that were idle for too long.
    pub idle: u64,
    /// Of them, those that made room for another of their user.
    pub evicted: u64,
    /// Of them, those closed by force, whatever the reason.
    pub forced: u64,
    /// Things that an engine still held when it was cleaned up.
    pub leaked: u64,
    /// Writes of agents that were left behind by force, which were refused.
    pub late_writes: u64,
    /// Permits that such an agent gave back after they had been taken from it.
    pub late_releases: u64,
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
    /// How long it may be idle.
    patience: Micros,
    /// Since when nothing runs in it; `None` while something does.
    idle_since: Option<Micros>,
    slot: Permit,
}

impl Record {
    /// When it is to be looked at again: it is due then, unless something runs or has run meanwhile.
    fn next_look(&self, now: Micros) -> Micros {
        let idle = self.idle_since.unwrap_or(now).saturating_add(self.patience);
        self.deadline.min(idle)
    }

    fn due(&self, now: Micros) -> Option<EngineEnd> {
        if self.deadline <= now {
            return Some(EngineEnd::Expired);
        }
        let since = self.idle_since?;
        (since.saturating_add(self.patience) <= now && !mutant!(IdleTimeIgnored)).then_some(EngineEnd::Idle)
    }
}

#[derive(Default)]
struct State {
    engines: HashMap<u64, Record>,
    /// Engines by user.
    users: HashMap<UserId, Vec<u64>>,
    /// When each engine is to be looked at, ended ones included until they are met.
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
    late_writes: Arc<Counter>,
    late_releases: Counter,
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

    /// Registers an engine that owns `slot`, lives for `lifetime`, and may be idle for `patience`. Answers its number.
    pub fn open(&self, identity: Identity, slot: Permit, now: Micros, lifetime: Micros, patience: Micros) -> u64 {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let record = Record {
            identity,
            created: now,
            deadline: now.saturating_add(lifetime),
            patience,
            idle_since: Some(now),
            slot,
        };
        state.deadlines.push(Reverse((record.next_look(now), number)));
        state
            .users
            .entry(record.identity.user.clone())
            .or_default()
            .push(number);
        state.engines.insert(number, record);
        state.metrics.created += 1;
        state.metrics.peak = state.metrics.peak.max(state.engines.len());
        number
    }

    /// Notes that something runs in an engine, or that nothing does any more.
    pub fn set_busy(&self, number: u64, is_busy: bool, now: Micros) {
        if let Some(record) = self.state().engines.get_mut(&number) {
            record.idle_since = (!is_busy).then_some(now);
        }
    }

    /// The engine of a user in which nothing runs, and nothing has run for the longest time.
    pub fn idlest(&self, user: &UserId) -> Option<u64> {
        let state = self.state();
        let numbers = state.users.get(user)?;
        let idle = numbers.iter().filter_map(|number| {
            let since = state.engines.get(number)?.idle_since;
            let since = if mutant!(BusyEngineEvicted) {
                Some(since.unwrap_or(0))
            } else {
                since
            };
            Some((since?, *number))
        });
        idle.min().map(|(_, number)| number)
    }

    /// Users with the number of their living engines.
    pub fn by_user(&self) -> Vec<(UserId, usize)> {
        let state = self.state();
        let users = state.users.iter();
        users.map(|(user, numbers)| (user.clone(), numbers.len())).collect()
    }

    /// A fence for the contexts of one engine. What it refuses is counted here.
    pub fn fence(&self) -> Arc<Fence> {
        Arc::new(Fence::new(self.late_writes.clone()))
    }

    /// Notes that a permit came back that had been taken from its holder.
    pub fn late_release(&self) {
        self.late_releases.increment();
    }

    /// Notes that an engine that was cleaned up still held so many things.
    pub fn leaked(&self, many: u64) {
        self.state().metrics.leaked += many;
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
            if let Some(numbers) = state.users.get_mut(&record.identity.user) {
                numbers.retain(|other| *other != number);
                if numbers.is_empty() {
                    state.users.remove(&record.identity.user);
                }
            }
            match end {
                EngineEnd::Closed => {}
                EngineEnd::Expired => state.metrics.expired += 1,
                EngineEnd::Idle => state.metrics.idle += 1,
                EngineEnd::Evicted => state.metrics.evicted += 1,
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

    /// Takes the engines that are due off the heap, and why each is. They keep their slots until they are closed. One that
    /// only might have been idle is looked at again when it may be.
    pub fn due(&self, now: Micros) -> Vec<(u64, EngineEnd)> {
        let mut state = self.state();
        let mut due = Vec::new();
        while let Some(Reverse((look, number))) = state.deadlines.peek().copied() {
            if look > now || mutant!(EngineNeverDue) {
                break;
            }
            state.deadlines.pop();
            let Some(record) = state.engines.get(&number) else {
                continue;
            };
            if let Some(why) = record.due(now) {
                due.push((number, why));
            } else {
                let again = record.next_look(now).max(now + 1);
                state.deadlines.push(Reverse((again, number)));
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
        EngineMetrics {
            active: state.engines.len(),
            users: state.users.len(),
            late_writes: self.late_writes.get(),
            late_releases: self.late_releases.get(),
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
        let first = book.open(
            identity.clone(),
            slot(&limiter, &lane).expect("free"),
            0,
            300,
            Micros::MAX,
        );
        let second = book.open(identity, slot(&limiter, &lane).expect("free"), 10, 300, Micros::MAX);
        assert!(slot(&limiter, &lane).is_none(), "two engines are the limit");
        assert!(book.close(first, EngineEnd::Closed, 20));
        assert!(!book.close(first, EngineEnd::Closed, 20), "closing again is nothing");
        assert!(slot(&limiter, &lane).is_some());
        assert_eq!(book.next_deadline(), Some(310));
        assert_eq!(book.due(309), vec![]);
        assert_eq!(book.due(310), vec![(second, EngineEnd::Expired)]);
        assert_eq!(book.due(310), vec![], "an engine is due once");
        assert_eq!(book.overdue(400, 5), vec![second]);
        assert!(book.close(second, EngineEnd::Expired, 400));
        let metrics = book.metrics();
        assert_eq!(
            (
                metrics.created,
                metrics.cleaned,
                metrics.expired,
                metrics.active,
                metrics.users
            ),
            (2, 2, 1, 0, 0)
        );
        assert_eq!(limiter.stats().running, 0);
    }

    #[test]
    fn an_engine_may_be_idle_for_so_long_after_each_time_it_ran() {
        let (limiter, lane, identity) = setup();
        let book = EngineBook::default();
        let engine = book.open(identity, slot(&limiter, &lane).expect("free"), 0, 300, 50);
        assert_eq!(book.next_deadline(), Some(50));
        book.set_busy(engine, true, 40);
        assert_eq!(book.due(50), vec![], "something runs");
        book.set_busy(engine, false, 70);
        assert_eq!(
            book.next_deadline(),
            Some(100),
            "it may be idle since the last look at the earliest"
        );
        assert_eq!(book.due(100), vec![], "since 70 it is");
        assert_eq!(book.next_deadline(), Some(120));
        assert_eq!(book.due(119), vec![]);
        assert_eq!(book.due(120), vec![(engine, EngineEnd::Idle)]);
        assert_eq!(book.next_deadline(), None);
    }

    #[test]
    fn a_busy_engine_is_not_idle_and_still_has_a_deadline() {
        let (limiter, lane, identity) = setup();
        let book = EngineBook::default();
        let engine = book.open(identity, slot(&limiter, &lane).expect("free"), 0, 300, 50);
        book.set_busy(engine, true, 0);
        for now in [50, 100, 150, 200, 250] {
            assert_eq!(book.due(now), vec![]);
        }
        assert_eq!(book.due(300), vec![(engine, EngineEnd::Expired)]);
    }

    #[test]
    fn room_is_made_by_the_engine_that_was_idle_longest_and_by_none_that_runs() {
        let (limiter, lane, identity) = setup();
        let book = EngineBook::default();
        let user = identity.user.clone();
        let first = book.open(
            identity.clone(),
            slot(&limiter, &lane).expect("free"),
            0,
            300,
            Micros::MAX,
        );
        let second = book.open(identity, slot(&limiter, &lane).expect("free"), 10, 300, Micros::MAX);
        assert_eq!(book.idlest(&user), Some(first));
        book.set_busy(first, true, 20);
        assert_eq!(book.idlest(&user), Some(second));
        book.set_busy(first, false, 30);
        assert_eq!(book.idlest(&user), Some(second));
        book.set_busy(second, true, 40);
        book.set_busy(first, true, 40);
        assert_eq!(book.idlest(&user), None);
    }

    #[test]
    fn what_a_fence_refuses_is_counted() {
        let book = EngineBook::default();
        let (up, down) = (book.fence(), book.fence());
        up.raise();
        assert!(down.pass().is_ok());
        assert!(up.pass().is_err());
        assert_eq!(book.metrics().late_writes, 1);
    }
}
