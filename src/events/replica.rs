//! Who stores the logs of this process: a cursor over each of them.
//!
//! It has no queue of events. A publish that finds its log unmarked marks it, and whoever stores takes what follows its position,
//! so what waits for a store that is slow is bounded by the logs themselves: what was folded meanwhile goes out as the snapshot.
//! Nothing is known to be stored before it is said so.
//!
//! *Locks*: its own comes before a log's. Publishers take it when they hold no other.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::connection::{Parking, Wake};
use super::log::{Chunk, Level, Outcome, RunLog};
use crate::clock::{Clock, Micros, SystemClock};
use crate::lanes::Registry;
use crate::mutants::mutant;

/// Bytes that one log is taken at a time, so that others get their turn.
const TURN_BYTES: usize = 256 * 1024;
/// Logs before those that were dropped are looked for.
const SWEEP_AT: usize = 1_024;

/// Where a process has its replicator, if it has one.
#[derive(Default)]
pub struct ReplicaSlot {
    is_on: AtomicBool,
    held: Mutex<Option<Arc<Replicator>>>,
}

impl fmt::Debug for ReplicaSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReplicaSlot").field(&self.is_on()).finish()
    }
}

impl ReplicaSlot {
    /// Whether anybody stores logs: all that a publish looks at when nobody does.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Replicator>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replicator(&self) -> Option<Arc<Replicator>> {
        self.held().clone()
    }

    pub(super) fn mark(&self, serial: u64, is_new: bool, at_once: bool) {
        if let Some(replicator) = self.replicator() {
            replicator.mark(serial, is_new, at_once);
        }
    }

    pub(super) fn opened(&self, log: &Arc<RunLog>) {
        if self.is_on()
            && let Some(replicator) = self.replicator()
        {
            replicator.follow(log);
        }
    }
}

/// A log, and how far it was taken and stored.
struct Followed {
    log: Arc<RunLog>,
    taken: u64,
    stored: u64,
    /// What is taken next begins at the log's beginning, whatever the store has.
    is_whole: bool,
    /// The end was taken.
    is_over: bool,
    /// What was taken since the latest snapshot.
    events: usize,
    bytes: usize,
}

impl Followed {
    fn new(log: &Arc<RunLog>) -> Self {
        Self {
            log: log.clone(),
            taken: 0,
            stored: 0,
            is_whole: true,
            is_over: false,
            events: 0,
            bytes: 0,
        }
    }

    /// Whether the store is to be told where it may begin, so that it need not keep all.
    fn is_long(&self) -> bool {
        let (events, bytes) = self.log.trim_after();
        self.events >= events || self.bytes >= bytes
    }
}

struct Parked {
    waker: Arc<dyn Wake>,
    looks_at: Option<Micros>,
}

#[derive(Default)]
struct State {
    followed: HashMap<u64, Followed, RandomState>,
    /// By epoch, which no two logs share.
    numbers: HashMap<Arc<str>, u64, RandomState>,
    marked: VecDeque<u64>,
    /// When what is marked is to be taken.
    due: Option<Micros>,
    parked: Option<Parked>,
    sweep_at: usize,
    is_closed: bool,
}

impl State {
    fn find(&mut self, run: &str, epoch: &str) -> Option<(u64, &mut Followed)> {
        let number = *self.numbers.get(epoch)?;
        let followed = self.followed.get_mut(&number)?;
        (followed.log.run().as_str() == run).then_some((number, followed))
    }

    fn forget(&mut self, number: u64) {
        if let Some(followed) = self.followed.remove(&number) {
            self.numbers.remove(followed.log.epoch());
        }
    }

    /// Something is to be taken by then. Answers who waits and would look later.
    fn hurry(&mut self, by: Micros) -> Option<Arc<dyn Wake>> {
        let due = self.due.map_or(by, |due| due.min(by));
        self.due = Some(due);
        let is_late = |parked: &mut Parked| parked.looks_at.is_none_or(|at| at > due);
        self.parked.take_if(is_late).map(|parked| parked.waker)
    }
}

/// What is to be stored of a log.
#[derive(Debug)]
pub struct Append {
    /// Which log.
    pub log: Arc<RunLog>,
    /// What of it.
    pub chunk: Chunk,
    /// It begins where the log does: what a store has of this incarnation is replaced.
    pub is_whole: bool,
}

/// How the storing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaFigures {
    /// Logs that are followed.
    pub logs: usize,
    /// Of them, those with something to take.
    pub marked: usize,
    /// Events that were published and are not known to be stored.
    pub behind: u64,
}

