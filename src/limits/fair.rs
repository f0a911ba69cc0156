//! Permits per user and process.
//!
//! *Atomic.* One lock, one decision: nothing is held while waiting for the rest, so there is no order of locks to get wrong.
//!
//! *Fair.* First in, first out within a user; round robin over the users that wait and may run more.
//!
//! *Cancel-safe.* A grant is a reservation made at the moment of release. A waiter that gives up after it was granted hands
//! the permit to the next one in the same call.
//!
//! *Lock.* The lock is held for the decision only; waiters are woken after it was let go, because waking runs Python.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};

use foldhash::fast::RandomState;

use super::tree::{Freed, MAX_NODES, NodeId, Task, Tree};
use crate::clock::{Micros, SECOND};
use crate::lanes::{LaneHandle, LaneKey};
use crate::mutants::mutant;
use crate::sync::{Mutex, MutexGuard};

/// Names a waiter.
pub type Ticket = u64;

/// Whose limit it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The user's own.
    User,
    /// The process's.
    Process,
    /// The bound on one run's nested permits.
    Tree,
}

impl Scope {
    /// The name in errors and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Process => "global",
            Self::Tree => "tree",
        }
    }
}

/// Limits and bounds of a limiter.
#[derive(Debug, Clone, Copy)]
pub struct LimitSettings {
    /// Permits of the process.
    pub total: NonZeroU32,
    /// Permits of one user.
    pub per_user: NonZeroU32,
    /// Waiters of the process.
    pub queue: usize,
    /// Waiters of one user.
    pub user_queue: usize,
}

/// Who asks for a permit.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The user's lane, which the permit keeps in use.
    pub lane: &'a LaneHandle,
    /// The contexts from the root of the run to the asking one; empty without a context.
    pub path: &'a [u64],
    /// The asking task or thread.
    pub task: Task,
    /// A step of an admitted run: the bounds of the queues do not apply to it.
    pub admitted: bool,
}

/// A refusal, with what the caller needs to say when to come back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{} limit: {running} running of {limit}, {queued} waiting", scope.name())]
pub struct Refusal {
    /// Whose limit.
    pub scope: Scope,
    /// The limit.
    pub limit: u32,
    /// Permits in use under it.
    pub running: u32,
    /// Waiters under it.
    pub queued: usize,
    /// When it may be worth coming back, in whole seconds between 1 and 60.
    pub retry_after: u32,
}

/// A permit before it is wrapped into a [`Permit`]: what the limiter must know to take it back.
#[derive(Debug)]
pub struct Grant {
    lane: LaneHandle,
    node: Option<(u64, NodeId)>,
    granted: Micros,
}

/// Somebody who waits. The limiter calls `grant` under its lock, and `wake` after it.
pub trait Parked: Send + Sync {
    /// Keeps the grant for when the waiter looks. Must not call out.
    fn grant(&self, grant: Grant);
    /// Makes the waiter look. A waiter that is gone for good hands back what it was granted.
    fn wake(&self) -> Option<Grant>;
}

/// The answer to a request.
#[derive(Debug)]
pub enum Decision {
    /// It runs.
    Granted(Grant),
    /// It waits.
    Parked(Ticket),
}

/// Where in a run somebody asks.
#[derive(Debug, Clone, Copy)]
struct Place {
    root: u64,
    context: u64,
    task: Task,
}

impl Place {
    fn of(request: Request<'_>) -> Option<Self> {
        let (root, context) = (*request.path.first()?, *request.path.last()?);
        Some(Self {
            root,
            context,
            task: request.task,
        })
    }
}

struct Waiter {
    lane: LaneHandle,
    place: Option<Place>,
    parked: Arc<dyn Parked>,
}

#[derive(Default)]
struct UserState {
    running: u32,
    /// May name waiters that have given up; they are skipped.
    queue: VecDeque<Ticket>,
    queued: usize,
    in_ring: bool,
    /// Smoothed time that a permit is held.
    hold: Micros,
}

impl UserState {
    fn is_unused(&self) -> bool {
        self.running == 0 && self.queued == 0
    }

    fn next_in_queue(&mut self) -> Option<Ticket> {
        if mutant!(WaitersOutOfOrder) {
            return self.queue.pop_back();
        }
        self.queue.pop_front()
    }
}

