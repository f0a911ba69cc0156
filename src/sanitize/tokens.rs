//! Keys of providers, by the prefixes that they document.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::kind::Kind;

/// The form of one provider's keys.
pub(super) struct Token {
    pub(super) kind: Kind,
    /// What each of them begins with, one of these: a cheap look before the pattern.
    pub(super) prefixes: &'static [&'static str],
    /// From its first character. What precedes it is no part of a word.
    pub(super) pattern: &'static str,
    /// Whether it must have a digit: words with hyphens have none.
    pub(super) has_digit: bool,
}

/// Without `digit` it need not have one.
macro_rules! token {
    ($kind:ident, $prefixes:expr, $pattern:expr) => {
        Token {
            kind: Kind::$kind,
            prefixes: &$prefixes,
            pattern: $pattern,
            has_digit: false,
        }
    };
    ($kind:ident, $prefixes:expr, $pattern:expr, digit) => {
        Token {
            kind: Kind::$kind,
            prefixes: &$prefixes,
            pattern: $pattern,
            has_digit: true,
        }
    };
}

pub(super) static TOKENS: [Token; 15] = [
    token!(Anthropic, ["sk-ant-"], r"sk-ant-[A-Za-z0-9_-]{20,}", digit),
    token!(
        OpenAi,
        ["sk-proj-", "sk-svcacct-", "sk-admin-"],
        r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}",
        digit
    ),
    token!(OpenAi, ["sk-"], r"sk-[A-Za-z0-9]{20,}", digit),
    token!(
        Aws,
        ["AKIA", "ASIA", "ABIA", "ACCA", "A3T"],
        r"(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z2-7]{16}\b"
    ),
    token!(
        GitHub,
        ["ghp_", "gho_", "ghu_", "ghs_", "ghr_"],
        r"gh[pousr]_[A-Za-z0-9]{36,}"
    ),
    token!(GitHub, ["github_pat_"], r"github_pat_[A-Za-z0-9_]{40,}", digit),
    token!(
        GitLab,
        [
            "glpat-", "gldt-", "glrt-", "glrtr-", "glsoat-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-",
            "gloas-", "glffct-"
        ],
        r"gl(?:pat|dt|rtr?|soat|cbt|ptt|ft|imt|agent|oas|ffct)-[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_]{2,})*"
    ),
    token!(Google, ["AIza"], r"AIza[A-Za-z0-9_-]{35,}"),
    token!(Google, ["ya29."], r"ya29\.[A-Za-z0-9_-]{20,}", digit),
    token!(Google, ["GOCSPX-"], r"GOCSPX-[A-Za-z0-9_-]{20,}"),
    token!(Slack, ["xox", "xapp-"], r"(?:xox[a-z]|xapp)-[A-Za-z0-9-]{16,}", digit),
    token!(
        Slack,
        ["hooks.slack.com/"],
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{20,}",
        digit
    ),
    token!(
        Stripe,
        ["sk_", "rk_", "whsec_"],
        r"(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,})",
        digit
    ),
    token!(Npm, ["npm_"], r"npm_[A-Za-z0-9]{36,}"),
    token!(Pypi, ["pypi-Ag"], r"pypi-Ag[A-Za-z0-9_-]{50,}"),
];

static HERE: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let pattern = |token: &Token| Regex::new(&format!(r"\A(?-u:{})", token.pattern)).expect("a pattern");
    TOKENS.iter().map(pattern).collect()
});

/// Whether any of them begins with this byte.
pub(super) fn may_begin(byte: u8) -> bool {
    matches!(
        byte,
        b's' | b'A' | b'g' | b'y' | b'G' | b'x' | b'h' | b'r' | b'w' | b'n' | b'p'
    )
}

/// The end of the key of this form that begins here. `Err` has the end of what has the form and is none.
pub(super) fn token_at(number: usize, text: &[u8], start: usize) -> Option<Result<usize, usize>> {
    let (token, rest) = (&TOKENS[number], &text[start..]);
    // The first byte is compared by itself: nearly all words end there.
    let begins = |prefix: &&str| prefix.as_bytes()[0] == rest[0] && rest.starts_with(prefix.as_bytes());
    if !token.prefixes.iter().any(begins) {
        return None;
    }
    let end = HERE[number].find(rest)?.end();
    let is_key = !token.has_digit || rest[..end].iter().any(u8::is_ascii_digit);
    Some(if is_key { Ok(start + end) } else { Err(start + end) })
}
