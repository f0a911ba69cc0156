//! Permits per user and process.
//!
//! *Atomic.* One lock, one decision: nothing is held while waiting for the rest, so there is no order of locks to get wrong.
//!
//! *Fair.* First in, first out within a user and class of urgency; over users by start-time fair queueing.
//!
//! *Cancel-safe.* A grant is a reservation made at the moment of release. A waiter that gives up after it was granted hands
//! the permit to the next one in the same call.
//!
//! *Lock.* The lock is held for the decision only; waiters are woken after it was let go, because waking runs Python.

use std::fmt;
use std::sync::{Arc, PoisonError};

use super::adaptive::Controller;
use super::governors::{CallResult, Governed, Governor};
use super::meter::Outcome;
use super::queue::Ticket;
use super::request::{Decision, LimitSettings, Reason, Refusal, Request};
use super::resources::{ResourceSet, Resources};
use super::returning::Return;
use super::state::{State, Woken};
use super::stats::{Durations, LimiterStats, ResourceStats, UserStats};
use super::tree::{NodeId, RunPermit, Tree};
use super::users::SLICE;
use crate::clock::Micros;
use crate::cluster::lease::Bell;
use crate::cluster::lease::table::Tie;
use crate::lanes::{LaneHandle, LaneKey};
use crate::mutants::mutant;
use crate::sync::{Mutex, MutexGuard};

/// Tells whoever asks the cluster for leases, after the lock was let go.
pub(super) fn ring_for(ring: Option<(Arc<Bell>, Micros)>) {
    if let Some((bell, at)) = ring {
        bell.ring(at);
    }
}

/// A permit before it is wrapped into a [`super::Permit`]: what the limiter must know to take it back.
#[derive(Debug)]
pub struct Grant {
    pub(super) lane: LaneHandle,
    pub(super) user: u32,
    pub(super) node: Option<(u64, NodeId)>,
    /// Resources of the pool; what was borrowed in the tree is not among them.
    pub(super) resources: ResourceSet,
    /// All resources that were asked for.
    pub(super) wanted: ResourceSet,
    pub(super) granted: Micros,
    /// For how long somebody had waited, over the life of the limiter, when it was granted.
    pub(super) contended: Micros,
    /// What the user's tag grew by in advance; `None` for a lent unit, whose time the lender is charged.
    pub(super) charged: Option<u64>,
    pub(super) cost: f32,
    pub(super) fence: u64,
    /// Units in use when it was granted, this one included.
    pub(super) inflight: u32,
    /// The same of those of its resources whose limits are adaptive.
    pub(super) inflight_of: Option<Box<[(usize, u32)]>>,
    /// What its holder says of the call, if anything.
    pub(super) result: Option<CallResult>,
}

impl Grant {
    /// Grows with each grant of the limiter: of two, the later one has the larger number.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// What runs under it, as leases see it.
    pub(super) fn tie(&self) -> Tie {
        super::leased::tie_of(self.node, self.fence)
    }

    /// What was asked for beside the unit.
    pub fn wanted(&self) -> ResourceSet {
        self.wanted
    }

    /// How much its time counts in the fair order.
    pub fn cost(&self) -> f32 {
        self.cost
    }

    /// Whose it is.
    pub fn lane(&self) -> &LaneHandle {
        &self.lane
    }

    /// The fault that a permit is returned once more.
    pub(super) fn again(&self) -> Self {
        Self {
            lane: self.lane.clone(),
            inflight_of: self.inflight_of.clone(),
            ..*self
        }
    }
}

/// Somebody who waits. The limiter calls `grant` under its lock, and `wake` after it.
pub trait Parked: Send + Sync {
    /// Keeps the grant for when the waiter looks. Must not call out.
    fn grant(&self, grant: Grant);
    /// Makes the waiter look. A waiter that is gone for good hands back what it was granted.
    fn wake(&self) -> Option<Grant>;
    /// Keeps the refusal of a limit over several processes for when the waiter looks. As for `grant`, `wake` follows.
    fn refuse(&self, refusal: Refusal) {
        drop(refusal);
    }
}

/// What may be changed while the limiter is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The permits of the process.
    Total,
    /// The permits of each user that has no limit of its own.
    PerUser,
    /// A named resource, by its number.
    Resource(usize),
}

/// Hands out permits. Shared by threads and event loops.
pub struct FairLimiter {
    state: Mutex<State>,
}