/// Follows all logs of a process for whoever stores them.
pub struct Replicator {
    batch: Micros,
    state: Mutex<State>,
}

impl fmt::Debug for Replicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicator")
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

fn wake(waiting: impl IntoIterator<Item = Arc<dyn Wake>>) {
    for waiting in waiting {
        waiting.wake();
    }
}

impl Replicator {
    /// Follows the logs of a process, those that there are included. What is not critical is taken after `batch`. `None` when
    /// somebody follows them already.
    pub fn install(registry: &Registry, batch: Micros) -> Option<Arc<Self>> {
        let slot = &registry.shared().replica;
        let replicator = Arc::new(Self {
            batch,
            state: Mutex::default(),
        });
        {
            let mut held = slot.held();
            if held.is_some() {
                return None;
            }
            *held = Some(replicator.clone());
        }
        // From here on a log that is opened is followed; the others are found now.
        slot.is_on.store(true, Ordering::SeqCst);
        for log in registry.logs() {
            if !log.is_mirror() {
                replicator.follow(&log);
            }
        }
        Some(replicator)
    }

    /// Follows nothing any more. Who waits for something to be stored is told that nothing will be.
    pub fn close(&self, registry: &Registry) {
        let slot = &registry.shared().replica;
        {
            let mut held = slot.held();
            if held.as_ref().is_some_and(|held| std::ptr::eq(&raw const **held, self)) {
                slot.is_on.store(false, Ordering::SeqCst);
                *held = None;
            }
        }
        let (followed, parked) = {
            let mut state = self.state();
            state.is_closed = true;
            state.marked.clear();
            state.numbers.clear();
            (std::mem::take(&mut state.followed), state.parked.take())
        };
        for followed in followed.values() {
            wake(followed.log.stop_storing());
        }
        wake(parked.map(|parked| parked.waker));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, log: &Arc<RunLog>) {
        let woken = {
            let mut state = self.state();
            if state.is_closed || state.followed.contains_key(&log.serial()) {
                return;
            }
            if state.followed.len() >= state.sweep_at.max(SWEEP_AT) {
                let gone = state.followed.extract_if(|_, followed| followed.log.is_forgotten());
                let gone: Vec<_> = gone.map(|(_, followed)| followed).collect();
                for followed in gone {
                    state.numbers.remove(followed.log.epoch());
                }
                state.sweep_at = 2 * state.followed.len();
            }
            state.numbers.insert(log.epoch().clone(), log.serial());
            state.followed.insert(log.serial(), Followed::new(log));
            // What is there was published before anybody looked.
            state.marked.push_back(log.serial());
            state.hurry(SystemClock.monotonic() + self.batch)
        };
        wake(woken);
    }

    fn mark(&self, serial: u64, is_new: bool, at_once: bool) {
        let now = SystemClock.monotonic();
        let woken = {
            let mut state = self.state();
            if state.is_closed {
                return;
            }
            if is_new {
                state.marked.push_back(serial);
            }
            state.hurry(if at_once { now } else { now + self.batch })
        };
        wake(woken);
    }

    /// Parks `waker` until there is something to take. With a time, who waits looks by itself then.
    pub fn park(&self, waker: Arc<dyn Wake>) -> Parking {
        let now = SystemClock.monotonic();
        let mut state = self.state();
        if state.is_closed || state.due.is_some_and(|due| due <= now) {
            return Parking::Ready;
        }
        // Of what is due later its waker is told the time that is left.
        let looks_at = state.due;
        let earlier = state.parked.replace(Parked { waker, looks_at });
        drop(state);
        wake(earlier.map(|parked| parked.waker));
        Parking::Until(looks_at.map(|at| at - now))
    }

    /// Takes `waker` back, if it is the one that is parked.
    pub fn unpark_if(&self, waker: &Arc<dyn Wake>) {
        let is_it = |parked: &mut Parked| std::ptr::addr_eq(Arc::as_ptr(&parked.waker), Arc::as_ptr(waker));
        let taken = self.state().parked.take_if(is_it);
        drop(taken);
    }

