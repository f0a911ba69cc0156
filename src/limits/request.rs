//! What is asked for, and what is answered.

use super::queue::Ticket;
use super::resources::ResourceSet;
use crate::clock::{Micros, SECOND};
use crate::lanes::LaneHandle;

/// Classes of urgency within a user.
pub(super) const CLASSES: usize = 4;

/// How urgent a request is among those of its user: 1 is the most urgent, 4 the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority(u8);

impl Priority {
    /// Unless the caller says otherwise.
    pub const DEFAULT: Self = Self(1);

    /// Between 1 and 4.
    pub fn new(level: u8) -> Option<Self> {
        (1..=4).contains(&level).then(|| Self(level - 1))
    }

    pub(super) fn class(self) -> u8 {
        self.0
    }
}

/// Names the task or thread that asks, while it holds what it got.
pub type Task = usize;

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The user's lane, which the permit keeps in use.
    pub lane: &'a LaneHandle,
    /// The contexts from the root of the run to the asking one; empty without a context.
    pub path: &'a [u64],
    /// The asking task or thread.
    pub task: Task,
    /// A step of an admitted run: it is not refused early, it waits.
    pub admitted: bool,
    /// How urgent, among the user's own.
    pub priority: Priority,
    /// How much its time counts in the fair order of users.
    pub cost: f32,
    /// What it needs beside the user's and the process's unit.
    pub resources: ResourceSet,
    /// How long it would wait; for ever when `None`.
    pub patience: Option<Micros>,
    /// Whether it waits for the cluster's answer alone: it is refused where another would wait for somebody to be done.
    pub ask_once: bool,
}

impl<'a> Request<'a> {
    /// A request of default urgency without a context.
    pub fn new(lane: &'a LaneHandle) -> Self {
        Self {
            lane,
            path: &[],
            task: 0,
            admitted: false,
            priority: Priority::DEFAULT,
            cost: 1.0,
            resources: ResourceSet::NONE,
            patience: None,
            ask_once: false,
        }
    }
}

/// Limits and bounds of a limiter.
#[derive(Debug, Clone, Copy)]
pub struct LimitSettings {
    /// Permits of the process. 0 pauses.
    pub total: u32,
    /// Permits of one user. 0 pauses.
    pub per_user: u32,
    /// Waiters of the process.
    pub queue: usize,
    /// Waiters of one user.
    pub user_queue: usize,
    /// Whether a user may exceed its limit while nobody else waits.
    pub borrow: bool,
    /// After what wait a request counts as one class more urgent; a quarter of its patience when `None`.
    pub aging: Option<Micros>,
    /// The patience that `aging` follows from when a request waits for ever.
    pub patience: Micros,
    /// Users that are remembered.
    pub max_users: usize,
    /// After what time without a permit or a waiter a user is forgotten.
    pub idle: Micros,
}

impl LimitSettings {
    /// The settings with these two limits, and the defaults for the rest.
    pub const fn new(total: u32, per_user: u32) -> Self {
        Self {
            total,
            per_user,
            queue: 1_000,
            user_queue: 100,
            borrow: false,
            aging: None,
            patience: 2 * SECOND,
            max_users: 10_000,
            idle: 300 * SECOND,
        }
    }
}

/// Whose limit it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The user's own.
    User,
    /// The process's.
    Process,
    /// The bound on one run's nested permits.
    Tree,
    /// The user's own, or the one over all users, over several processes.
    Cluster,
}

impl Scope {
    /// The name in errors and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Process => "global",
            Self::Tree => "tree",
            Self::Cluster => "cluster",
        }
    }
}

/// Why a request was refused, or ended without a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Every permit is in use, and the caller does not wait.
    Full,
    /// Too many wait already.
    Queue,
    /// It would not be had in time, by what permits were held for lately.
    Predicted,
    /// The run's permits are nested too deeply, or too many.
    Nesting,
    /// It was not had in time.
    Timeout,
    /// What the limit is kept in does not answer.
    Unavailable,
}

impl Reason {
    /// The name in errors and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Queue => "queue",
            Self::Predicted => "predicted",
            Self::Nesting => "nesting",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A refusal, with what the caller needs to say when to come back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{} limit: {running} running of {limit}, {queued} waiting", resource.as_deref().unwrap_or(scope.name()))]
pub struct Refusal {
    /// Whose limit.
    pub scope: Scope,
    /// Why.
    pub reason: Reason,
    /// The named resource, when it is one that is lacking.
    pub resource: Option<Box<str>>,
    /// The limit.
    pub limit: u32,
    /// Permits in use under it.
    pub running: u32,
    /// Waiters under it.
    pub queued: usize,
    /// When it may be worth coming back, in whole seconds between 1 and 60.
    pub retry_after: u32,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Decision {
    /// It runs.
    Granted(super::fair::Grant),
    /// It waits.
    Parked(Ticket),
}
