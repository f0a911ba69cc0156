//! The body of a record: one line of JSON that no terminal, log viewer or editor is misled by.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::checkpoint;

/// Bytes of a body.
pub const MAX_BODY: usize = 8 * 1024;
/// Bytes that a name, a user's id and a time may take, escaped. The callers' own checks keep them far below it.
const MAX_NAME: usize = 512;
const MAX_USER: usize = 2 * 1024;
const MAX_TIME: usize = 64;
/// Bytes that the beginning of data may take, escaped, when the rest is cut.
const MAX_BEGINNING: usize = 4 * 1024;

/// The body of a record, from JSON of its data.
///
/// Control characters (C0 and C1, so also what begins an ANSI sequence), line and paragraph separators and those that change
/// the direction of text are escaped. Data that would make the body larger than [`MAX_BODY`] is replaced by its beginning, how
/// many bytes were cut, and its SHA-256, by which a copy kept elsewhere can be recognised.
pub fn body(name: &str, user: Option<&str>, at: &str, data: &str) -> String {
    let mut out = String::with_capacity(64 + name.len() + data.len());
    out.push_str(r#"{"name":"#);
    text(&mut out, name, MAX_NAME);
    out.push_str(r#","user_id":"#);
    match user {
        Some(user) => {
            text(&mut out, user, MAX_USER);
        }
        None => out.push_str("null"),
    }
    out.push_str(r#","at":"#);
    text(&mut out, at, MAX_TIME);
    out.push_str(r#","data":"#);
    let head = out.len();
    escape(&mut out, data);
    if out.len() >= MAX_BODY {
        out.truncate(head);
        cut(&mut out, data);
    }
    out.push('}');
    out
}

/// Appends as much of a text as fits, as a JSON string. Returns how many of its bytes that were.
fn text(out: &mut String, text: &str, bytes: usize) -> usize {
    out.push('"');
    let end = out.len() + bytes - 1;
    let mut taken = 0;
    for character in text.chars() {
        let before = out.len();
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            _ if misleads(character) => escaped(out, character),
            _ => out.push(character),
        }
        if out.len() > end {
            out.truncate(before);
            break;
        }
        taken += character.len_utf8();
    }
    out.push('"');
    taken
}

fn cut(out: &mut String, data: &str) {
    out.push_str(r#"{"beginning":"#);
    let kept = text(out, data, MAX_BEGINNING);
    let _ = write!(out, r#","truncated":{},"sha256":""#, data.len() - kept);
    checkpoint::hex(out, &Sha256::digest(data));
    out.push_str("\"}");
}

fn escaped(out: &mut String, character: char) {
    let _ = write!(out, "\\u{:04x}", u32::from(character));
}

/// Whether a character could mislead who reads the text.
fn misleads(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}')
}

/// Appends JSON with what misleads as `\uXXXX`. Outside of strings JSON has no such characters.
fn escape(out: &mut String, text: &str) {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        out.push_str(text);
        return;
    }
    for character in text.chars() {
        if misleads(character) {
            escaped(out, character);
        } else {
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::json;

    fn parsed(body: &str) -> serde_json::Value {
        serde_json::from_str(body).expect("a body is JSON")
    }

    #[test]
    fn what_would_forge_a_line_is_escaped_and_read_back() {
        let hostile = "a\r\nb\u{1b}[31mc\u{9b}d\u{202e}e\u{2066}f\u{7f}g\u{2028}h\u{feff}";
        let mut data = String::new();
        json::string(&mut data, hostile);
        let body = body(hostile, Some(hostile), "now", &data);
        assert!(body.chars().all(|each| !misleads(each)), "{body:?}");
        let value = parsed(&body);
        assert_eq!(value["name"], hostile);
        assert_eq!(value["user_id"], hostile);
        assert_eq!(value["data"], hostile);
    }

    #[test]
    fn a_body_of_8_kib_is_kept_and_one_byte_more_is_cut() {
        let around = body("n", None, "t", "\"\"").len();
        let data = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
        let largest = data(MAX_BODY - around);
        assert_eq!(body("n", None, "t", &largest).len(), MAX_BODY);
        let over = data(MAX_BODY - around + 1);
        let value = parsed(&body("n", None, "t", &over));
        let kept = value["data"]["beginning"].as_str().expect("a text");
        assert!(over.starts_with(kept) && kept.len() > MAX_BEGINNING / 2);
        assert_eq!(value["data"]["truncated"], over.len() - kept.len());
        let mut sha = String::new();
        crate::audit::checkpoint::hex(&mut sha, &Sha256::digest(&over));
        assert_eq!(value["data"]["sha256"], sha);
    }

    proptest! {
        #[test]
        fn any_text_fits_and_has_one_line(name in ".{0,2000}", user in proptest::option::of(".{0,2000}"), text in "(\\PC|\\p{C}){0,9000}") {
            let mut data = String::new();
            json::string(&mut data, &text);
            let body = body(&name, user.as_deref(), "t", &data);
            prop_assert!(body.len() <= MAX_BODY, "{}", body.len());
            prop_assert!(!body.chars().any(misleads));
            parsed(&body);
        }
    }
}