struct State {
    settings: LimitSettings,
    running: u32,
    /// By the lane's number, which no later lane has: an entry may stay for a while after its last permit and waiter.
    users: HashMap<LaneKey, UserState, RandomState>,
    /// Users that have a waiter and may run more, in the order of their turns.
    ring: VecDeque<LaneKey>,
    waiters: HashMap<Ticket, Waiter, RandomState>,
    /// Entries of the ring whose waiters have all given up.
    stale_in_ring: usize,
    trees: HashMap<u64, Tree, RandomState>,
    next_ticket: Ticket,
    hold: Micros,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    granted: u64,
    released: u64,
    refused: u64,
    cancelled: u64,
    timed_out: u64,
    peak: u32,
}

/// Counts of a limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterStats {
    /// Permits of the process.
    pub total: u32,
    /// Permits of one user.
    pub per_user: u32,
    /// Units in use.
    pub running: u32,
    /// Waiters.
    pub queued: usize,
    /// Users with a permit or a waiter.
    pub users: usize,
    /// Permits given.
    pub granted: u64,
    /// Permits returned.
    pub released: u64,
    /// Requests refused at once.
    pub refused: u64,
    /// Waiters that gave up.
    pub cancelled: u64,
    /// Waiters whose time ran out.
    pub timed_out: u64,
    /// Most units in use at the same time.
    pub peak: u32,
}

/// Counts of one user in a limiter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserLoad {
    /// Units in use.
    pub running: u32,
    /// Waiters.
    pub queued: usize,
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

fn smooth(average: Micros, sample: Micros) -> Micros {
    if average == 0 {
        sample
    } else {
        average - average / 8 + sample / 8
    }
}

impl State {
    fn user(&mut self, user: LaneKey) -> &mut UserState {
        self.users.entry(user).or_default()
    }

    fn forget_if_unused(&mut self, user: LaneKey) {
        if let Entry::Occupied(entry) = self.users.entry(user)
            && entry.get().is_unused()
            && !entry.get().in_ring
        {
            entry.remove();
        }
    }

    /// Takes a unit of the pool if the user may have one before everybody who waits.
    fn take_free_unit(&mut self, user: LaneKey) -> bool {
        let one_more = |limit: NonZeroU32, more: bool| limit.get().saturating_add(u32::from(more));
        if self.running >= one_more(self.settings.total, mutant!(ProcessLimitOffByOne)) {
            return false;
        }
        let per_user = one_more(self.settings.per_user, mutant!(UserLimitOffByOne));
        let state = self.user(user);
        if state.running >= per_user && !mutant!(UserLimitIgnored) || state.queued > 0 {
            return false;
        }
        state.running += 1;
        self.count_unit();
        true
    }

    fn take_unit(&mut self, user: LaneKey) {
        self.user(user).running += 1;
        self.count_unit();
    }

    fn count_unit(&mut self) {
        self.running += 1;
        self.counts.peak = self.counts.peak.max(self.running);
    }

    fn return_unit(&mut self, user: LaneKey) {
        self.running -= 1;
        let state = self.user(user);
        state.running -= 1;
        if state.queued > 0 {
            self.enter_ring(user);
        } else {
            self.forget_if_unused(user);
        }
    }

    fn enter_ring(&mut self, user: LaneKey) {
        let per_user = self.settings.per_user.get();
        let state = self.user(user);
        if !state.in_ring && state.queued > 0 && state.running < per_user {
            state.in_ring = true;
            if mutant!(UsersTakeNoTurns) {
                self.ring.push_front(user);
            } else {
                self.ring.push_back(user);
            }
        }
    }

    /// A user whose last waiter gave up keeps its place in the ring until it is met; here their number is bounded.
    fn leave_ring_lazily(&mut self, user: LaneKey) {
        if !self
            .users
            .get(&user)
            .is_some_and(|state| state.in_ring && state.queued == 0)
        {
            return;
        }
        self.stale_in_ring += 1;
        if self.stale_in_ring <= 16 + self.ring.len() / 2 {
            return;
        }
        self.stale_in_ring = 0;
        let mut left = Vec::new();
        let users = &mut self.users;
        self.ring.retain(|user| {
            let Some(state) = users.get_mut(user) else { return false };
            state.in_ring = state.queued > 0;
            if !state.in_ring {
                left.push(*user);
            }
            state.in_ring
        });
        for user in left {
            self.forget_if_unused(user);
        }
    }

