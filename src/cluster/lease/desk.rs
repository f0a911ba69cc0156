//! The desk: what is sent to the store for all shared limiters, and what came back.
//!
//! It asks nobody and waits for nobody. Whoever carries operations takes them from here, and says what became of each; an
//! answer that comes twice, late, or never does no harm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::bell::{Bell, Ring};
use super::breaker::{Breaker, Sends};
use super::operation::{Kind, LeaseId, Operation, Reply};
use super::table::{Batch, Counts, Fail, Leases, Levels, OnLost, Terms};
use crate::clock::{Micros, SECOND};
use crate::ids::random_u64;
use crate::limits::{Answer, Draft, FairLimiter};

/// Most limiters that one desk serves.
pub(super) const MAX_SHARES: usize = 1_000;
/// After what time an operation of which nothing was heard has failed. Whoever carries it says so much sooner.
const FORGOTTEN: Micros = 30 * SECOND;

/// For how long leases live, and are kept.
#[derive(Debug, Clone, Copy)]
pub struct DeskSettings {
    /// A lease lives for so long unless it is renewed.
    pub ttl: Micros,
    /// So often it is renewed, give or take a tenth.
    pub renew: Micros,
    /// So long one that nothing runs under is kept for the same user.
    pub reuse: Micros,
    /// The random delays follow from it, for tests.
    pub seed: Option<u64>,
}

impl Default for DeskSettings {
    fn default() -> Self {
        Self {
            ttl: 30 * SECOND,
            renew: 10 * SECOND,
            reuse: SECOND / 4,
            seed: None,
        }
    }
}

/// What of a limiter is shared.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// The limit of each user.
    pub by_user: bool,
    /// The limit over all users.
    pub by_total: bool,
    /// What happens to what loses its lease.
    pub on_lost: OnLost,
    /// What holds while the store does not answer.
    pub fail: Fail,
}

/// Why a limiter cannot be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Nothing of it would be.
    #[error("share user=True, total=True, or both")]
    Nothing,
    /// Another limiter has the name.
    #[error("another limiter is shared under this name; names are those of limits in the store")]
    Name,
    /// It is shared already.
    #[error("the limiter is shared already; unshare it first")]
    Shared,
    /// Too many.
    #[error("a desk serves at most 1000 limiters; unshare those that are not used")]
    TooMany,
    /// The desk is closed.
    #[error("the desk is closed; make a new one")]
    Closed,
}

/// A permit whose lease was lost: what runs under it runs beside whoever has the lease now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Of which limit.
    pub limit: Arc<str>,
    /// Whose; empty where leases are not each user's.
    pub user: Arc<str>,
    /// The permit, by its fence in this process; for a run with several the outermost.
    pub permit_fence: u64,
    /// The fence of the lease.
    pub lease_fence: u64,
}

/// Counts of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareFigures {
    /// Of which.
    pub limit: Arc<str>,
    /// What holds now, `whole` while the store answers.
    pub mode: &'static str,
    /// What happens to what loses its lease.
    pub on_lost: &'static str,
    /// Leases that something runs under.
    pub held: usize,
    /// Leases that are kept for who comes next.
    pub idle: usize,
    /// Leases that were asked for.
    pub asking: usize,
    /// What runs without a lease.
    pub uncovered: usize,
    /// Leases that are still to be given back.
    pub giving_back: usize,
    /// Over the life of the share, by what became of them.
    pub counts: [(&'static str, u64); 9],
}

/// Counts of a desk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeskFigures {
    /// What holds now.
    pub mode: &'static str,
    /// Processes that share the limits, as far as is known.
    pub processes: u32,
    /// Operations of which nothing was heard yet.
    pub under_way: usize,
    /// Operations that were taken.
    pub sent: u64,
    /// Operations that failed.
    pub failures: u64,
    /// Answers that came too late, or twice.
    pub late: u64,
    /// How often the store was left alone.
    pub opened: u64,
    /// Each limit.
    pub shares: Vec<ShareFigures>,
}

