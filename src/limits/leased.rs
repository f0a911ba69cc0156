//! A limiter whose limits hold over several processes: what its leases let run, and what it would ask for.

use std::sync::Arc;

use super::fair::{FairLimiter, ring_for};
use super::request::{Reason, Refusal, Request, Scope};
use super::state::{State, Woken};
use super::tree::Tree;
use crate::clock::Micros;
use crate::cluster::lease::table::{Batch, Fail, Holder, Leases, Overdue, Tie};
use crate::cluster::lease::{Bell, Granted, Kind, LeaseId};
use crate::lanes::LaneHandle;
use crate::limits::queue::Ticket;
use crate::limits::tree::NodeId;
use crate::mutants::mutant;

/// Most leases of one operation.
const MAX_IDS: usize = 128;

/// Something to be sent, before it has a number.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) kind: Kind,
    pub(crate) batch: Batch,
    pub(crate) user_limit: Option<u32>,
    pub(crate) total_limit: Option<u32>,
}

/// What came back for a draft.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    Acquired(&'a [Granted]),
    Renewed(&'a [bool]),
    Released,
    Restored(&'a [u64]),
    Failed,
}

/// A permit whose lease was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LostPermit {
    pub(crate) user: Arc<str>,
    /// The fence of the permit; of the outermost one of a run.
    pub(crate) permit_fence: u64,
    pub(crate) lease_fence: u64,
}

/// Users who wait, and how many of each would run if they had leases.
struct Needs {
    /// In their order.
    all: Vec<(Holder, u32)>,
    /// When the first of them may be asked for.
    at: Micros,
}

pub(super) fn tie_of(node: Option<(u64, NodeId)>, fence: u64) -> Tie {
    node.map_or(Tie::Grant(fence), |(root, _)| Tie::Tree(root))
}

impl State {
    /// Whether leases let the user run one more.
    #[inline]
    pub(super) fn may_lease(&self, user: u32, now: Micros) -> bool {
        match &self.leases {
            None => true,
            Some(leases) => self.is_leased(leases, user, now),
        }
    }

    #[cold]
    fn is_leased(&self, leases: &Leases, user: u32, now: Micros) -> bool {
        let record = &self.users[user];
        if leases.has_idle(leases.holder(record.key), now) || mutant!(RunsWithoutLease) {
            return true;
        }
        match leases.failing {
            None | Some(Fail::Closed) => false,
            Some(Fail::Open) => true,
            Some(Fail::Local) => {
                let fits = |running: u32, limit: u32| running < leases.share_of(limit);
                (!leases.by_user || fits(record.running, self.limit_of(user)))
                    && (!leases.by_total || fits(self.running, self.total()))
                    || mutant!(LocalShareIgnored)
            }
        }
    }

    /// A unit of the pool begins to run.
    #[inline]
    pub(super) fn tie_lease(&mut self, user: u32, lane: &LaneHandle, tie: Tie, now: Micros) {
        if self.leases.is_some() {
            self.tie_to_lease(user, lane, tie, now);
        }
    }

    #[cold]
    fn tie_to_lease(&mut self, user: u32, lane: &LaneHandle, tie: Tie, now: Micros) {
        self.users.name(user, lane);
        let Some(leases) = &mut self.leases else { return };
        let record = &self.users[user];
        let holder = leases.holder(record.key);
        let name = if leases.by_user { &record.name } else { &None };
        leases.tie(holder, name.as_ref().unwrap_or(&Arc::from("")), tie, now);
    }

    /// A unit of the pool comes back.
    #[inline]
    pub(super) fn untie_lease(&mut self, tie: Tie, now: Micros) {
        if let Some(leases) = &mut self.leases {
            leases.untie(tie, now);
            if leases.is_starved {
                leases.note(now);
            }
        }
    }

    /// A unit has come back: those whom only this process's part of a limit kept from running are in the order again.
    pub(super) fn list_lacking(&mut self) {
        let Some(leases) = self.leases.as_ref().filter(|leases| leases.failing.is_some()) else {
            return;
        };
        let waiting: Vec<u32> = leases.waiting.iter().copied().collect();
        for user in waiting {
            if self.users.get(user).is_some() {
                self.relist(user);
            }
        }
    }

    /// Whether leases of the process let anybody run, as far as they are not each user's own.
    #[inline]
    pub(super) fn may_lease_any(&self, now: Micros) -> bool {
        match &self.leases {
            Some(leases) if !leases.by_user => self.waiting_user_may(leases, now),
            _ => true,
        }
    }

