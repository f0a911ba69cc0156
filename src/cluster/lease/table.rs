//! The leases of one limiter, under the limiter's lock. None of it calls out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use slab::Slab;

use super::bell::Bell;
use super::jitter::Jitter;
use super::operation::{Granted, LeaseId, Which};
use crate::clock::{Micros, SECOND};
use crate::ids::random_u64;
use crate::lanes::LaneKey;
use crate::mutants::mutant;

/// The delay after a refusal.
const BACK_OFF: (Micros, Micros) = (SECOND / 40, SECOND / 4);
/// How long a unit of the total that nobody uses is kept.
const KEEP_TOTAL: Micros = SECOND;
/// How soon a call that failed is made again.
const AGAIN: Micros = SECOND / 10;
/// Most leases that wait to be given back; they expire by themselves as well.
pub(crate) const MAX_GIVE_BACK: usize = 10_000;

/// Whose leases: the number of a user's lane, or 0 when those of all users are one.
pub(crate) type Holder = u64;

/// What runs under a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tie {
    /// The grant of this fence.
    Grant(u64),
    /// A unit of the run with this root: they are all alike to it.
    Tree(u64),
}

/// What is done when a lease is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLost {
    /// The permit says so.
    Flag,
    /// Whoever asks for what was lost ends it.
    Cancel,
}

impl OnLost {
    /// The name in Python.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Cancel => "cancel",
        }
    }
}

/// What holds while the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fail {
    /// This process's part of the limit.
    Local,
    /// The limit, of this process alone.
    Open,
    /// Nothing new runs.
    Closed,
}

impl Fail {
    /// The name in Python.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// For how long leases live, and are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) ttl: Micros,
    pub(crate) renew: Micros,
    pub(crate) reuse: Micros,
}

impl Terms {
    /// What is lost of a lease's life to clocks and to the way: its holder stops so much earlier.
    pub(crate) fn margin(&self) -> Micros {
        (self.ttl / 10).max(SECOND.min(self.ttl / 4))
    }

    fn deadline(&self, sent: Micros) -> Micros {
        let margin = if mutant!(LeaseDeadlineLate) { 0 } else { self.margin() };
        sent.saturating_add(self.ttl - margin)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Idle { since: Micros },
    Held(Tie),
}

#[derive(Debug)]
struct Lease {
    id: LeaseId,
    holder: Holder,
    state: State,
    fence: u64,
    /// Until when it may be used; 0 before the store has said that it has it.
    deadline: Micros,
    renew_at: Micros,
    /// A renewal or restoration is under way.
    is_busy: bool,
    /// The store does not have it, and something runs under it.
    is_missing: bool,
    /// The store has it without a look at the limits: nothing else may run under it.
    is_restored: bool,
}

/// What one holder has and wants.
#[derive(Debug)]
struct Account {
    user: Arc<str>,
    idle: Vec<usize>,
    asking: u32,
    held: u32,
    running: u32,
    retry_at: Micros,
    refusals: u32,
    /// The limit over all users refused it.
    by_total: bool,
    /// Somebody waits for one.
    waits: bool,
}

/// Something that runs.
#[derive(Debug)]
struct Unit {
    holder: Holder,
    lease: Option<usize>,
    fence: Option<u64>,
    is_lost: bool,
}

/// A lease that is to be given back, until the store has said that it has it: a call that failed may be carried out late.
#[derive(Debug)]
struct Surplus {
    user: Arc<str>,
    id: LeaseId,
}

/// A lease whose time was over while something ran under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) tie: Tie,
    pub(crate) holder: Holder,
    pub(crate) user: Arc<str>,
    pub(crate) fence: u64,
}

/// Leases of one user for one operation, as the table knows them.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) holder: Holder,
    pub(crate) user: Arc<str>,
    pub(crate) slots: Vec<(usize, LeaseId)>,
}

/// Counts of a limiter's leases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) asked: u64,
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    pub(crate) begun: u64,
    pub(crate) renewed: u64,
    pub(crate) restored: u64,
    pub(crate) released: u64,
    pub(crate) lost: u64,
    pub(crate) covered: u64,
}

/// How many leases there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) held: usize,
    pub(crate) idle: usize,
    pub(crate) asking: usize,
    pub(crate) uncovered: usize,
    pub(crate) giving_back: usize,
}

