//! What the name of a key says about its value.
//!
//! Names are compared word by word, after `snake_case`, `kebab-case`, `camelCase` and dots were taken apart: `api_key` and
//! `apiKey` are two words and secret, `important_notes` contains no word of the list, and `token_count` ends in a word that is
//! not in it. What counts is how a name ends.

use crate::mutants::mutant;

/// What a name says about its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyRule {
    /// Nothing.
    Plain,
    /// It is secret if it looks random.
    Suspect,
    /// It is secret whatever it looks like.
    Secret,
}

const SECRET: [&[&str]; 32] = [
    &["password"],
    &["passwd"],
    &["pwd"],
    &["passphrase"],
    &["passcode"],
    &["secret"],
    &["apikey"],
    &["api", "key"],
    &["secret", "key"],
    &["secretkey"],
    &["private", "key"],
    &["privatekey"],
    &["access", "key"],
    &["accesskey"],
    &["access", "token"],
    &["accesstoken"],
    &["refresh", "token"],
    &["refreshtoken"],
    &["auth", "token"],
    &["authtoken"],
    &["bearer", "token"],
    &["id", "token"],
    &["session", "token"],
    &["api", "token"],
    &["client", "secret"],
    &["clientsecret"],
    &["authorization"],
    &["cookie"],
    &["credential"],
    &["credentials"],
    &["connection", "string"],
    &["secrets"],
];
const SUSPECT: [&[&str]; 12] = [
    &["token"],
    &["tokens"],
    &["auth"],
    &["pass"],
    &["encryption", "key"],
    &["signing", "key"],
    &["master", "key"],
    &["session", "key"],
    &["account", "key"],
    &["service", "key"],
    &["key", "secret"],
    &["password", "hash"],
];
/// Tokens that say where to go on are no secrets.
const PLACES: [&str; 6] = ["page", "next", "continuation", "pagination", "cursor", "sync"];
/// A longer name is looked at from its end.
const MAX_NAME: usize = 128;

/// What a key's name says about its value.
pub fn rule_of(name: &str) -> KeyRule {
    if mutant!(KeyNamesBySubstring) {
        let name = name.to_ascii_lowercase();
        let within = ["password", "secret", "token", "key", "auth", "exec", "eval", "import"];
        return if within.iter().any(|word| name.contains(word)) {
            KeyRule::Secret
        } else {
            KeyRule::Plain
        };
    }
    let name = name.as_bytes();
    let name = &name[name.len().saturating_sub(MAX_NAME)..];
    // Nearly all names end here.
    if !may_end_a_rule(name) {
        return KeyRule::Plain;
    }
    let mut words = [[0_u8; WORD]; WORDS];
    let count = split(name, &mut words);
    let words: [&str; WORDS] = std::array::from_fn(|at| {
        let length = words[at].iter().position(|byte| *byte == 0).unwrap_or(WORD);
        str::from_utf8(&words[at][..length]).unwrap_or_default()
    });
    let words = &words[..count];
    // `password2` and `api_key_1` are numbered.
    let numbered = words.len() > 1
        && words
            .last()
            .is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let words = if numbered { &words[..words.len() - 1] } else { words };
    if SECRET.iter().any(|rule| words.ends_with(rule)) {
        KeyRule::Secret
    } else if SUSPECT.iter().any(|rule| words.ends_with(rule)) && !words.iter().any(|word| PLACES.contains(word)) {
        KeyRule::Suspect
    } else {
        KeyRule::Plain
    }
}

/// Words of a name that are kept, the last ones; and bytes of a word, a longer one being in no list.
const WORDS: usize = 12;
const WORD: usize = 16;

/// Whether a name ends in two letters in which a name of the lists does, digits and signs behind them apart.
fn may_end_a_rule(name: &[u8]) -> bool {
    let Some(last) = name.iter().rposition(u8::is_ascii_alphabetic).filter(|last| *last > 0) else {
        return false;
    };
    let two = [name[last - 1].to_ascii_lowercase(), name[last].to_ascii_lowercase()];
    matches!(
        &two,
        b"rd"
            | b"wd"
            | b"se"
            | b"de"
            | b"et"
            | b"ts"
            | b"ey"
            | b"en"
            | b"ns"
            | b"on"
            | b"ie"
            | b"al"
            | b"ls"
            | b"ng"
            | b"th"
            | b"ss"
            | b"sh"
    )
}

/// Takes a name apart into words in small letters.
fn split(name: &[u8], words: &mut [[u8; WORD]; WORDS]) -> usize {
    let (mut count, mut length) = (0, 0);
    for (at, byte) in name.iter().enumerate() {
        if !byte.is_ascii_alphanumeric() {
            length = 0;
            continue;
        }
        let before = at.checked_sub(1).map(|at| name[at]);
        // `apiKey` and `APIKey` are two words each, and so is `key2`.
        let begins = before.is_none_or(|before| {
            !before.is_ascii_alphanumeric()
                || before.is_ascii_digit() != byte.is_ascii_digit()
                || (byte.is_ascii_uppercase()
                    && (before.is_ascii_lowercase() || name.get(at + 1).is_some_and(u8::is_ascii_lowercase)))
        });
        if begins || length == 0 {
            if count == WORDS {
                words.rotate_left(1);
                count -= 1;
            }
            words[count] = [0; WORD];
            count += 1;
            length = 0;
        }
        if length < WORD {
            words[count - 1][length] = byte.to_ascii_lowercase();
        }
        length += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_at_two_letters_passes_all_rules() {
        for rule in SECRET.iter().chain(&SUSPECT) {
            assert!(rule_of(&rule.join("_")) > KeyRule::Plain, "{rule:?}");
        }
    }

    #[test]
    fn names_are_compared_word_by_word() {
        for name in [
            "password",
            "user_password",
            "userPassword",
            "PASSWORD",
            "api_key",
            "apiKey",
            "APIKey",
            "x-api-key",
            "OPENAI_API_KEY",
            "openai.api.key",
            "client_secret",
            "clientSecret",
            "aws_secret_access_key",
            "private_key",
            "accessToken",
            "api_key_1",
            "password2",
            "Authorization",
            "DB_PASSWORD",
            "set-cookie",
            "apikey",
        ] {
            assert_eq!(rule_of(name), KeyRule::Secret, "{name}");
        }
        for name in [
            "token",
            "csrf_token",
            "authToken2Tokens",
            "pass",
            "signing_key",
            "auth",
            "password_hash",
        ] {
            assert_eq!(rule_of(name), KeyRule::Suspect, "{name}");
        }
        for name in [
            "important_notes",
            "executive_summary",
            "evaluation",
            "execution_id",
            "retrieval_k",
            "import_batch",
            "task-analysis",
            "disk-usage",
            "risk-score",
            "token_count",
            "max_tokens_used",
            "total_token_count",
            "next_page_token",
            "pageToken",
            "continuation_token",
            "primary_key",
            "cache_key",
            "key",
            "keyboard",
            "secretary",
            "passwordless",
            "compass",
            "monkey",
            "author",
            "public_key",
            "secret_name",
            "password_reset_required",
            "authority",
            "",
        ] {
            assert_eq!(rule_of(name), KeyRule::Plain, "{name}");
        }
    }
}