    fn waiting_user_may(&self, leases: &Leases, now: Micros) -> bool {
        let mut waiting = leases.waiting.iter().filter(|user| self.users.get(**user).is_some());
        // They all have the same leases.
        waiting.next().is_none_or(|user| self.is_leased(leases, *user, now))
    }

    /// Somebody waits.
    #[cold]
    pub(super) fn note_waiter(&mut self, user: u32, lane: &LaneHandle, now: Micros) {
        self.users.name(user, lane);
        let is_local = self.is_over(user) || self.running >= self.total();
        if let Some(leases) = &mut self.leases {
            leases.waiting.insert(user);
            if !is_local {
                leases.note(now);
            }
        }
    }

    /// A nested waiter has all that it needs of its run, but for a lease.
    pub(super) fn note_nested(&mut self, user: u32, now: Micros) {
        if let Some(leases) = &mut self.leases {
            leases.nested.insert(user);
            leases.note(now);
        }
    }

    /// Somebody's turn has come, and it lacks a lease alone.
    pub(super) fn note_lacking(&mut self, now: Micros) {
        if let Some(leases) = &mut self.leases {
            leases.note(now);
        }
    }

    /// Who is to be told that there is something to ask for, and when.
    #[inline]
    pub(super) fn take_ring(&mut self) -> Option<(Arc<Bell>, Micros)> {
        let leases = self.leases.as_mut()?;
        let at = std::mem::replace(&mut leases.ring_at, Micros::MAX);
        (at != Micros::MAX).then(|| (leases.bell.clone(), at))
    }

    /// Waiters of the user that need no more than what is free, and leases.
    fn would_run(&self, user: u32, nested: bool) -> u32 {
        let record = &self.users[user];
        let others = record.others.iter();
        let others = others.filter(|(flow, _)| self.resources.are_free(self.order.needs(*flow)));
        let waiting = record.plain.waiting + others.map(|(_, line)| line.waiting).sum::<u32>();
        let waiting = waiting.max(u32::from(nested));
        waiting.min(self.limit_of(user).saturating_sub(record.running))
    }

    /// Which leases are lacking, in the order of users.
    fn needs(&mut self, now: Micros) -> Needs {
        let has_nested = !self.nested.is_empty();
        let mut needs = Needs {
            all: Vec::new(),
            at: Micros::MAX,
        };
        let Some(mut leases) = self.leases.take() else {
            return needs;
        };
        leases
            .waiting
            .retain(|user| self.users.get(*user).is_some_and(|record| record.waiting > 0));
        if !has_nested {
            leases.nested.clear();
        }
        let by_user = leases.by_user;
        if by_user {
            let waiting: Vec<_> = leases
                .waiting
                .iter()
                .filter_map(|user| {
                    let record = &self.users[*user];
                    Some((record.key.number(), record.name.clone()?))
                })
                .collect();
            leases.note_waiting(waiting.into_iter());
        } else {
            let somebody = (!leases.waiting.is_empty()).then(|| (0, Arc::from("")));
            leases.note_waiting(somebody.into_iter());
        }
        let mut room = self.total().saturating_sub(self.running);
        let mut lacking: Vec<(u64, u64, Holder, u32)> = Vec::new();
        let mut all = 0_u32;
        for user in &leases.waiting {
            let wanted = self.would_run(*user, leases.nested.contains(user));
            all = all.saturating_add(wanted);
            if !by_user {
                continue;
            }
            let record = &self.users[*user];
            let holder = record.key.number();
            let served = wanted.min(leases.coming(holder, now));
            room = room.saturating_sub(served);
            if wanted > served {
                lacking.push((
                    record.key(),
                    record.first_serial(&self.waiters),
                    holder,
                    wanted - served,
                ));
            }
        }
        if !by_user {
            let coming = leases.coming(0, now);
            let wanted = all.min(room);
            if wanted > coming {
                // In chunks, so that not each unit is a round trip.
                let chunk = (self.settings.total / (2 * leases.processes.max(1))).max(1);
                lacking.push((0, 0, 0, wanted.max(chunk.min(room)) - coming));
                room -= coming.min(room);
            }
        }
        lacking.sort_unstable();
        leases.is_starved = false;
        for (_, _, holder, many) in lacking {
            let many = if mutant!(AsksBeyondLocalLimit) {
                many
            } else {
                many.min(room)
            };
            leases.is_starved |= many == 0 || room == 0;
            if many == 0 {
                continue;
            }
            let at = leases.retry_at(holder).max(now);
            needs.at = needs.at.min(at);
            if at <= now {
                room = room.saturating_sub(many);
                needs.all.push((holder, many));
            }
        }
        self.leases = Some(leases);
        needs
    }