/// The leases of one limiter.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // what it is shared by, and what is to be looked at: independent of each other
pub(crate) struct Leases {
    pub(crate) terms: Terms,
    pub(crate) by_user: bool,
    pub(crate) by_total: bool,
    /// What holds now; `None` while the store answers.
    pub(crate) failing: Option<Fail>,
    pub(crate) processes: u32,
    slots: Slab<Lease>,
    accounts: HashMap<Holder, Account, RandomState>,
    units: HashMap<Tie, Vec<Unit>, RandomState>,
    surplus: Vec<Surplus>,
    pub(crate) lost: Vec<Overdue>,
    /// Users with a waiter; some have none any more.
    pub(crate) waiting: HashSet<u32, RandomState>,
    /// Users who have a waiter that lacks a lease alone, besides those whom the order of users sees.
    pub(crate) nested: HashSet<u32, RandomState>,
    /// Somebody waits for the total, of which leases on the shelf are a part.
    is_squeezed: bool,
    /// Somebody would be asked for if there were room.
    pub(crate) is_starved: bool,
    pub(crate) bell: Arc<Bell>,
    /// When the desk should look, as far as has happened under this lock.
    pub(crate) ring_at: Micros,
    /// Nothing is due before.
    look_at: Micros,
    jitter: Jitter,
    pub(crate) counts: Counts,
}

fn new_id() -> LeaseId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random_u64().to_le_bytes());
    id[8..].copy_from_slice(&random_u64().to_le_bytes());
    id
}

impl Leases {
    pub(crate) fn new(terms: Terms, (by_user, by_total): (bool, bool), bell: Arc<Bell>, seed: Option<u64>) -> Self {
        Self {
            terms,
            by_user,
            by_total,
            failing: None,
            processes: 1,
            slots: Slab::new(),
            accounts: HashMap::default(),
            units: HashMap::default(),
            surplus: Vec::new(),
            lost: Vec::new(),
            waiting: HashSet::default(),
            nested: HashSet::default(),
            is_squeezed: false,
            is_starved: false,
            bell,
            ring_at: Micros::MAX,
            look_at: Micros::MAX,
            jitter: seed.map_or_else(Jitter::new, Jitter::seeded),
            counts: Counts::default(),
        }
    }

    pub(crate) fn holder(&self, lane: LaneKey) -> Holder {
        if self.by_user { lane.number() } else { 0 }
    }

    /// What a limit leaves to this process alone.
    pub(crate) fn share_of(&self, limit: u32) -> u32 {
        limit.div_ceil(self.processes.max(1)).max(1).min(limit)
    }

    pub(crate) fn note(&mut self, at: Micros) {
        self.ring_at = self.ring_at.min(at);
    }

    fn due(&mut self, at: Micros) {
        self.look_at = self.look_at.min(at);
    }

    // -- what runs ---------------------------------------------------------------------------------------------------

    /// Whether the holder has a lease under which something may begin.
    pub(crate) fn has_idle(&self, holder: Holder, now: Micros) -> bool {
        self.accounts.get(&holder).is_some_and(|account| {
            let mut idle = account.idle.iter();
            idle.any(|slot| self.slots[*slot].deadline > now)
        })
    }

    /// Something begins to run, under a lease if there is one.
    pub(crate) fn tie(&mut self, holder: Holder, user: &Arc<str>, tie: Tie, now: Micros) {
        self.open(holder, user);
        let mut unit = Unit {
            holder,
            lease: None,
            fence: None,
            is_lost: false,
        };
        if let Some(account) = self.accounts.get_mut(&holder) {
            account.running += 1;
            let slots = &self.slots;
            // The latest first, so that what is not needed is given back.
            if let Some(at) = account.idle.iter().rposition(|slot| slots[*slot].deadline > now) {
                let slot = account.idle.remove(at);
                account.held += 1;
                let lease = &mut self.slots[slot];
                lease.state = State::Held(tie);
                unit.lease = Some(slot);
                unit.fence = Some(lease.fence);
            }
        }
        if unit.lease.is_none() {
            self.counts.covered += 1;
            self.due(now);
        } else {
            self.counts.begun += 1;
        }
        self.units.entry(tie).or_default().push(unit);
    }

