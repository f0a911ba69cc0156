//! Who waits, and who is next: a limiter's queue, its order, and the grants that are made from them.

use std::sync::Arc;

use super::fair::Parked;
use super::order::Turn;
use super::queue::{Place, Ticket, Waiter};
use super::request::Request;
use super::state::{Grantee, State, Unit, Woken};
use super::tree::{NodeId, Sources};
use crate::clock::Micros;

impl State {
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
            let tree = self.trees.entry(*root).or_default();
            tree.wait(ticket, parent, request.path, request.task, now);
            if parent.is_some() && !request.resources.is_empty() {
                self.nested.push(ticket);
            }
        }
        self.contention.set(true, now);
        self.list(user, flow);
        self.impatient += usize::from(request.ask_once);
        if self.leases.is_some() {
            self.note_waiter(user, request.lane, now);
        }
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
        self.impatient -= usize::from(waiter.ask_once);
        if let Some(leases) = self.leases.as_mut().filter(|leases| leases.is_starved) {
            leases.note(now);
        }
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
    pub(super) fn list(&mut self, user: u32, flow: u32) {
        let over = self.is_over(user);
        let record = &mut self.users[user];
        let tag = record.key();
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
        let users = &self.users;
        self.order
            .tidy(flow, |user, number| users.is_listed(user, flow, number));
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
    pub(super) fn next_turn(&mut self, now: Micros) -> Option<(Turn, u32)> {
        let mut best: Option<(Turn, u32)> = None;
        for at in 0..self.order.flows().len() {
            let flow = u32::try_from(at).unwrap_or(u32::MAX);
            if !self.resources.are_free(self.order.needs(flow)) {
                continue;
            }
            let Some(turn) = self.front_of(flow, now) else { continue };
            if best.is_none_or(|(other, _)| turn < other) {
                best = Some((turn, flow));
            }
        }
        best
    }

    /// The first user of a flow, after stale entries and users at their limit were dropped from its front.
    pub(super) fn front_of(&mut self, flow: u32, now: Micros) -> Option<Turn> {
        loop {
            let (turn, number) = self.order.flows()[flow as usize].front()?;
            if self.users.is_listed(turn.user, flow, number) {
                let over = self.is_over(turn.user);
                let is_current = over == turn.over && self.users[turn.user].key() <= turn.tag;
                let may_run = is_current && (!over || self.settings.borrow);
                let lacks_lease = may_run && !self.may_lease(turn.user, now);
                if may_run && !lacks_lease {
                    return Some(turn);
                }
                self.users[turn.user].line(flow).entry = 0;
                self.order.flows()[flow as usize].pop();
                if lacks_lease {
                    // It is listed again when it has one.
                    self.note_lacking(now);
                } else {
                    self.list(turn.user, flow);
                }
            } else {
                self.order.flows()[flow as usize].pop();
            }
        }
    }

    /// Gives free units to the users in their turns.
    pub(super) fn schedule(&mut self, now: Micros, woken: &mut Woken) {
        while self.waiters.len() > 0 && self.running < self.total() && self.may_lease_any(now) {
            let Some((turn, flow)) = self.next_turn(now) else {
                return;
            };
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

    pub(super) fn grant_from_pool(&mut self, ticket: Ticket, now: Micros, woken: &mut Woken) {
        let Some(waiter) = self.waiters.get(ticket) else { return };
        let pool = self.order.needs(waiter.flow);
        let sources = Sources {
            borrowed: Vec::new(),
            pool,
        };
        self.grant_waiting(ticket, sources, false, now, woken);
    }

    pub(super) fn grant_waiting(
        &mut self,
        ticket: Ticket,
        sources: Sources,
        is_lent: bool,
        now: Micros,
        woken: &mut Woken,
    ) {
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

    /// Lends the unit of a suspended node, none of whose children runs, to a child of it that waits.
    pub(super) fn lend_under(&mut self, root: u64, node: NodeId, now: Micros, woken: &mut Woken) {
        let Some(tree) = self.trees.get(&root).filter(|tree| tree.has_unit(node)) else {
            return;
        };
        let able = tree.waiting_under(node).find_map(|ticket| {
            let needs = self.order.needs(self.waiters.get(ticket)?.flow);
            let sources = tree.sources(Some(node), needs);
            self.resources.are_free(sources.pool).then_some((ticket, sources))
        });
        if let Some((ticket, sources)) = able {
            self.grant_waiting(ticket, sources, true, now, woken);
        }
    }

    /// Something has come back: nested waiters may run on their parents' units, or on one of the pool with resources of their
    /// parents, which the order of users does not see.
    pub(super) fn lend_to_nested(&mut self, now: Micros, woken: &mut Woken) {
        if let Some(leases) = &mut self.leases {
            leases.nested.clear();
        }
        for ticket in self.nested.clone() {
            let Some(waiter) = self.waiters.get(ticket) else {
                continue;
            };
            let (user, flow) = (waiter.user, waiter.flow);
            let Some(root) = waiter.place.map(|place| place.root) else {
                continue;
            };
            let Some(tree) = self.trees.get(&root) else { continue };
            let Some(parent) = tree.parent_of_waiting(ticket) else {
                continue;
            };
            if tree.has_unit(parent) {
                self.lend_under(root, parent, now, woken);
                continue;
            }
            let sources = tree.sources(Some(parent), self.order.needs(flow));
            if self.running < self.total() && !self.is_over(user) && self.resources.are_free(sources.pool) {
                if self.may_lease(user, now) {
                    self.grant_waiting(ticket, sources, false, now, woken);
                } else {
                    self.note_nested(user, now);
                }
            }
        }
    }
}
