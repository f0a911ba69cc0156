//! What a limiter remembers of each user.

use std::collections::{HashMap, VecDeque};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use foldhash::fast::RandomState;
use slab::Slab;

use super::queue::{Line, Ticket, Waiters};
use super::stats::{Detail, UserCounts};
use crate::clock::{Micros, SECOND};
use crate::lanes::{LaneHandle, LaneKey};
use crate::mutants::mutant;

/// After what time without a permit or a waiter the percentiles of a user are forgotten; the counts stay.
const DETAIL_IDLE: Micros = 10 * SECOND;
/// Most records that are looked at in one call, so that no call takes long.
pub(super) const SLICE: usize = 64;

pub(super) struct User {
    pub(super) key: LaneKey,
    /// The user's id, where leases are asked for in its name.
    pub(super) name: Option<Arc<str>>,
    /// Units of the pool.
    pub(super) running: u32,
    /// Permits, those that run on a lent unit included.
    pub(super) permits: u32,
    pub(super) waiting: u32,
    /// In place of the limit for everybody.
    pub(super) own_limit: Option<u32>,
    pub(super) weight: f32,
    /// The user's permit-seconds by its weight, as far as others waited meanwhile, of permits that came back.
    pub(super) tag: u64,
    /// What was charged in advance for those that are held.
    pub(super) in_flight: u64,
    /// Smoothed time that a permit is held.
    pub(super) hold: Micros,
    /// Waiters that need no named resource.
    pub(super) plain: Line,
    /// The others, by the number of their flow.
    pub(super) others: Vec<(u32, Line)>,
    pub(super) counts: UserCounts,
    pub(super) detail: Option<Box<Detail>>,
    /// A user with settings of its own keeps its lane, and with it this record.
    pub(super) pinned: Option<LaneHandle>,
    idle_since: Micros,
    in_idle_queue: bool,
}

impl User {
    fn new(key: LaneKey, tag: u64) -> Self {
        Self {
            key,
            name: None,
            running: 0,
            permits: 0,
            waiting: 0,
            own_limit: None,
            weight: 1.0,
            tag,
            in_flight: 0,
            hold: 0,
            plain: Line::default(),
            others: Vec::new(),
            counts: UserCounts::default(),
            detail: None,
            pinned: None,
            idle_since: 0,
            in_idle_queue: false,
        }
    }

    /// The user's place in the fair order.
    pub(super) fn key(&self) -> u64 {
        self.tag.saturating_add(self.in_flight)
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.permits == 0 && self.waiting == 0 && self.pinned.is_none()
    }

    pub(super) fn line(&mut self, flow: u32) -> &mut Line {
        if flow == 0 {
            return &mut self.plain;
        }
        let at = self.others.iter().position(|(of, _)| *of == flow);
        let at = at.unwrap_or_else(|| {
            self.others.push((flow, Line::default()));
            self.others.len() - 1
        });
        &mut self.others[at].1
    }

    /// The number of the first of the user's waiters that has come.
    pub(super) fn first_serial(&self, waiters: &Waiters) -> u64 {
        let lines = std::iter::once(&self.plain).chain(self.others.iter().map(|(_, line)| line));
        let firsts = lines.filter_map(|line| waiters.first(line));
        firsts.map(Ticket::serial).min().unwrap_or(u64::MAX)
    }

    pub(super) fn waiting_in(&self, flow: u32) -> u32 {
        if flow == 0 {
            return self.plain.waiting;
        }
        self.others
            .iter()
            .find(|(of, _)| *of == flow)
            .map_or(0, |(_, line)| line.waiting)
    }

    /// Forgets an empty line for a set of resources.
    pub(super) fn drop_empty_lines(&mut self) {
        if !self.others.is_empty() {
            self.others.retain(|(_, line)| line.waiting > 0);
        }
    }
}

/// The users of a limiter. An index stays valid while its user has a permit or a waiter.
#[derive(Default)]
pub(super) struct Users {
    records: Slab<User>,
    by_key: HashMap<LaneKey, u32, RandomState>,
    /// Users without a permit and a waiter since about this time, and those of them whose detail is gone.
    idle: VecDeque<(Micros, u32, LaneKey)>,
    long_idle: VecDeque<(Micros, u32, LaneKey)>,
}

impl Index<u32> for Users {
    type Output = User;

    fn index(&self, user: u32) -> &User {
        &self.records[user as usize]
    }
}

impl IndexMut<u32> for Users {
    fn index_mut(&mut self, user: u32) -> &mut User {
        &mut self.records[user as usize]
    }
}

impl Users {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn get(&self, user: u32) -> Option<&User> {
        self.records.get(user as usize)
    }

