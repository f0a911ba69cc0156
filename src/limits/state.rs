//! The state of a limiter and the moves between its states. All of it runs under the limiter's lock, and none of it calls out.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::fair::{Grant, Parked};
use super::governors::{CallResult, Governed, Governor};
use super::order::{Contention, MOST_DEBT, Order, Turn};
use super::queue::{Place, Ticket, Waiter, Waiters};
use super::request::{LimitSettings, Reason, Refusal, Request, Scope};
use super::resources::{ResourceSet, Resources};
use super::stats::{Counts, DETAIL_AFTER, TotalDurations};
use super::tree::{Freed, MAX_DEPTH, MAX_NODES, NodeId, Sources, Tree};
use super::users::Users;
use crate::clock::{Micros, SECOND};
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
    governors: Vec<Governor>,
    /// What an adaptive controller allows in all.
    cap: u32,
    pub(super) trees: HashMap<u64, Tree, RandomState>,
    /// Nested waiters that lack a resource: what comes back to the pool may be all that they wait for.
    pub(super) nested: Vec<Ticket>,
    pub(super) fence: u64,
    pub(super) hold: Micros,
    pub(super) counts: Counts,
    pub(super) waits: TotalDurations,
    pub(super) holds: TotalDurations,
}

/// A unit that a request gets without waiting.
pub(super) struct Unit {
    parent: Option<NodeId>,
    sources: Sources,
    /// Lent by the node above, in place of one of the pool.
    is_lent: bool,
}

/// Who is granted what: the request's or the waiter's own data.
struct Grantee {
    lane: LaneHandle,
    user: u32,
    cost: f32,
    place: Option<Place>,
    waited: Micros,
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
            fence: 0,
            hold: 0,
            counts: Counts::default(),
            waits: TotalDurations::default(),
            holds: TotalDurations::default(),
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

    pub(super) fn govern(&mut self, governor: Governor) {
        self.apply(governor.governed, governor.limit());
        self.governors.retain(|other| other.governed != governor.governed);
        self.governors.push(governor);
    }

    fn apply(&mut self, governed: Governed, limit: u32) {
        match governed {
            Governed::Total => self.cap = limit,
            Governed::Resource(index) => self.resources.set_cap(index, limit),
        }
    }

    /// Tells the controllers of the end of a call.
    fn sample(&mut self, grant: &Grant, now: Micros) {
        let held = now.saturating_sub(grant.granted);
        let result = grant.result.unwrap_or(CallResult::OK);
        for at in 0..self.governors.len() {
            let governor = &self.governors[at];
            let governed = governor.governed;
            let inflight = match governed {
                // A lent unit is no call of its own.
                Governed::Total => grant.charged.map(|_| grant.inflight),
                Governed::Resource(index) => {
                    let mut of = grant.inflight_of.iter();
                    of.find(|(resource, _)| *resource == index)
                        .map(|(_, inflight)| *inflight)
                }
            };
            if let Some(inflight) = inflight {
                let limit = governor.sample(now, held, inflight, result);
                self.apply(governed, limit);
            }
        }
    }

    /// How many calls the adaptive resources of a grant have in flight.
    fn inflight_of(&self, resources: ResourceSet) -> Vec<(usize, u32)> {
        if self.governors.is_empty() || resources.is_empty() {
            return Vec::new();
        }
        let governed = self.governors.iter().filter_map(|governor| match governor.governed {
            Governed::Resource(index) if resources.contains(index) => Some(index),
            _ => None,
        });
        governed
            .map(|index| (index, self.resources.all()[index].running))
            .collect()
    }

    fn is_over(&self, user: u32) -> bool {
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
        self.counts.refused += u64::from(parent.is_err());
        parent
    }

    pub(super) fn count_refusal(&mut self, user: u32, now: Micros) {
        self.counts.refused += 1;
        self.users[user].counts.refused += 1;
        self.users.rest(user, now);
    }

    /// Finds what a request needs without waiting: what the run holds already, or what the pool has. Takes nothing yet.
    pub(super) fn find_unit(&self, user: u32, request: &Request<'_>, parent: Option<NodeId>) -> Option<Unit> {
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
        let found = self.resources.are_free(sources.pool) && (is_lent || self.has_free_unit(user, wanted));
        found.then_some(Unit {
            parent,
            sources,
            is_lent,
        })
    }