    /// When the desk should look at this limiter.
    fn lease_due(&mut self, now: Micros, sends: bool) -> Micros {
        let wanted = if sends { self.needs(now).at } else { Micros::MAX };
        let Some(leases) = &mut self.leases else {
            return Micros::MAX;
        };
        leases.ring_at = Micros::MAX;
        leases.next_look(now, sends).min(wanted)
    }

    /// What is overdue is lost, unless it is covered while the store does not answer.
    fn expire_leases(&mut self, now: Micros) {
        let Some(mut leases) = self.leases.take() else { return };
        for overdue in leases.expire(now) {
            if self.is_covered(&leases, &overdue) {
                continue;
            }
            leases.lose(overdue);
        }
        self.leases = Some(leases);
    }

    fn is_covered(&self, leases: &Leases, overdue: &Overdue) -> bool {
        match leases.failing {
            None | Some(Fail::Closed) => false,
            Some(Fail::Open) => true,
            Some(Fail::Local) => {
                let fits = |running: usize, limit: u32| running <= leases.share_of(limit) as usize;
                let limit = self
                    .users
                    .find_number(overdue.holder)
                    .map_or(self.settings.per_user, |user| self.limit_of(user));
                (!leases.by_user || fits(leases.sound_units(Some(overdue.holder)), limit))
                    && (!leases.by_total || fits(leases.sound_units(None), self.total()))
            }
        }
    }

    /// What is to be sent, if anything may be.
    fn lease_drafts(&mut self, now: Micros, sends: bool) -> Vec<Draft> {
        let mut drafts = Vec::new();
        if self.leases.as_ref().is_none_or(|leases| leases.is_quiet(now)) {
            if sends {
                self.draft_acquisitions(now, &mut drafts);
            }
            return drafts;
        }
        self.expire_leases(now);
        if !sends {
            return drafts;
        }
        // Whom somebody waits for is known before leases are given back.
        let _ = self.needs(now);
        let (user_limit, total_limit) = self.lease_limits(None);
        let Some(leases) = &mut self.leases else { return drafts };
        let draft = |kind, batch| Draft {
            kind,
            batch,
            user_limit,
            total_limit,
        };
        // What is freed first may be granted in the same round trip.
        for (user, ids) in leases.take_releases(now) {
            for ids in ids.chunks(MAX_IDS) {
                let slots = ids.iter().map(|id| (usize::MAX, *id)).collect();
                let user = user.clone();
                drafts.push(draft(Kind::Release, Batch { holder: 0, user, slots }));
            }
        }
        let restored = leases.take_restores(now).into_iter().flat_map(in_pieces);
        drafts.extend(restored.map(|batch| draft(Kind::Restore, batch)));
        let renewed = leases.take_renewals(now).into_iter().flat_map(in_pieces);
        drafts.extend(renewed.map(|batch| draft(Kind::Renew, batch)));
        self.draft_acquisitions(now, &mut drafts);
        drafts
    }

    fn draft_acquisitions(&mut self, now: Micros, drafts: &mut Vec<Draft>) {
        for (holder, many) in self.needs(now).all {
            let (user_limit, total_limit) = self.lease_limits(Some(holder));
            let Some(batch) = self.leases.as_mut().and_then(|leases| leases.ask(holder, many)) else {
                continue;
            };
            drafts.extend(in_pieces(batch).map(|batch| Draft {
                kind: Kind::Acquire,
                batch,
                user_limit,
                total_limit,
            }));
        }
    }

    /// The limits that the store is to hold to.
    fn lease_limits(&self, holder: Option<Holder>) -> (Option<u32>, Option<u32>) {
        let Some(leases) = &self.leases else {
            return (None, None);
        };
        let user = holder.and_then(|holder| self.users.find_number(holder));
        let own = user.map_or(self.settings.per_user, |user| self.limit_of(user));
        (
            leases.by_user.then_some(own),
            leases.by_total.then_some(self.settings.total),
        )
    }