    /// Something runs no longer. Of several that are alike, one without a lease goes first.
    pub(crate) fn untie(&mut self, tie: Tie, now: Micros) {
        let Some(units) = self.units.get_mut(&tie) else { return };
        let slots = &self.slots;
        let worth = |unit: &Unit| (!unit.is_lost, unit.lease.map_or(0, |slot| slots[slot].deadline));
        let Some(at) = (0..units.len()).min_by_key(|at| worth(&units[*at])) else {
            return;
        };
        let unit = units.swap_remove(at);
        if units.is_empty() {
            self.units.remove(&tie);
        }
        if let Some(account) = self.accounts.get_mut(&unit.holder) {
            account.running -= 1;
        }
        if let Some(slot) = unit.lease {
            if mutant!(LeaseKeptAfterRelease) {
                return;
            }
            self.set_idle(slot, now);
        }
    }

    /// A lease that nothing runs under any more, or yet: it is used again soon, or given back.
    fn set_idle(&mut self, slot: usize, now: Micros) {
        let lease = &mut self.slots[slot];
        let holder = lease.holder;
        let was_held = matches!(lease.state, State::Held(_));
        lease.state = State::Idle { since: now };
        let is_restored = lease.is_restored && !mutant!(RestoredLeaseReused);
        let is_usable = lease.deadline > now && !lease.is_missing && !is_restored;
        if let Some(account) = self.accounts.get_mut(&holder) {
            account.held -= u32::from(was_held);
            if is_usable {
                account.idle.push(slot);
            }
        }
        if is_usable {
            let at = now.saturating_add(self.keep());
            let at = if self.is_squeezed { now } else { at };
            self.due(at);
            self.note(at);
        } else {
            self.give_back(slot, now);
            self.note(now);
        }
    }

    fn keep(&self) -> Micros {
        if self.by_user { self.terms.reuse } else { KEEP_TOTAL }
    }

    /// The fence of what runs, and whether its lease was lost.
    pub(crate) fn fence_of(&self, tie: Tie) -> (Option<u64>, bool) {
        let units = self.units.get(&tie).map_or(&[][..], Vec::as_slice);
        let fence = units.iter().filter_map(|unit| unit.fence).max();
        (fence, units.iter().any(|unit| unit.is_lost))
    }

    // -- leases that go ----------------------------------------------------------------------------------------------

    /// Takes a lease out of the table, and has it given back to the store.
    fn give_back(&mut self, slot: usize, now: Micros) {
        let lease = self.slots.remove(slot);
        let Some(account) = self.accounts.get_mut(&lease.holder) else {
            return;
        };
        account.idle.retain(|idle| *idle != slot);
        match lease.state {
            State::Asking => account.asking -= 1,
            State::Held(_) => account.held -= 1,
            State::Idle { .. } => {}
        }
        let user = account.user.clone();
        if mutant!(LeaseNotGivenBack) {
            return;
        }
        self.return_id(user, lease.id, now);
    }

    fn return_id(&mut self, user: Arc<str>, id: LeaseId, now: Micros) {
        if self.surplus.len() >= MAX_GIVE_BACK {
            self.surplus.swap_remove(0);
        }
        self.surplus.push(Surplus { user, id });
        self.due(now);
    }

    /// What expired: leases on the shelf go, and those that something runs under are answered.
    pub(crate) fn expire(&mut self, now: Micros) -> Vec<Overdue> {
        let over: Vec<usize> = self
            .slots
            .iter()
            .filter(|(_, lease)| lease.deadline != 0 && lease.deadline <= now && lease.state != State::Asking)
            .map(|(slot, _)| slot)
            .collect();
        let mut overdue = Vec::new();
        for slot in over {
            let lease = &self.slots[slot];
            if let State::Held(tie) = lease.state {
                overdue.push(Overdue {
                    tie,
                    holder: lease.holder,
                    user: self.user_of(lease.holder),
                    fence: lease.fence,
                });
                let units = self.units.get_mut(&tie).into_iter().flatten();
                for unit in units.filter(|unit| unit.lease == Some(slot)) {
                    unit.lease = None;
                }
            }
            self.give_back(slot, now);
        }
        overdue
    }

    fn user_of(&self, holder: Holder) -> Arc<str> {
        let account = self.accounts.get(&holder);
        account.map_or_else(|| Arc::from(""), |account| account.user.clone())
    }

    /// Whether nothing is due by itself.
    pub(crate) fn is_quiet(&self, now: Micros) -> bool {
        now < self.look_at
    }

