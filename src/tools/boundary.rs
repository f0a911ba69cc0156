//! One check of one request, in its fixed order: the wall, the action, each resource.

use super::roles::{RoleSet, Ruling};
use super::verdict::{Verdict, ViolationKind};
use super::wall::{Asker, KnownOwners, Passage, Target, UnknownOwner, Wall};
use crate::clock::Micros;
use crate::crossings::{self, Place};
use crate::owner::{Crossing, refusal};

/// Most resources of one check.
pub const MAX_RESOURCES: usize = 256;

/// A request.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Who asks.
    pub asker: Asker<'a>,
    /// The roles that authentication gave the asker.
    pub roles: &'a [Box<str>],
    /// What is to be done.
    pub action: &'a str,
    /// To what.
    pub targets: &'a [Target<'a>],
    /// What else is mentioned: the wall is asked about it, and it needs no rule that permits it, but none may deny it.
    pub mentioned: &'a [Target<'a>],
}

/// Checks a request and notes what it finds. Without roles (`None`) only the wall is asked: then somebody else has to decide.
///
/// All resources are looked at, not only those up to the first that is refused.
pub fn evaluate(
    wall: &Wall,
    roles: Option<&RoleSet>,
    ask: &Ask<'_>,
    known: &dyn KnownOwners,
    now: Micros,
    verdict: &mut Verdict,
) {
    if ask.targets.len() + ask.mentioned.len() > MAX_RESOURCES {
        verdict.violate(ViolationKind::LimitExceeded, "too_many_resources", None);
        return;
    }
    crossings::checked(Place::Access, (ask.targets.len() + ask.mentioned.len()) as u64);
    for target in ask.targets.iter().chain(ask.mentioned) {
        match wall.pass(ask.asker, ask.action, *target, known, now) {
            Passage::Own | Passage::Granted(_) | Passage::Shared => {}
            Passage::Unknown if wall.unknown() == UnknownOwner::Roles => {}
            Passage::Unknown => {
                verdict.violate(ViolationKind::CrossUserAccessRisk, "owner_unknown", Some(target.name()));
            }
            Passage::Foreign => {
                // Counted with what all boundaries refuse.
                let _ = refusal(Crossing::Access, "a resource of another user was refused");
                verdict.violate(
                    ViolationKind::CrossUserAccessRisk,
                    "foreign_resource",
                    Some(target.name()),
                );
            }
            Passage::Malformed(fault) => verdict.malformed(fault, target.name()),
        }
    }
    let Some(set) = roles else { return };
    verdict.asked(set.revision());
    if !set.may_ever(ask.roles, ask.action) {
        verdict.violate(ViolationKind::InsufficientPermissions, "action_not_permitted", None);
        return;
    }
    if ask.targets.is_empty() {
        rule(set, ask, "", true, verdict);
    }
    for target in ask.targets {
        rule(set, ask, target.name(), true, verdict);
    }
    for target in ask.mentioned {
        rule(set, ask, target.name(), false, verdict);
    }
}

