//! Refusals: what stands between a request and its permit, and when to come back.

use super::request::{Reason, Refusal, Request, Scope};
use super::resources::ResourceSet;
use super::state::State;
use crate::clock::{Micros, SECOND};
use crate::mutants::mutant;

/// From how many returned permits on the time that they are held for is known well enough to refuse by it.
const ENOUGH_RETURNS: u64 = 16;

impl State {
    /// How long a new waiter of the user would wait, as far as can be told: until its turn among the user's own, and among the
    /// turns of all who wait. Each user that waits gets one turn for each of its own, so that the long line of one user does
    /// not count for another.
    pub(super) fn predicted_wait(&self, user: u32, wanted: ResourceSet) -> Micros {
        let record = &self.users[user];
        let ahead = u64::from(record.waiting);
        let own_hold = if record.hold == 0 { self.hold } else { record.hold };
        let limit = u64::from(self.limit_of(user));
        let own = if u64::from(record.running) + ahead >= limit {
            (ahead + 1).saturating_mul(own_hold) / limit.max(1)
        } else {
            0
        };
        let in_turns = (ahead + 1).saturating_mul(u64::from(self.waiting_users) + u64::from(ahead == 0));
        let before = in_turns.min(self.waiters.len() as u64 + 1);
        let all = if self.running >= self.total() {
            before.saturating_mul(self.hold) / u64::from(self.total().max(1))
        } else {
            0
        };
        // Of a resource that is used up, by everybody who waits for the same.
        let in_flow = self.order.find(wanted).map_or(0, |flow| self.order.waiting(flow)) as u64;
        let lacking = self.resources.lacking(wanted).indices().map(|index| {
            let limit = u64::from(self.resources.all()[index].limit());
            (in_flow + 1).saturating_mul(self.hold) / limit.max(1)
        });
        own.max(all).max(lacking.max().unwrap_or(0))
    }

    /// Whether a request is refused instead of queued.
    pub(super) fn refuse_early(&self, user: u32, request: &Request<'_>) -> Option<Refusal> {
        if request.admitted {
            return None;
        }
        let too_many =
            self.waiters.len() >= self.settings.queue || self.users[user].waiting as usize >= self.settings.user_queue;
        if too_many && !mutant!(QueueUnbounded) {
            return Some(self.refusal(user, request.resources, Reason::Queue));
        }
        let patience = request.patience.filter(|_| !mutant!(NeverRefusedEarly))?;
        let known = self.counts.released >= ENOUGH_RETURNS;
        (known && self.predicted_wait(user, request.resources) > patience)
            .then(|| self.refusal(user, request.resources, Reason::Predicted))
    }

    /// What stands between a user and a permit.
    pub(super) fn refusal(&self, user: u32, wanted: ResourceSet, reason: Reason) -> Refusal {
        let settings = &self.settings;
        let record = &self.users[user];
        let limit = self.limit_of(user);
        let wait = self.predicted_wait(user, wanted);
        if let Some(index) = self.resources.lacking(wanted).indices().next()
            && record.running < limit
            && self.running < self.total()
        {
            let resource = &self.resources.all()[index];
            return Refusal {
                scope: Scope::Process,
                reason,
                resource: Some(resource.name.clone()),
                limit: resource.limit(),
                running: resource.running,
                queued: self.order.find(wanted).map_or(0, |flow| self.order.waiting(flow)),
                retry_after: self.retry_after(wait),
            };
        }
        let is_full = record.running >= limit || self.running >= self.total();
        if self.leases.is_some() && !is_full && matches!(reason, Reason::Full | Reason::Timeout) {
            return self.cluster_refusal(user);
        }
        let is_own = record.running >= limit || record.waiting as usize >= settings.user_queue;
        let (scope, limit, running, queued) = if is_own {
            (Scope::User, limit, record.running, record.waiting as usize)
        } else {
            (Scope::Process, self.total(), self.running, self.waiters.len())
        };
        Refusal {
            scope,
            reason,
            resource: None,
            limit,
            running,
            queued,
            retry_after: self.retry_after(wait),
        }
    }

    fn retry_after(&self, wait: Micros) -> u32 {
        let wait = if wait == 0 { self.hold } else { wait };
        let most = if mutant!(RetryAfterUnbounded) { u64::MAX } else { 60 };
        u32::try_from(wait.div_ceil(SECOND).clamp(1, most)).unwrap_or(60)
    }
}
