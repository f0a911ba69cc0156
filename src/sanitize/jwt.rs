//! JSON web tokens: three parts, or five, of which the first can be read.

use super::characters::run;

/// Longest header that is looked at, in characters. What certificates make longer is no token here.
const MAX_HEADER: usize = 4096;

/// Whether the parts of a token are made of it.
pub(super) fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Whether a token may begin so: `{"`, `{ ` or a line break after the brace, in base64.
pub(super) fn may_begin(text: &[u8]) -> bool {
    matches!(text, [b'e', b'y' | b'w', ..])
}

/// The end of the token that begins here.
pub(super) fn jwt_at(text: &[u8], start: usize) -> Option<usize> {
    if !may_begin(&text[start..]) {
        return None;
    }
    let header = run(&text[..text.len().min(start + MAX_HEADER + 1)], start, is_base64url);
    if text.get(header) != Some(&b'.') || !is_header(&text[start..header]) {
        return None;
    }
    let mut end = run(text, header + 1, is_base64url);
    // The second of five parts, the encrypted key, may be empty.
    let mut parts = 2;
    while parts < 5 && text.get(end) == Some(&b'.') {
        let next = run(text, end + 1, is_base64url);
        // A full stop behind three parts ends the sentence.
        if parts >= 3 && next == end + 1 {
            break;
        }
        end = next;
        parts += 1;
    }
    (parts >= 3).then_some(end)
}

/// Whether it decodes to what an object begins with: a brace, and a quote or a blank.
pub(super) fn begins_header(part: &[u8]) -> bool {
    part.get(..4).and_then(decode).is_some_and(|bytes| {
        bytes.first() == Some(&b'{')
            && bytes
                .get(1)
                .is_some_and(|next| *next == b'"' || next.is_ascii_whitespace())
    })
}

/// Whether it decodes to an object with an algorithm.
pub(super) fn is_header(part: &[u8]) -> bool {
    // Most of what only begins so ends here.
    begins_header(part)
        && decode(part)
            .and_then(|json| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&json).ok())
            .is_some_and(|header| header.contains_key("alg"))
}

fn decode(part: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(part.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in part {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).unwrap_or_default());
        }
    }
    Some(out)
}
