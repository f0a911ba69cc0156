//! Roles: who may do what to which resources. A denial counts more than any number of permissions, whatever the order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;

use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};

use super::pattern::Pattern;
use crate::mutants::mutant;

/// The role that every user has.
pub const EVERYONE: &str = "everyone";
/// Most roles of a policy.
const MAX_ROLES: usize = 1_000;
/// Most rules of a policy.
const MAX_RULES: usize = 10_000;
/// Most patterns of a rule, of actions and of resources each.
const MAX_PATTERNS: usize = 256;
/// Longest name of a role, in bytes.
const MAX_NAME: usize = 128;

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It permits, unless another rule denies.
    Allow,
    /// It denies, whatever others permit.
    Deny,
}

impl Effect {
    const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A rule as it is written.
#[derive(Debug, Clone, Default)]
pub struct RuleSpec {
    /// Patterns of actions.
    pub actions: Vec<String>,
    /// Patterns of resources; `*` when empty.
    pub resources: Vec<String>,
}

/// A role as it is written.
#[derive(Debug, Clone, Default)]
pub struct RoleSpec {
    /// Its name.
    pub name: String,
    /// Roles whose rules it has as well.
    pub inherits: Vec<String>,
    /// What it permits.
    pub allow: Vec<RuleSpec>,
    /// What it denies.
    pub deny: Vec<RuleSpec>,
}

/// Why a policy was not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct PolicyFault {
    /// Where in the policy.
    pub path: String,
    /// What is wrong there, and what to do.
    pub why: String,
}

impl PolicyFault {
    /// Something is wrong at `path`.
    pub fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            why: why.into(),
        }
    }
}

#[derive(Debug)]
struct Rule {
    id: Arc<str>,
    effect: Effect,
    actions: Box<[Pattern]>,
    resources: Box<[Pattern]>,
}

impl Rule {
    fn is_about(&self, action: &str) -> bool {
        self.actions.iter().any(|pattern| pattern.matches(action))
    }

    fn reaches(&self, resource: &str) -> bool {
        self.resources.iter().any(|pattern| pattern.matches(resource))
    }
}

/// What the rules say of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// These rules deny it.
    Denied(Vec<Arc<str>>),
    /// These rules permit it, and none denies it.
    Allowed(Vec<Arc<str>>),
    /// No rule speaks of it, which denies it.
    Silent,
}

/// A policy, compiled. Never changes: another policy is another set.
#[derive(Debug)]
pub struct RoleSet {
    rules: Vec<Rule>,
    /// The rules of each role, inherited ones included, in the order of their ids.
    roles: HashMap<Box<str>, Box<[u32]>, RandomState>,
    revision: Arc<str>,
}

impl Default for RoleSet {
    fn default() -> Self {
        Self::build(Vec::new(), false).expect("an empty policy is valid")
    }
}

impl RoleSet {
    /// Compiles a policy, or says what is wrong with it. A rule that permits everything to a role is refused unless
    /// `allow_blanket` says that it is meant.
    pub fn build(mut specs: Vec<RoleSpec>, allow_blanket: bool) -> Result<Self, PolicyFault> {
        if specs.len() > MAX_ROLES {
            return Err(PolicyFault::new(
                "roles",
                format!("at most {MAX_ROLES} roles, got {}", specs.len()),
            ));
        }
        specs.sort_by(|one, other| one.name.cmp(&other.name));
        let mut rules = Vec::new();
        let mut own: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for spec in &specs {
            let path = spec.name.as_str();
            if spec.name.trim().is_empty() || spec.name.len() > MAX_NAME || spec.name.chars().any(char::is_control) {
                let why = format!("a role's name has 1 to {MAX_NAME} bytes and no control characters");
                return Err(PolicyFault::new(format!("{path:?}"), why));
            }
            let mut numbers = Vec::new();
            for (effect, written) in [(Effect::Allow, &spec.allow), (Effect::Deny, &spec.deny)] {
                for (at, rule) in written.iter().enumerate() {
                    let id = format!("{path}.{}[{at}]", effect.name());
                    let rule = compiled(&id, effect, rule, allow_blanket)?;
                    numbers.push(u32::try_from(rules.len()).unwrap_or(u32::MAX));
                    rules.push(rule);
                    if rules.len() > MAX_RULES {
                        return Err(PolicyFault::new(id, format!("a policy has at most {MAX_RULES} rules")));
                    }
                }
            }
            if own.insert(path, numbers).is_some() {
                return Err(PolicyFault::new(
                    path,
                    "there are two roles of this name; write it once",
                ));
            }
        }
        let above: BTreeMap<&str, &RoleSpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        let mut flat = HashMap::default();
        for spec in &specs {
            let mut all = HashSet::new();
            collect(&spec.name, &above, &own, &mut Vec::new(), &mut HashSet::new(), &mut all)?;
            let mut all: Vec<u32> = all.into_iter().collect();
            all.sort_unstable();
            flat.insert(Box::from(spec.name.as_str()), all.into_boxed_slice());
        }
        let revision = revision(&specs);
        Ok(Self {
            rules,
            roles: flat,
            revision,
        })
    }

