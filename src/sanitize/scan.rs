//! One look at a text, and the detectors where it finds something to look at.

use std::sync::LazyLock;

use memchr::{memchr_iter, memmem};

use super::characters::{begins_word, is_token, run_back};
use super::keynames::{KeyRule, rule_of};
use super::kind::{Kind, Kinds};
use super::mask::{is_mask, is_redacted};
use super::{card, email, entropy, iban, jwt, network, pem, ssn, tokens};

static ARMOUR: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(pem::BEGIN));

/// A finding: where, in bytes, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte behind the last.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
}

/// The shortest address of a computer.
const SHORTEST: usize = 3;
/// Without an `@` the shortest is a social security number.
const WITHOUT_SIGN: usize = 11;
/// All keys and tokens, and accounts in one piece, have as many characters of a token in a row.
const TOKEN: usize = 15;
/// Fewest characters of what stands after `Bearer`.
pub(super) const BEARER: usize = 16;
/// Most bytes of a key's name beside a value.
pub(super) const MAX_NAME: usize = 64;

/// Finds what is in a text, of these kinds. The findings overlap nowhere and are in order.
pub fn scan(text: &str, kinds: Kinds, found: &mut Vec<Span>) {
    found.clear();
    let bytes = text.as_bytes();
    let short = bytes.len() < WITHOUT_SIGN && !bytes.contains(&b'@') && !kinds.has(Kind::Phone) && !kinds.has(Kind::Ip);
    if bytes.len() < SHORTEST || short || kinds == Kinds::NONE {
        return;
    }
    around_at_signs(bytes, kinds, found);
    around_digits(bytes, kinds, found);
    around_tokens(bytes, kinds, found);
    if bytes.len() > pem::BEGIN.len() && kinds.has(Kind::Pem) {
        let mut past = 0;
        for start in ARMOUR.find_iter(bytes) {
            if start >= past
                && let Some(end) = pem::pem_at(bytes, start)
            {
                found.push(Span {
                    start,
                    end,
                    kind: Kind::Pem,
                });
                past = end;
            }
        }
    }
    if kinds.has(Kind::Phone) {
        network::phones(bytes, found);
    }
    if kinds.has(Kind::Ip) {
        network::addresses(bytes, found);
    }
    if found.len() > 1 {
        settle(bytes, found);
    }
}

/// The same for the value of a key, whose name may say that all of it is secret.
pub fn scan_value(text: &str, rule: KeyRule, kinds: Kinds, found: &mut Vec<Span>) {
    let whole = kinds.has(Kind::Secret)
        && !text.is_empty()
        && match rule {
            KeyRule::Secret => true,
            KeyRule::Suspect => entropy::is_random(text.as_bytes()) && text.bytes().all(|byte| byte.is_ascii_graphic()),
            KeyRule::Plain => false,
        };
    if whole && !is_mask(text) && !is_redacted(text) {
        found.clear();
        // What it is more particularly says more.
        scan(text, kinds, found);
        let kind = match found[..] {
            [Span { start: 0, end, kind }] if end == text.len() => kind,
            _ => Kind::Secret,
        };
        found.clear();
        found.push(Span {
            start: 0,
            end: text.len(),
            kind,
        });
    } else {
        scan(text, kinds, found);
    }
}

/// Puts findings into order, and makes one of those that overlap: nothing of either may stay visible.
pub fn settle(text: &[u8], found: &mut Vec<Span>) {
    found.sort_unstable();
    // What looks like an address around the `@` of a URL's password is its host.
    let credentials: Vec<Span> = found
        .iter()
        .copied()
        .filter(|span| span.kind == Kind::Credentials)
        .collect();
    found.retain(|span| {
        // In order, so the last one that begins before is the longest of its URL.
        let before = &credentials[..credentials.partition_point(|url| url.start <= span.start)];
        let within = before
            .last()
            .is_some_and(|url| span.start < url.end && text.get(url.end) == Some(&b'@'));
        span.kind != Kind::Email || !within
    });
    let mut settled: Vec<Span> = Vec::with_capacity(found.len());
    for span in found.drain(..) {
        match settled.last_mut() {
            Some(last) if span.start < last.end => {
                last.end = last.end.max(span.end);
                last.kind = last.kind.min(span.kind);
            }
            _ => settled.push(span),
        }
    }
    *found = settled;
}

fn around_at_signs(text: &[u8], kinds: Kinds, found: &mut Vec<Span>) {
    let (emails, credentials) = (kinds.has(Kind::Email), kinds.has(Kind::Credentials));
    if !emails && !credentials {
        return;
    }
    for at in memchr_iter(b'@', text) {
        if emails && let Some((start, end)) = email::email_around(text, at) {
            found.push(Span {
                start,
                end,
                kind: Kind::Email,
            });
        }
        if credentials && let Some(start) = email::credentials_before(text, at) {
            found.push(Span {
                start,
                end: at,
                kind: Kind::Credentials,
            });
        }
    }
}

/// Cards, accounts in groups and social security numbers have four digits in a row, one of which every fourth byte hits.
fn around_digits(text: &[u8], kinds: Kinds, found: &mut Vec<Span>) {
    let (cards, accounts, numbers) = (kinds.has(Kind::Card), kinds.has(Kind::Iban), kinds.has(Kind::Ssn));
    if !cards && !accounts && !numbers {
        return;
    }
    let mut at = 3;
    while at < text.len() {
        if !text[at].is_ascii_digit() {
            at += 4;
            continue;
        }
        let start = run_back(text, at, 3, |byte| byte.is_ascii_digit());
        let end = super::characters::run(text, at, |byte| byte.is_ascii_digit());
        at = end + 4;
        if end - start < 4 {
            continue;
        }
        if cards && let Some(end) = card::card_at(text, start, end) {
            found.push(Span {
                start,
                end,
                kind: Kind::Card,
            });
        }
        if end - start != 4 {
            continue;
        }
        if numbers && let Some(first) = ssn::ssn_before(text, start) {
            found.push(Span {
                start: first,
                end,
                kind: Kind::Ssn,
            });
        }
        if accounts {
            account_around(text, start, found);
        }
    }
}

