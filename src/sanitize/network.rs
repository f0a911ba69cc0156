//! Telephone numbers and addresses of computers, which are looked for on demand alone: many other numbers look like them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::characters::is_word;
use super::kind::Kind;
use super::scan::Span;

/// E.164: a plus sign, and seven to fifteen digits, which may be divided.
const PHONE: &str = r"(?-u)\+[1-9][0-9]{0,2}(?:[ .()/-]{0,2}[0-9]){6,13}";
const IPV4: &str = r"(?-u)[0-9]{1,3}(?:\.[0-9]{1,3}){3}";
const IPV6: &str = r"(?-u)[0-9A-Fa-f:]{1,30}:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:]{2,39}";

static PATTERNS: LazyLock<[Regex; 3]> =
    LazyLock::new(|| [PHONE, IPV4, IPV6].map(|pattern| Regex::new(pattern).expect("a pattern")));

pub(super) fn phones(text: &[u8], found: &mut Vec<Span>) {
    for part in PATTERNS[0].find_iter(text) {
        let (start, end) = (part.start(), part.end());
        let stands_alone =
            (start == 0 || !is_word(text[start - 1])) && text.get(end).is_none_or(|byte| !is_word(*byte));
        let digits = text[start..end].iter().filter(|byte| byte.is_ascii_digit()).count();
        if stands_alone && (7..=15).contains(&digits) {
            found.push(Span {
                start,
                end,
                kind: Kind::Phone,
            });
        }
    }
}

pub(super) fn addresses(text: &[u8], found: &mut Vec<Span>) {
    let part_of_longer = |byte: u8| is_word(byte) || matches!(byte, b':' | b'.');
    for (pattern, is_v6) in [(&PATTERNS[1], false), (&PATTERNS[2], true)] {
        for part in pattern.find_iter(text) {
            let (start, mut end) = (part.start(), part.end());
            if is_v6 {
                // A colon behind an address belongs to the sentence, two of them to the address.
                end -= usize::from(text[..end].ends_with(b":") && !text[..end].ends_with(b"::"));
            }
            let before = start == 0 || !part_of_longer(text[start - 1]);
            let dot = text.get(end) == Some(&b'.') && text.get(end + 1).is_some_and(|byte| is_word(*byte));
            let after = !dot && text.get(end).is_none_or(|byte| !is_word(*byte));
            let Some(address) = text.get(start..end).and_then(|bytes| str::from_utf8(bytes).ok()) else {
                continue;
            };
            let is_address = if is_v6 {
                address.bytes().any(|byte| byte.is_ascii_digit()) && address.parse::<Ipv6Addr>().is_ok()
            } else {
                address.parse::<Ipv4Addr>().is_ok()
            };
            if before && after && is_address {
                found.push(Span {
                    start,
                    end,
                    kind: Kind::Ip,
                });
            }
        }
    }
}