    /// Takes an answer in. Answers who is to be told of a grant.
    fn lease_answer(&mut self, draft: &Draft, answer: &Answer<'_>, sent: Micros, now: Micros) -> Woken {
        let Some(leases) = &mut self.leases else {
            return Woken::new();
        };
        // Whoever waits for something to send looks again.
        leases.note(now);
        let batch = &draft.batch;
        let mut refused = false;
        match (draft.kind, answer) {
            (Kind::Acquire, Answer::Acquired(granted)) => refused = leases.acquired(batch, granted, sent, now),
            (Kind::Renew, Answer::Renewed(lives)) => leases.renewed(batch, lives, sent, now),
            (Kind::Restore, Answer::Restored(fences)) => leases.restored(batch, fences, sent, now),
            (Kind::Release, Answer::Released) => {}
            (Kind::Acquire, _) => leases.acquire_failed(batch, now),
            (Kind::Renew | Kind::Restore, _) => leases.renewal_failed(batch, now),
            (Kind::Release, _) => {
                let ids: Vec<LeaseId> = batch.slots.iter().map(|(_, id)| *id).collect();
                leases.release_failed(&batch.user, &ids, now);
            }
        }
        if draft.kind != Kind::Acquire {
            return Woken::new();
        }
        if leases.by_user
            && let Some(user) = self.users.find_number(batch.holder)
        {
            self.relist(user);
        }
        let mut woken = self.reschedule(now);
        self.refuse_impatient(batch.holder, refused, now, &mut woken);
        woken
    }

    /// Whoever asked to hear the first answer has heard it.
    fn refuse_impatient(&mut self, holder: Holder, refused: bool, now: Micros, woken: &mut Woken) {
        if self.impatient == 0 {
            return;
        }
        let Some(leases) = &self.leases else { return };
        if leases.is_asking(holder) {
            return;
        }
        let users: Vec<u32> = if leases.by_user {
            self.users.find_number(holder).into_iter().collect()
        } else {
            leases.waiting.iter().copied().collect()
        };
        for user in users {
            if refused || self.is_over(user) || self.running >= self.total() {
                self.refuse_waiters(user, true, now, woken);
            }
        }
    }

    /// Refuses waiters of a user, all that nothing of their run may be lent to or the impatient ones alone.
    fn refuse_waiters(&mut self, user: u32, only_impatient: bool, now: Micros, woken: &mut Woken) {
        if self.users.get(user).is_none_or(|record| record.waiting == 0) {
            return;
        }
        let meant: Vec<Ticket> = self
            .waiters
            .tickets_of(user)
            .filter(|(ticket, impatient)| {
                let nested = || {
                    let tree = self.waiters.get(*ticket).and_then(|waiter| waiter.place);
                    let tree = tree.and_then(|place| self.trees.get(&place.root));
                    tree.is_some_and(|tree| tree.parent_of_waiting(*ticket).is_some())
                };
                if only_impatient { *impatient } else { !nested() }
            })
            .map(|(ticket, _)| ticket)
            .collect();
        for ticket in meant {
            let refusal = self.cluster_refusal(user);
            let Some((waiter, _)) = self.unpark(ticket, now) else {
                continue;
            };
            if let Some(place) = waiter.place
                && self.trees.get(&place.root).is_some_and(Tree::is_empty)
            {
                self.trees.remove(&place.root);
            }
            self.count_refusal(user, now);
            waiter.parked.refuse(refusal);
            woken.push(waiter.parked);
        }
    }

    /// What the cluster's limit says to who does not wait for it.
    pub(super) fn cluster_refusal(&self, user: u32) -> Refusal {
        let record = &self.users[user];
        let closed = self.leases.as_ref().and_then(|leases| leases.failing) == Some(Fail::Closed);
        let by_user = self.leases.as_ref().is_none_or(|leases| leases.by_user);
        Refusal {
            scope: Scope::Cluster,
            reason: if closed { Reason::Unavailable } else { Reason::Full },
            resource: None,
            limit: if by_user {
                self.limit_of(user)
            } else {
                self.settings.total
            },
            running: if by_user { record.running } else { self.running },
            queued: if by_user {
                record.waiting as usize
            } else {
                self.waiters.len()
            },
            retry_after: 1,
        }
    }

    /// Whether only a lease stands between the user and one more permit.
    pub(super) fn lacks_lease_alone(&self, user: u32, request: &Request<'_>) -> bool {
        let record = &self.users[user];
        self.leases.is_some()
            && record.running.saturating_add(record.waiting) < self.limit_of(user)
            && (self.running as usize).saturating_add(self.waiters.len()) < self.total() as usize
            && self.resources.are_free(request.resources)
    }

    /// A request that does not wait for others: it is refused, unless the cluster is to be asked for a lease.
    pub(super) fn refuse_at_once(&self, user: u32, request: &Request<'_>) -> Option<Refusal> {
        let failing = self.leases.as_ref().map(|leases| leases.failing);
        if failing == Some(Some(Fail::Closed)) {
            return Some(self.cluster_refusal(user));
        }
        if !request.ask_once {
            return None;
        }
        if !self.lacks_lease_alone(user, request) {
            return Some(self.refusal(user, request.resources, Reason::Full));
        }
        // While the store does not answer there is nobody to ask.
        (failing != Some(None)).then(|| self.cluster_refusal(user))
    }