    /// Names the policy: the same for the same rules, in whatever order they were written.
    pub fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// How many roles there are.
    pub fn len(&self) -> usize {
        self.roles.len()
    }

    /// Whether there are no roles, so that nothing is permitted.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    fn rules_of<'a>(&'a self, roles: &'a [Box<str>]) -> impl Iterator<Item = &'a Rule> {
        roles
            .iter()
            .map(|name| &**name)
            .chain(std::iter::once(EVERYONE))
            .filter_map(|name| self.roles.get(name))
            .flat_map(|numbers| numbers.iter().map(|number| &self.rules[*number as usize]))
    }

    /// What the rules of these roles, and of everyone's, say of one action on one resource. An action without a resource is on
    /// the empty name, which only `*` matches.
    pub fn rule(&self, roles: &[Box<str>], action: &str, resource: &str) -> Ruling {
        let mut allowed: Vec<Arc<str>> = Vec::new();
        let mut denied: Vec<Arc<str>> = Vec::new();
        for rule in self.rules_of(roles) {
            if rule.is_about(action) && rule.reaches(resource) {
                let found = match rule.effect {
                    Effect::Allow => &mut allowed,
                    Effect::Deny => &mut denied,
                };
                if !found.contains(&rule.id) {
                    found.push(rule.id.clone());
                }
            }
        }
        allowed.sort_unstable();
        denied.sort_unstable();
        if !denied.is_empty() && (allowed.is_empty() || !mutant!(DenialOverruled)) {
            return Ruling::Denied(denied);
        }
        if allowed.is_empty() {
            Ruling::Silent
        } else {
            Ruling::Allowed(allowed)
        }
    }

    /// Whether the rules permit an action on anything at all: the first question, before any resource is looked at.
    pub fn may_ever(&self, roles: &[Box<str>], action: &str) -> bool {
        let mut allowed = false;
        for rule in self.rules_of(roles).filter(|rule| rule.is_about(action)) {
            match rule.effect {
                Effect::Allow => allowed = true,
                Effect::Deny if rule.resources.iter().any(Pattern::is_any) && !mutant!(DenialOverruled) => {
                    return false;
                }
                Effect::Deny => {}
            }
        }
        allowed
    }
}

fn compiled(id: &str, effect: Effect, rule: &RuleSpec, allow_blanket: bool) -> Result<Rule, PolicyFault> {
    let patterns = |what: &str, written: &[String]| {
        if written.len() > MAX_PATTERNS {
            return Err(PolicyFault::new(
                format!("{id}.{what}"),
                format!("at most {MAX_PATTERNS} patterns"),
            ));
        }
        let compile = |(at, text): (usize, &String)| {
            Pattern::new(text).map_err(|why| PolicyFault::new(format!("{id}.{what}[{at}]"), why))
        };
        written.iter().enumerate().map(compile).collect::<Result<Box<[_]>, _>>()
    };
    if rule.actions.is_empty() {
        let why = "a rule names its actions: {\"actions\": [\"tool.execute\"], \"resources\": [\"tool:search\"]}";
        return Err(PolicyFault::new(format!("{id}.actions"), why));
    }
    let actions = patterns("actions", &rule.actions)?;
    let resources = if rule.resources.is_empty() {
        Box::from([Pattern::Any])
    } else {
        patterns("resources", &rule.resources)?
    };
    let blanket = actions.iter().any(Pattern::is_any) && resources.iter().any(Pattern::is_any);
    if effect == Effect::Allow && blanket && !allow_blanket {
        let why = "it permits every action on every resource; name actions or resources, or pass allow_blanket=True";
        return Err(PolicyFault::new(id, why));
    }
    Ok(Rule {
        id: id.into(),
        effect,
        actions,
        resources,
    })
}

