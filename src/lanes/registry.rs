//! The one shared map: `UserId → Arc<Lane>`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::budget::Account;
use super::lane::{Lane, LaneHandle};
use crate::cache::Reclaim;
use crate::clock::{Clock, Micros};
use crate::crossings::{self, Place};
use crate::events::{Connection, ReplicaSlot, RunLog};
use crate::ids::{Checked, RunId, UserId};
use crate::metrics::EventCounters;
use crate::mutants::mutant;
use crate::owner::{Crossing, IsolationViolation, refusal};
use crate::sync::{Mutex, MutexGuard};

/// How many idle lanes are kept by default.
pub const DEFAULT_MAX_IDLE: usize = 10_000;

/// Eviction works in batches, so that its scan costs nothing per lane: this part of the bound, at least one.
const BATCH_DIVISOR: usize = 16;

/// What the lanes share.
pub struct Shared {
    /// Time.
    pub clock: Box<dyn Clock>,
    /// Bytes held for all users.
    pub account: Arc<Account>,
    /// Of them, those of event logs, which have a bound of their own: nobody's caches and charges take room from them.
    pub logs: Arc<Account>,
    /// Events over all users.
    pub events: EventCounters,
    /// Who stores what is published, if anybody does.
    pub replica: ReplicaSlot,
    /// Lanes without a handle. Signed: a handle may be counted by one thread before another has counted the lane.
    pub(super) idle: AtomicIsize,
    /// Counts the times that a lane became idle.
    idle_turns: AtomicU64,
    /// Ended logs by when they expire and by their number.
    expiry: Mutex<BTreeMap<(Micros, u64), Weak<RunLog>>>,
    /// Whose the runs with an unexpired log are.
    run_owners: Mutex<HashMap<RunId, UserId>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn next_idle_turn(&self) -> u64 {
        self.idle_turns.fetch_add(1, Ordering::Relaxed)
    }

    fn expiry(&self) -> MutexGuard<'_, BTreeMap<(Micros, u64), Weak<RunLog>>> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_owners(&self) -> MutexGuard<'_, HashMap<RunId, UserId>> {
        self.run_owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a run that is another user's.
    pub fn check_run_owner(&self, run: &RunId, user: &UserId) -> Result<(), IsolationViolation> {
        match self.run_owners().get(run) {
            Some(owner) if !owner.is(user) && !mutant!(RunOfAnotherUserAccepted) => {
                Err(refusal(Crossing::Publish, "the run id belongs to another user's run"))
            }
            _ => Ok(()),
        }
    }

    /// Notes whose a run is, or refuses one that is another user's.
    pub fn claim_run(&self, run: &RunId, user: &UserId) -> Result<(), IsolationViolation> {
        crossings::checked(Place::Bind, 1);
        match self.run_owners().entry(run.clone()) {
            Entry::Occupied(owner) if !owner.get().is(user) && !mutant!(RunOfAnotherUserAccepted) => {
                Err(refusal(Crossing::Bind, "the run id belongs to another user's run"))
            }
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(place) => {
                place.insert(user.clone());
                Ok(())
            }
        }
    }

    /// Whose a run with an unexpired log is.
    pub fn run_owner(&self, run: &str) -> Option<UserId> {
        self.run_owners().get(run).cloned()
    }

    /// A run has no log any more.
    pub fn release_run(&self, run: &RunId) {
        self.run_owners().remove(run);
    }

    /// Notes that a log has ended and is to be dropped at `at`.
    pub fn expire_at(&self, at: Micros, log: &Arc<RunLog>) {
        self.expiry().insert((at, log.serial()), Arc::downgrade(log));
    }

    /// A log was dropped before its time: what is noted of it must not keep its memory.
    pub fn forget_expiry(&self, at: Micros, serial: u64) {
        self.expiry().remove(&(at, serial));
    }

    /// Drops the logs whose retention is over. Cheap when there are none.
    pub fn sweep_logs(&self) -> usize {
        let now = self.clock.monotonic();
        let mut expired = Vec::new();
        if !mutant!(RetentionNeverOver) {
            let mut queue = self.expiry();
            while queue.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
                expired.extend(queue.pop_first().and_then(|(_, log)| log.upgrade()));
            }
        }
        for log in &expired {
            log.forget();
        }
        expired.len()
    }

