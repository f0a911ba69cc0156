//! One decision: the steps in their order, of which the first that applies decides.

use super::bucket::FULL;
use super::decision::{Decision, ErrorCode, Reason, Step};
use super::document::{Flag, Rule};
use super::store::State;
use crate::mutants::mutant;

/// Who is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit<'a> {
    /// The user of this id, as it is.
    Id(&'a str),
    /// Nobody.
    Missing,
    /// Something that is no id.
    Invalid,
}

impl<'a> Unit<'a> {
    /// The user of this id; nobody, when it is empty.
    pub const fn of(id: &'a str) -> Self {
        if id.is_empty() { Self::Missing } else { Self::Id(id) }
    }
}

/// What is known of the user: a text, or nothing, for each attribute that the rules of one document look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    values: Box<[Option<Box<str>>]>,
    failed: bool,
}

impl Attributes {
    /// In the order of [`Document::attributes`](super::Document::attributes).
    pub fn new(values: Vec<Option<Box<str>>>) -> Self {
        Self {
            values: values.into(),
            failed: false,
        }
    }

    /// They could not be had.
    pub fn failed() -> Self {
        Self {
            values: Box::default(),
            failed: true,
        }
    }

    fn match_all(&self, rule: &Rule) -> bool {
        rule.conditions.iter().all(|(number, wanted)| {
            let value = self.values.get(*number as usize).and_then(Option::as_deref);
            value.is_some_and(|value| wanted.contains(value))
        })
    }
}

/// What a step came to.
#[derive(Clone, Copy)]
struct Found {
    value: bool,
    reason: Reason,
    step: Step,
    error: Option<ErrorCode>,
    bucket: Option<u32>,
    threshold: Option<u32>,
    rule: Option<u16>,
}

impl Found {
    const fn new(value: bool, reason: Reason, step: Step) -> Self {
        Self {
            value,
            reason,
            step,
            error: None,
            bucket: None,
            threshold: None,
            rule: None,
        }
    }
}

impl State {
    /// Whether a flag is on for a user, and why. Always has an answer.
    pub fn decide(&self, flag: &str, unit: Unit<'_>, attributes: &Attributes) -> Decision {
        let Some(flag) = self.document().flag(flag) else {
            return Decision {
                flag: crate::ids::cut(flag, 128).into(),
                value: false,
                reason: Reason::Error,
                error: Some(ErrorCode::FlagNotFound),
                step: Step::NotFound,
                bucket: None,
                threshold: None,
                rule: None,
                revision: self.document().revision(),
                algorithm: None,
            };
        };
        let found = self.find(flag, unit, attributes);
        let reason = match found.error {
            Some(_) => Reason::Error,
            None if self.is_stale() => Reason::Stale,
            None => found.reason,
        };
        Decision {
            flag: flag.name.clone(),
            value: found.value,
            reason,
            error: found.error,
            step: found.step,
            bucket: found.bucket,
            threshold: found.threshold,
            rule: found.rule,
            revision: self.document().revision(),
            algorithm: found.bucket.map(|_| flag.bucketing.algorithm()),
        }
    }

    /// The same without the reasons.
    pub fn is_on(&self, flag: &str, unit: Unit<'_>, attributes: &Attributes) -> bool {
        let flag = self.document().flag(flag);
        flag.is_some_and(|flag| self.find(flag, unit, attributes).value)
    }

    fn find(&self, flag: &Flag, unit: Unit<'_>, attributes: &Attributes) -> Found {
        let killed = self.is_killed() || self.document().is_killed();
        if killed && !mutant!(KillSwitchIgnored) {
            return Found::new(false, Reason::Disabled, Step::KillSwitch);
        }
        if (flag.rolled_back.is_some() || self.is_latched(&flag.name)) && !mutant!(RollbackNotLatched) {
            return Found::new(false, Reason::Disabled, Step::Rollback);
        }
        if !flag.on {
            return Found::new(false, Reason::Disabled, Step::State);
        }
        if let Unit::Id(id) = unit {
            if self.is_quarantined(id) {
                return Found::new(false, Reason::TargetingMatch, Step::Quarantine);
            }
            if flag.deny.contains(id) {
                return Found::new(false, Reason::TargetingMatch, Step::Deny);
            }
            if flag.allow.contains(id) {
                return Found::new(true, Reason::TargetingMatch, Step::Allow);
            }
        }
        let mut error = None;
        for required in &flag.requires {
            let required = self.find(self.document().at(*required), unit, attributes);
            error = error.or(required.error);
            if !required.value {
                return Found {
                    error,
                    ..Found::new(false, Reason::Default, Step::Requires)
                };
            }
        }
        if !flag.rules.is_empty() && attributes.failed {
            error = Some(ErrorCode::General);
        }
        let rules = flag.rules.iter().zip(0..);
        let found = match rules.into_iter().find(|(rule, _)| attributes.match_all(rule)) {
            Some((rule, number)) => Found {
                rule: Some(number),
                ..split(flag, rule.rollout, unit, Step::Rule)
            },
            None => match flag.rollout {
                Some(rollout) => split(flag, rollout, unit, Step::Rollout),
                None => Found::new(false, Reason::Default, Step::Control),
            },
        };
        Found {
            error: error.or(found.error),
            ..found
        }
    }
}

/// Everybody, nobody, or those whose bucket is in the rollout.
fn split(flag: &Flag, rollout: u32, unit: Unit<'_>, step: Step) -> Found {
    let same_for_all = rollout == 0 || rollout == FULL;
    let unsplit = if step == Step::Rule {
        Reason::TargetingMatch
    } else {
        Reason::Static
    };
    let (value, reason, error, bucket) = match unit {
        // No bucket is needed where all get the same: a user who is not known yet is not an error then.
        _ if same_for_all => (rollout == FULL, unsplit, None, None),
        Unit::Id(id) => {
            let bucket = flag.bucketing.bucket(id);
            let is_on = flag.bucketing.algorithm().is_on(bucket, rollout);
            (is_on, Reason::Split, None, Some(bucket))
        }
        Unit::Missing => (false, Reason::Error, Some(ErrorCode::TargetingKeyMissing), None),
        Unit::Invalid => (false, Reason::Error, Some(ErrorCode::InvalidContext), None),
    };
    Found {
        error,
        bucket,
        threshold: Some(rollout),
        ..Found::new(value, reason, step)
    }
}