    /// Whether it follows nothing any more.
    pub fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// What is to be stored, of each log what follows what was taken of it, about `max_bytes` in all.
    pub fn take(&self, max_bytes: usize) -> Vec<Append> {
        let mut appends = Vec::new();
        let mut left = max_bytes.max(1);
        let mut turns = {
            let mut state = self.state();
            state.due = None;
            state.marked.len()
        };
        while left > 0 && turns > 0 {
            turns -= 1;
            let (number, log, taken, is_long) = {
                let mut state = self.state();
                let Some(number) = state.marked.pop_front() else { break };
                let Some(followed) = state.followed.get(&number) else {
                    continue;
                };
                (number, followed.log.clone(), followed.taken, followed.is_long())
            };
            // Before it is read: what comes later marks it again.
            log.unmark();
            let chunk = log.chunk(taken, is_long, left.min(TURN_BYTES));
            let bytes = chunk.bytes();
            left = left.saturating_sub(bytes);
            let mut state = self.state();
            let Some(followed) = state.followed.get_mut(&number) else {
                continue;
            };
            if followed.taken != taken {
                // It was told to begin elsewhere meanwhile, and is marked again.
                continue;
            }
            let is_news = chunk.ended.is_some() && !followed.is_over;
            let has_some = !chunk.entries.is_empty() || chunk.snapshot.is_some() || is_news;
            let is_whole = has_some && std::mem::take(&mut followed.is_whole);
            followed.taken = chunk.upto;
            followed.is_over = chunk.ended.is_some();
            if mutant!(StoredBeforeStored) {
                wake(followed.log.note_stored(chunk.upto));
            }
            if chunk.snapshot.is_some() {
                (followed.events, followed.bytes) = (0, 0);
            }
            followed.events += chunk.entries.len();
            followed.bytes += bytes;
            if chunk.has_more {
                state.marked.push_back(number);
                turns += 1;
            }
            if chunk.is_last {
                state.forget(number);
            }
            drop(state);
            if has_some {
                appends.push(Append { log, chunk, is_whole });
            }
        }
        let woken = {
            let mut state = self.state();
            let is_left = !state.marked.is_empty() && state.due.is_none();
            is_left.then(|| state.hurry(SystemClock.monotonic())).flatten()
        };
        wake(woken);
        appends
    }

    /// The store has everything of the log up to a number. Answers whether the log is followed.
    pub fn stored(&self, run: &str, epoch: &str, upto: u64) -> bool {
        let log = {
            let mut state = self.state();
            let Some((_, followed)) = state.find(run, epoch) else {
                return false;
            };
            // What was never taken cannot be stored.
            followed.stored = followed.stored.max(upto.min(followed.taken));
            followed.log.clone()
        };
        wake(log.note_stored(upto.min(log.head())));
        true
    }

    /// Another worker has brought the events up to a number so far. Answers whether the log is followed.
    pub fn reached(&self, run: &str, epoch: &str, level: Level, upto: u64) -> bool {
        let log = self.state().find(run, epoch).map(|(_, followed)| followed.log.clone());
        let Some(log) = log else { return false };
        let upto = upto.min(log.head());
        wake(match level {
            Level::Stored => Vec::new(),
            Level::Sent => log.note_sent(upto),
            Level::Acked => log.note_acked(upto),
        });
        true
    }

    fn mark_again(&self, run: &str, epoch: &str, change: impl FnOnce(&mut Followed)) -> bool {
        let woken = {
            let mut state = self.state();
            let Some((number, followed)) = state.find(run, epoch) else {
                return false;
            };
            change(followed);
            followed.is_over = false;
            state.marked.push_back(number);
            state.hurry(SystemClock.monotonic())
        };
        wake(woken);
        true
    }

    /// What was taken and is not known to be stored is taken once more. Answers whether the log is followed.
    pub fn again(&self, run: &str, epoch: &str) -> bool {
        self.mark_again(run, epoch, |followed| followed.taken = followed.stored)
    }

    /// The store has lost what it had: the log is taken from its beginning, which is its snapshot if it has one. Answers whether
    /// the log is followed.
    pub fn rewind(&self, run: &str, epoch: &str) -> bool {
        self.mark_again(run, epoch, |followed| {
            (followed.taken, followed.stored) = (0, 0);
            (followed.events, followed.bytes) = (0, 0);
            followed.is_whole = true;
        })
    }

    /// The store has it from another writer: this one has been taken for dead. The log ends as lost, and is not followed any
    /// more. Answers whether it was.
    pub fn refused(&self, run: &str, epoch: &str, reason: &str) -> bool {
        let log = {
            let mut state = self.state();
            let Some((number, followed)) = state.find(run, epoch) else {
                return false;
            };
            let log = followed.log.clone();
            state.forget(number);
            log
        };
        wake(log.stop_storing());
        if let Some(now) = log.now() {
            log.end(Some(Outcome::Lost), reason, now.unix, now.monotonic);
        }
        true
    }