    /// Drops the log that would expire first, to make room. Answers whether there was one.
    pub fn drop_oldest_ended(&self) -> bool {
        loop {
            let Some((_, log)) = self.expiry().pop_first() else {
                return false;
            };
            if let Some(log) = log.upgrade() {
                log.forget();
                return true;
            }
        }
    }
}

/// Counts of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryStats {
    /// Lanes held.
    pub lanes: usize,
    /// Lanes without a handle.
    pub idle: usize,
    /// Lanes evicted since the start.
    pub evicted: u64,
    /// Bytes held for all users.
    pub bytes: usize,
}

/// All lanes of a process. Wraps the map and hands out handles, never a guard of the map.
pub struct Registry {
    /// Hashed with a seed of the process's own, so that nobody can choose ids that collide.
    lanes: DashMap<UserId, Arc<Lane>, RandomState>,
    shared: Arc<Shared>,
    max_idle: AtomicU64,
    evicted: AtomicU64,
    /// One eviction at a time.
    evicting: std::sync::Mutex<()>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new(clock: Box<dyn Clock>) -> Self {
        let shared = Shared {
            clock,
            account: Arc::default(),
            logs: Arc::default(),
            events: EventCounters::default(),
            replica: ReplicaSlot::default(),
            idle: AtomicIsize::new(0),
            idle_turns: AtomicU64::new(0),
            expiry: Mutex::default(),
            run_owners: Mutex::default(),
        };
        Self {
            lanes: DashMap::default(),
            shared: Arc::new(shared),
            max_idle: AtomicU64::new(DEFAULT_MAX_IDLE as u64),
            evicted: AtomicU64::new(0),
            evicting: std::sync::Mutex::new(()),
        }
    }

    /// The clock of all lanes.
    pub fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// What the lanes share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Changes how many idle lanes are kept.
    pub fn set_max_idle(&self, lanes: usize) {
        self.max_idle.store(lanes as u64, Ordering::Relaxed);
        self.evict_idle();
    }

    /// The user's lane, made when there is none.
    pub fn lane(&self, user: &UserId) -> LaneHandle {
        self.find(user.as_str()).unwrap_or_else(|| self.make_lane(user.clone()))
    }

    /// The same for a user whose id was only checked: the id of a lane that there is needs no second text.
    pub fn lane_of(&self, user: Checked<'_>) -> LaneHandle {
        self.find(user.as_str()).unwrap_or_else(|| self.make_lane(user.into()))
    }

    fn make_lane(&self, user: UserId) -> LaneHandle {
        let handle = {
            let entry = self.lanes.entry(user.clone()).or_insert_with(|| {
                self.shared.idle.fetch_add(1, Ordering::Relaxed);
                Lane::new(user.clone(), self.shared.clone())
            });
            LaneHandle::new(entry.value().clone())
        };
        self.shared.sweep_logs();
        self.evict_idle();
        handle
    }

    /// The user's lane, if there is one.
    pub fn find(&self, user: &str) -> Option<LaneHandle> {
        // The handle is made while the shard is held, so that eviction, which holds it too, cannot come between.
        self.lanes.get(user).map(|lane| LaneHandle::new(lane.clone()))
    }

    /// All lanes, to be looked at: without a handle nothing keeps one from being evicted meanwhile.
    pub fn all(&self) -> Vec<Arc<Lane>> {
        self.lanes.iter().map(|lane| lane.value().clone()).collect()
    }

    /// The users with the bytes charged to them. Looks at every lane.
    pub fn bytes_by_user(&self) -> Vec<(UserId, usize)> {
        let lanes = self.lanes.iter();
        lanes
            .map(|lane| (lane.user().clone(), lane.account().bytes()))
            .collect()
    }

    /// The bytes of the user to whom most are charged. Looks at every lane.
    pub fn most_bytes(&self) -> usize {
        let bytes = self.lanes.iter().map(|lane| lane.account().bytes());
        bytes.max().unwrap_or(0)
    }

    /// The caches of all users. Looks at every lane.
    pub fn caches(&self) -> Vec<Arc<dyn Reclaim>> {
        self.lanes.iter().flat_map(|lane| lane.caches().live()).collect()
    }