/// An account in groups of four, of which this is one: its beginning is some groups before.
fn account_around(text: &[u8], group: usize, found: &mut Vec<Span>) {
    let mut start = group;
    for _ in 0..iban::GROUPS {
        if start < 5 || text[start - 1] != b' ' {
            return;
        }
        start -= 5;
        if let Some(end) = iban::iban_at(text, start)
            && end > group
        {
            found.push(Span {
                start,
                end,
                kind: Kind::Iban,
            });
            return;
        }
        if !text[start..start + 4].iter().all(u8::is_ascii_alphanumeric) {
            return;
        }
    }
}

/// Tokens are long: every fifteenth byte hits each of them.
fn around_tokens(text: &[u8], kinds: Kinds, found: &mut Vec<Span>) {
    let mut at = TOKEN - 1;
    while at < text.len() {
        if !is_token(text[at]) {
            at += TOKEN;
            continue;
        }
        let start = run_back(text, at, TOKEN - 1, is_token);
        let end = super::characters::run(text, at, is_token);
        at = end + TOKEN;
        if end - start >= TOKEN {
            within_run(text, start, end, kinds, found);
        }
    }
}

/// What begins at the words of a run of token characters, and what the run is as a whole.
fn within_run(text: &[u8], start: usize, end: usize, kinds: Kinds, found: &mut Vec<Span>) {
    // Each form goes on behind what it found or refused: a run of a megabyte is gone through once by each.
    let mut past = [start; tokens::TOKENS.len()];
    for at in start..end.saturating_sub(TOKEN - 1) {
        let byte = text[at];
        if !(tokens::may_begin(byte) || byte == b'e' || byte.is_ascii_uppercase()) || !begins_word(text, at) {
            continue;
        }
        if tokens::may_begin(byte) {
            for (number, past) in past.iter_mut().enumerate() {
                if at < *past || !kinds.has(tokens::TOKENS[number].kind) {
                    continue;
                }
                match tokens::token_at(number, text, at) {
                    Some(Ok(end)) => {
                        found.push(Span {
                            start: at,
                            end,
                            kind: tokens::TOKENS[number].kind,
                        });
                        *past = end;
                    }
                    Some(Err(end)) => *past = end,
                    None => {}
                }
            }
        }
        if byte == b'e'
            && kinds.has(Kind::Jwt)
            && let Some(end) = jwt::jwt_at(text, at)
        {
            found.push(Span {
                start: at,
                end,
                kind: Kind::Jwt,
            });
        }
        if byte.is_ascii_uppercase()
            && kinds.has(Kind::Iban)
            && let Some(end) = iban::iban_at(text, at)
        {
            found.push(Span {
                start: at,
                end,
                kind: Kind::Iban,
            });
        }
    }
    if let Some(value) = whole_token(text, start, end) {
        let kind = if value.end - value.start >= BEARER && follows_bearer(text, start) && kinds.has(Kind::Bearer) {
            is_bearer(&text[value.start..value.end]).then_some(Kind::Bearer)
        } else {
            (kinds.has(Kind::Secret) && is_assigned(text, value)).then_some(Kind::Secret)
        };
        found.extend(kind.map(|kind| Span { kind, ..value }));
    }
}

/// A run as a token: without the full stop of a sentence, and with the padding of base64.
pub(super) fn whole_token(text: &[u8], start: usize, end: usize) -> Option<Span> {
    let mut last = end;
    while last > start && text[last - 1] == b'.' {
        last -= 1;
    }
    if last == end {
        last += text[end..].iter().take(2).take_while(|byte| **byte == b'=').count();
    }
    (last > start).then_some(Span {
        start,
        end: last,
        kind: Kind::Secret,
    })
}

pub(super) fn follows_bearer(text: &[u8], start: usize) -> bool {
    start
        .checked_sub(7)
        .is_some_and(|word| text[word..start].eq_ignore_ascii_case(b"bearer ") && begins_word(text, word))
}

/// Words are no tokens: those have digits.
pub(super) fn is_bearer(token: &[u8]) -> bool {
    token.iter().any(u8::is_ascii_digit)
}

/// Whether something random is the value of a name that sounds secret: `token = …`, `"api_key": "…"`.
pub(super) fn is_assigned(text: &[u8], value: Span) -> bool {
    value.end - value.start >= entropy::LEAST
        && name_before(text, value.start).is_some_and(|name| rule_of(name) > KeyRule::Plain)
        && entropy::is_random(&text[value.start..value.end])
}

/// The name whose value begins here, if any.
pub(super) fn name_before(text: &[u8], value: usize) -> Option<&str> {
    let back = |from: usize, most: usize, class: fn(u8) -> bool| run_back(text, from, most, class);
    let quote = |byte: u8| matches!(byte, b'"' | b'\'' | b'\\');
    let blank = |byte: u8| byte == b' ';
    let mut at = back(back(value, 2, quote), 2, blank);
    match text[..at] {
        [.., b'=', b'>'] | [.., b':', b'='] => at -= 2,
        [.., b'=' | b':'] => at -= 1,
        _ => return None,
    }
    let end = back(back(at, 2, blank), 2, quote);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let start = run_back(text, end, MAX_NAME + 1, is_name);
    ((2..=MAX_NAME).contains(&(end - start)))
        .then(|| str::from_utf8(&text[start..end]).ok())
        .flatten()
}
