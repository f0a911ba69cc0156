//! What stands around an `@`: e-mail addresses, and user and password of a URL.

use std::sync::LazyLock;

use regex::bytes::Regex;

use super::characters::{after_escape, run_back};

/// Most bytes before the `@` of an address.
const MAX_LOCAL: usize = 64;
/// Most bytes of user and password.
pub(super) const MAX_CREDENTIALS: usize = 384;
/// Ends of file names that are no top-level domains: `icon@2x.png` is no address.
const FILES: [&[u8]; 20] = [
    b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"bmp", b"ico", b"css", b"js", b"mjs", b"ts", b"tsx", b"json",
    b"html", b"xml", b"yml", b"yaml", b"txt", b"csv",
];

/// What follows the `@`.
pub(super) const DOMAIN: &str = r"(?-u)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,63}";

static DOMAIN_HERE: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!(r"\A(?:{DOMAIN})")).expect("a pattern"));

/// Whether the part before the `@` is made of it, dots and apostrophes apart. Letters with accents, which are two bytes, count.
pub(super) fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'%' | b'+' | b'-' | 0xC3..=0xC9 | 0x80..=0xBF)
}

/// The address around the `@` at this place.
pub(super) fn email_around(text: &[u8], at: usize) -> Option<(usize, usize)> {
    // Whole characters: a byte of a longer one, or of one that is no letter with an accent, ends the part.
    // One more than it may have, and half a character.
    let mut start = run_back(text, at, MAX_LOCAL + 2, |byte| {
        is_local(byte) || matches!(byte, b'.' | b'\'')
    });
    start = after_other_scripts(text, start, at);
    // It neither begins nor ends with a dot, nor has two of them together.
    let part = &text[start..at];
    if let Some(twice) = part.windows(2).rposition(|two| !is_local(two[0]) && !is_local(two[1])) {
        start += twice + 2;
    }
    start = after_escape(text, start);
    while start < at && !is_local(text[start]) {
        start += 1;
    }
    if start >= at || at - start > MAX_LOCAL || !is_local(text[at - 1]) {
        return None;
    }
    let end = at + 1 + DOMAIN_HERE.find(&text[at + 1..])?.end();
    is_address(text, start, at, end).then_some((start, end))
}

/// Behind the last byte in the range that belongs to no letter with an accent of Latin script.
fn after_other_scripts(text: &[u8], start: usize, at: usize) -> usize {
    let mut from = start;
    let mut place = start;
    while place < at {
        match text[place] {
            0xC3..=0xC9 if place + 1 < at && matches!(text[place + 1], 0x80..=0xBF) => place += 2,
            0x80.. => {
                place += 1;
                from = place;
            }
            _ => place += 1,
        }
    }
    from
}

/// Whether what looks like an address is one.
fn is_address(text: &[u8], start: usize, at: usize, end: usize) -> bool {
    // `com-x` goes on; the dash of `com -- x`, without its blanks, and the `_` around what is emphasised do not.
    let goes_on = match text[end..] {
        [b'_' | b'-', next, ..] => next.is_ascii_alphanumeric(),
        [byte, ..] => byte.is_ascii_alphanumeric() || byte == b'@',
        [] => false,
    };
    let top = text[at + 1..end]
        .rsplit(|byte| *byte == b'.')
        .next()
        .unwrap_or_default();
    let is_file = FILES.iter().any(|file| top.eq_ignore_ascii_case(file));
    // `git@host:path` names a repository.
    let is_repository = &text[start..at] == b"git" && text.get(end) == Some(&b':');
    !goes_on && !is_file && !is_repository
}

/// Whether user or password are made of it.
pub(super) fn is_credential(byte: u8) -> bool {
    !byte.is_ascii_whitespace() && !matches!(byte, b'/' | b'"' | b'\'' | b'<' | b'>' | b'[' | b']' | b'`')
}

/// `user:password` between `scheme://` and the `@` at this place.
pub(super) fn credentials_before(text: &[u8], at: usize) -> Option<usize> {
    let start = run_back(text, at, MAX_CREDENTIALS, is_credential);
    let scheme = start.checked_sub(3)?;
    let has_scheme = &text[scheme..start] == b"://" && scheme > 0 && text[scheme - 1].is_ascii_alphanumeric();
    let has_password = text[start..at]
        .iter()
        .position(|byte| *byte == b':')
        .is_some_and(|colon| start + colon + 1 < at);
    (has_scheme && has_password).then_some(start)
}