    fn node(&mut self, place: Option<Place>, parent: Option<NodeId>) -> Option<(u64, NodeId)> {
        let Place { root, context, task } = place?;
        Some((root, self.trees.entry(root).or_default().add(parent, context, task)))
    }

    fn grant(&mut self, lane: LaneHandle, node: Option<(u64, NodeId)>, now: Micros) -> Grant {
        self.counts.granted += 1;
        Grant {
            lane,
            node,
            granted: now,
        }
    }

    /// Gives a waiter its unit, which has been accounted for.
    fn grant_waiting(&mut self, ticket: Ticket, now: Micros, woken: &mut Vec<Arc<dyn Parked>>) {
        let Some(waiter) = self.waiters.remove(&ticket) else {
            return;
        };
        let parent = waiter
            .place
            .and_then(|Place { root, .. }| self.trees.get_mut(&root)?.stop_waiting(ticket));
        let node = self.node(waiter.place, parent);
        self.user(waiter.lane.key()).queued -= 1;
        let grant = self.grant(waiter.lane, node, now);
        waiter.parked.grant(grant);
        woken.push(waiter.parked);
    }

    /// Gives free units to the users in their turns.
    fn schedule(&mut self, now: Micros, woken: &mut Vec<Arc<dyn Parked>>) {
        while self.running < self.settings.total.get() {
            let Some(user) = self.ring.pop_front() else { return };
            let per_user = self.settings.per_user.get();
            let state = self.user(user);
            state.in_ring = false;
            if state.running < per_user {
                while let Some(ticket) = self.user(user).next_in_queue() {
                    if self.waiters.contains_key(&ticket) {
                        self.take_unit(user);
                        self.grant_waiting(ticket, now, woken);
                        break;
                    }
                }
                self.enter_ring(user);
            }
            self.forget_if_unused(user);
        }
    }

    fn retry_after(&self, ahead: usize, limit: u32, hold: Micros) -> u32 {
        let hold = if hold == 0 { self.hold.max(SECOND) } else { hold };
        let wait = hold.saturating_mul(ahead as u64 + 1) / u64::from(limit.max(1));
        u32::try_from(wait.div_ceil(SECOND).clamp(1, 60)).unwrap_or(60)
    }

    /// What stands between a user and a permit.
    fn refusal(&self, user: LaneKey) -> Refusal {
        let settings = self.settings;
        let (running, queued, hold) = self
            .users
            .get(&user)
            .map_or((0, 0, 0), |state| (state.running, state.queued, state.hold));
        let (scope, limit, running, queued, hold) =
            if running >= settings.per_user.get() || queued >= settings.user_queue {
                (Scope::User, settings.per_user.get(), running, queued, hold)
            } else {
                (
                    Scope::Process,
                    settings.total.get(),
                    self.running,
                    self.waiters.len(),
                    self.hold,
                )
            };
        Refusal {
            scope,
            limit,
            running,
            queued,
            retry_after: self.retry_after(queued, limit, hold),
        }
    }

    /// Finds a unit for the request without waiting: one that the run holds already, or one of the pool.
    fn unit_at_once(&mut self, request: Request<'_>) -> Result<(bool, Option<NodeId>), Refusal> {
        let user = request.lane.key();
        let mut parent = None;
        if let Some(root) = request.path.first()
            && let Some(tree) = self.trees.get_mut(root)
        {
            if tree.len() >= MAX_NODES {
                self.counts.refused += 1;
                let limit = u32::try_from(MAX_NODES).unwrap_or(u32::MAX);
                return Err(Refusal {
                    scope: Scope::Tree,
                    limit,
                    running: limit,
                    queued: 0,
                    retry_after: 1,
                });
            }
            parent = tree
                .nearest(request.path, request.task)
                .filter(|_| !mutant!(ChildTakesOwnUnit));
            if let Some(parent) = parent
                && tree.suspend(parent)
            {
                return Ok((true, Some(parent)));
            }
        }
        if self.take_free_unit(user) {
            return Ok((true, parent));
        }
        Ok((false, parent))
    }

