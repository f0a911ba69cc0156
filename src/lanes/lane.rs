//! One user's lane and the handles that keep it in use.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::budget::{Account, Charge};
use super::registry::Shared;
use crate::cache::Shelves;
use crate::events::Streams;
use crate::ids::UserId;
use crate::owner::OwnerTag;

/// Numbers of lanes, never used twice in a process.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Names a lane, and so its user: a number that no lane after it has. Cheap to hash, and nobody outside can choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneKey(u64);

impl LaneKey {
    /// The name of the lane of this number.
    pub(crate) fn of(number: u64) -> Self {
        Self(number)
    }

    /// Orders lanes by when they were made.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Everything this process holds for one user.
pub struct Lane {
    tag: OwnerTag,
    shared: Arc<Shared>,
    /// How many handles there are: contexts, engines, permits, connections, unexpired logs.
    handles: AtomicUsize,
    number: LaneKey,
    /// The turn in which the last handle was dropped: orders the idle lanes without a look at the clock.
    idle_turn: AtomicU64,
    account: Arc<Account>,
    /// What the lane itself weighs.
    _own: Charge,
    streams: Streams,
    caches: Shelves,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("tag", &self.tag)
            .field("handles", &self.handles())
            .finish_non_exhaustive()
    }
}

impl Lane {
    pub(super) fn new(user: UserId, shared: Arc<Shared>) -> Arc<Self> {
        let account = Arc::new(Account::under(shared.account.clone()));
        let own = Charge::new(account.clone(), size_of::<Self>() + user.as_str().len());
        let streams = Streams::new(shared.logs.clone());
        Arc::new(Self {
            tag: OwnerTag::new(user),
            number: LaneKey(NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)),
            idle_turn: AtomicU64::new(shared.next_idle_turn()),
            shared,
            handles: AtomicUsize::new(0),
            account,
            _own: own,
            streams,
            caches: Shelves::default(),
        })
    }

    /// What everything of this user carries.
    pub fn tag(&self) -> &OwnerTag {
        &self.tag
    }

    /// The user.
    pub fn user(&self) -> &UserId {
        self.tag.user()
    }

    /// How many handles keep the lane in use.
    pub fn handles(&self) -> usize {
        self.handles.load(Ordering::Acquire)
    }

    /// Smaller for lanes that nothing uses for longer. Meaningless while something does.
    pub fn idle_turn(&self) -> u64 {
        self.idle_turn.load(Ordering::Relaxed)
    }

    /// The name of the lane.
    pub fn key(&self) -> LaneKey {
        self.number
    }

    /// Where the bytes of the lane are counted.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The user's event streams and connections.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The user's caches.
    pub fn caches(&self) -> &Shelves {
        &self.caches
    }

    /// What belongs to the process: its clock, its expiry queue, its totals.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Keeps a lane in use. Held by everything that the registry must not evict.
#[derive(Debug)]
pub struct LaneHandle(Arc<Lane>);

impl LaneHandle {
    /// Only the registry makes the first handle of a lane, while it holds the lane's shard.
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        if lane.handles.fetch_add(1, Ordering::AcqRel) == 0 {
            lane.shared.idle.fetch_sub(1, Ordering::Relaxed);
        }
        Self(lane)
    }
}

impl Clone for LaneHandle {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::AcqRel);
        Self(self.0.clone())
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0
                .idle_turn
                .store(self.0.shared.next_idle_turn(), Ordering::Relaxed);
            self.0.shared.idle.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Deref for LaneHandle {
    type Target = Lane;

    fn deref(&self) -> &Lane {
        &self.0
    }
}