    /// Keeps the user's id, which only shared limiters need.
    #[cold]
    pub(super) fn name(&mut self, user: u32, lane: &LaneHandle) {
        let record = &mut self[user];
        if record.name.is_none() {
            record.name = Some(lane.user().shared().clone());
        }
    }

    pub(super) fn find_number(&self, number: u64) -> Option<u32> {
        self.find(LaneKey::of(number))
    }

    pub(super) fn find(&self, key: LaneKey) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    /// The record of a user; one that is new begins at `tag`.
    pub(super) fn entry(&mut self, key: LaneKey, tag: u64, now: Micros) -> u32 {
        if let Some(user) = self.find(key) {
            return user;
        }
        let user = u32::try_from(self.records.insert(User::new(key, tag))).expect("fewer users than 2^32");
        self.by_key.insert(key, user);
        self.rest(user, now);
        user
    }

    /// Notes that a user may have neither permit nor waiter any more.
    pub(super) fn rest(&mut self, user: u32, now: Micros) {
        let record = &mut self[user];
        if !record.is_idle() {
            return;
        }
        record.idle_since = now;
        // It stays in the queue while it works for a while and rests again: whoever looks at it there sees since when.
        if !record.in_idle_queue {
            record.in_idle_queue = true;
            let key = record.key;
            self.idle.push_back((now, user, key));
        }
    }

    /// Whether a line is in the order of users by the entry of this number.
    pub(super) fn is_listed(&self, user: u32, flow: u32, number: u64) -> bool {
        let Some(record) = self.records.get(user as usize) else {
            return false;
        };
        if flow == 0 {
            return record.plain.entry == number;
        }
        let mut others = record.others.iter();
        others.any(|(of, line)| *of == flow && line.entry == number)
    }

    /// Users with a unit or a waiter.
    pub(super) fn busy(&self) -> impl Iterator<Item = (LaneKey, u32, u32)> {
        let records = self.records.iter().map(|(_, record)| record);
        let busy = records.filter(|record| record.running > 0 || record.waiting > 0);
        busy.map(|record| (record.key, record.running, record.waiting))
    }

    /// Users with a waiter.
    pub(super) fn with_waiters(&self) -> Vec<u32> {
        let waiting = self.records.iter().filter(|(_, record)| record.waiting > 0);
        waiting.filter_map(|(user, _)| u32::try_from(user).ok()).collect()
    }

    fn remove(&mut self, user: u32) {
        let record = self.records.remove(user as usize);
        self.by_key.remove(&record.key);
    }

    /// How many entries there are to look at in [`Self::sweep`].
    pub(super) fn resting(&self) -> usize {
        self.idle.len() + self.long_idle.len()
    }

    /// Whether [`Self::sweep`] has something to do.
    pub(super) fn is_sweep_due(&self, now: Micros, idle: Micros, max_users: usize) -> bool {
        let due = |queue: &VecDeque<(Micros, u32, LaneKey)>, after: Micros| {
            queue
                .front()
                .is_some_and(|(since, ..)| now.saturating_sub(*since) >= after)
        };
        due(&self.idle, DETAIL_IDLE.min(idle)) || due(&self.long_idle, idle) || self.len() > max_users
    }

    /// Forgets users that have been idle for `idle`, and the longest idle ones beyond `max_users`. Looks at a bounded number of
    /// them; answers how many it forgot.
    pub(super) fn sweep(&mut self, now: Micros, idle: Micros, max_users: usize) -> usize {
        let mut forgotten = 0;
        for _ in 0..SLICE {
            let too_many = self.len() > max_users;
            let from_long = self
                .long_idle
                .front()
                .is_some_and(|(since, ..)| too_many || now.saturating_sub(*since) >= idle);
            let queue = if from_long { &mut self.long_idle } else { &mut self.idle };
            let wait = if from_long { idle } else { DETAIL_IDLE.min(idle) };
            let Some((since, user, key)) = queue.front().copied() else {
                break;
            };
            if !too_many && now.saturating_sub(since) < wait {
                break;
            }
            queue.pop_front();
            let Some(record) = self.records.get_mut(user as usize).filter(|record| record.key == key) else {
                continue;
            };
            if !record.is_idle() && !mutant!(BusyUserForgotten) {
                record.in_idle_queue = false;
                continue;
            }
            let resting = now.saturating_sub(record.idle_since);
            if too_many || resting >= idle {
                self.remove(user);
                forgotten += 1;
            } else if resting >= DETAIL_IDLE {
                record.detail = None;
                let since = record.idle_since;
                self.long_idle.push_back((since, user, key));
            } else {
                let since = record.idle_since;
                self.idle.push_back((since, user, key));
            }
        }
        forgotten
    }
}