    /// A permit if there is one without waiting, and the node above.
    fn at_once(&mut self, request: Request<'_>, now: Micros) -> Result<(Option<Grant>, Option<NodeId>), Refusal> {
        let (found, parent) = self.unit_at_once(request)?;
        if !found {
            return Ok((None, parent));
        }
        let node = self.node(Place::of(request), parent);
        Ok((Some(self.grant(request.lane.clone(), node, now)), parent))
    }

    /// Undoes a suspension that came to nothing. Only a child that would not get its parent's unit gets here.
    fn resume(&mut self, root: Option<u64>, parent: Option<NodeId>, ticket: Ticket) {
        if parent.is_some()
            && let Some(tree) = root.and_then(|root| self.trees.get_mut(&root))
        {
            tree.wait(ticket, parent);
            tree.give_up(ticket);
        }
    }
}

impl FairLimiter {
    /// A limiter with nothing running.
    pub fn new(settings: LimitSettings) -> Self {
        Self {
            state: Mutex::new(State {
                settings,
                running: 0,
                users: HashMap::default(),
                ring: VecDeque::new(),
                waiters: HashMap::default(),
                stale_in_ring: 0,
                trees: HashMap::default(),
                next_ticket: 0,
                hold: 0,
                counts: Counts::default(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides at once; `parked` makes the waiter if there is no unit.
    pub fn request(
        &self,
        request: Request<'_>,
        now: Micros,
        parked: impl FnOnce() -> Arc<dyn Parked>,
    ) -> Result<Decision, Refusal> {
        let mut guard = self.state();
        let (grant, parent) = guard.at_once(request, now)?;
        if let Some(grant) = grant {
            return Ok(Decision::Granted(grant));
        }
        if mutant!(ParkedWithoutALook) {
            drop(guard);
            guard = self.state();
        }
        let state = &mut *guard;
        let place = Place::of(request);
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        let user = request.lane.key();
        let queued = state.users.get(&user).map_or(0, |user| user.queued);
        let bounded = !request.admitted && !mutant!(QueueUnbounded);
        if bounded && (state.waiters.len() >= state.settings.queue || queued >= state.settings.user_queue) {
            state.resume(place.map(|place| place.root), parent, ticket);
            state.counts.refused += 1;
            return Err(state.refusal(user));
        }
        if let Some(Place { root, .. }) = place {
            state.trees.entry(root).or_default().wait(ticket, parent);
        }
        state.waiters.insert(
            ticket,
            Waiter {
                lane: request.lane.clone(),
                place,
                parked: parked(),
            },
        );
        let entry = state.user(user);
        entry.queue.push_back(ticket);
        entry.queued += 1;
        // Waiters that gave up stay in the queue until they are met; here their number is bounded.
        if entry.queue.len() > 2 * entry.queued + 16 {
            let waiters = &state.waiters;
            state
                .users
                .get_mut(&user)
                .expect("was just used")
                .queue
                .retain(|ticket| waiters.contains_key(ticket));
        }
        state.enter_ring(user);
        Ok(Decision::Parked(ticket))
    }

    /// A permit if there is one at once. Refuses only what waiting would not help.
    pub fn grant_at_once(&self, request: Request<'_>, now: Micros) -> Result<Option<Grant>, Refusal> {
        let mut guard = self.state();
        let state = &mut *guard;
        let (grant, parent) = state.at_once(request, now)?;
        if grant.is_some() {
            return Ok(grant);
        }
        let place = Place::of(request);
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        state.resume(place.map(|place| place.root), parent, ticket);
        Ok(None)
    }

    /// Decides at once, and refuses instead of waiting.
    pub fn try_request(&self, request: Request<'_>, now: Micros) -> Result<Grant, Refusal> {
        self.grant_at_once(request, now)?.ok_or_else(|| {
            let mut state = self.state();
            state.counts.refused += 1;
            state.refusal(request.lane.key())
        })
    }

    /// A waiter gives up. `None` means that it was granted in the meantime: the grant is with the waiter, who returns it.
    pub fn abandon(&self, ticket: Ticket, timed_out: bool) -> Option<Refusal> {
        let seen = if mutant!(GivingUpRaces) {
            let waiting = |state: MutexGuard<'_, State>| Some(state.waiters.get(&ticket)?.lane.key());
            waiting(self.state())
        } else {
            None
        };
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(user) = seen.filter(|_| !state.waiters.contains_key(&ticket)) {
            return Some(state.refusal(user));
        }
        let waiter = state.waiters.remove(&ticket)?;
        let user = waiter.lane.key();
        if let Some(Place { root, .. }) = waiter.place
            && let Some(tree) = state.trees.get_mut(&root)
        {
            if !mutant!(GoneChildHoldsParent) {
                tree.give_up(ticket);
            }
            if tree.is_empty() {
                state.trees.remove(&root);
            }
        }
        let refusal = state.refusal(user);
        state.user(user).queued -= 1;
        state.leave_ring_lazily(user);
        state.forget_if_unused(user);
        if timed_out {
            state.counts.timed_out += 1;
        } else {
            state.counts.cancelled += 1;
        }
        drop(guard);
        // The waiter and its lane are dropped after the lock was let go.
        drop(waiter);
        Some(refusal)
    }

    /// Takes a permit back and wakes who may run now.
    pub fn release(&self, grant: Grant, now: Micros) {
        let (mut first, mut returned) = (Some(grant), Vec::new());
        while let Some(grant) = first.take().or_else(|| returned.pop()) {
            for parked in self.take_back(&grant, now) {
                if mutant!(WaiterNotWoken) {
                    continue;
                }
                returned.extend(parked.wake());
            }
        }
    }

    /// Answers who is to be woken, after the lock was let go.
    fn take_back(&self, grant: &Grant, now: Micros) -> Vec<Arc<dyn Parked>> {
        let mut woken = Vec::new();
        let mut guard = self.state();
        let state = &mut *guard;
        let user = grant.lane.key();
        let held = now.saturating_sub(grant.granted);
        state.hold = smooth(state.hold, held);
        let of_user = state.user(user);
        of_user.hold = smooth(of_user.hold, held);
        state.counts.released += 1;
        let freed = match grant.node {
            None => Freed::ToPool,
            Some((root, node)) => state.trees.get_mut(&root).map_or(Freed::Kept, |tree| tree.remove(node)),
        };
        match freed {
            Freed::ToPool => {
                state.return_unit(user);
                if mutant!(PermitReturnedTwice) {
                    state.running = state.running.saturating_sub(1);
                }
                state.schedule(now, &mut woken);
            }
            Freed::ToWaiting(ticket) => state.grant_waiting(ticket, now, &mut woken),
            Freed::Kept => {}
        }
        if let Some((root, _)) = grant.node
            && state.trees.get(&root).is_some_and(Tree::is_empty)
        {
            state.trees.remove(&root);
        }
        woken
    }

    /// Counts.
    pub fn stats(&self) -> LimiterStats {
        let state = self.state();
        LimiterStats {
            total: state.settings.total.get(),
            per_user: state.settings.per_user.get(),
            running: state.running,
            queued: state.waiters.len(),
            users: state.users.len(),
            granted: state.counts.granted,
            released: state.counts.released,
            refused: state.counts.refused,
            cancelled: state.counts.cancelled,
            timed_out: state.counts.timed_out,
            peak: state.counts.peak,
        }
    }

    /// Counts of one user.
    pub fn load(&self, lane: &LaneHandle) -> UserLoad {
        self.state()
            .users
            .get(&lane.key())
            .map_or_else(UserLoad::default, |state| UserLoad {
                running: state.running,
                queued: state.queued,
            })
    }
}

/// A permit that returns itself when dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<FairLimiter>,
    grant: Mutex<Option<Grant>>,
}

impl Permit {
    /// Takes charge of a grant.
    pub fn new(limiter: Arc<FairLimiter>, grant: Grant) -> Self {
        Self {
            limiter,
            grant: Mutex::new(Some(grant)),
        }
    }

    /// Returns the permit. Answers whether it had not been returned before.
    pub fn release(&self, now: Micros) -> bool {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(grant) = grant else { return false };
        if mutant!(SlotFreedTwice) {
            let lane = grant.lane.clone();
            let again = Grant { lane, ..grant };
            *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(again);
        }
        self.limiter.release(grant, now);
        true
    }

    /// Whether the permit has not been returned.
    pub fn is_held(&self) -> bool {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let grant = self.grant.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(grant) = grant {
            let now = grant.lane.shared().clock.monotonic();
            self.limiter.release(grant, now);
        }
    }
}