    /// Whether the pool has a unit that the user may have before everybody who waits.
    fn has_free_unit(&self, user: u32, wanted: ResourceSet) -> bool {
        if self.running >= self.total() {
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
        !self.is_over(user) || (self.settings.borrow && self.waiters.len() == 0)
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
    fn catch_up(&mut self, user: u32) {
        let virtual_time = self.order.virtual_time;
        let user = &mut self.users[user];
        user.tag = user.tag.max(virtual_time);
    }

    fn grant(&mut self, grantee: Grantee, unit: Unit, now: Micros) -> Grant {
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
        self.resources.take(unit.sources.pool);
        let resources = unit.sources.pool;
        let borrowed = unit.sources.borrowed.iter();
        let wanted = borrowed.fold(resources, |all, (_, some)| all | *some);
        let node = place.map(|Place { root, context, task }| {
            let tree = self.trees.entry(root).or_default();
            (root, tree.add(unit.parent, context, task, unit.sources))
        });
        let usual = if self.hold == 0 { FIRST_HOLD } else { self.hold };
        let record = &mut self.users[user];
        record.permits += 1;
        record.counts.granted += 1;
        record.counts.waited = record.counts.waited.saturating_add(waited);
        if record.detail.is_none() && (waited > 0 || record.counts.granted == DETAIL_AFTER) {
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
                self.order.virtual_time = self.order.virtual_time.max(record.tag);
                record.tag = record.tag.saturating_add(charge);
            }
            charged = Some(charge);
            self.running += 1;
            self.counts.peak = self.counts.peak.max(self.running);
        }
        Grant {
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
        }
    }

    // -- waiting -----------------------------------------------------------------------------------------------------

    pub(super) fn park(
        &mut self,
        user: u32,
        request: &Request<'_>,
        parent: Option<NodeId>,
        now: Micros,
        parked: Arc<dyn Parked>,
    ) -> Ticket {
        if self.users[user].waiting == 0 {
            self.catch_up(user);
            self.waiting_users += 1;
        }
        let flow = self.order.flow_of(request.resources);
        self.order.flows()[flow as usize].waiting += 1;
        let aging = self
            .settings
            .aging
            .unwrap_or_else(|| request.patience.unwrap_or(self.settings.patience) / 4);
        let record = &mut self.users[user];
        record.waiting += 1;
        let line = record.line(flow);
        let ticket = self.waiters.push(line, request, (user, flow), aging, now, parked);
        if let Some(root) = request.path.first() {
            self.trees.entry(*root).or_default().wait(ticket, parent);
            if parent.is_some() && !request.resources.is_empty() {
                self.nested.push(ticket);
            }
        }
        self.contention.set(true, now);
        self.list(user, flow);
        ticket
    }

    /// Takes a waiter out of everything it waits in. Answers it, and the node above it.
    pub(super) fn unpark(&mut self, ticket: Ticket, now: Micros) -> Option<(Waiter, Option<NodeId>)> {
        let (user, flow) = {
            let waiter = self.waiters.get(ticket)?;
            (waiter.user, waiter.flow)
        };
        let record = &mut self.users[user];
        let line = record.line(flow);
        let waiter = self.waiters.remove(line, ticket)?;
        if line.waiting == 0 {
            line.entry = 0;
        }
        record.waiting -= 1;
        if record.waiting == 0 {
            self.waiting_users -= 1;
        }
        record.drop_empty_lines();
        self.order.flows()[flow as usize].waiting -= 1;
        let users = &self.users;
        self.order
            .tidy(flow, |user, number| users.is_listed(user, flow, number));
        self.contention.set(self.waiters.len() > 0, now);
        let mut parent = None;
        if let Some(Place { root, .. }) = waiter.place
            && let Some(tree) = self.trees.get_mut(&root)
        {
            parent = tree.stop_waiting(ticket);
            self.nested.retain(|other| *other != ticket);
        }
        Some((waiter, parent))
    }

    /// Puts a user's line into the order of users, if the user may run more.
    fn list(&mut self, user: u32, flow: u32) {
        let over = self.is_over(user);
        let record = &mut self.users[user];
        let tag = record.tag;
        let line = record.line(flow);
        if line.entry != 0 || line.waiting == 0 || (over && !self.settings.borrow) {
            return;
        }
        let Some(first) = self.waiters.first(line) else { return };
        let serial = first.serial();
        let turn = Turn {
            over,
            tag,
            serial,
            user,
        };
        self.order.list(flow, line, turn);
    }

    /// Lists all lines of a user anew: its place in the order has changed.
    pub(super) fn relist(&mut self, user: u32) {
        if self.users[user].waiting == 0 {
            return;
        }
        let mut flows = vec![0];
        flows.extend(self.users[user].others.iter().map(|(flow, _)| *flow));
        for flow in flows {
            self.users[user].line(flow).entry = 0;
            self.list(user, flow);
        }
    }

    /// Who is next, of all whose resources are free.
    fn next_turn(&mut self) -> Option<(Turn, u32)> {
        let mut best: Option<(Turn, u32)> = None;
        for at in 0..self.order.flows().len() {
            let flow = u32::try_from(at).unwrap_or(u32::MAX);
            if !self.resources.are_free(self.order.needs(flow)) {
                continue;
            }
            let Some(turn) = self.front_of(flow) else { continue };
            if best.is_none_or(|(other, _)| turn < other) {
                best = Some((turn, flow));
            }
        }
        best
    }

    /// The first user of a flow, after stale entries and users at their limit were dropped from its front.
    fn front_of(&mut self, flow: u32) -> Option<Turn> {
        loop {
            let (turn, number) = self.order.flows()[flow as usize].front()?;
            if self.users.is_listed(turn.user, flow, number) {
                let over = self.is_over(turn.user);
                let is_current = over == turn.over && self.users[turn.user].tag <= turn.tag;
                if is_current && (!over || self.settings.borrow) {
                    return Some(turn);
                }
                self.users[turn.user].line(flow).entry = 0;
                self.order.flows()[flow as usize].pop();
                self.list(turn.user, flow);
            } else {
                self.order.flows()[flow as usize].pop();
            }
        }
    }

    /// Gives free units to the users in their turns.
    pub(super) fn schedule(&mut self, now: Micros, woken: &mut Woken) {
        while self.waiters.len() > 0 && self.running < self.total() {
            let Some((turn, flow)) = self.next_turn() else { return };
            self.order.flows()[flow as usize].pop();
            let line = self.users[turn.user].line(flow);
            line.entry = 0;
            let Some(ticket) = self.waiters.first(line) else {
                continue;
            };
            self.grant_from_pool(ticket, now, woken);
            self.list(turn.user, flow);
        }
    }

    fn grant_from_pool(&mut self, ticket: Ticket, now: Micros, woken: &mut Woken) {
        let Some(waiter) = self.waiters.get(ticket) else { return };
        let pool = self.order.needs(waiter.flow);
        let sources = Sources {
            borrowed: Vec::new(),
            pool,
        };
        self.grant_waiting(ticket, sources, false, now, woken);
    }

    fn grant_waiting(&mut self, ticket: Ticket, sources: Sources, is_lent: bool, now: Micros, woken: &mut Woken) {
        let Some((waiter, parent)) = self.unpark(ticket, now) else {
            return;
        };
        let grantee = Grantee {
            lane: waiter.lane,
            user: waiter.user,
            cost: waiter.cost,
            place: waiter.place,
            waited: now.saturating_sub(waiter.arrived),
        };
        let unit = Unit {
            parent,
            sources,
            is_lent,
        };
        let grant = self.grant(grantee, unit, now);
        waiter.parked.grant(grant);
        woken.push(waiter.parked);
    }

    /// Lends the unit of a suspended node to a child of it that waits, if one can run on it. `in_hand` says that the unit comes
    /// from a child which is done, so that it may be lent although other children run.
    fn lend_under(&mut self, root: u64, node: NodeId, in_hand: bool, now: Micros, woken: &mut Woken) -> bool {
        let Some(tree) = self.trees.get(&root) else {
            return false;
        };
        if !in_hand && !tree.has_unit(node) {
            return false;
        }
        let able = tree.waiting_under(node).find_map(|ticket| {
            let needs = self.order.needs(self.waiters.get(ticket)?.flow);
            let sources = tree.sources(Some(node), needs);
            self.resources.are_free(sources.pool).then_some((ticket, sources))
        });
        let Some((ticket, sources)) = able else { return false };
        self.grant_waiting(ticket, sources, true, now, woken);
        true
    }

    // -- returning ---------------------------------------------------------------------------------------------------

    /// Takes a permit back. Answers who is to be told of a grant.
    pub(super) fn take_back(&mut self, grant: &Grant, leaked: bool, now: Micros) -> Woken {
        let mut woken = Woken::new();
        self.settle_account(grant, leaked, now);
        if !self.governors.is_empty() {
            self.sample(grant, now);
        }
        let mut freed = (Freed::ToPool, grant.resources, false);
        if let Some((root, node)) = grant.node
            && let Some(tree) = self.trees.get_mut(&root)
        {
            let removed = tree.remove(node);
            freed = (removed.unit, removed.resources, removed.lenders_repaid);
        }
        let (unit, resources, lenders_repaid) = freed;
        self.resources.give_back(resources);
        let root = grant.node.map(|(root, _)| root);
        match unit {
            Freed::ToPool => self.return_unit(grant.user),
            Freed::Under(node) => {
                let root = root.unwrap_or_default();
                if !self.lend_under(root, node, true, now, &mut woken)
                    && self.trees.get(&root).is_some_and(|tree| !tree.has_unit(node))
                {
                    self.return_unit(grant.user);
                }
            }
            Freed::Kept => {}
        }
        if (lenders_repaid || !resources.is_empty()) && !self.nested.is_empty() {
            self.lend_to_nested(now, &mut woken);
        }
        self.schedule(now, &mut woken);
        if let Some(root) = root
            && self.trees.get(&root).is_some_and(Tree::is_empty)
        {
            self.trees.remove(&root);
        }
        self.users.rest(grant.user, now);
        self.sweep_if_due(now);
        woken
    }

    pub(super) fn sweep_if_due(&mut self, now: Micros) {
        let (idle, max_users) = (self.settings.idle, self.settings.max_users);
        if self.users.is_sweep_due(now, idle, max_users) {
            self.counts.evicted += self.users.sweep(now, idle, max_users) as u64;
        }
    }

    /// A limit was changed: gives free units to who waits.
    pub(super) fn reschedule(&mut self, now: Micros) -> Woken {
        let mut woken = Woken::new();
        if mutant!(HigherLimitWakesNobody) {
            return woken;
        }
        if !self.nested.is_empty() {
            self.lend_to_nested(now, &mut woken);
        }
        self.schedule(now, &mut woken);
        woken
    }

    pub(super) fn list_everybody(&mut self) {
        for user in self.users.with_waiters() {
            self.relist(user);
        }
    }

    /// Resources have come back: nested waiters whose parent has its unit may run on it.
    fn lend_to_nested(&mut self, now: Micros, woken: &mut Woken) {
        for ticket in self.nested.clone() {
            let Some(Place { root, .. }) = self.waiters.get(ticket).and_then(|waiter| waiter.place) else {
                continue;
            };
            let parent = self.trees.get(&root).and_then(|tree| tree.parent_of_waiting(ticket));
            if let Some(parent) = parent {
                self.lend_under(root, parent, false, now, woken);
            }
        }
    }

    fn return_unit(&mut self, user: u32) {
        self.running -= 1;
        if mutant!(PermitReturnedTwice) {
            self.running = self.running.saturating_sub(1);
        }
        self.users[user].running -= 1;
        if self.users[user].waiting > 0 {
            if self.settings.borrow {
                // It may be below its limit again.
                self.relist(user);
            } else {
                self.list_all(user);
            }
        }
    }

    fn list_all(&mut self, user: u32) {
        self.list(user, 0);
        for at in 0..self.users[user].others.len() {
            let flow = self.users[user].others[at].0;
            self.list(user, flow);
        }
    }

    /// Counts the time that a permit was held, and puts right what was charged for it in advance.
    fn settle_account(&mut self, grant: &Grant, leaked: bool, now: Micros) {
        let held = now.saturating_sub(grant.granted);
        self.hold = smooth(self.hold, held);
        self.holds.record(held);
        self.counts.released += 1;
        self.counts.leaked += u64::from(leaked && !mutant!(LeakNotCounted));
        let used = self.contention.at(now).saturating_sub(grant.contended);
        let virtual_time = self.order.virtual_time;
        let record = &mut self.users[grant.user];
        record.permits -= 1;
        record.hold = smooth(record.hold, held);
        record.counts.released += 1;
        record.counts.held = record.counts.held.saturating_add(held);
        record.counts.leaked += u32::from(leaked);
        if let Some(detail) = &mut record.detail {
            detail.holds.record(held);
        }
        let Some(charged) = grant.charged.filter(|_| !mutant!(ChargeNotCorrected)) else {
            return;
        };
        let before = record.tag;
        // Held for no time at all while somebody waits, it still was a turn.
        let least = u64::from(self.waiters.len() > 0);
        let due = charge(used, grant.cost, record.weight).max(least);
        let most = virtual_time.saturating_add(MOST_DEBT);
        record.tag = before.saturating_sub(charged).saturating_add(due).min(most.max(before));
        if record.tag < before && record.waiting > 0 {
            self.relist(grant.user);
        }
    }

    pub(super) fn find_user(&self, key: LaneKey) -> Option<u32> {
        self.users.find(key)
    }
}

/// What holding a permit for some time counts in the fair order.
fn charge(held: Micros, cost: f32, weight: f32) -> u64 {
    let weight = if mutant!(WeightIgnored) { 1.0 } else { weight };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
    let charge = (held as f64 * f64::from(cost) / f64::from(weight)) as u64;
    charge
}
