//! The question every boundary asks: whose is this?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;
use crate::crossings::{self, Place, Tier};
use crate::ids::UserId;
use crate::mutants::mutant;

/// The place where an object of one lane meets another: the name that errors and counters use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Crossing {
    /// An event is published into a run's log.
    Publish,
    /// A connection subscribes to a stream.
    Subscribe,
    /// A frame is handed to a socket.
    Write,
    /// An engine, emitter or run is bound to a context.
    Bind,
    /// A context's own containers, session and tags are verified.
    Verify,
    /// Contents were scanned: a text, a value or a stream on its way out.
    Content,
    /// A request for a resource comes to the wall.
    Access,
}

impl Crossing {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Publish,
        Self::Subscribe,
        Self::Write,
        Self::Bind,
        Self::Verify,
        Self::Content,
        Self::Access,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Write => "write",
            Self::Bind => "bind",
            Self::Verify => "verify",
            Self::Content => "content",
            Self::Access => "access",
        }
    }
}

/// An object of one user met a boundary of another. Carries no id: its text may reach the wrong user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} (at the {} boundary)", crossing.name())]
pub struct IsolationViolation {
    /// Where it was found.
    pub crossing: Crossing,
    /// What was found, without anybody's data.
    pub detail: String,
}

/// What each boundary has found: what it refused, and what had crossed it.
static VIOLATIONS: [AtomicU64; Crossing::ALL.len()] = [const { AtomicU64::new(0) }; Crossing::ALL.len()];

/// Counts an attempt that a boundary refuses, and makes what is raised. Nothing crosses.
pub fn refusal(crossing: Crossing, detail: impl Into<String>) -> IsolationViolation {
    VIOLATIONS[crossing as usize].fetch_add(1, Ordering::Relaxed);
    if let Some(place) = Place::of(crossing).filter(|_| !mutant!(RefusalNotCounted)) {
        crossings::refused(place);
    }
    IsolationViolation {
        crossing,
        detail: detail.into(),
    }
}

/// Counts a violation that was found: data of one user is where another's is.
pub fn violation(place: Place, tier: Tier) {
    if let Some(crossing) = place.crossing() {
        VIOLATIONS[crossing as usize].fetch_add(1, Ordering::Relaxed);
    }
    crossings::found(place, tier, clock::unix_micros_of_system());
}

/// How often each boundary of this process has found something: attempts that it refused, and what had crossed it.
pub fn violation_counts() -> [(&'static str, u64); Crossing::ALL.len()] {
    Crossing::ALL.map(|crossing| (crossing.name(), VIOLATIONS[crossing as usize].load(Ordering::Relaxed)))
}

/// What everything in a lane carries: the user, and a mark of this incarnation of the lane.
#[derive(Debug, Clone)]
pub struct OwnerTag(Arc<Owner>);

#[derive(Debug)]
struct Owner {
    user: UserId,
}

impl OwnerTag {
    /// A tag for a new lane.
    pub fn new(user: UserId) -> Self {
        Self(Arc::new(Owner { user }))
    }

    /// The user who owns what carries the tag.
    pub fn user(&self) -> &UserId {
        &self.0.user
    }

    /// The crossing-point check: passes when both tags belong to the same user.
    pub fn same_owner(&self, other: &Self, crossing: Crossing) -> Result<(), IsolationViolation> {
        if matches!(crossing, Crossing::Subscribe | Crossing::Bind)
            && let Some(place) = Place::of(crossing)
        {
            crossings::checked(place, 1);
        }
        if Arc::ptr_eq(&self.0, &other.0) || self.0.user.is(&other.0.user) {
            return Ok(());
        }
        let compared = match crossing {
            Crossing::Publish => !mutant!(OwnerNotComparedAtPublish),
            Crossing::Subscribe => !mutant!(OwnerNotComparedAtSubscribe),
            Crossing::Write => !mutant!(OwnerNotComparedAtWrite),
            Crossing::Bind => !mutant!(OwnerNotComparedAtBind),
            Crossing::Verify | Crossing::Content | Crossing::Access => true,
        };
        if !compared {
            return Ok(());
        }
        Err(refusal(crossing, "an object of another user was refused"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_different_users_are_refused_and_counted() {
        let tag = |user| OwnerTag::new(UserId::new(user).expect("valid"));
        let before = violation_counts()[Crossing::Bind as usize].1;
        assert!(tag("ann").same_owner(&tag("ann"), Crossing::Bind).is_ok());
        let refused = tag("ann").same_owner(&tag("bob"), Crossing::Bind).expect_err("refused");
        assert!(!refused.to_string().contains("ann") && !refused.to_string().contains("bob"));
        assert!(violation_counts()[Crossing::Bind as usize].1 > before);
    }
}
