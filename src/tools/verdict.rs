//! What a check came to. It begins as refused, and is permitted only when it is closed without a violation.

use std::sync::Arc;

use super::resource::ResourceFault;
use crate::clock::Micros;
use crate::metrics::Id;
use crate::mutants::mutant;

/// Most violations that one verdict keeps.
pub const MAX_VIOLATIONS: usize = 512;

/// What kind of rule was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// The context is not what it should be.
    ContextIntegrityFailure,
    /// No role permits the action.
    InsufficientPermissions,
    /// No role permits the action on this resource.
    ResourceAccessDenied,
    /// The resource is another user's, or may be.
    CrossUserAccessRisk,
    /// A permission service refused.
    PolicyViolation,
    /// A limit is reached.
    LimitExceeded,
    /// The check itself failed.
    ValidationError,
}

impl ViolationKind {
    /// The name in Python.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContextIntegrityFailure => "context_integrity_failure",
            Self::InsufficientPermissions => "insufficient_permissions",
            Self::ResourceAccessDenied => "resource_access_denied",
            Self::CrossUserAccessRisk => "cross_user_access_risk",
            Self::PolicyViolation => "policy_violation",
            Self::LimitExceeded => "limit_exceeded",
            Self::ValidationError => "validation_error",
        }
    }

    /// How bad it is.
    pub const fn severity(self) -> &'static str {
        match self {
            Self::ContextIntegrityFailure | Self::CrossUserAccessRisk => "critical",
            Self::ValidationError => "high",
            Self::InsufficientPermissions
            | Self::ResourceAccessDenied
            | Self::PolicyViolation
            | Self::LimitExceeded => "warning",
        }
    }

    /// How bad it is, as a number.
    const fn weight(self) -> u8 {
        match self {
            Self::CrossUserAccessRisk => 3,
            Self::ContextIntegrityFailure => 2,
            Self::ValidationError => 1,
            _ => 0,
        }
    }

    /// Its place among the reasons that a scrape tells, the first of which is that nothing was found.
    const fn reason(self) -> usize {
        match self {
            Self::ContextIntegrityFailure => 1,
            Self::InsufficientPermissions => 2,
            Self::ResourceAccessDenied => 3,
            Self::CrossUserAccessRisk => 4,
            Self::PolicyViolation => 5,
            Self::LimitExceeded => 6,
            Self::ValidationError => 7,
        }
    }

    /// The kind of that name.
    pub fn of(name: &str) -> Option<Self> {
        const ALL: [ViolationKind; 7] = [
            ViolationKind::ContextIntegrityFailure,
            ViolationKind::InsufficientPermissions,
            ViolationKind::ResourceAccessDenied,
            ViolationKind::CrossUserAccessRisk,
            ViolationKind::PolicyViolation,
            ViolationKind::LimitExceeded,
            ViolationKind::ValidationError,
        ];
        ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The code of a violation: one of ours, or a permission service's own.
pub type Code = std::borrow::Cow<'static, str>;

/// One rule that was broken. Carries nothing but what the asker has said itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What kind of rule.
    pub kind: ViolationKind,
    /// Which one, in one word.
    pub code: Code,
    /// At which resource, as the asker named it.
    pub resource: Option<Box<str>>,
}

/// What a check came to.
#[derive(Debug)]
pub struct Verdict {
    permitted: bool,
    closed: bool,
    evaluated: bool,
    violations: Vec<Violation>,
    policies: Vec<Arc<str>>,
    revision: Option<Arc<str>>,
    began: Micros,
    micros: Micros,
}

impl Verdict {
    /// Nothing checked yet: refused.
    pub const fn open(now: Micros) -> Self {
        Self {
            permitted: false,
            closed: false,
            evaluated: false,
            violations: Vec::new(),
            policies: Vec::new(),
            revision: None,
            began: now,
            micros: 0,
        }
    }

    /// Notes a violation. A verdict that is closed takes none.
    pub fn violate(&mut self, kind: ViolationKind, code: impl Into<Code>, resource: Option<&str>) {
        if self.closed || self.violations.len() >= MAX_VIOLATIONS {
            return;
        }
        self.violations.push(Violation {
            kind,
            code: code.into(),
            resource: resource.map(Box::from),
        });
    }

