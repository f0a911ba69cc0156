//! Private keys in PEM armour.

use std::sync::LazyLock;

use memchr::memmem;
use regex::bytes::Regex;

use super::characters::run;

/// What all of them begin with.
pub(super) const BEGIN: &[u8] = b"-----BEGIN ";
/// Most bytes from the beginning to the last line.
const MAX_BODY: usize = 32 * 1024;

pub(super) const HEADER: &str = r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----";

static HEADER_HERE: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!(r"\A(?-u:{HEADER})")).expect("a pattern"));

/// The end of the key that begins here: of its last line, or, when that is missing, of what looks like its contents. Public
/// keys and certificates are no secrets.
pub(super) fn pem_at(text: &[u8], start: usize) -> Option<usize> {
    let header = start + HEADER_HERE.find(&text[start..])?.end();
    Some(end_of(text, header))
}

pub(super) fn end_of(text: &[u8], header: usize) -> usize {
    let window = &text[header..text.len().min(header + MAX_BODY)];
    let last = memmem::find(window, b"-----END ").and_then(|at| {
        let from = header + at + b"-----END ".len();
        let line = &text[from..text.len().min(from + 64)];
        memmem::find(line, b"-----").map(|at| from + at + 5)
    });
    last.unwrap_or_else(|| run(text, header, is_body))
}

fn is_body(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || matches!(byte, b'+' | b'/' | b'=' | b'\\')
}