    /// Everything may have changed: the next look is at all of it.
    pub(crate) fn look_anew(&mut self) {
        self.look_at = 0;
        self.note(0);
    }

    /// Units of the holder, or of all, that run, those whose leases were lost left out.
    pub(crate) fn sound_units(&self, holder: Option<Holder>) -> usize {
        let units = self.units.values().flatten();
        units
            .filter(|unit| !unit.is_lost && holder.is_none_or(|holder| unit.holder == holder))
            .count()
    }

    /// What ran under an overdue lease has lost it: somebody else may run in its place.
    pub(crate) fn lose(&mut self, overdue: Overdue) {
        if mutant!(LostLeaseNotTold) {
            return;
        }
        let mut units = self.units.get_mut(&overdue.tie).into_iter().flatten();
        if let Some(unit) = units.find(|unit| unit.lease.is_none() && !unit.is_lost) {
            unit.is_lost = true;
        }
        self.counts.lost += 1;
        self.lost.push(overdue);
    }

    // -- what is sent ------------------------------------------------------------------------------------------------

    /// Leases to be given back, those on the shelf for long enough among them.
    pub(crate) fn take_releases(&mut self, now: Micros) -> Vec<(Arc<str>, Vec<LeaseId>)> {
        let squeezed = self.is_squeezed;
        let kept = self.keep();
        let stale: Vec<usize> = self
            .slots
            .iter()
            .filter(|(_, lease)| match lease.state {
                State::Idle { since } => {
                    !lease.is_busy
                        && ((squeezed && !self.waits(lease.holder)) || now.saturating_sub(since) >= kept)
                        && !mutant!(IdleLeaseKept)
                }
                State::Asking | State::Held(_) => false,
            })
            .map(|(slot, _)| slot)
            .collect();
        if squeezed && !stale.is_empty() {
            for account in self.accounts.values_mut().filter(|account| account.by_total) {
                account.retry_at = 0;
            }
        }
        for slot in stale {
            self.give_back(slot, now);
        }
        let mut by_user: HashMap<Arc<str>, Vec<LeaseId>, RandomState> = HashMap::default();
        for surplus in self.surplus.drain(..) {
            by_user.entry(surplus.user).or_default().push(surplus.id);
        }
        self.counts.released += by_user.values().map(|ids| ids.len() as u64).sum::<u64>();
        by_user.into_iter().collect()
    }

    /// A release came to nothing: it is tried again.
    pub(crate) fn release_failed(&mut self, user: &Arc<str>, ids: &[LeaseId], now: Micros) {
        self.counts.released -= (ids.len() as u64).min(self.counts.released);
        for id in ids {
            self.return_id(user.clone(), *id, now);
        }
    }

    fn batches(&mut self, mut slots: Vec<usize>) -> Vec<Batch> {
        slots.sort_unstable_by_key(|slot| self.slots[*slot].holder);
        let mut batches: Vec<Batch> = Vec::new();
        for slot in slots {
            let lease = &mut self.slots[slot];
            lease.is_busy = true;
            let (holder, id) = (lease.holder, lease.id);
            match batches.last_mut().filter(|batch| batch.holder == holder) {
                Some(batch) => batch.slots.push((slot, id)),
                None => batches.push(Batch {
                    holder,
                    user: self.user_of(holder),
                    slots: vec![(slot, id)],
                }),
            }
        }
        batches
    }

    /// What runs and the store does not have.
    pub(crate) fn take_restores(&mut self, now: Micros) -> Vec<Batch> {
        let bare: Vec<(Tie, usize)> = self
            .units
            .iter()
            .flat_map(|(tie, units)| units.iter().enumerate().map(|(at, unit)| (*tie, at, unit)))
            .filter(|(_, _, unit)| unit.lease.is_none())
            .map(|(tie, at, _)| (tie, at))
            .collect();
        for (tie, at) in bare {
            let slot = self.slots.insert(Lease {
                id: new_id(),
                holder: 0,
                state: State::Held(tie),
                fence: 0,
                deadline: 0,
                renew_at: 0,
                is_busy: false,
                is_missing: true,
                is_restored: true,
            });
            let Some(unit) = self.units.get_mut(&tie).and_then(|units| units.get_mut(at)) else {
                continue;
            };
            unit.lease = Some(slot);
            self.slots[slot].holder = unit.holder;
            if let Some(account) = self.accounts.get_mut(&unit.holder) {
                account.held += 1;
            }
        }
        let missing = self.slots.iter().filter(|(_, lease)| {
            let is_held = matches!(lease.state, State::Held(_));
            is_held && lease.is_missing && !lease.is_busy && lease.renew_at <= now
        });
        let slots = missing.map(|(slot, _)| slot).collect();
        if mutant!(EmptiedStoreNotRestored) {
            return Vec::new();
        }
        self.batches(slots)
    }