    /// Notes a resource whose name is not one.
    pub fn malformed(&mut self, fault: ResourceFault, resource: &str) {
        let code = match fault {
            ResourceFault::Blank => "resource_blank",
            ResourceFault::TooLong => "resource_too_long",
            ResourceFault::Control => "resource_control_characters",
            ResourceFault::Ambiguous => "resource_ambiguous",
        };
        let shown = crate::ids::cut(resource, 256);
        self.violate(ViolationKind::ValidationError, code, Some(shown));
    }

    /// Notes the rules that decided.
    pub fn decided_by(&mut self, policies: impl IntoIterator<Item = Arc<str>>) {
        for policy in policies {
            if !self.policies.contains(&policy) && self.policies.len() < MAX_VIOLATIONS {
                self.policies.push(policy);
            }
        }
    }

    /// Notes which policy was asked.
    pub fn asked(&mut self, revision: &Arc<str>) {
        self.revision = Some(revision.clone());
    }

    /// Everything that is to be checked was.
    pub fn complete(&mut self) {
        self.evaluated |= !self.closed;
    }

    /// Ends the check: permitted when it was carried out to its end and found no violation. Answers whether this was the first
    /// time, and so whether the verdict is to be recorded.
    pub fn close(&mut self, now: Micros) -> bool {
        if self.closed {
            return false;
        }
        self.closed = true;
        self.permitted = self.evaluated && self.violations.is_empty();
        self.count();
        self.micros = now.saturating_sub(self.began);
        self.evaluated || !mutant!(EarlyVerdictNotRecorded)
    }

    /// Counts what it came to. One that broke off without a reason is one that failed.
    fn count(&self) {
        let (decision, reason) = if self.permitted {
            (0, 0)
        } else {
            // Of several that are as bad the first.
            let worst = self.violations.iter().rev().max_by_key(|found| {
                if mutant!(FirstReasonCounts) {
                    0
                } else {
                    found.kind.weight()
                }
            });
            (
                1,
                worst
                    .map_or(ViolationKind::ValidationError, |found| found.kind)
                    .reason(),
            )
        };
        Id::PermissionDecisions.at(&[decision, reason]).increment();
    }

    /// Takes a permission back: what is permitted and cannot be recorded is refused. It was counted as permitted, and counts as
    /// refused as well.
    pub fn withdraw(&mut self, code: &'static str) {
        self.permitted = false;
        self.evaluated = false;
        self.violations.push(Violation {
            kind: ViolationKind::ValidationError,
            code: code.into(),
            resource: None,
        });
        Id::PermissionDecisions
            .at(&[1, ViolationKind::ValidationError.reason()])
            .increment();
    }

    /// Whether the request may go on.
    pub fn is_permitted(&self) -> bool {
        self.permitted
    }

    /// Whether the check was carried out to its end.
    pub fn is_evaluated(&self) -> bool {
        self.evaluated
    }

    /// Whether it is at its end.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// What was found.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The rules that decided.
    pub fn policies(&self) -> &[Arc<str>] {
        &self.policies
    }

    /// Which policy was asked.
    pub fn revision(&self) -> Option<&Arc<str>> {
        self.revision.as_ref()
    }

    /// How long it took.
    pub fn micros(&self) -> Micros {
        self.micros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_refused_until_it_is_closed_at_its_end() {
        let mut verdict = Verdict::open(5);
        assert!(!verdict.is_permitted());
        verdict.complete();
        assert!(!verdict.is_permitted());
        assert!(verdict.close(9), "the first time it is to be recorded");
        assert!(verdict.is_permitted() && verdict.micros() == 4);
        assert!(!verdict.close(10));
        verdict.violate(ViolationKind::PolicyViolation, "late", None);
        assert!(verdict.violations().is_empty(), "what is closed stays as it is");
        verdict.withdraw("audit_unavailable");
        assert!(!verdict.is_permitted() && !verdict.is_evaluated());
    }

    #[test]
    fn a_check_that_broke_off_is_refused_and_recorded() {
        let mut verdict = Verdict::open(0);
        assert!(verdict.close(1));
        assert!(!verdict.is_permitted() && !verdict.is_evaluated());
        let mut found = Verdict::open(0);
        found.violate(ViolationKind::PolicyViolation, "no", None);
        found.complete();
        assert!(found.close(1) && !found.is_permitted() && found.is_evaluated());
    }
}
