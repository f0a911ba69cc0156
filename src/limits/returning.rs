//! What happens when a permit comes back: its account is settled, and its unit goes to who may run next.

use super::fair::Grant;
use super::leased::tie_of;
use super::order::MOST_DEBT;
use super::resources::ResourceSet;
use super::state::{State, Woken, charge, smooth};
use super::tree::{Freed, NodeId, Tree};
use crate::clock::Micros;
use crate::cluster::lease::table::Tie;
use crate::mutants::mutant;

/// How a permit comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// Its holder returns it.
    Used,
    /// Nobody returned it, and it was dropped.
    Leaked,
    /// It was granted to somebody who had given up.
    Unused,
}

impl State {
    /// Takes a permit back. Answers who is to be told of a grant.
    pub(super) fn take_back(&mut self, grant: &Grant, how: Return, now: Micros) -> Woken {
        let mut woken = Woken::new();
        self.settle_account(grant, how, now);
        if !self.governors.is_empty() && how == Return::Used {
            self.sample(grant, now);
        }
        let (unit, resources) = match grant.node {
            None => (Freed::ToPool, grant.resources),
            // Revoked meanwhile: what it held has gone back.
            Some((root, node)) => self
                .trees
                .get_mut(&root)
                .map_or((Freed::Kept, ResourceSet::NONE), |tree| tree.remove(node)),
        };
        self.resources.give_back(resources);
        match (unit, grant.node) {
            (Freed::Under(parent), Some((root, _))) if self.has_unit(root, parent) => {
                self.lend_under(root, parent, now, &mut woken);
            }
            (Freed::Kept, _) => {}
            _ => self.return_unit(grant.user, tie_of(grant.node, grant.fence), now),
        }
        woken.extend(self.reschedule(now));
        if let Some((root, _)) = grant.node
            && self.trees.get(&root).is_some_and(Tree::is_empty)
        {
            self.trees.remove(&root);
        }
        self.users.rest(grant.user, now);
        self.sweep_if_due(now);
        woken
    }

    fn has_unit(&self, root: u64, node: NodeId) -> bool {
        self.trees.get(&root).is_some_and(|tree| tree.has_unit(node))
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
            self.return_unit(user, Tie::Tree(root), now);
        }
        woken.extend(self.reschedule(now));
        woken
    }

    pub(super) fn sweep_if_due(&mut self, now: Micros) {
        let (idle, max_users) = (self.settings.idle, self.settings.max_users);
        if self.users.is_sweep_due(now, idle, max_users) {
            self.counts.evicted += self.users.sweep(now, idle, max_users) as u64;
        }
    }

    /// Gives what is free to who waits.
    pub(super) fn reschedule(&mut self, now: Micros) -> Woken {
        let mut woken = Woken::new();
        self.schedule(now, &mut woken);
        if !self.nested.is_empty() {
            self.lend_to_nested(now, &mut woken);
        }
        woken.append(&mut self.to_wake);
        woken
    }

    pub(super) fn list_everybody(&mut self) {
        for user in self.users.with_waiters() {
            self.relist(user);
        }
    }

    pub(super) fn return_unit(&mut self, user: u32, tie: Tie, now: Micros) {
        self.untie_lease(tie, now);
        self.running -= 1;
        if mutant!(PermitReturnedTwice) {
            self.running = self.running.saturating_sub(1);
        }
        self.users[user].running -= 1;
        if self.leases.is_some() && !mutant!(LocalPartFreedUnseen) {
            self.list_lacking();
        }
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
    fn settle_account(&mut self, grant: &Grant, how: Return, now: Micros) {
        let held = now.saturating_sub(grant.granted);
        let used = self.contention.at(now).saturating_sub(grant.contended);
        let somebody_waits = self.waiters.len() > 0;
        let most = self.order.virtual_time.saturating_add(MOST_DEBT);
        let record = &mut self.users[grant.user];
        record.permits -= 1;
        if how == Return::Unused {
            // Whoever was granted it had given up already.
            self.counts.granted -= 1;
            self.counts.cancelled += 1;
            record.counts.granted -= 1;
            record.counts.cancelled += 1;
        } else {
            let leaked = how == Return::Leaked;
            self.hold = smooth(self.hold, held);
            self.holds.record(held);
            self.counts.released += 1;
            self.counts.leaked += u64::from(leaked && !mutant!(LeakNotCounted));
            record.hold = smooth(record.hold, held);
            record.counts.released += 1;
            record.counts.held = record.counts.held.saturating_add(held);
            record.counts.leaked += u32::from(leaked);
            if let Some(detail) = &mut record.detail {
                detail.holds.record(held);
            }
        }
        let Some(charged) = grant
            .charged
            .filter(|_| !mutant!(ChargeNotCorrected) && !mutant!(UsersTakeNoTurns))
        else {
            return;
        };
        let before = record.key();
        record.in_flight = record.in_flight.saturating_sub(charged);
        // Held for no time at all while somebody waits, it still was a turn.
        let least = u64::from(somebody_waits && how != Return::Unused);
        let due = charge(used, grant.cost, record.weight).max(least);
        record.tag = record.tag.saturating_add(due).min(most.max(record.tag));
        if record.key() < before && record.waiting > 0 {
            self.relist(grant.user);
        }
    }
}