    fn set_failing(&mut self, failing: Option<Fail>, now: Micros) -> Woken {
        let Some(leases) = self.leases.as_mut().filter(|leases| leases.failing != failing) else {
            return Woken::new();
        };
        leases.failing = failing;
        leases.look_anew();
        self.list_everybody();
        let mut woken = self.reschedule(now);
        if failing.is_some() {
            let users: Vec<u32> = self
                .leases
                .iter()
                .flat_map(|leases| leases.waiting.iter().copied())
                .collect();
            for user in users {
                self.refuse_waiters(user, failing != Some(Fail::Closed), now, &mut woken);
            }
        }
        woken
    }

    fn lost_permits(&mut self) -> Vec<LostPermit> {
        let Some(leases) = &mut self.leases else {
            return Vec::new();
        };
        let trees = &self.trees;
        let lost = std::mem::take(&mut leases.lost);
        lost.into_iter()
            .filter_map(|overdue| {
                let permit_fence = match overdue.tie {
                    Tie::Grant(fence) => fence,
                    Tie::Tree(root) => trees.get(&root).and_then(Tree::outermost)?,
                };
                Some(LostPermit {
                    user: overdue.user,
                    permit_fence,
                    lease_fence: overdue.fence,
                })
            })
            .collect()
    }
}

fn in_pieces(batch: Batch) -> impl Iterator<Item = Batch> {
    let Batch { holder, user, slots } = batch;
    let pieces: Vec<_> = slots.chunks(MAX_IDS).map(<[_]>::to_vec).collect();
    pieces.into_iter().map(move |slots| Batch {
        holder,
        user: user.clone(),
        slots,
    })
}

/// What the desk does with a limiter.
impl FairLimiter {
    /// From here on nothing new runs without a lease. Answers `false` when it was shared already.
    pub(crate) fn share(&self, leases: Leases) -> bool {
        let mut state = self.state();
        if state.leases.is_some() {
            return false;
        }
        let mut leases = Box::new(leases);
        leases.waiting.extend(state.users.with_waiters());
        let named: Vec<_> = state.waiters.lanes().map(|(user, lane)| (user, lane.clone())).collect();
        for (user, lane) in &named {
            state.users.name(*user, lane);
        }
        state.leases = Some(leases);
        true
    }

    /// From here on only its own limits hold. Answers the leases that it had.
    pub(crate) fn unshare(&self) -> Option<Box<Leases>> {
        self.state().leases.take()
    }

    /// Lets those run whom only a lease kept from it.
    pub(crate) fn wake_after_unshare(&self, now: Micros) {
        let woken = {
            let mut state = self.state();
            state.list_everybody();
            state.reschedule(now)
        };
        self.wake(woken, now);
    }

    pub(crate) fn lease_due(&self, now: Micros, sends: bool) -> Micros {
        self.state().lease_due(now, sends)
    }

    pub(crate) fn lease_drafts(&self, now: Micros, sends: bool) -> Vec<Draft> {
        self.state().lease_drafts(now, sends)
    }

    pub(crate) fn lease_answer(&self, draft: &Draft, answer: &Answer<'_>, sent: Micros, now: Micros) {
        let (woken, ring) = {
            let mut state = self.state();
            (state.lease_answer(draft, answer, sent, now), state.take_ring())
        };
        ring_for(ring);
        self.wake(woken, now);
    }

    pub(crate) fn lease_failing(&self, failing: Option<Fail>, now: Micros) {
        let (woken, ring) = {
            let mut state = self.state();
            (state.set_failing(failing, now), state.take_ring())
        };
        ring_for(ring);
        self.wake(woken, now);
    }

    pub(crate) fn lease_processes(&self, processes: u32, now: Micros) {
        let (woken, ring) = {
            let mut state = self.state();
            if let Some(leases) = &mut state.leases {
                leases.processes = processes;
                leases.look_anew();
            }
            state.list_everybody();
            (state.reschedule(now), state.take_ring())
        };
        ring_for(ring);
        self.wake(woken, now);
    }

    pub(crate) fn lost_permits(&self) -> Vec<LostPermit> {
        self.state().lost_permits()
    }

    /// What holds for limits that count over several processes: `whole`, or what stands in while the store does not answer.
    /// `None` for a limiter that is not shared.
    pub fn lease_mode(&self) -> Option<&'static str> {
        self.with_leases(|leases| leases.failing.map_or("whole", Fail::name))
    }

    pub(crate) fn with_leases<R>(&self, look: impl FnOnce(&Leases) -> R) -> Option<R> {
        self.state().leases.as_deref().map(look)
    }
}