/// What became of an attempt to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// There is something to do already; nobody was parked.
    Ready,
    /// Parked until it is rung for, or until then: who waits looks by itself.
    Until(Option<Micros>),
}

struct Sent {
    /// `None` for what has no limiter any more, and for a probe.
    limiter: Option<Arc<FairLimiter>>,
    is_probe: bool,
    draft: Draft,
    limit: Arc<str>,
    batch: u64,
    at: Micros,
}

struct Shared {
    name: Arc<str>,
    limiter: Arc<FairLimiter>,
    share: Share,
}

struct State {
    shares: Vec<Shared>,
    under_way: HashMap<u64, Sent, RandomState>,
    /// Leases of limiters that are shared no longer.
    orphans: Vec<(Arc<str>, Draft)>,
    breaker: Breaker,
    number: u64,
    batch: u64,
    processes: u32,
    failures: u64,
    late: u64,
    /// Somebody carries operations.
    is_driven: bool,
    is_closed: bool,
}

/// Leases of all shared limiters.
pub struct Desk {
    settings: DeskSettings,
    bell: Arc<Bell>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Desk {
    /// A desk that serves nobody yet.
    pub fn new(settings: DeskSettings) -> Self {
        Self {
            settings,
            bell: Arc::new(Bell::default()),
            state: Mutex::new(State {
                shares: Vec::new(),
                under_way: HashMap::default(),
                orphans: Vec::new(),
                breaker: Breaker::default(),
                number: 0,
                batch: 0,
                processes: 1,
                failures: 0,
                late: 0,
                is_driven: false,
                is_closed: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long before the store forgets a lease its holder stops to rely on it.
    pub fn margin(settings: &DeskSettings) -> Micros {
        terms(settings).margin()
    }

    /// From here on the limiter's limits hold over all processes that share one of this name, or from the first time that
    /// operations are taken. What runs already runs on without a lease.
    pub fn share(&self, limiter: &Arc<FairLimiter>, name: &str, share: Share) -> Result<(), ShareError> {
        if !share.by_user && !share.by_total {
            return Err(ShareError::Nothing);
        }
        let mut state = self.state();
        if state.is_closed {
            return Err(ShareError::Closed);
        }
        if state.shares.len() >= MAX_SHARES {
            return Err(ShareError::TooMany);
        }
        if state.shares.iter().any(|shared| &*shared.name == name) {
            return Err(ShareError::Name);
        }
        let name: Arc<str> = name.into();
        let mut leases = Leases::new(
            terms(&self.settings),
            (share.by_user, share.by_total),
            self.bell.clone(),
            self.settings.seed,
        );
        leases.processes = state.processes;
        leases.failing = if state.is_driven {
            (!state.breaker.is_closed()).then_some(share.fail)
        } else {
            // Nobody would ask for leases.
            Some(Fail::Open)
        };
        if !limiter.share(leases) {
            return Err(ShareError::Shared);
        }
        let limiter = limiter.clone();
        state.shares.push(Shared { name, limiter, share });
        drop(state);
        self.bell.ring(0);
        Ok(())
    }

    /// From here on only the limiter's own limits hold. Its leases are given back. Answers whether it was shared here.
    pub fn unshare(&self, limiter: &Arc<FairLimiter>, now: Micros) -> bool {
        let mut state = self.state();
        let Some(at) = state
            .shares
            .iter()
            .position(|shared| Arc::ptr_eq(&shared.limiter, limiter))
        else {
            return false;
        };
        let shared = state.shares.remove(at);
        let left = shared.limiter.unshare();
        if let Some(mut leases) = left {
            let (by_user, by_total) = (leases.by_user, leases.by_total);
            for (user, ids) in leases.drain() {
                let draft = release(user, &ids, (by_user, by_total));
                state.orphans.push((shared.name.clone(), draft));
            }
        }
        for sent in state.under_way.values_mut() {
            if sent.limiter.as_ref().is_some_and(|held| Arc::ptr_eq(held, limiter)) {
                sent.limiter = None;
            }
        }
        drop(state);
        shared.limiter.wake_after_unshare(now);
        self.bell.ring(0);
        true
    }

    /// What is to be sent now.
    pub fn take(&self, now: Micros) -> Vec<Operation> {
        self.drive(now);
        self.give_up_on_forgotten(now);
        let mut state = self.state();
        let state = &mut *state;
        let sends = state.breaker.sends(now);
        let sends_all = sends == Sends::All;
        state.batch += 1;
        let mut operations = Vec::new();
        let mut all: Vec<(Arc<str>, Option<Arc<FairLimiter>>, Draft)> = Vec::new();
        if sends_all {
            let orphans = state.orphans.drain(..);
            all.extend(orphans.map(|(limit, draft)| (limit, None, draft)));
        }
        for shared in &state.shares {
            for draft in shared.limiter.lease_drafts(now, sends_all) {
                all.push((shared.name.clone(), Some(shared.limiter.clone()), draft));
            }
        }
        if sends == Sends::Probe
            && let Some(shared) = state.shares.first()
        {
            // Nobody has this lease, so that to release it asks for nothing but an answer.
            let share = (shared.share.by_user, shared.share.by_total);
            let draft = release(Arc::from(""), &[probe_id()], share);
            all.push((shared.name.clone(), None, draft));
            state.breaker.probing();
        }
        for (limit, limiter, draft) in all {
            state.number += 1;
            operations.push(Operation {
                number: state.number,
                kind: draft.kind,
                limit: limit.clone(),
                user: draft.batch.user.clone(),
                ids: draft.batch.slots.iter().map(|(_, id)| *id).collect(),
                ttl_ms: self.settings.ttl / 1_000,
                user_limit: draft.user_limit,
                total_limit: draft.total_limit,
            });
            let sent = Sent {
                limiter,
                is_probe: sends == Sends::Probe,
                draft,
                limit,
                batch: state.batch,
                at: now,
            };
            state.under_way.insert(state.number, sent);
        }
        operations
    }

    fn give_up_on_forgotten(&self, now: Micros) {
        let forgotten: Vec<u64> = {
            let state = self.state();
            let old = state.under_way.iter();
            let old = old.filter(|(_, sent)| now.saturating_sub(sent.at) >= FORGOTTEN);
            old.map(|(number, _)| *number).collect()
        };
        for number in forgotten {
            self.failed(number, now);
        }
    }

    /// The store answered. Answers whether that was waited for: what came late, or twice, was not, and changes nothing. An
    /// answer that does not fit what was asked counts as a failure.
    pub fn replied(&self, number: u64, reply: &Reply, now: Micros) -> bool {
        let (sent, back) = {
            let mut state = self.state();
            let Some(sent) = state.under_way.remove(&number) else {
                state.late += 1;
                return false;
            };
            let was_closed = state.breaker.is_closed();
            state.breaker.replied();
            (sent, !was_closed)
        };
        let answer = match (sent.draft.kind, reply) {
            (Kind::Acquire, Reply::Acquired(granted)) => Answer::Acquired(granted),
            (Kind::Renew, Reply::Renewed(lives)) => Answer::Renewed(lives),
            (Kind::Release, Reply::Released) => Answer::Released,
            (Kind::Restore, Reply::Restored(fences)) => Answer::Restored(fences),
            _ => Answer::Failed,
        };
        if let Some(limiter) = &sent.limiter {
            limiter.lease_answer(&sent.draft, &answer, sent.at, now);
        }
        if back {
            self.tell_mode(now);
        }
        true
    }

    /// Nothing came back: a time-out, or the connection broke.
    pub fn failed(&self, number: u64, now: Micros) {
        let (sent, opened) = {
            let mut state = self.state();
            let Some(sent) = state.under_way.remove(&number) else {
                state.late += 1;
                return;
            };
            state.failures += 1;
            let was_closed = state.breaker.is_closed();
            state.breaker.failed(sent.batch, now);
            let opened = was_closed && !state.breaker.is_closed();
            (sent, opened)
        };
        match &sent.limiter {
            Some(limiter) => limiter.lease_answer(&sent.draft, &Answer::Failed, sent.at, now),
            // A probe says nothing more.
            None if sent.is_probe => {}
            None => {
                // It expires by itself if the store is away for long.
                let mut state = self.state();
                if state.orphans.len() < MAX_SHARES && sent.draft.kind == Kind::Release {
                    state.orphans.push((sent.limit, sent.draft));
                }
            }
        }
        if opened {
            self.tell_mode(now);
        }
        self.bell.ring(now);
    }

    /// Somebody carries operations from here on: before, there is nobody to wait for.
    fn drive(&self, now: Micros) {
        let is_first = !std::mem::replace(&mut self.state().is_driven, true);
        if is_first {
            self.tell_mode(now);
        }
    }

    /// Tells the limiters whether the store answers.
    fn tell_mode(&self, now: Micros) {
        let (shares, is_closed): (Vec<_>, bool) = {
            let state = self.state();
            let shares = state.shares.iter();
            let shares = shares.map(|shared| (shared.limiter.clone(), shared.share.fail));
            (shares.collect(), state.breaker.is_closed())
        };
        for (limiter, fail) in shares {
            limiter.lease_failing((!is_closed).then_some(fail), now);
        }
        self.bell.ring(now);
    }

    /// So many processes share the limits.
    pub fn set_processes(&self, processes: u32, now: Micros) {
        let shares: Vec<_> = {
            let mut state = self.state();
            if state.processes == processes.max(1) {
                return;
            }
            state.processes = processes.max(1);
            state.shares.iter().map(|shared| shared.limiter.clone()).collect()
        };
        for limiter in shares {
            limiter.lease_processes(processes.max(1), now);
        }
    }

    /// Permits whose leases were lost since this was asked last.
    pub fn lost(&self) -> Vec<Lost> {
        let state = self.state();
        let mut all = Vec::new();
        for shared in &state.shares {
            all.extend(shared.limiter.lost_permits().into_iter().map(|lost| Lost {
                limit: shared.name.clone(),
                user: lost.user,
                permit_fence: lost.permit_fence,
                lease_fence: lost.lease_fence,
            }));
        }
        all
    }

    /// When there is something to do; the greatest moment when there is nothing.
    fn due(&self, now: Micros) -> Micros {
        let state = self.state();
        let sends = state.breaker.sends(now);
        let sends_all = sends == Sends::All;
        let shares = state.shares.iter();
        let mut at = shares
            .map(|shared| shared.limiter.lease_due(now, sends_all))
            .min()
            .unwrap_or(Micros::MAX);
        if sends_all && !state.orphans.is_empty() {
            at = now;
        }
        if let Some(probe) = state.breaker.probe_at().filter(|_| !state.shares.is_empty()) {
            at = at.min(probe);
        }
        let oldest = state.under_way.values().map(|sent| sent.at).min();
        oldest.map_or(at, |oldest| at.min(oldest.saturating_add(FORGOTTEN)))
    }

    /// Parks until there is something to do.
    pub fn wait(&self, ringer: Arc<dyn Ring>, now: Micros) -> Waiting {
        self.drive(now);
        // Parked before the look: what happens after it rings.
        self.bell.park(ringer.clone());
        let at = self.due(now);
        if at <= now {
            self.bell.unpark(&ringer);
            return Waiting::Ready;
        }
        self.bell.looks_at(&ringer, at);
        Waiting::Until((at != Micros::MAX).then_some(at))
    }

    /// Takes a ringer back.
    pub fn unpark(&self, ringer: &Arc<dyn Ring>) {
        self.bell.unpark(ringer);
    }

    /// What holds: `whole` while the store answers, else the strictest of what the shared limiters fall back to.
    pub fn mode(&self) -> &'static str {
        self.state().mode()
    }

    /// Ends all sharing. Answers what gives every lease back.
    pub fn close(&self, now: Micros) -> Vec<Operation> {
        let limiters: Vec<_> = {
            let mut state = self.state();
            state.is_closed = true;
            state.shares.iter().map(|shared| shared.limiter.clone()).collect()
        };
        for limiter in limiters {
            self.unshare(&limiter, now);
        }
        let mut state = self.state();
        let state = &mut *state;
        // What was being given back when nothing had been heard of it yet is given back once more.
        let again = state.under_way.drain().map(|(_, sent)| (sent.limit, sent.draft));
        let again = again.filter(|(_, draft)| matches!(draft.kind, Kind::Release | Kind::Acquire));
        let again: Vec<_> = again.collect();
        let orphans = state.orphans.drain(..).chain(again);
        let mut operations = Vec::new();
        for (limit, draft) in orphans {
            state.number += 1;
            operations.push(Operation {
                number: state.number,
                kind: Kind::Release,
                limit,
                user: draft.batch.user,
                ids: draft.batch.slots.iter().map(|(_, id)| *id).collect(),
                ttl_ms: self.settings.ttl / 1_000,
                user_limit: draft.user_limit,
                total_limit: draft.total_limit,
            });
        }
        self.bell.ring(0);
        operations
    }

    /// Counts.
    pub fn figures(&self) -> DeskFigures {
        let state = self.state();
        let shares = state.shares.iter();
        DeskFigures {
            mode: state.mode(),
            processes: state.processes,
            under_way: state.under_way.len(),
            sent: state.number,
            failures: state.failures,
            late: state.late,
            opened: state.breaker.opened,
            shares: shares.filter_map(figures_of).collect(),
        }
    }
}

impl State {
    fn mode(&self) -> &'static str {
        if self.breaker.is_closed() {
            return "whole";
        }
        let strictness = |fail: Fail| match fail {
            Fail::Open => 0,
            Fail::Local => 1,
            Fail::Closed => 2,
        };
        let fails = self.shares.iter().map(|shared| shared.share.fail);
        fails.max_by_key(|fail| strictness(*fail)).map_or("local", Fail::name)
    }
}

fn figures_of(shared: &Shared) -> Option<ShareFigures> {
    let (levels, counts, failing): (Levels, Counts, Option<Fail>) = shared
        .limiter
        .with_leases(|leases| (leases.levels(), leases.counts, leases.failing))?;
    Some(ShareFigures {
        limit: shared.name.clone(),
        mode: failing.map_or("whole", Fail::name),
        on_lost: shared.share.on_lost.name(),
        held: levels.held,
        idle: levels.idle,
        asking: levels.asking,
        uncovered: levels.uncovered,
        giving_back: levels.giving_back,
        counts: [
            ("asked", counts.asked),
            ("granted", counts.granted),
            ("refused", counts.refused),
            ("begun", counts.begun),
            ("renewed", counts.renewed),
            ("restored", counts.restored),
            ("released", counts.released),
            ("lost", counts.lost),
            ("covered", counts.covered),
        ],
    })
}

fn terms(settings: &DeskSettings) -> Terms {
    Terms {
        ttl: settings.ttl,
        renew: settings.renew,
        reuse: settings.reuse,
    }
}

fn probe_id() -> LeaseId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random_u64().to_le_bytes());
    id
}

fn release(user: Arc<str>, ids: &[LeaseId], (by_user, by_total): (bool, bool)) -> Draft {
    Draft {
        kind: Kind::Release,
        batch: Batch {
            holder: 0,
            user,
            slots: ids.iter().map(|id| (usize::MAX, *id)).collect(),
        },
        user_limit: by_user.then_some(0),
        total_limit: by_total.then_some(0),
    }
}