    /// Leases whose renewal is due, and with them those for which it soon will be.
    pub(crate) fn take_renewals(&mut self, now: Micros) -> Vec<Batch> {
        let slack = self.terms.renew / 10;
        let wants =
            |lease: &Lease| lease.deadline != 0 && !lease.is_busy && !lease.is_missing && lease.state != State::Asking;
        let is_due = self
            .slots
            .iter()
            .any(|(_, lease)| wants(lease) && lease.renew_at <= now);
        if !is_due || mutant!(LeasesNeverRenewed) {
            return Vec::new();
        }
        let slots = self.slots.iter();
        let slots = slots.filter(|(_, lease)| wants(lease) && lease.renew_at <= now.saturating_add(slack));
        let slots = slots.map(|(slot, _)| slot).collect();
        self.batches(slots)
    }

    /// The account of a holder, made when there is none.
    pub(crate) fn open(&mut self, holder: Holder, user: &Arc<str>) {
        self.accounts.entry(holder).or_insert_with(|| Account {
            user: user.clone(),
            idle: Vec::new(),
            asking: 0,
            held: 0,
            running: 0,
            retry_at: 0,
            refusals: 0,
            by_total: false,
            waits: false,
        });
    }

    /// New leases to ask for.
    pub(crate) fn ask(&mut self, holder: Holder, many: u32) -> Option<Batch> {
        let account = self.accounts.get_mut(&holder)?;
        account.asking += many;
        self.counts.asked += u64::from(many);
        let user = account.user.clone();
        let slots = (0..many)
            .map(|_| {
                let id = new_id();
                let slot = self.slots.insert(Lease {
                    id,
                    holder,
                    state: State::Asking,
                    fence: 0,
                    deadline: 0,
                    renew_at: 0,
                    is_busy: true,
                    is_missing: false,
                    is_restored: false,
                });
                (slot, id)
            })
            .collect();
        Some(Batch { holder, user, slots })
    }

    /// Leases of a holder that can be used, or that were asked for.
    pub(crate) fn coming(&self, holder: Holder, now: Micros) -> u32 {
        let Some(account) = self.accounts.get(&holder) else {
            return 0;
        };
        let idle = account.idle.iter().filter(|slot| self.slots[**slot].deadline > now);
        account.asking + u32::try_from(idle.count()).unwrap_or(u32::MAX)
    }

    /// When the holder may ask again.
    pub(crate) fn retry_at(&self, holder: Holder) -> Micros {
        self.accounts.get(&holder).map_or(0, |account| account.retry_at)
    }

    pub(crate) fn is_asking(&self, holder: Holder) -> bool {
        self.accounts.get(&holder).is_some_and(|account| account.asking > 0)
    }

    fn waits(&self, holder: Holder) -> bool {
        self.accounts.get(&holder).is_some_and(|account| account.waits)
    }

    /// Notes for which holders somebody waits, and forgets those that have nothing and for which nobody does.
    pub(crate) fn note_waiting(&mut self, waiting: impl Iterator<Item = (Holder, Arc<str>)>) {
        for account in self.accounts.values_mut() {
            account.waits = false;
        }
        for (holder, user) in waiting {
            self.open(holder, &user);
            if let Some(account) = self.accounts.get_mut(&holder) {
                account.waits = true;
            }
        }
        self.accounts.retain(|_, account| {
            if !account.waits {
                account.by_total = false;
                account.refusals = 0;
                account.retry_at = 0;
            }
            account.waits || account.running > 0 || account.asking > 0 || account.held > 0 || !account.idle.is_empty()
        });
        self.is_squeezed = self.by_user && self.accounts.values().any(|account| account.by_total);
    }

    // -- what came back ----------------------------------------------------------------------------------------------

