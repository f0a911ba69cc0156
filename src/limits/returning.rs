//! What happens when a permit comes back: its account is settled, and its unit goes to who may run next.

use super::fair::Grant;
use super::order::MOST_DEBT;
use super::queue::Place;
use super::resources::ResourceSet;
use super::state::{State, Woken, charge, smooth};
use super::tree::{Freed, Tree};
use crate::clock::Micros;
use crate::mutants::mutant;

impl State {
    /// Takes a permit back. Answers who is to be told of a grant.
    pub(super) fn take_back(&mut self, grant: &Grant, leaked: bool, now: Micros) -> Woken {
        let mut woken = Woken::new();
        self.settle_account(grant, leaked, now);
        if !self.governors.is_empty() {
            self.sample(grant, now);
        }
        let freed = match grant.node {
            None => (Freed::ToPool, grant.resources, false),
            // Revoked meanwhile: what it held has gone back.
            Some((root, node)) => self.trees.get_mut(&root).map_or_else(
                || (Freed::Kept, ResourceSet::NONE, false),
                |tree| {
                    let removed = tree.remove(node);
                    (removed.unit, removed.resources, removed.lenders_repaid)
                },
            ),
        };
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

    /// Takes back what a run holds, whoever holds it: its permits stay in their holders' hands and are worth nothing. Answers
    /// who is to be told of a grant.
    pub(super) fn revoke(&mut self, root: u64, user: u32, now: Micros) -> Woken {
        let mut woken = Woken::new();
        let Some(tree) = self.trees.remove(&root) else {
            return woken;
        };
        let (units, resources) = tree.holdings();
        for returned in resources {
            self.resources.give_back(returned);
        }
        for _ in 0..units {
            self.return_unit(user);
        }
        if !self.nested.is_empty() {
            self.lend_to_nested(now, &mut woken);
        }
        self.schedule(now, &mut woken);
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
    pub(super) fn lend_to_nested(&mut self, now: Micros, woken: &mut Woken) {
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

    pub(super) fn return_unit(&mut self, user: u32) {
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

    pub(super) fn list_all(&mut self, user: u32) {
        self.list(user, 0);
        for at in 0..self.users[user].others.len() {
            let flow = self.users[user].others[at].0;
            self.list(user, flow);
        }
    }

    /// Counts the time that a permit was held, and puts right what was charged for it in advance.
    pub(super) fn settle_account(&mut self, grant: &Grant, leaked: bool, now: Micros) {
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
}
