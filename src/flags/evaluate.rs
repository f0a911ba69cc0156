//! One decision: the steps in their order, of which the first that applies decides.

use std::sync::Arc;

use super::bucket::{FULL, is_in};
use super::decision::{Decision, ErrorCode, Reason, Step};
use super::document::{Flag, Rule};
use super::store::State;
use crate::metrics::{self, FLAGS, Id, OTHER};
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
        let reason = self.reason(&found);
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

    /// The same without the reasons, for who goes by it: it is counted.
    pub fn is_on(&self, flag: &str, unit: Unit<'_>, attributes: &Attributes) -> bool {
        let Some(flag) = self.document().flag(flag) else {
            count(None, false, Reason::Error);
            return false;
        };
        let found = self.find(flag, unit, attributes);
        count(Some(flag), found.value, self.reason(&found));
        found.value
    }

    /// Counts a decision that somebody goes by.
    pub fn count(&self, decision: &Decision) {
        count(self.document().flag(&decision.flag), decision.value, decision.reason);
    }

    fn reason(&self, found: &Found) -> Reason {
        match found.error {
            Some(_) => Reason::Error,
            None if self.is_stale() => Reason::Stale,
            None => found.reason,
        }
    }

    /// How far each flag is rolled out, in thousandths of a percent and rules aside: 0 while it is off for everybody.
    pub fn rollouts(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        let is_killed = self.is_killed();
        self.document().flags.iter().map(move |flag| {
            let is_rolled_back = flag.rolled_back.is_some() || self.is_latched(&flag.name);
            let is_off = is_killed || !flag.on || is_rolled_back || self.is_rolled_back_by_older(&flag.name);
            (&flag.name, if is_off { 0 } else { flag.rollout.unwrap_or(0) })
        })
    }

    fn find(&self, flag: &Flag, unit: Unit<'_>, attributes: &Attributes) -> Found {
        if self.is_killed() && !mutant!(KillSwitchIgnored) {
            return Found::new(false, Reason::Disabled, Step::KillSwitch);
        }
        let is_rolled_back = flag.rolled_back.is_some() || self.is_latched(&flag.name);
        if (is_rolled_back || self.is_rolled_back_by_older(&flag.name)) && !mutant!(RollbackNotLatched) {
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

/// A flag that no document has counts with those beyond the names that are told apart.
fn count(flag: Option<&Flag>, value: bool, reason: Reason) {
    if metrics::enabled() {
        let number = flag.map_or_else(|| FLAGS.index(OTHER), Flag::number);
        Id::FlagEvaluations
            .at(&[number, usize::from(value), reason.place()])
            .increment();
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
            (is_in(bucket, rollout), Reason::Split, None, Some(bucket))
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

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;

    fn store(flags: &str) -> Store {
        let store = Store::new();
        let text = format!(r#"{{"schema":1,"revision":1,"flags":{flags}}}"#);
        store.load(&text, "", false).expect("valid");
        store
    }

    fn decide(store: &Store, flag: &str, unit: Unit<'_>) -> Decision {
        store.state().decide(flag, unit, &Attributes::default())
    }

    /// Each step is taken away in turn: what was behind it decides then.
    #[test]
    fn the_first_step_that_applies_decides() {
        let store = store(
            r#"{"base": {"rollout": 0, "allow": ["ann"]},
                "flag": {"rollout": 100000, "deny": ["dan"], "allow": ["ann", "dan"], "requires": ["base"]},
                "off": {"state": "off", "allow": ["ann"], "rollout": 100000},
                "written": {"rollback": {"reason": "errors"}, "allow": ["ann"], "rollout": 100000},
                "nothing": {}}"#,
        );
        let step = |flag: &str, user: &str| {
            let decision = decide(&store, flag, Unit::of(user));
            (decision.step, decision.value, decision.reason)
        };
        store.set_killed(true);
        store.latch("flag", "{}").expect("few");
        store.quarantine("ann").expect("few");
        assert_eq!(step("flag", "ann"), (Step::KillSwitch, false, Reason::Disabled));
        store.set_killed(false);
        assert_eq!(step("flag", "ann"), (Step::Rollback, false, Reason::Disabled));
        assert!(store.release("flag") && !store.release("flag"));
        assert_eq!(step("flag", "ann"), (Step::Quarantine, false, Reason::TargetingMatch));
        assert!(store.release_user("ann") && !store.release_user("ann"));
        assert_eq!(step("flag", "dan"), (Step::Deny, false, Reason::TargetingMatch));
        assert_eq!(step("flag", "ann"), (Step::Allow, true, Reason::TargetingMatch));
        assert_eq!(step("flag", "eve"), (Step::Requires, false, Reason::Default));
        assert_eq!(step("off", "ann"), (Step::State, false, Reason::Disabled));
        assert_eq!(step("written", "ann"), (Step::Rollback, false, Reason::Disabled));
        assert_eq!(step("nothing", "ann"), (Step::Control, false, Reason::Default));
        assert_eq!(step("missing", "ann"), (Step::NotFound, false, Reason::Error));
        store.set_stale(true);
        assert_eq!(step("flag", "ann"), (Step::Allow, true, Reason::Stale));
        assert_eq!(step("missing", "ann"), (Step::NotFound, false, Reason::Error));
    }

    #[test]
    fn the_kill_switch_of_the_document_comes_before_all() {
        let store = Store::new();
        let text =
            r#"{"schema":1,"revision":1,"kill_switch":true,"flags":{"flag":{"allow":["ann"],"rollout":100000}}}"#;
        store.load(text, "", false).expect("valid");
        let decision = decide(&store, "flag", Unit::of("ann"));
        assert_eq!((decision.value, decision.step), (false, Step::KillSwitch));
    }

    #[test]
    fn rules_match_when_all_their_conditions_do() {
        let store = store(
            r#"{"flag": {"rollout": 0, "rules": [
                {"if": {"tier": ["enterprise", "pro"], "region": "eu"}, "rollout": 100000},
                {"if": {"tier": ["pro"]}, "rollout": 0},
                {"if": {"region": ["eu", "us"]}, "rollout": 50000}]}}"#,
        );
        let state = store.state();
        assert_eq!(state.document().attributes(), ["region".into(), "tier".into()]);
        let rule = |region: Option<&str>, tier: Option<&str>| {
            let attributes = Attributes::new(vec![region.map(Into::into), tier.map(Into::into)]);
            let decision = state.decide("flag", Unit::of("ann"), &attributes);
            (decision.rule, decision.value)
        };
        assert_eq!(rule(Some("eu"), Some("pro")), (Some(0), true));
        assert_eq!(rule(Some("us"), Some("pro")), (Some(1), false));
        assert_eq!(rule(Some("us"), Some("free")).0, Some(2));
        assert_eq!(rule(None, Some("enterprise")), (None, false));
        assert_eq!(rule(None, None), (None, false));
    }

    #[test]
    fn all_and_nobody_need_no_user() {
        let store = store(r#"{"all": {"rollout": 100000}, "none": {"rollout": 0}, "some": {"rollout": 50000}}"#);
        for (unit, code) in [
            (Unit::Missing, ErrorCode::TargetingKeyMissing),
            (Unit::of(""), ErrorCode::TargetingKeyMissing),
            (Unit::Invalid, ErrorCode::InvalidContext),
        ] {
            let (all, none, some) = (
                decide(&store, "all", unit),
                decide(&store, "none", unit),
                decide(&store, "some", unit),
            );
            assert_eq!((all.value, all.reason, all.error), (true, Reason::Static, None));
            assert_eq!((none.value, none.reason, none.error), (false, Reason::Static, None));
            assert_eq!(
                (some.value, some.reason, some.error),
                (false, Reason::Error, Some(code))
            );
        }
    }

    #[test]
    fn without_attributes_no_rule_matches_and_the_decision_says_so() {
        let store = store(
            r#"{"ruled": {"rollout": 100000, "rules": [{"if": {"tier": "pro"}, "rollout": 0}], "allow": ["ann"]},
                "above": {"rollout": 100000, "requires": ["ruled"]}, "plain": {"rollout": 100000}}"#,
        );
        let state = store.state();
        let decide = |flag, user| {
            let decision = state.decide(flag, Unit::of(user), &Attributes::failed());
            (decision.value, decision.reason, decision.error)
        };
        let general = (true, Reason::Error, Some(ErrorCode::General));
        assert_eq!(decide("ruled", "ben"), general);
        assert_eq!(decide("above", "ben"), general);
        assert_eq!(decide("plain", "ben"), (true, Reason::Static, None));
        assert_eq!(
            decide("ruled", "ann"),
            (true, Reason::TargetingMatch, None),
            "decided before the rules"
        );
        let document = state.document();
        assert!(document.reads_attributes("ruled") && document.reads_attributes("above"));
        assert!(!document.reads_attributes("plain") && !document.reads_attributes("missing"));
    }
}