    fn lease(&mut self, (slot, id): (usize, LeaseId)) -> Option<&mut Lease> {
        self.slots.get_mut(slot).filter(|lease| lease.id == id)
    }

    /// Leases that were asked for. Answers whether one of them was refused.
    pub(crate) fn acquired(&mut self, batch: &Batch, granted: &[Granted], sent: Micros, now: Micros) -> bool {
        let mut refused = None;
        let deadline = self.terms.deadline(sent);
        let renew_at = self.next_renewal(sent);
        for (at, slot) in batch.slots.iter().enumerate() {
            let answer = granted.get(at).copied();
            let Some(lease) = self.lease(*slot) else { continue };
            if lease.state != State::Asking {
                continue;
            }
            lease.is_busy = false;
            match answer.map(|granted| (granted.fence, granted)) {
                Some((Some(fence), _)) => {
                    lease.fence = fence;
                    lease.deadline = deadline;
                    lease.renew_at = renew_at;
                    self.counts.granted += 1;
                    if let Some(account) = self.accounts.get_mut(&batch.holder) {
                        account.asking -= 1;
                        account.refusals = 0;
                        account.by_total = false;
                        account.retry_at = 0;
                    }
                    self.due(renew_at.min(deadline));
                    self.set_idle(slot.0, now);
                }
                Some((None, granted)) => {
                    refused = Some(granted);
                    self.counts.refused += 1;
                    self.slots.remove(slot.0);
                    if let Some(account) = self.accounts.get_mut(&batch.holder) {
                        account.asking -= 1;
                    }
                }
                // An answer that is too short says nothing of the rest.
                None => self.give_back(slot.0, now),
            }
        }
        let Some(granted) = refused else { return false };
        let draw = self.jitter.between(0, BACK_OFF.1 - BACK_OFF.0);
        if let Some(account) = self.accounts.get_mut(&batch.holder) {
            let most = BACK_OFF.0.saturating_mul(2 << account.refusals.min(8)).min(BACK_OFF.1);
            account.refusals += 1;
            account.by_total = granted.which == Some(Which::Total);
            self.is_squeezed |= self.by_user && account.by_total;
            let wait = BACK_OFF.0 + draw * (most - BACK_OFF.0) / (BACK_OFF.1 - BACK_OFF.0);
            let wait = match granted.retry_ms {
                0 => wait,
                expires => wait.min(expires.saturating_mul(1_000)),
            };
            account.retry_at = now.saturating_add(if mutant!(NoBackOff) { 0 } else { wait });
        }
        self.due(now);
        true
    }

    fn next_renewal(&mut self, sent: Micros) -> Micros {
        let tenth = self.terms.renew / 10;
        sent.saturating_add(self.jitter.between(self.terms.renew - tenth, self.terms.renew + tenth))
    }

    /// Asking came to nothing, as far as is known: what was granted all the same is given back.
    pub(crate) fn acquire_failed(&mut self, batch: &Batch, now: Micros) {
        for slot in &batch.slots {
            if self.lease(*slot).is_some_and(|lease| lease.state == State::Asking) {
                let surplus = self.surplus.len();
                self.give_back(slot.0, now);
                if mutant!(LateGrantKept) {
                    self.surplus.truncate(surplus);
                }
            }
        }
        let wait = self.jitter.between(BACK_OFF.0, 2 * BACK_OFF.0);
        if let Some(account) = self.accounts.get_mut(&batch.holder) {
            account.retry_at = now.saturating_add(wait);
        }
    }

    pub(crate) fn renewed(&mut self, batch: &Batch, lives: &[bool], sent: Micros, now: Micros) {
        let deadline = self.terms.deadline(sent);
        let renew_at = self.next_renewal(sent);
        for (at, slot) in batch.slots.iter().enumerate() {
            let Some(lease) = self.lease(*slot) else { continue };
            lease.is_busy = false;
            match lives.get(at) {
                Some(true) => {
                    lease.deadline = lease.deadline.max(deadline);
                    lease.renew_at = renew_at;
                    self.counts.renewed += 1;
                }
                // It was in time, so the store has lost its data.
                Some(false) => match lease.state {
                    State::Held(_) => {
                        lease.is_missing = true;
                        lease.renew_at = 0;
                    }
                    State::Idle { .. } | State::Asking => self.give_back(slot.0, now),
                },
                None => lease.renew_at = now.saturating_add(AGAIN),
            }
        }
        self.due(now);
    }