fn rule(set: &RoleSet, ask: &Ask<'_>, resource: &str, needs_permission: bool, verdict: &mut Verdict) {
    let (kind, shown) = if resource.is_empty() {
        (ViolationKind::InsufficientPermissions, None)
    } else {
        (ViolationKind::ResourceAccessDenied, Some(resource))
    };
    match set.rule(ask.roles, ask.action, resource) {
        Ruling::Allowed(policies) => verdict.decided_by(policies),
        Ruling::Denied(policies) => {
            verdict.decided_by(policies);
            verdict.violate(kind, "denied_by_role", shown);
        }
        Ruling::Silent if !needs_permission => {}
        Ruling::Silent => verdict.violate(kind, "not_permitted_by_any_role", shown),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::roles::{RoleSpec, RuleSpec};
    use super::super::wall::tests::{Runs, ann};
    use super::*;

    fn everything() -> RoleSet {
        let all = RuleSpec {
            actions: vec!["*".to_owned()],
            resources: vec![],
        };
        let spec = RoleSpec {
            name: "admin".to_owned(),
            allow: vec![all],
            ..RoleSpec::default()
        };
        RoleSet::build(vec![spec], true).expect("valid")
    }

    fn codes(roles: Option<&RoleSet>, held: &[&str], action: &str, names: &[&str]) -> Vec<String> {
        let wall = Wall::new(UnknownOwner::Deny, [], Arc::default());
        let held: Vec<Box<str>> = held.iter().map(|role| Box::from(*role)).collect();
        let targets: Vec<_> = names.iter().map(|name| Target::Name(name)).collect();
        let asker = ann();
        let ask = Ask {
            asker: (&asker).into(),
            roles: &held,
            action,
            targets: &targets,
            mentioned: &[],
        };
        let mut verdict = Verdict::open(0);
        evaluate(&wall, roles, &ask, &Runs(&[]), 0, &mut verdict);
        verdict.complete();
        verdict.close(0);
        assert_eq!(verdict.is_permitted(), verdict.violations().is_empty());
        verdict
            .violations()
            .iter()
            .map(|found| found.code.to_string())
            .collect()
    }

    #[test]
    fn no_role_opens_the_wall() {
        let set = everything();
        assert!(codes(Some(&set), &["admin"], "read", &["document:ann/7"]).is_empty());
        assert_eq!(
            codes(Some(&set), &["admin"], "read", &["document:bob/7"]),
            ["foreign_resource"]
        );
        assert_eq!(
            codes(Some(&set), &["admin"], "read", &["document:7"]),
            ["owner_unknown"]
        );
        assert_eq!(codes(None, &[], "read", &["document:bob/7"]), ["foreign_resource"]);
    }

    #[test]
    fn all_resources_are_looked_at() {
        let set = everything();
        let names = ["document:bob/1", "document:ann/2", "document:eve/3"];
        assert_eq!(
            codes(Some(&set), &["admin"], "read", &names),
            ["foreign_resource", "foreign_resource"]
        );
        let many = vec!["document:ann/1"; MAX_RESOURCES + 1];
        assert_eq!(codes(Some(&set), &["admin"], "read", &many), ["too_many_resources"]);
        assert!(codes(Some(&set), &["admin"], "read", &many[1..]).is_empty());
    }

    #[test]
    fn what_is_mentioned_needs_no_rule_but_may_be_denied() {
        let rule = |action: &str, resource: &str| RuleSpec {
            actions: vec![action.to_owned()],
            resources: vec![resource.to_owned()],
        };
        let spec = RoleSpec {
            name: "user".to_owned(),
            allow: vec![rule("use", "tool:search")],
            deny: vec![rule("*", "document:*/sealed")],
            ..RoleSpec::default()
        };
        let set = RoleSet::build(vec![spec], false).expect("valid");
        let wall = Wall::new(UnknownOwner::Deny, [], Arc::default());
        let codes = |mentioned: &str| {
            let (asker, mut verdict) = (ann(), Verdict::open(0));
            let ask = Ask {
                asker: (&asker).into(),
                roles: &[Box::from("user")],
                action: "use",
                targets: &[Target::Name("tool:search")],
                mentioned: &[Target::Name(mentioned)],
            };
            evaluate(&wall, Some(&set), &ask, &Runs(&[]), 0, &mut verdict);
            verdict
                .violations()
                .iter()
                .map(|found| found.code.to_string())
                .collect::<Vec<_>>()
        };
        assert!(codes("document:ann/7").is_empty());
        assert_eq!(codes("document:ann/sealed"), ["denied_by_role"]);
        assert_eq!(codes("document:bob/7"), ["foreign_resource"]);
    }

    #[test]
    fn without_a_role_nothing_is_permitted() {
        assert_eq!(
            codes(Some(&everything()), &[], "read", &["document:ann/7"]),
            ["action_not_permitted"]
        );
        assert_eq!(
            codes(Some(&RoleSet::default()), &["admin"], "read", &[]),
            ["action_not_permitted"]
        );
    }
}
