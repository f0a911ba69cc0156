//! What was decided for one user, and why.

use std::sync::Arc;

use super::bucket::Algorithm;

/// Why, in the words of `OpenFeature`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The same for everybody: 0 % or 100 %.
    Static,
    /// Nothing applied, so the control.
    Default,
    /// This user, or what is known of the user, is named.
    TargetingMatch,
    /// By the user's bucket.
    Split,
    /// Switched off for everybody.
    Disabled,
    /// Decided by a document that could not be read anew.
    Stale,
    /// The control, or what was decided without what could not be had; [`ErrorCode`] says what.
    Error,
}

impl Reason {
    /// Its place among the reasons that a scrape tells.
    pub(super) const fn place(self) -> usize {
        match self {
            Self::Static => 0,
            Self::Default => 1,
            Self::TargetingMatch => 2,
            Self::Split => 3,
            Self::Disabled => 4,
            Self::Stale => 5,
            Self::Error => 6,
        }
    }

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "STATIC",
            Self::Default => "DEFAULT",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Split => "SPLIT",
            Self::Disabled => "DISABLED",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        }
    }
}

/// What went wrong, in the words of `OpenFeature`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// The document has no such flag.
    FlagNotFound,
    /// There is no user to bucket.
    TargetingKeyMissing,
    /// What stands for the user is not an id.
    InvalidContext,
    /// The attributes of the user could not be had: no rule matched.
    General,
}

impl ErrorCode {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlagNotFound => "FLAG_NOT_FOUND",
            Self::TargetingKeyMissing => "TARGETING_KEY_MISSING",
            Self::InvalidContext => "INVALID_CONTEXT",
            Self::General => "GENERAL",
        }
    }
}

/// Which step of the evaluation decided. They are in this order, and the first that applies decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// There is no such flag.
    NotFound,
    /// The document's kill switch, or the process's.
    KillSwitch,
    /// A rollback that nobody has resumed from.
    Rollback,
    /// The flag is switched off.
    State,
    /// The user is quarantined.
    Quarantine,
    /// The user is on the list of those who never get it.
    Deny,
    /// The user is on the list of those who always get it.
    Allow,
    /// A flag that this one requires is off for the user.
    Requires,
    /// A rule matched what is known of the user.
    Rule,
    /// The flag's own rollout.
    Rollout,
    /// Nothing applied.
    Control,
}

impl Step {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::KillSwitch => "kill_switch",
            Self::Rollback => "rollback",
            Self::State => "state",
            Self::Quarantine => "quarantine",
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Requires => "requires",
            Self::Rule => "rule",
            Self::Rollout => "rollout",
            Self::Control => "control",
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The flag.
    pub flag: Arc<str>,
    /// Whether it is on.
    pub value: bool,
    /// Why.
    pub reason: Reason,
    /// What went wrong. Then the reason is [`Reason::Error`].
    pub error: Option<ErrorCode>,
    /// What decided.
    pub step: Step,
    /// The bucket of the user, when it was asked for.
    pub bucket: Option<u32>,
    /// The rollout that the bucket was held against.
    pub threshold: Option<u32>,
    /// Which rule decided.
    pub rule: Option<u16>,
    /// The revision of the document.
    pub revision: u64,
    /// How the bucket was made.
    pub algorithm: Option<Algorithm>,
}

impl Decision {
    /// `on` or `off`.
    pub const fn variant(&self) -> &'static str {
        if self.value { "on" } else { "off" }
    }
}