    pub(crate) fn restored(&mut self, batch: &Batch, fences: &[u64], sent: Micros, now: Micros) {
        let deadline = self.terms.deadline(sent);
        let renew_at = self.next_renewal(sent);
        for (at, slot) in batch.slots.iter().enumerate() {
            let Some(lease) = self.lease(*slot) else { continue };
            lease.is_busy = false;
            let Some(fence) = fences.get(at) else {
                lease.renew_at = now.saturating_add(AGAIN);
                continue;
            };
            lease.is_missing = false;
            lease.is_restored = true;
            lease.fence = *fence;
            lease.deadline = lease.deadline.max(deadline);
            lease.renew_at = renew_at;
            let state = lease.state;
            self.counts.restored += 1;
            if let State::Held(tie) = state {
                let units = self.units.get_mut(&tie).into_iter().flatten();
                // Whoever lost its lease keeps the earlier fence: another may have run in its place since.
                for unit in units.filter(|unit| unit.lease == Some(slot.0) && !unit.is_lost) {
                    unit.fence = Some(*fence);
                }
            }
        }
        self.due(now);
    }

    /// A renewal or restoration came to nothing: it is tried again.
    pub(crate) fn renewal_failed(&mut self, batch: &Batch, now: Micros) {
        for slot in &batch.slots {
            if let Some(lease) = self.lease(*slot) {
                lease.is_busy = false;
                lease.renew_at = now.saturating_add(AGAIN);
            }
        }
        self.due(now);
    }

    // -- when ----------------------------------------------------------------------------------------------------------

    /// When something is due by itself; the greatest moment when nothing is. Without `sends` only what needs no store.
    pub(crate) fn next_look(&mut self, now: Micros, sends: bool) -> Micros {
        if !self.lost.is_empty() {
            return now;
        }
        if self.look_at > now && sends {
            return self.look_at;
        }
        let keep = self.keep();
        let squeezed = self.is_squeezed;
        let mut at = if sends && !self.surplus.is_empty() {
            now
        } else {
            Micros::MAX
        };
        for (_, lease) in &self.slots {
            if lease.deadline != 0 && lease.state != State::Asking {
                at = at.min(lease.deadline);
            }
            if !sends {
                continue;
            }
            match lease.state {
                State::Idle { since } if !lease.is_busy => {
                    let is_due = squeezed && !self.waits(lease.holder);
                    at = at.min(if is_due { now } else { since.saturating_add(keep) });
                }
                State::Held(_) if !lease.is_busy => at = at.min(lease.renew_at),
                State::Asking | State::Idle { .. } | State::Held(_) => {}
            }
        }
        let is_bare = |unit: &Unit| unit.lease.is_none();
        if sends && self.units.values().flatten().any(is_bare) {
            at = now;
        }
        if sends {
            self.look_at = at;
        }
        at
    }

    // -- the end -----------------------------------------------------------------------------------------------------

    /// Everything that the store may have, to be given back.
    pub(crate) fn drain(&mut self) -> Vec<(Arc<str>, Vec<LeaseId>)> {
        let mut by_user: HashMap<Arc<str>, Vec<LeaseId>, RandomState> = HashMap::default();
        for surplus in self.surplus.drain(..) {
            by_user.entry(surplus.user).or_default().push(surplus.id);
        }
        for lease in self.slots.drain() {
            let account = self.accounts.get(&lease.holder);
            let user = account.map_or_else(|| Arc::from(""), |account| account.user.clone());
            by_user.entry(user).or_default().push(lease.id);
        }
        self.accounts.clear();
        self.units.clear();
        by_user.into_iter().collect()
    }

    pub(crate) fn levels(&self) -> Levels {
        let mut levels = Levels {
            giving_back: self.surplus.len(),
            ..Levels::default()
        };
        for (_, lease) in &self.slots {
            match lease.state {
                State::Asking => levels.asking += 1,
                State::Idle { .. } => levels.idle += 1,
                State::Held(_) if lease.deadline == 0 => {}
                State::Held(_) => levels.held += 1,
            }
        }
        let units = self.units.values().flatten();
        levels.uncovered = units
            .filter(|unit| unit.lease.is_none_or(|slot| self.slots[slot].deadline == 0))
            .count();
        levels
    }
}