impl fmt::Debug for FairLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairLimiter")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl FairLimiter {
    /// A limiter with nothing running.
    pub fn new(settings: LimitSettings) -> Self {
        Self::with_resources(settings, [])
    }

    /// A limiter with named resources that all users share. No more than [`super::MAX_RESOURCES`] are taken.
    pub fn with_resources(settings: LimitSettings, resources: impl IntoIterator<Item = (Box<str>, u32)>) -> Self {
        Self {
            state: Mutex::new(State::new(settings, Resources::new(resources))),
        }
    }

    /// What it hands out is no permit to run, and does not count as one in metrics.
    pub fn leave_out_of_metrics(&self) {
        self.state().meter.on = false;
    }

    /// Puts a controller in charge of a limit, which is from here on the lower of what was set and what the controller says.
    pub fn govern(&self, governed: Governed, controller: Arc<Mutex<Controller>>) {
        self.state().govern(Governor::new(governed, controller));
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The set of these resources, or the name of one that the limiter does not have.
    pub fn resources<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<ResourceSet, &'a str> {
        let state = self.state();
        names.into_iter().try_fold(ResourceSet::NONE, |set, name| {
            let index = state.resources.find(name).ok_or(name)?;
            Ok(set | ResourceSet::one(index))
        })
    }

    /// The names of the limiter's resources.
    pub fn resource_names(&self) -> Vec<Box<str>> {
        let state = self.state();
        state
            .resources
            .all()
            .iter()
            .map(|resource| resource.name.clone())
            .collect()
    }

    /// Decides at once; `parked` makes the waiter if there is no unit.
    pub fn request(
        &self,
        request: Request<'_>,
        now: Micros,
        parked: impl FnOnce() -> Arc<dyn Parked>,
    ) -> Result<Decision, Refusal> {
        let mut guard = self.state();
        let mut parent = guard.counted_parent_of(&request)?;
        let user = guard.user(request.lane, now);
        if let Some(unit) = guard.find_unit(user, &request, parent, now) {
            let grant = guard.take(user, &request, unit, now);
            self.wake_in_passing(guard, now);
            return Ok(Decision::Granted(grant));
        }
        if mutant!(ParkedWithoutALook) {
            drop(guard);
            guard = self.state();
            parent = guard.counted_parent_of(&request)?;
        }
        let state = &mut *guard;
        // Who runs on what the run holds already asks for no more of it.
        if let Some(refusal) = state.refuse_early(user, &request).filter(|_| parent.is_none()) {
            state.count_refusal(user, now);
            return Err(refusal);
        }
        if (request.ask_once || state.leases.is_some())
            && let Some(refusal) = state.refuse_at_once(user, &request).filter(|_| parent.is_none())
        {
            state.count_refusal(user, now);
            return Err(refusal);
        }
        let ticket = state.park(user, &request, parent, now, parked());
        let ring = state.take_ring();
        drop(guard);
        ring_for(ring);
        Ok(Decision::Parked(ticket))
    }

    /// A permit if there is one at once. Refuses only what waiting would not help.
    pub fn grant_at_once(&self, request: Request<'_>, now: Micros) -> Result<Option<Grant>, Refusal> {
        let mut state = self.state();
        let parent = state.counted_parent_of(&request)?;
        let user = state.user(request.lane, now);
        let Some(unit) = state.find_unit(user, &request, parent, now) else {
            return Ok(None);
        };
        let grant = state.take(user, &request, unit, now);
        self.wake_in_passing(state, now);
        Ok(Some(grant))
    }

    /// Decides at once, and refuses instead of waiting.
    pub fn try_request(&self, request: Request<'_>, now: Micros) -> Result<Grant, Refusal> {
        let mut state = self.state();
        let parent = state.counted_parent_of(&request)?;
        let user = state.user(request.lane, now);
        if let Some(unit) = state.find_unit(user, &request, parent, now) {
            let grant = state.take(user, &request, unit, now);
            self.wake_in_passing(state, now);
            return Ok(grant);
        }
        let refusal = state.refusal(user, request.resources, Reason::Full);
        state.count_refusal(user, now);
        Err(refusal)
    }

    /// A waiter gives up. `None` means that it was granted in the meantime: the grant is with the waiter, who returns it.
    pub fn abandon(&self, ticket: Ticket, timed_out: bool, now: Micros) -> Option<Refusal> {
        let seen = if mutant!(GivingUpRaces) {
            self.state().waiters.get(ticket).map(|waiter| waiter.user)
        } else {
            None
        };
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(user) = seen.filter(|_| state.waiters.get(ticket).is_none()) {
            return Some(state.refusal(user, ResourceSet::NONE, Reason::Timeout));
        }
        let (waiter, parent) = state.unpark(ticket, now)?;
        if let Some(place) = waiter.place
            && let Some(tree) = state.trees.get_mut(&place.root)
        {
            if mutant!(GoneChildHoldsParent) {
                tree.lose_unit_of(parent);
            }
            if tree.is_empty() {
                state.trees.remove(&place.root);
            }
        }
        let refusal = state.refusal(waiter.user, state.order.needs(waiter.flow), Reason::Timeout);
        let counts = &mut state.users[waiter.user].counts;
        if timed_out {
            counts.timed_out += 1;
            state.counts.timed_out += 1;
            state.meter.other(Outcome::TimedOut);
        } else {
            counts.cancelled += 1;
            state.counts.cancelled += 1;
            state.meter.other(Outcome::Cancelled);
        }
        state.users.rest(waiter.user, now);
        state.sweep_if_due(now);
        let ring = state.take_ring();
        drop(guard);
        ring_for(ring);
        // The waiter and its lane are dropped after the lock was let go.
        drop(waiter);
        Some(refusal)
    }

    /// Takes a permit back and wakes who may run now.
    pub fn release(&self, grant: Grant, now: Micros) {
        self.take_back(grant, Return::Used, now);
    }

    /// The same for a permit whose call says nothing of the backend.
    pub fn release_ignored(&self, mut grant: Grant, now: Micros) {
        grant.result = Some(CallResult::IGNORED);
        self.take_back(grant, Return::Used, now);
    }

    /// The same for a permit that was granted to somebody who had given up: it counts as cancelled.
    pub fn release_unused(&self, grant: Grant, now: Micros) {
        self.take_back(grant, Return::Unused, now);
    }

    /// The same for a permit that nobody returned.
    pub(super) fn release_leaked(&self, grant: Grant, now: Micros) {
        self.take_back(grant, Return::Leaked, now);
    }

    fn take_back(&self, grant: Grant, how: Return, now: Micros) {
        let (woken, ring) = {
            let mut state = self.state();
            (state.take_back(&grant, how, now), state.take_ring())
        };
        drop(grant);
        ring_for(ring);
        self.wake(woken, now);
    }

    /// Wakes those who were granted a unit while another was, after the lock is let go.
    fn wake_in_passing(&self, mut state: MutexGuard<'_, State>, now: Micros) {
        if !state.to_wake.is_empty() {
            let woken = std::mem::take(&mut state.to_wake);
            drop(state);
            self.wake(woken, now);
        }
    }

    /// Wakes those who were granted. What a waiter that is gone hands back goes on to the next.
    pub(super) fn wake(&self, mut woken: Woken, now: Micros) {
        while let Some(parked) = (!woken.is_empty()).then(|| woken.remove(0)) {
            if mutant!(WaiterNotWoken) {
                continue;
            }
            if let Some(returned) = parked.wake() {
                let more = self.state().take_back(&returned, Return::Unused, now);
                drop(returned);
                woken.extend(more);
            }
        }
    }

    /// Takes back all permits of a run, named by its root context: for one that does not end. A permit of it that is returned
    /// later changes nothing.
    pub fn revoke(&self, lane: &LaneHandle, root: u64, now: Micros) {
        let (woken, ring) = {
            let mut state = self.state();
            let Some(user) = state.find_user(lane.key()) else {
                return;
            };
            (state.revoke(root, user, now), state.take_ring())
        };
        ring_for(ring);
        self.wake(woken, now);
    }

    pub(super) fn note_returned_twice(&self) {
        self.state().counts.released_twice += 1;
    }

    // -- changing ----------------------------------------------------------------------------------------------------

    /// Changes a limit. Nobody who runs is stopped: a lower limit holds when enough permits have come back. 0 pauses.
    pub fn set_limit(&self, limit: Limit, permits: u32, now: Micros) {
        let (woken, ring) = {
            let mut state = self.state();
            match limit {
                Limit::Total => state.settings.total = permits,
                Limit::PerUser => state.settings.per_user = permits,
                Limit::Resource(index) => state.resources.set_limit(index, permits),
            }
            if mutant!(HigherLimitWakesNobody) {
                return;
            }
            state.list_everybody();
            (state.reschedule(now), state.take_ring())
        };
        ring_for(ring);
        self.wake(woken, now);
    }

    /// The number of a named resource.
    pub fn resource(&self, name: &str) -> Option<usize> {
        self.state().resources.find(name)
    }

    /// Gives a user a limit or a weight of its own; `None` leaves it as it is. The user is remembered for as long as it has
    /// either. Answers `false` when as many users as are remembered have their own already.
    pub fn set_user(&self, lane: &LaneHandle, permits: Option<u32>, weight: Option<f32>, now: Micros) -> bool {
        let (woken, ring) = {
            let mut state = self.state();
            let user = state.user(lane, now);
            if state.users[user].pinned.is_none() {
                if state.pinned_users >= state.settings.max_users {
                    state.users.rest(user, now);
                    return false;
                }
                state.pinned_users += 1;
                state.users[user].pinned = Some(lane.clone());
            }
            let record = &mut state.users[user];
            record.own_limit = permits.or(record.own_limit);
            record.weight = weight.unwrap_or(record.weight);
            state.relist(user);
            (state.reschedule(now), state.take_ring())
        };
        ring_for(ring);
        self.wake(woken, now);
        true
    }

    /// Takes a user's own limit and weight away.
    pub fn reset_user(&self, lane: &LaneHandle, now: Micros) {
        let (woken, pinned, ring) = {
            let mut state = self.state();
            let Some(user) = state.find_user(lane.key()) else {
                return;
            };
            let record = &mut state.users[user];
            record.own_limit = None;
            record.weight = 1.0;
            let pinned = record.pinned.take();
            state.pinned_users -= usize::from(pinned.is_some());
            state.relist(user);
            let woken = state.reschedule(now);
            state.users.rest(user, now);
            (woken, pinned, state.take_ring())
        };
        drop(pinned);
        ring_for(ring);
        self.wake(woken, now);
    }

    /// Forgets users that have had neither permit nor waiter for `idle`. Answers how many.
    pub fn evict(&self, idle: Micros, now: Micros) -> usize {
        let mut all = 0;
        // Once past everybody, in slices, so that nobody waits long for the lock.
        let slices = 1 + 2 * self.state().users.resting() / SLICE;
        for _ in 0..slices {
            let mut state = self.state();
            let max_users = state.settings.max_users;
            let forgotten = state.users.sweep(now, idle, max_users);
            state.counts.evicted += forgotten as u64;
            all += forgotten;
        }
        all
    }

    // -- counts ------------------------------------------------------------------------------------------------------

    /// Counts.
    pub fn stats(&self) -> LimiterStats {
        let state = self.state();
        LimiterStats {
            total: state.total(),
            per_user: state.settings.per_user,
            running: state.running,
            queued: state.waiters.len(),
            users: state.users.len(),
            granted: state.counts.granted,
            released: state.counts.released,
            refused: state.counts.refused,
            cancelled: state.counts.cancelled,
            timed_out: state.counts.timed_out,
            leaked: state.counts.leaked,
            released_twice: state.counts.released_twice,
            evicted: state.counts.evicted,
            peak: state.counts.peak,
            wait: state.waits.durations(),
            hold: state.holds.durations(),
            resources: state
                .resources
                .all()
                .iter()
                .map(|resource| ResourceStats {
                    name: resource.name.clone(),
                    limit: resource.limit(),
                    running: resource.running,
                    peak: resource.peak,
                    granted: resource.granted,
                })
                .collect(),
        }
    }

    /// Units in use, the limit and the waiters: what there is to say in a line.
    pub fn load(&self) -> (u32, u32, usize) {
        let state = self.state();
        (state.running, state.total(), state.waiters.len())
    }

    /// Who holds permits or waits: the lane, units in use, waiters.
    pub fn busy_users(&self) -> Vec<(LaneKey, u32, u32)> {
        self.state().users.busy().collect()
    }

    /// What a run holds and waits for, named by its root context.
    pub fn run_permits(&self, root: u64) -> Vec<RunPermit> {
        self.state().trees.get(&root).map(Tree::permits).unwrap_or_default()
    }

    /// Counts of one user; zeros for one who is not remembered.
    pub fn user_stats(&self, lane: Option<&LaneHandle>) -> UserStats {
        let state = self.state();
        let Some(user) = lane.and_then(|lane| state.find_user(lane.key())) else {
            return UserStats {
                limit: state.settings.per_user,
                weight: 1.0,
                ..UserStats::default()
            };
        };
        let record = &state.users[user];
        let (counts, detail) = (&record.counts, record.detail.as_deref());
        UserStats {
            limit: record.own_limit.unwrap_or(state.settings.per_user),
            weight: record.weight,
            running: record.running,
            queued: record.waiting,
            granted: counts.granted,
            released: counts.released,
            refused: counts.refused,
            cancelled: counts.cancelled,
            timed_out: counts.timed_out,
            leaked: counts.leaked,
            wait: Durations::of_user(detail.map(|detail| &detail.waits), counts.granted, counts.waited),
            hold: Durations::of_user(detail.map(|detail| &detail.holds), counts.released, counts.held),
            recent_waits: detail.map(super::stats::Detail::recent_waits).unwrap_or_default(),
        }
    }
}