    /// The sockets of all users. Looks at every lane.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.lanes
            .iter()
            .flat_map(|lane| lane.streams().connections())
            .collect()
    }

    /// The unexpired logs of all users. Looks at every lane.
    pub fn logs(&self) -> Vec<Arc<RunLog>> {
        self.lanes.iter().flat_map(|lane| lane.streams().logs()).collect()
    }

    fn max_idle(&self) -> usize {
        usize::try_from(self.max_idle.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    fn idle(&self) -> usize {
        usize::try_from(self.shared.idle.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Evicts the lanes that were idle longest, when there are more of them than the bound.
    fn evict_idle(&self) {
        let max = self.max_idle();
        if self.idle() <= max || mutant!(IdleLanesUnbounded) {
            return;
        }
        let Ok(_one_at_a_time) = self.evicting.try_lock() else {
            return;
        };
        let mut idle: Vec<(u64, UserId)> = self
            .lanes
            .iter()
            .filter(|lane| lane.handles() == 0 || mutant!(LaneEvictedInUse))
            .map(|lane| (lane.idle_turn(), lane.user().clone()))
            .collect();
        let Some(surplus) = idle.len().checked_sub(max).filter(|surplus| *surplus > 0) else {
            return;
        };
        let evict = (surplus + max / BATCH_DIVISOR).min(idle.len());
        idle.select_nth_unstable(evict - 1);
        for (_, user) in idle.drain(..evict) {
            self.remove_if_idle(&user);
        }
    }

    fn remove_if_idle(&self, user: &UserId) -> bool {
        let removed = self
            .lanes
            .remove_if(user, |_, lane| lane.handles() == 0 || mutant!(LaneEvictedInUse));
        if removed.is_some() {
            self.shared.idle.fetch_sub(1, Ordering::Relaxed);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        removed.is_some()
    }

    /// Drops expired logs, and with `all_idle` every lane that nothing uses. Answers how many lanes went.
    pub fn sweep(&self, all_idle: bool) -> usize {
        self.shared.sweep_logs();
        if !all_idle {
            return 0;
        }
        let idle: Vec<UserId> = self
            .lanes
            .iter()
            .filter(|lane| lane.handles() == 0)
            .map(|lane| lane.user().clone())
            .collect();
        idle.iter().filter(|user| self.remove_if_idle(user)).count()
    }

    /// Counts.
    pub fn stats(&self) -> RegistryStats {
        RegistryStats {
            lanes: self.lanes.len(),
            idle: self.idle(),
            evicted: self.evicted.load(Ordering::Relaxed),
            bytes: self.shared.account.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ProcessClock;

    fn registry(max_idle: usize) -> Registry {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        registry.set_max_idle(max_idle);
        registry
    }

    fn user(number: usize) -> UserId {
        UserId::new(&format!("user-{number}")).expect("valid")
    }

    #[test]
    fn idle_lanes_are_bounded_and_the_oldest_go_first() {
        let registry = registry(32);
        let kept: Vec<_> = (0..10).map(|number| registry.lane(&user(number))).collect();
        for number in 10..200 {
            drop(registry.lane(&user(number)));
        }
        let stats = registry.stats();
        assert!(stats.idle <= 32 && stats.lanes <= 42, "{stats:?}");
        assert_eq!(stats.evicted, 200 - stats.lanes as u64);
        assert!(
            (0..10).all(|number| registry.find(user(number).as_str()).is_some()),
            "lanes in use stay"
        );
        assert!(
            registry.find(user(199).as_str()).is_some(),
            "the newest idle lane stays"
        );
        assert!(
            registry.find(user(10).as_str()).is_none(),
            "the oldest idle lane is gone"
        );
        drop(kept);
    }

    #[test]
    fn dropping_everything_returns_every_byte() {
        let registry = registry(1_000);
        for number in 0..100 {
            drop(registry.lane(&user(number)));
        }
        assert!(registry.stats().bytes > 0);
        assert_eq!(registry.sweep(true), 100);
        assert_eq!(
            registry.stats(),
            RegistryStats {
                lanes: 0,
                idle: 0,
                evicted: 100,
                bytes: 0
            }
        );
    }

    #[test]
    fn two_threads_get_the_same_lane_and_the_count_is_right() {
        let registry = Arc::new(registry(10));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let registry = registry.clone();
                std::thread::spawn(move || {
                    for round in 0..2_000 {
                        let lane = registry.lane(&user(round % 50));
                        drop(lane.clone());
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("the thread ends");
        }
        registry.sweep(true);
        assert_eq!(
            (registry.stats().lanes, registry.stats().idle, registry.stats().bytes),
            (0, 0, 0)
        );
    }
}
