//! The oracle: every pattern on the whole text, from every place, without a look at what could be there at all.

use std::sync::LazyLock;

use proptest::prelude::*;
use regex::bytes::Regex;

use super::characters::{begins_word, is_word};
use super::kind::{Kind, Kinds};
use super::scan::{Span, follows_bearer, is_assigned, is_bearer, scan, settle, whole_token};
use super::{card, email, iban, jwt, pem, ssn, tokens};

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern")
}

/// Each match from each place at which one begins.
fn every<'t>(pattern: &'t Regex, text: &'t [u8]) -> impl Iterator<Item = (usize, usize)> + 't {
    let mut at = 0;
    std::iter::from_fn(move || {
        let found = pattern.find_at(text, at)?;
        at = found.start() + 1;
        Some((found.start(), found.end()))
    })
}

const LETTER: &str = r"(?:[A-Za-z0-9_%+-]|[\xC3-\xC9][\x80-\xBF])";

static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| regex(&format!(r"(?-u){LETTER}+(?:[.']{LETTER}+)*@{}", email::DOMAIN)));
static URL: LazyLock<Regex> = LazyLock::new(|| regex(r#"(?-u)[A-Za-z0-9]://([^\s/"'<>\[\]`]{1,384})@"#));
static DIGITS: LazyLock<Regex> = LazyLock::new(|| regex(r"(?-u)[0-9]+"));
static SSN: LazyLock<Regex> = LazyLock::new(|| regex(r"(?-u)[0-9]{3}[ -][0-9]{2}[ -][0-9]{4}"));
static IBAN: LazyLock<Regex> = LazyLock::new(|| regex(r"(?-u)[A-Z]{2}[0-9]{2}[A-Z0-9 ]{11}"));
static JWT: LazyLock<Regex> = LazyLock::new(|| regex(r"(?-u)e[yw][A-Za-z0-9_-]+\."));
static RUN: LazyLock<Regex> = LazyLock::new(|| regex(r"(?-u)[A-Za-z0-9_.+/~-]{15,}"));
static PEM: LazyLock<Regex> = LazyLock::new(|| regex(&format!("(?-u){}", pem::HEADER)));
static TOKENS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    tokens::TOKENS
        .iter()
        .map(|token| regex(&format!("(?-u:{})", token.pattern)))
        .collect()
});

fn plain(text: &[u8]) -> Vec<Span> {
    let mut found = Vec::new();
    let mut add = |start, end, kind| found.push(Span { start, end, kind });
    let mut past = 0;
    for (start, end) in every(&EMAIL, text) {
        let at = text[start..end].iter().position(|byte| *byte == b'@').expect("an @") + start;
        if start >= past && (start == 0 || !is_letter_before(text, start)) {
            past = at;
            if let Some((start, end)) = email::email_around(text, at) {
                add(start, end, Kind::Email);
            }
        }
    }
    for found in URL.captures_iter(text) {
        let inner = found.get(1).expect("the group");
        if let Some(start) = email::credentials_before(text, inner.end()) {
            add(start, inner.end(), Kind::Credentials);
        }
    }
    for (start, end) in DIGITS.find_iter(text).map(|found| (found.start(), found.end())) {
        if let Some(end) = card::card_at(text, start, end) {
            add(start, end, Kind::Card);
        }
    }
    for (start, end) in every(&SSN, text) {
        if ssn::ssn_before(text, start + 7) == Some(start) {
            add(start, end, Kind::Ssn);
        }
    }
    for (start, _) in every(&IBAN, text) {
        if let Some(end) = iban::iban_at(text, start) {
            add(start, end, Kind::Iban);
        }
    }
    for (start, _) in every(&JWT, text) {
        if begins_word(text, start)
            && let Some(end) = jwt::jwt_at(text, start)
        {
            add(start, end, Kind::Jwt);
        }
    }
    for (token, pattern) in tokens::TOKENS.iter().zip(TOKENS.iter()) {
        for (start, end) in every(pattern, text) {
            let has_digit = text[start..end].iter().any(u8::is_ascii_digit);
            if begins_word(text, start) && (has_digit || !token.has_digit) {
                add(start, end, token.kind);
            }
        }
    }
    for found in RUN.find_iter(text) {
        let Some(value) = whole_token(text, found.start(), found.end()) else {
            continue;
        };
        if value.end - value.start >= 16 && follows_bearer(text, value.start) {
            if is_bearer(&text[value.start..value.end]) {
                add(value.start, value.end, Kind::Bearer);
            }
        } else if is_assigned(text, value) {
            add(value.start, value.end, Kind::Secret);
        }
    }
    let mut past = 0;
    for (start, header) in every(&PEM, text) {
        if start >= past {
            past = pem::end_of(text, header);
            add(start, past, Kind::Pem);
        }
    }
    settle(text, &mut found);
    found
}