/// Adds the rules of a role and of those that it inherits from.
fn collect<'a>(
    name: &'a str,
    specs: &BTreeMap<&'a str, &'a RoleSpec>,
    own: &BTreeMap<&str, Vec<u32>>,
    path: &mut Vec<&'a str>,
    done: &mut HashSet<&'a str>,
    all: &mut HashSet<u32>,
) -> Result<(), PolicyFault> {
    if path.contains(&name) {
        path.push(name);
        let why = format!("roles inherit from each other in a circle: {}", path.join(" → "));
        return Err(PolicyFault::new(format!("{}.inherits", path[0]), why));
    }
    if !done.insert(name) {
        return Ok(());
    }
    let Some(spec) = specs.get(name) else {
        let heir = path.last().copied().unwrap_or_default();
        let why = format!("there is no role {name:?}; define it, or remove it here");
        return Err(PolicyFault::new(format!("{heir}.inherits"), why));
    };
    all.extend(&own[name]);
    path.push(name);
    for above in &spec.inherits {
        collect(above, specs, own, path, done, all)?;
    }
    path.pop();
    Ok(())
}

/// A digest of the rules that does not depend on the order in which they were written.
fn revision(specs: &[RoleSpec]) -> Arc<str> {
    let mut lines: Vec<String> = Vec::new();
    for spec in specs {
        lines.push(format!("{:?}", spec.name));
        lines.extend(
            spec.inherits
                .iter()
                .map(|above| format!("{:?} inherits {above:?}", spec.name)),
        );
        for (effect, rules) in [(Effect::Allow, &spec.allow), (Effect::Deny, &spec.deny)] {
            for rule in rules {
                let (mut actions, mut resources) = (rule.actions.clone(), rule.resources.clone());
                actions.sort_unstable();
                resources.sort_unstable();
                lines.push(format!("{:?} {} {actions:?} {resources:?}", spec.name, effect.name()));
            }
        }
    }
    lines.sort_unstable();
    let digest = Sha256::digest(lines.join("\n").as_bytes());
    digest
        .iter()
        .take(6)
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
        .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(actions: &[&str], resources: &[&str]) -> RuleSpec {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        RuleSpec {
            actions: owned(actions),
            resources: owned(resources),
        }
    }

    fn role(name: &str, inherits: &[&str], allow: Vec<RuleSpec>, deny: Vec<RuleSpec>) -> RoleSpec {
        RoleSpec {
            name: name.to_owned(),
            inherits: inherits.iter().map(|above| (*above).to_owned()).collect(),
            allow,
            deny,
        }
    }

    fn names(roles: &[&str]) -> Vec<Box<str>> {
        roles.iter().map(|role| Box::from(*role)).collect()
    }

    fn policy() -> RoleSet {
        let specs = vec![
            role("everyone", &[], vec![rule(&["tool.execute"], &["tool:search"])], vec![]),
            role("reader", &[], vec![rule(&["read"], &["document:*"])], vec![]),
            role(
                "editor",
                &["reader"],
                vec![rule(&["write"], &["document:*"])],
                vec![rule(&["*"], &["document:*/sealed/*"])],
            ),
        ];
        RoleSet::build(specs, false).expect("valid")
    }

    #[test]
    fn what_no_rule_permits_is_denied() {
        let policy = policy();
        let allowed = |roles: &[&str], action, resource| {
            matches!(policy.rule(&names(roles), action, resource), Ruling::Allowed(_))
        };
        assert!(allowed(&[], "tool.execute", "tool:search"), "everyone's");
        assert!(!allowed(&[], "tool.execute", "tool:delete"));
        assert!(
            !allowed(&["nobody"], "read", "document:ann/7"),
            "an unknown role permits nothing"
        );
        assert!(allowed(&["reader"], "read", "document:ann/7") && !allowed(&["reader"], "write", "document:ann/7"));
        assert!(allowed(&["editor"], "read", "document:ann/7"), "inherited");
        assert!(
            !allowed(&["reader"], "read", ""),
            "a rule for documents is none for no resource"
        );
        assert!(!RoleSet::default().may_ever(&names(&["editor"]), "read"));
        assert!(policy.may_ever(&names(&["editor"]), "read") && !policy.may_ever(&names(&["editor"]), "delete"));
    }

    #[test]
    fn a_denial_overrides_what_another_role_permits() {
        let policy = policy();
        let both = names(&["reader", "editor"]);
        assert_eq!(
            policy.rule(&both, "read", "document:ann/sealed/7"),
            Ruling::Denied(vec!["editor.deny[0]".into()])
        );
        assert!(matches!(
            policy.rule(&names(&["reader"]), "read", "document:ann/sealed/7"),
            Ruling::Allowed(_)
        ));
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said_with_its_place() {
        let fault = |specs| RoleSet::build(specs, false).expect_err("refused").to_string();
        let blanket = || vec![role("root", &[], vec![rule(&["*"], &[])], vec![])];
        assert!(fault(blanket()).starts_with("root.allow[0]: it permits every action"));
        assert!(RoleSet::build(blanket(), true).is_ok());
        let circle = vec![role("a", &["b"], vec![], vec![]), role("b", &["a"], vec![], vec![])];
        assert_eq!(
            fault(circle),
            "a.inherits: roles inherit from each other in a circle: a → b → a"
        );
        assert!(fault(vec![role("a", &["c"], vec![], vec![])]).starts_with("a.inherits: there is no role \"c\""));
        assert!(fault(vec![role("a", &[], vec![rule(&[], &[])], vec![])]).starts_with("a.allow[0].actions: "));
        assert!(
            fault(vec![role("a", &[], vec![rule(&["x", ""], &[])], vec![])]).starts_with("a.allow[0].actions[1]: ")
        );
        assert!(fault(vec![role("a", &[], vec![], vec![]), role("a", &[], vec![], vec![])]).contains("two roles"));
    }

    #[test]
    fn one_role_above_two_ways_is_no_circle() {
        let specs = vec![
            role("top", &["left", "right"], vec![], vec![]),
            role("left", &["base"], vec![], vec![]),
            role("right", &["base"], vec![], vec![]),
            role("base", &[], vec![rule(&["read"], &[])], vec![]),
        ];
        let policy = RoleSet::build(specs, false).expect("valid");
        assert!(matches!(policy.rule(&names(&["top"]), "read", ""), Ruling::Allowed(_)));
    }

    fn any_rule() -> impl Strategy<Value = RuleSpec> {
        let actions = proptest::collection::vec("(read|write|tool\\.\\*|\\*)", 1..3);
        let resources = proptest::collection::vec("(a:\\*|a:x|b:\\*|\\*x|\\*)", 0..3);
        (actions, resources).prop_map(|(actions, resources)| RuleSpec { actions, resources })
    }

    fn any_policy() -> impl Strategy<Value = Vec<RoleSpec>> {
        let rules = || proptest::collection::vec(any_rule(), 0..3);
        proptest::collection::vec((rules(), rules(), proptest::bits::u8::masked(7)), 1..4).prop_map(|roles| {
            let spec = |(number, (allow, deny, above)): (usize, (Vec<RuleSpec>, Vec<RuleSpec>, u8))| RoleSpec {
                name: format!("role-{number}"),
                // Only of those before it: no circles.
                inherits: (0..number)
                    .filter(|at| above & (1 << at) != 0)
                    .map(|at| format!("role-{at}"))
                    .collect(),
                allow,
                deny,
            };
            roles.into_iter().enumerate().map(spec).collect()
        })
    }

    proptest! {
        #[test]
        fn the_order_of_roles_and_rules_says_nothing(
            specs in any_policy(),
            action in "(read|write|tool\\.run)",
            resource in "(a:x|a:y|b:x|)",
        ) {
            let mut turned = specs.clone();
            turned.reverse();
            for spec in &mut turned {
                spec.allow.reverse();
                spec.deny.reverse();
                spec.inherits.reverse();
            }
            let (one, other) = (RoleSet::build(specs, true).expect("valid"), RoleSet::build(turned, true).expect("valid"));
            prop_assert_eq!(one.revision(), other.revision());
            let held = names(&["role-0", "role-2"]);
            let held_turned = names(&["role-2", "role-0"]);
            let kind = |ruling: &Ruling| std::mem::discriminant(ruling);
            prop_assert_eq!(
                kind(&one.rule(&held, &action, &resource)),
                kind(&other.rule(&held_turned, &action, &resource))
            );
            prop_assert_eq!(one.may_ever(&held, &action), other.may_ever(&held_turned, &action));
        }

        #[test]
        fn one_denial_is_enough_and_more_roles_never_undo_it(
            specs in any_policy(),
            action in "(read|write|tool\\.run)",
            resource in "(a:x|a:y|b:x|)",
        ) {
            let mut specs = specs;
            specs.push(role("no", &[], vec![], vec![rule(&[&action], &[])]));
            let policy = RoleSet::build(specs, true).expect("valid");
            for held in [&["no"][..], &["role-0", "no"], &["no", "role-2", "role-1", "role-0"]] {
                prop_assert!(matches!(policy.rule(&names(held), &action, &resource), Ruling::Denied(_)));
                prop_assert!(!policy.may_ever(&names(held), &action));
            }
        }
    }
}
