//! The state of a limiter, and what is granted at once. All of it runs under the limiter's lock, and none of it calls out.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::fair::{Grant, Parked};
use super::governors::Governor;
use super::leased::tie_of;
use super::meter::{Meter, Outcome};
use super::order::{Contention, Order};
use super::queue::{Place, Ticket, Waiters};
use super::request::{LimitSettings, Reason, Refusal, Request, Scope};
use super::resources::{ResourceSet, Resources};
use super::stats::{Counts, DETAIL_FROM, TotalDurations};
use super::tree::{MAX_DEPTH, MAX_NODES, NodeId, Sources, Tree};
use super::users::Users;
use crate::clock::{Micros, SECOND};
use crate::cluster::lease::table::Leases;
use crate::lanes::{LaneHandle, LaneKey};
use crate::mutants::mutant;

/// What a permit is charged for a user of whom nothing is known.
const FIRST_HOLD: Micros = SECOND;

/// Who is to be told of a grant, after the lock was let go.
pub(super) type Woken = Vec<Arc<dyn Parked>>;

pub(super) fn smooth(average: Micros, sample: Micros) -> Micros {
    if average == 0 {
        sample
    } else {
        average - average / 8 + sample / 8
    }
}

pub(super) struct State {
    pub(super) settings: LimitSettings,
    pub(super) running: u32,
    pub(super) users: Users,
    pub(super) waiters: Waiters,
    /// Users with a waiter.
    pub(super) waiting_users: u32,
    /// Users with a limit or a weight of their own.
    pub(super) pinned_users: usize,
    pub(super) order: Order,
    pub(super) contention: Contention,
    pub(super) resources: Resources,
    pub(super) governors: Vec<Governor>,
    /// What an adaptive controller allows in all.
    pub(super) cap: u32,
    pub(super) trees: HashMap<u64, Tree, RandomState>,
    /// Nested waiters that lack a resource: what comes back to the pool may be all that they wait for.
    pub(super) nested: Vec<Ticket>,
    /// Who was granted a unit in passing, while another was granted one.
    pub(super) to_wake: Woken,
    pub(super) fence: u64,
    pub(super) hold: Micros,
    pub(super) counts: Counts,
    pub(super) waits: TotalDurations,
    pub(super) holds: TotalDurations,
    pub(super) meter: Meter,
    /// What the limits of several processes let run; `None` when they are this process's alone.
    pub(super) leases: Option<Box<Leases>>,
    /// Waiters that leave at the first refusal of the cluster.
    pub(super) impatient: usize,
}

/// A unit that a request gets without waiting.
pub(super) struct Unit {
    pub(super) parent: Option<NodeId>,
    pub(super) sources: Sources,
    /// Lent by the node above, in place of one of the pool.
    pub(super) is_lent: bool,
}

/// Who is granted what: the request's or the waiter's own data.
pub(super) struct Grantee {
    pub(super) lane: LaneHandle,
    pub(super) user: u32,
    pub(super) cost: f32,
    pub(super) place: Option<Place>,
    pub(super) waited: Micros,
}

impl State {
    pub(super) fn new(settings: LimitSettings, resources: Resources) -> Self {
        Self {
            settings,
            running: 0,
            users: Users::default(),
            waiters: Waiters::default(),
            waiting_users: 0,
            pinned_users: 0,
            order: Order::default(),
            contention: Contention::default(),
            resources,
            governors: Vec::new(),
            cap: u32::MAX,
            trees: HashMap::default(),
            nested: Vec::new(),
            to_wake: Woken::new(),
            fence: 0,
            hold: 0,
            counts: Counts::default(),
            waits: TotalDurations::default(),
            holds: TotalDurations::default(),
            meter: Meter { on: true },
            leases: None,
            impatient: 0,
        }
    }

    pub(super) fn user(&mut self, lane: &LaneHandle, now: Micros) -> u32 {
        self.users.entry(lane.key(), self.order.virtual_time, now)
    }

    pub(super) fn limit_of(&self, user: u32) -> u32 {
        if mutant!(UserLimitIgnored) {
            return u32::MAX;
        }
        let limit = self.users[user].own_limit.unwrap_or(self.settings.per_user);
        limit.saturating_add(u32::from(mutant!(UserLimitOffByOne)))
    }

    pub(super) fn total(&self) -> u32 {
        self.settings
            .total
            .min(self.cap)
            .saturating_add(u32::from(mutant!(ProcessLimitOffByOne)))
    }

    pub(super) fn is_over(&self, user: u32) -> bool {
        self.users[user].running >= self.limit_of(user)
    }

    // -- at once -----------------------------------------------------------------------------------------------------

    /// The node above a request. Refuses what would nest too deeply, or too much.
    fn parent_of(&self, request: &Request<'_>) -> Result<Option<NodeId>, Refusal> {
        let Some(tree) = request.path.first().and_then(|root| self.trees.get(root)) else {
            return Ok(None);
        };
        let parent = tree
            .nearest(request.path, request.task)
            .filter(|_| !mutant!(ChildTakesOwnUnit));
        let depth = tree.depth_under(parent);
        let too_much = |limit: usize, running: usize| Refusal {
            scope: Scope::Tree,
            reason: Reason::Nesting,
            resource: None,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            running: u32::try_from(running).unwrap_or(u32::MAX),
            queued: 0,
            retry_after: 1,
        };
        if tree.len() >= MAX_NODES {
            return Err(too_much(MAX_NODES, tree.len()));
        }
        if depth > MAX_DEPTH {
            return Err(too_much(usize::from(MAX_DEPTH), usize::from(depth)));
        }
        Ok(parent)
    }