    /// How the storing goes.
    pub fn figures(&self) -> ReplicaFigures {
        let state = self.state();
        let behind = state.followed.values();
        let behind = behind.map(|followed| followed.log.head().saturating_sub(followed.stored));
        ReplicaFigures {
            logs: state.followed.len(),
            marked: state.marked.len(),
            behind: behind.sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Moment, ProcessClock};
    use crate::events::{Draft, EventKind, Extra, LogBounds, SpanScope, StreamWriter, Streams};
    use crate::ids::{RequestId, RunId, ThreadId, UserId};
    use crate::lanes::LaneHandle;

    fn log_of(registry: &Registry, run: &str) -> (LaneHandle, StreamWriter) {
        let lane = registry.lane(&UserId::new("ann").expect("valid"));
        let (run, thread) = (RunId::new(run).expect("valid"), ThreadId::new("t").expect("valid"));
        let writer = Streams::open(&lane, &run, &thread, LogBounds::default()).expect("opens");
        (lane, writer)
    }

    fn publish(lane: &LaneHandle, writer: &StreamWriter) {
        let scope = SpanScope {
            request: RequestId::new("request").expect("valid"),
            parent: None,
        };
        let draft = Draft {
            kind: EventKind::Custom("note"),
            agent: None,
            message: None,
            payload: "{\"x\":1",
            timed: false,
            extra: Extra::default(),
        };
        let now = Moment { monotonic: 9, unix: 9 };
        writer.log().publish(lane, &scope, draft, now).expect("is published");
    }

    #[test]
    fn what_is_published_while_a_log_is_taken_is_taken_next() {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let replica = Replicator::install(&registry, 0).expect("the first");
        for round in 0..200 {
            let (lane, writer) = log_of(&registry, &format!("run-{round}"));
            let log = writer.log().clone();
            let publisher = std::thread::spawn(move || {
                (0..50).for_each(|_| publish(&lane, &writer));
                writer
            });
            let mut taken = 0;
            let mut is_over = false;
            while !is_over {
                // Looked at before it is taken: what was published before is taken with it.
                is_over = publisher.is_finished();
                taken += replica
                    .take(usize::MAX)
                    .iter()
                    .map(|append| append.chunk.entries.len())
                    .sum::<usize>();
            }
            assert_eq!(taken, 50, "round {round}");
            drop(publisher.join());
            log.forget();
        }
        replica.take(usize::MAX);
        assert_eq!(replica.figures().logs, 0, "what was dropped is not followed");
    }

    #[test]
    fn logs_take_turns_and_what_is_left_is_taken_next() {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let replica = Replicator::install(&registry, 0).expect("the first");
        assert!(Replicator::install(&registry, 0).is_none());
        let (lane, one) = log_of(&registry, "one");
        let (_, two) = log_of(&registry, "two");
        for _ in 0..20 {
            publish(&lane, &one);
            publish(&lane, &two);
        }
        let mut seen = std::collections::HashMap::new();
        while replica.figures().marked > 0 {
            for append in replica.take(1) {
                assert_eq!(append.chunk.entries.len(), 1);
                *seen.entry(append.log.run().as_str().to_owned()).or_insert(0) += 1;
            }
            let (one, two) = (seen.get("one").unwrap_or(&0), seen.get("two").unwrap_or(&0));
            assert!(i32::abs_diff(*one, *two) <= 1);
        }
        assert_eq!((seen["one"], seen["two"]), (20, 20));
        assert_eq!(replica.figures().behind, 40);
        replica.stored("one", one.log().epoch(), 20);
        // What was never taken is not stored, whoever says so.
        replica.stored("two", two.log().epoch(), 99);
        assert_eq!(replica.figures().behind, 0);
        replica.close(&registry);
        assert!(replica.is_closed() && !registry.shared().replica.is_on());
        publish(&lane, &one);
        assert!(replica.take(9).is_empty());
        assert!(Replicator::install(&registry, 0).is_some());
    }

    #[test]
    fn a_log_that_was_dropped_before_it_was_taken_is_told_as_that() {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let replica = Replicator::install(&registry, 0).expect("the first");
        let (lane, writer) = log_of(&registry, "one");
        publish(&lane, &writer);
        publish(&lane, &writer);
        writer.log().forget();
        let appends = replica.take(99);
        assert_eq!(appends.len(), 1);
        let chunk = &appends[0].chunk;
        assert_eq!(
            (chunk.snapshot.as_ref().map(|(upto, _)| *upto), chunk.upto),
            (Some(2), 2)
        );
        assert_eq!(chunk.ended, Some(Outcome::Lost));
        assert!(appends[0].is_whole && replica.take(99).is_empty());
    }
}
