//! Which ids are placeholders that somebody forgot to fill in.

use std::collections::BTreeSet;

use crate::ids;
use crate::mutants::mutant;

/// What a placeholder policy found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceholderHit {
    /// The whole value is a forbidden word.
    Exact,
    /// A short value begins like a placeholder.
    Prefix(String),
}

/// Decides whether an id is a placeholder. A value that one replaces; never read from the environment per object.
///
/// Values are compared in lower case and trimmed. The allow-list wins over every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceholderPolicy {
    exact: BTreeSet<String>,
    prefixes: Vec<String>,
    allow: BTreeSet<String>,
    pattern_max_length: usize,
    allow_test: bool,
    suspects: Suspects,
}

/// Tells with a few comparisons that a value can hit no rule, which is so for nearly all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suspects {
    /// The words of `exact` by their length in bytes.
    exact: Vec<Vec<Box<[u8]>>>,
    prefixes: Vec<Box<[u8]>>,
    /// Which first and which second letters the prefixes have, as bits of the letters' last five bits.
    beginnings: [u32; 2],
}

impl Suspects {
    fn new(exact: &BTreeSet<String>, prefixes: &[String]) -> Self {
        let mut by_length = vec![Vec::new(); exact.iter().map(|word| word.len() + 1).max().unwrap_or(0)];
        for word in exact {
            by_length[word.len()].push(Box::from(word.as_bytes()));
        }
        Self {
            exact: by_length,
            prefixes: prefixes.iter().map(|prefix| Box::from(prefix.as_bytes())).collect(),
            beginnings: [0, 1].map(|at| {
                let bit = |prefix: &String| prefix.as_bytes().get(at).map_or(u32::MAX, |byte| Self::letter(*byte));
                prefixes.iter().fold(0, |bits, prefix| bits | bit(prefix))
            }),
        }
    }

    fn letter(byte: u8) -> u32 {
        1 << (byte & 0x1f)
    }

    /// Whether an ASCII value is a word of `exact`, unless it is allowed.
    fn is_exact(&self, value: &[u8]) -> bool {
        let words = self.exact.get(value.len());
        words.is_some_and(|words| words.iter().any(|word| word.eq_ignore_ascii_case(value)))
    }

    /// Whether an ASCII value begins with a prefix, unless it is allowed.
    fn has_prefix(&self, value: &[u8]) -> bool {
        let may = |at: usize| {
            value
                .get(at)
                .is_none_or(|byte| self.beginnings[at] & Self::letter(*byte) != 0)
        };
        let begins = |prefix: &[u8]| {
            let beginning = value.get(..prefix.len());
            beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix))
        };
        may(0) && may(1) && self.prefixes.iter().any(|prefix| begins(prefix))
    }
}

impl PlaceholderPolicy {
    /// The words that are refused as a whole by default.
    pub const EXACT: [&str; 19] = [
        "registry",
        "placeholder",
        "default",
        "temp",
        "none",
        "null",
        "undefined",
        "0",
        "1",
        "xxx",
        "yyy",
        "example",
        "test",
        "demo",
        "sample",
        "template",
        "mock",
        "fake",
        "dummy",
    ];
    /// The beginnings that are refused by default in short values.
    pub const PREFIXES: [&str; 10] = [
        "placeholder_",
        "registry_",
        "default_",
        "temp_",
        "example_",
        "demo_",
        "sample_",
        "template_",
        "mock_",
        "fake_",
    ];
    /// Values of this many characters or more are not compared with the prefixes.
    pub const PATTERN_MAX_LENGTH: usize = 20;

    /// A policy from its parts. Everything is compared trimmed and in lower case.
    pub fn new<'a>(
        exact: impl IntoIterator<Item = &'a str>,
        prefixes: impl IntoIterator<Item = &'a str>,
        allow: impl IntoIterator<Item = &'a str>,
        pattern_max_length: usize,
        allow_test: bool,
    ) -> Self {
        let normal = |value: &str| value.trim().to_lowercase();
        let exact: BTreeSet<String> = exact.into_iter().map(normal).collect();
        let mut prefixes: Vec<String> = prefixes.into_iter().map(normal).filter(|p| !p.is_empty()).collect();
        if !allow_test {
            prefixes.push("test_".to_owned());
        }
        Self {
            suspects: Suspects::new(&exact, &prefixes),
            exact,
            prefixes,
            allow: allow.into_iter().map(normal).collect(),
            pattern_max_length,
            allow_test,
        }
    }

    /// Whether values that begin with `test_` pass.
    pub fn allows_test(&self) -> bool {
        self.allow_test
    }

    /// What rule the value hits, if any.
    pub fn check(&self, value: &str) -> Option<PlaceholderHit> {
        let graphic = ids::is_graphic(value.as_bytes());
        let trimmed = if graphic { value } else { value.trim() };
        // Lower case may change the length of other than ASCII text, so such values always take the full comparison.
        if graphic || trimmed.is_ascii() {
            let bytes = trimmed.as_bytes();
            let has_prefix = bytes.len() < self.pattern_max_length && self.suspects.has_prefix(bytes);
            if !has_prefix && !self.suspects.is_exact(bytes) {
                return None;
            }
        }
        let lower = trimmed.to_lowercase();
        if self.allow.contains(&lower) {
            return None;
        }
        if self.exact.contains(&lower) {
            return Some(PlaceholderHit::Exact);
        }
        if lower.chars().count() < self.pattern_max_length && !mutant!(PlaceholderPrefixPasses) {
            return self
                .prefixes
                .iter()
                .find(|p| lower.starts_with(p.as_str()))
                .cloned()
                .map(PlaceholderHit::Prefix);
        }
        None
    }
}

impl Default for PlaceholderPolicy {
    fn default() -> Self {
        Self::new(Self::EXACT, Self::PREFIXES, [], Self::PATTERN_MAX_LENGTH, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_the_seeds() {
        let policy = PlaceholderPolicy::default();
        for word in PlaceholderPolicy::EXACT {
            assert_eq!(policy.check(word), Some(PlaceholderHit::Exact), "{word}");
            assert_eq!(
                policy.check(&format!(" {} ", word.to_uppercase())),
                Some(PlaceholderHit::Exact),
                "{word}"
            );
        }
        for prefix in PlaceholderPolicy::PREFIXES {
            assert!(
                matches!(policy.check(&format!("{prefix}x")), Some(PlaceholderHit::Prefix(_))),
                "{prefix}"
            );
        }
        assert!(matches!(policy.check("test_user"), Some(PlaceholderHit::Prefix(_))));
        for fine in [
            "2",
            "user",
            "alice@example.com",
            "placeholder_12345678901",
            "default_account_of_the_firm",
            "demolition",
        ] {
            assert_eq!(policy.check(fine), None, "{fine}");
        }
    }

    #[test]
    fn the_allow_list_wins_and_tests_may_be_allowed() {
        let policy = PlaceholderPolicy::new(["default"], ["default_"], ["default_user", "DEFAULT"], 20, true);
        assert_eq!(policy.check("default_user"), None);
        assert_eq!(policy.check("default"), None);
        assert!(policy.check("default_x").is_some());
        assert_eq!(policy.check("test_user"), None);
    }
}