fn is_letter_before(text: &[u8], start: usize) -> bool {
    email::is_local(text[start - 1]) && (is_word(text[start - 1]) || matches!(text[start - 1], b'%' | b'+' | b'-'))
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9 ._@:/=+~,\"'\\[\\]{}-]{0,12}",
        1 => "[ -~\\n\\téß漢€]{0,8}",
        1 => Just(" ".to_owned()),
        1 => "[0-9]{1,4}",
        1 => prop_oneof![
            Just("4111111111111111"), Just("4111 1111 1111 1111"), Just("5500-0000-0000-0004"), Just("3782 822463 10005"),
            Just("4222222222222"), Just("6304000000000000"), Just("0.4111111111111111"), Just("536-90-4399"), Just("536 90 4399"),
            Just("DE89 3704 0044 0532 0130 00"), Just("GB29NWBK60161331926819"), Just("NO9386011117947"),
            Just("MT84 MALT 0110 0001 2345 MTLC AST0 01S"),
        ].prop_map(str::to_owned),
        1 => prop_oneof![
            Just("alice@example.com"), Just("o'brien.x@mail.example.co.uk"), Just("josé@example.org"), Just("icon@2x.png"),
            Just("postgres://user:pa:s@s@db.example.com/x"), Just("git@github.com:a/b"), Just("redis://:secret@h"),
            Just("api_key=\"Zm9vYmFy1234567890abcd\""), Just("token: 0123456789abcdef0123"), Just("Bearer abcdefghijklmn012345=="),
            Just("password = "), Just("secret"), Just("bearer "), Just("=="), Just("..."),
        ].prop_map(str::to_owned),
        1 => prop_oneof![
            Just(("AKIA", "IOSFODNN7EXAMPLE")), Just(("ghp_", "0123456789abcdefghijABCDEFGHIJ012345")),
            Just(("sk-ant-", "api03-abcdefghij0123456789")), Just(("sk-proj-", "abcdefghij-0123456789_")),
            Just(("sk-", "abcdefghij0123456789ab")), Just(("xoxb-", "123456789012-abcdefGHIJ")), Just(("npm_", "0123456789abcdefghijABCDEFGHIJ012345")),
            Just(("AIza", "Sy0123456789abcdefghijABCDEFGHIJ01234")), Just(("sk_live_", "0123456789abcdefABCDEF")),
            Just(("eyJhbGciOiJIUzI1NiJ9.", "eyJzdWIiOiIxIn0.c2lnbmF0dXJl")), Just(("glpat-", "abcdefghij0123456789")),
            Just(("-----BEGIN RSA PRIVATE KEY-----", "\nMIIB\n-----END RSA PRIVATE KEY-----")), Just(("pypi-Ag", "EIcHlwaS5vcmcCJDAxMjM0NTY3LTg5YWItY2RlZi0wMTIzLTQ1Njc4OWFi")),
        ].prop_map(|(a, b)| format!("{a}{b}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn the_short_cut_finds_what_the_patterns_find(parts in prop::collection::vec(part(), 0..14)) {
        let text = parts.concat();
        let mut found = Vec::new();
        scan(&text, Kinds::DEFAULT, &mut found);
        prop_assert_eq!(&found, &plain(text.as_bytes()), "{:?}", text);
        for span in &found {
            prop_assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end));
        }
    }
}
