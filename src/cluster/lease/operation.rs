//! What a backend is asked to do, and what it answers.

use std::sync::Arc;

/// Names a lease. Made by the process that asks for it, so that asking twice, or releasing what was never granted, is
/// harmless.
pub type LeaseId = [u8; 16];

/// What a backend does with leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Grants those that the limits allow.
    Acquire,
    /// Lets them live on, if it still has them.
    Renew,
    /// Forgets them.
    Release,
    /// Has them again, without a look at the limits.
    Restore,
}

impl Kind {
    /// The name in Python, and of its script.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::Restore => "restore",
        }
    }
}

/// Something for a backend to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Names it in the answer; never used twice.
    pub number: u64,
    /// What.
    pub kind: Kind,
    /// Of which limit.
    pub limit: Arc<str>,
    /// Whose; empty for units that belong to nobody yet.
    pub user: Arc<str>,
    /// Which leases.
    pub ids: Vec<LeaseId>,
    /// For how long they live.
    pub ttl_ms: u64,
    /// How many the user may have; `None` when its leases are not counted.
    pub user_limit: Option<u32>,
    /// How many all users together may have; `None` when they are not counted.
    pub total_limit: Option<u32>,
}

/// Which limit of the cluster refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The user's.
    User,
    /// The one over all users.
    Total,
}

/// What became of one lease that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The fence of a lease that was granted.
    pub fence: Option<u64>,
    /// Which limit refused it.
    pub which: Option<Which>,
    /// Milliseconds until the first of the leases in its way expires; 0 when that is not known.
    pub retry_ms: u64,
}

/// What a backend answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Kind::Acquire`], for each lease.
    Acquired(Vec<Granted>),
    /// To [`Kind::Renew`], whether it has each lease.
    Renewed(Vec<bool>),
    /// To [`Kind::Release`].
    Released,
    /// To [`Kind::Restore`], the fence of each lease.
    Restored(Vec<u64>),
}