    /// The same, with the refusal counted.
    pub(super) fn counted_parent_of(&mut self, request: &Request<'_>) -> Result<Option<NodeId>, Refusal> {
        if request.path.is_empty() || self.trees.is_empty() {
            return Ok(None);
        }
        let parent = self.parent_of(request);
        if parent.is_err() {
            self.counts.refused += 1;
            self.meter.other(Outcome::Refused);
        }
        parent
    }

    pub(super) fn count_refusal(&mut self, user: u32, now: Micros) {
        self.counts.refused += 1;
        self.meter.other(Outcome::Refused);
        self.users[user].counts.refused += 1;
        self.users.rest(user, now);
        self.sweep_if_due(now);
    }

    /// Finds what a request needs without waiting: what the run holds already, or what the pool has. Takes nothing yet.
    pub(super) fn find_unit(
        &self,
        user: u32,
        request: &Request<'_>,
        parent: Option<NodeId>,
        now: Micros,
    ) -> Option<Unit> {
        let wanted = request.resources;
        let mut sources = Sources {
            borrowed: Vec::new(),
            pool: wanted,
        };
        let mut is_lent = false;
        if let Some(tree) = parent.and(request.path.first()).and_then(|root| self.trees.get(root)) {
            sources = tree.sources(parent, wanted);
            is_lent = parent.is_some_and(|parent| tree.has_unit(parent));
        }
        let found = self.resources.are_free(sources.pool) && (is_lent || self.has_free_unit(user, wanted, now));
        found.then_some(Unit {
            parent,
            sources,
            is_lent,
        })
    }

    /// Whether the pool has a unit that the user may have before everybody who waits.
    fn has_free_unit(&self, user: u32, wanted: ResourceSet, now: Micros) -> bool {
        if self.running >= self.total() || !self.may_lease(user, now) {
            return false;
        }
        // Others who wait while there is room are kept by a limit of their own, or they would run.
        let flow = if self.waiters.len() == 0 {
            None
        } else {
            self.order.find(wanted)
        };
        if flow.is_some_and(|flow| self.users[user].waiting_in(flow) > 0) {
            return false;
        }
        // Whoever waits while there is room lacks something else, so that a user who borrows keeps nobody from running.
        !self.is_over(user) || self.settings.borrow
    }

    /// Grants a request what was found for it.
    pub(super) fn take(&mut self, user: u32, request: &Request<'_>, unit: Unit, now: Micros) -> Grant {
        if self.users[user].waiting == 0 {
            self.catch_up(user);
        }
        let grantee = Grantee {
            lane: request.lane.clone(),
            user,
            cost: request.cost,
            place: Place::of(request),
            waited: 0,
        };
        self.grant(grantee, unit, now)
    }

    /// A user that was away starts where the others are.
    pub(super) fn catch_up(&mut self, user: u32) {
        let virtual_time = self.order.virtual_time;
        let user = &mut self.users[user];
        user.tag = user.tag.max(virtual_time);
    }

    pub(super) fn grant(&mut self, grantee: Grantee, unit: Unit, now: Micros) -> Grant {
        let Grantee {
            lane,
            user,
            cost,
            place,
            waited,
        } = grantee;
        self.fence += 1;
        self.counts.granted += 1;
        self.waits.record(waited);
        self.meter.granted(waited);
        self.resources.take(unit.sources.pool);
        let resources = unit.sources.pool;
        let borrowed = unit.sources.borrowed.iter();
        let wanted = borrowed.fold(resources, |all, (_, some)| all | *some);
        let mut adopted = false;
        let node = place.map(|Place { root, context, task }| {
            let tree = self.trees.entry(root).or_default();
            adopted = tree.add(self.fence, unit.parent, (context, task), unit.sources, now);
            (root, self.fence)
        });
        let usual = if self.hold == 0 { FIRST_HOLD } else { self.hold };
        let record = &mut self.users[user];
        record.permits += 1;
        record.counts.granted += 1;
        record.counts.waited = record.counts.waited.saturating_add(waited);
        if record.detail.is_none() && record.counts.granted >= DETAIL_FROM {
            record.detail = Some(Box::default());
        }
        if let Some(detail) = &mut record.detail {
            detail.record_wait(waited);
        }
        let mut charged = None;
        if !unit.is_lent {
            record.running += 1;
            let usual = if record.hold == 0 { usual } else { record.hold };
            let charge = charge(usual, cost, record.weight).max(1);
            if !mutant!(UsersTakeNoTurns) {
                // By what is settled alone: what was charged too much for a permit that is held is nobody's head start.
                self.order.virtual_time = self.order.virtual_time.max(record.tag);
                record.in_flight = record.in_flight.saturating_add(charge);
            }
            charged = Some(charge);
            self.running += 1;
            self.tie_lease(user, &lane, tie_of(node, self.fence), now);
            self.counts.peak = self.counts.peak.max(self.running);
        }
        let grant = Grant {
            lane,
            user,
            node,
            resources,
            wanted,
            granted: now,
            contended: self.contention.at(now),
            charged,
            cost,
            fence: self.fence,
            inflight: self.running,
            inflight_of: self.inflight_of(resources),
            result: None,
        };
        if let Some((root, node)) = node.filter(|_| adopted) {
            let mut woken = std::mem::take(&mut self.to_wake);
            self.lend_under(root, node, now, &mut woken);
            self.to_wake.append(&mut woken);
        }
        grant
    }

    pub(super) fn find_user(&self, key: LaneKey) -> Option<u32> {
        self.users.find(key)
    }
}

/// What holding a permit for some time counts in the fair order.
pub(super) fn charge(held: Micros, cost: f32, weight: f32) -> u64 {
    let weight = if mutant!(WeightIgnored) { 1.0 } else { weight };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
    let charge = (held as f64 * f64::from(cost) / f64::from(weight)) as u64;
    charge
}
