//! Waiting for an event to be delivered.
//!
//! Who waits is entered before it looks at what was reached, and what is reached is written before anybody looks at who waits:
//! one of the two sees the other.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::RunLog;
use crate::events::connection::Wake;
use crate::events::event::EventError;
use crate::mutants::mutant;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard};

/// Most that wait for events of one log.
const MAX_WAITERS: usize = 1_000;

/// How far an event has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The store that several workers share has it.
    Stored,
    /// Some socket of the user was written it: its server took it.
    Sent,
    /// Some client of the user has said that it has it.
    Acked,
}

impl Level {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Sent => "sent",
            Self::Acked => "acked",
        }
    }
}

struct Waiter {
    level: Level,
    number: u64,
    wake: Arc<dyn Wake>,
}

/// What was reached of a log, and who waits for more.
#[derive(Default)]
pub(super) struct Waits {
    stored: AtomicU64,
    sent: AtomicU64,
    acked: AtomicU64,
    waiting: AtomicUsize,
    waiters: Mutex<Vec<Waiter>>,
}

impl Waits {
    fn waiters(&self) -> MutexGuard<'_, Vec<Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, level: Level) -> &AtomicU64 {
        match level {
            Level::Stored => &self.stored,
            Level::Sent => &self.sent,
            Level::Acked => &self.acked,
        }
    }

    /// The highest number that was reached.
    pub(super) fn reached(&self, level: Level) -> u64 {
        self.of(level).load(Ordering::SeqCst)
    }

    /// A number was reached. Answers who waited for it.
    pub(super) fn note(&self, level: Level, number: u64) -> Vec<Arc<dyn Wake>> {
        if self.of(level).fetch_max(number, Ordering::SeqCst) >= number
            || self.waiting.load(Ordering::SeqCst) == 0
            || mutant!(DeliveryWakesNobody)
        {
            return Vec::new();
        }
        self.take(|waiter| waiter.level == level && waiter.number <= number)
    }

    fn take(&self, which: impl Fn(&Waiter) -> bool) -> Vec<Arc<dyn Wake>> {
        let mut waiters = self.waiters();
        let taken = waiters
            .extract_if(.., |waiter| which(waiter))
            .map(|waiter| waiter.wake)
            .collect();
        self.waiting.store(waiters.len(), Ordering::SeqCst);
        taken
    }

    /// Everybody who waits for one of them.
    pub(super) fn take_level(&self, level: Level) -> Vec<Arc<dyn Wake>> {
        self.take(|waiter| waiter.level == level)
    }

    /// Everybody who waits: the log is gone.
    pub(super) fn take_all(&self) -> Vec<Arc<dyn Wake>> {
        self.take(|_| true)
    }

    /// Enters somebody who waits. Answers `false`, and keeps nothing, when the number was reached already.
    pub(super) fn wait(&self, level: Level, number: u64, wake: Arc<dyn Wake>) -> Result<bool, EventError> {
        let mut waiters = self.waiters();
        if waiters.len() >= MAX_WAITERS {
            return Err(EventError::Budget {
                what: "the run's number of waits for a delivery",
                scope: "run",
                limit: MAX_WAITERS,
            });
        }
        waiters.push(Waiter { level, number, wake });
        self.waiting.store(waiters.len(), Ordering::SeqCst);
        if self.reached(level) < number {
            return Ok(true);
        }
        waiters.pop();
        self.waiting.store(waiters.len(), Ordering::SeqCst);
        Ok(false)
    }

    /// Waits no longer.
    pub(super) fn leave(&self, wake: &Arc<dyn Wake>) {
        let is_it = |waiter: &Waiter| std::ptr::addr_eq(Arc::as_ptr(&waiter.wake), Arc::as_ptr(wake));
        drop(self.take(is_it));
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

thread_local! {
    /// How many locks of logs this thread holds while it makes room, and who is to be woken after the last.
    static DEFERRED: RefCell<(usize, Vec<Arc<dyn Wake>>)> = const { RefCell::new((0, Vec::new())) };
}

/// While it lives, nobody is woken by this thread: who makes room for an event holds the lock of a log, and drops other logs.
/// Waking runs Python, which may want that lock.
pub(super) struct Deferral(());

impl Deferral {
    pub(super) fn begin() -> Self {
        DEFERRED.with_borrow_mut(|(holders, _)| *holders += 1);
        Self(())
    }

    /// Wakes them, now or when no deferral is left.
    pub(super) fn wake(waiting: Vec<Arc<dyn Wake>>) {
        if waiting.is_empty() {
            return;
        }
        let held = DEFERRED.with_borrow_mut(|(holders, later)| {
            if *holders == 0 {
                return waiting;
            }
            later.extend(waiting);
            Vec::new()
        });
        for waiting in held {
            waiting.wake();
        }
    }
}

impl Drop for Deferral {
    fn drop(&mut self) {
        let woken = DEFERRED.with_borrow_mut(|(holders, later)| {
            *holders -= 1;
            if *holders == 0 {
                std::mem::take(later)
            } else {
                Vec::new()
            }
        });
        for waiting in woken {
            waiting.wake();
        }
    }
}

impl RunLog {
    /// Enters somebody who waits until the event `number` has come so far. Answers `false`, and keeps nothing, when it has.
    pub fn wait(&self, level: Level, number: u64, wake: Arc<dyn Wake>) -> Result<bool, EventError> {
        if number == 0 || number > self.head() {
            return Err(EventError::invalid(format!(
                "event {number} was not published, the latest is {}; wait for a number that publishing answered",
                self.head()
            )));
        }
        let waits = self.waits.wait(level, number, wake.clone())?;
        // Looked at after entering: who drops the log wakes those who have entered.
        if waits && self.is_forgotten() {
            self.waits.leave(&wake);
            return Err(EventError::Closed);
        }
        Ok(waits)
    }

    /// Waits no longer.
    pub fn stop_waiting(&self, wake: &Arc<dyn Wake>) {
        self.waits.leave(wake);
    }

    /// The highest number that has come so far.
    pub fn reached(&self, level: Level) -> u64 {
        self.waits.reached(level)
    }

    /// How many wait for a delivery.
    pub fn waiters(&self) -> usize {
        self.waits.len()
    }
}
