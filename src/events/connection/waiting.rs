//! Who waits for a connection to have something to write, and who is woken when.

use std::sync::Arc;

use super::Connection;
use crate::clock::Micros;
use crate::events::event::Urgency;
use crate::mutants::mutant;

/// Wakes whoever waits for a connection to have something to write.
pub trait Wake: Send + Sync {
    /// Called without any lock held.
    fn wake(&self);
}

/// Who waits, and when it will look by itself.
pub(super) struct Parked {
    waker: Arc<dyn Wake>,
    looks_at: Option<Micros>,
}

/// What became of an attempt to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parking {
    /// There is something to do already; nobody was parked.
    Ready,
    /// Parked until it is woken. With a time, what is unread may wait until then: who waits looks by itself.
    Until(Option<Micros>),
}

impl Connection {
    /// Parks `waker` until there is something to read. Answers `false`, and keeps nothing, when there already is.
    pub fn park(&self, waker: Arc<dyn Wake>) -> bool {
        self.park_until(waker, 0) != Parking::Ready
    }

    /// The same at a time by the monotonic clock, for a connection whose events may wait for each other.
    pub fn park_until(&self, waker: Arc<dyn Wake>, now: Micros) -> Parking {
        let streams = self.lane().streams();
        // Counted before looking: a publisher that does not see the count is seen here.
        let late = mutant!(WakeLostWhenParking);
        if !late {
            streams.parked(1);
        }
        let (earlier, looks_at) = {
            let mut state = self.state();
            let due = state.due(now, self.options().defers);
            if due.is_some_and(|due| due <= now) || self.close_code().is_some() {
                drop(state);
                streams.parked(if late { 0 } else { -1 });
                return Parking::Ready;
            }
            let looks_at = due.filter(|_| !mutant!(DeferredNeverFlushed));
            (state.parked.replace(Parked { waker, looks_at }), looks_at)
        };
        if late {
            streams.parked(1);
        }
        if let Some(earlier) = earlier {
            streams.parked(-1);
            earlier.waker.wake();
        }
        Parking::Until(looks_at)
    }

    /// Takes `waker` back, if it is the one that is parked.
    pub fn unpark_if(&self, waker: &Arc<dyn Wake>) {
        let taken = self.take_parked(|held| std::ptr::addr_eq(Arc::as_ptr(&held.waker), Arc::as_ptr(waker)));
        drop(taken);
    }

    fn take_parked(&self, is_meant: impl FnOnce(&Parked) -> bool) -> Option<Parked> {
        let taken = {
            let mut state = self.state();
            let is_it = state.parked.as_ref().is_some_and(is_meant);
            if is_it { state.parked.take() } else { None }
        };
        if taken.is_some() {
            self.lane().streams().parked(-1);
        }
        taken
    }

    /// Wakes who waits, if anybody does.
    pub fn wake(&self) {
        self.wake_for(Urgency::Now);
    }

    /// Wakes who waits, unless it looks by itself soon enough.
    pub(in crate::events) fn wake_for(&self, urgency: Urgency) {
        let parked = self.take_parked(|parked| match urgency {
            Urgency::Now => true,
            Urgency::Soon(by) => parked.looks_at.is_none_or(|at| at > by),
        });
        if let Some(parked) = parked {
            parked.waker.wake();
        }
    }
}
