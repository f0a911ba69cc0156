//! Writing JSON without building it first.

/// Appends a string with its quotes.
pub fn string(out: &mut String, value: &str) {
    out.reserve(value.len() + 2);
    out.push('"');
    if needs_no_escape(value.as_bytes()) {
        out.push_str(value);
    } else if let Ok(quoted) = serde_json::to_string(value) {
        // A string is always JSON. Its quotes are written here.
        out.push_str(&quoted[1..quoted.len() - 1]);
    }
    out.push('"');
}

/// Whether there is no control character, quote or backslash among the bytes. Eight at a time.
fn needs_no_escape(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // The classic tests of a word for a byte that is zero or below n, which may only be wrong in which byte it was.
    let odd = |word: u64| {
        let zero = |word: u64| word.wrapping_sub(ONES) & !word;
        let below = word.wrapping_sub(0x20 * ONES) & !word;
        (below | zero(word ^ (u64::from(b'"') * ONES)) | zero(word ^ (u64::from(b'\\') * ONES))) & HIGH
    };
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes
            .iter()
            .all(|byte| *byte >= 0x20 && *byte != b'"' && *byte != b'\\');
    };
    // The last eight bytes may overlap those before.
    let (chunks, _) = bytes.as_chunks::<8>();
    let last = odd(u64::from_le_bytes(*last));
    chunks
        .iter()
        .fold(last, |found, chunk| found | odd(u64::from_le_bytes(*chunk)))
        == 0
}

/// Appends an unsigned number.
pub fn number(out: &mut String, value: u64) {
    out.push_str(itoa::Buffer::new().format(value));
}

/// Appends a float. JSON has no NaN and no infinity: they become `null`, as in JavaScript's `JSON.stringify`.
pub fn float(out: &mut String, value: f64) {
    if value.is_finite() {
        out.push_str(zmij::Buffer::new().format_finite(value));
    } else {
        out.push_str("null");
    }
}

/// Appends a comma unless the object or array was just opened.
pub fn comma(out: &mut String) {
    if !matches!(out.as_bytes().last(), Some(b'{' | b'[')) {
        out.push(',');
    }
}

/// Appends `"name":`, after a comma unless the object was just opened.
pub fn key(out: &mut String, name: &str) {
    comma(out);
    string(out, name);
    out.push(':');
}

/// Appends a member whose value is a string.
pub fn text_member(out: &mut String, name: &str, value: &str) {
    key(out, name);
    string(out, value);
}

/// Appends a member whose value is an unsigned number.
pub fn number_member(out: &mut String, name: &str, value: u64) {
    key(out, name);
    number(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_valid_json() {
        let mut out = "{".to_owned();
        text_member(&mut out, "a\"b", "line\nbreak\u{0}é");
        number_member(&mut out, "n", u64::MAX);
        key(&mut out, "nan");
        float(&mut out, f64::NAN);
        key(&mut out, "f");
        float(&mut out, 0.1);
        out.push('}');
        let read: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(read["a\"b"], "line\nbreak\u{0}é");
        assert_eq!(read["n"], u64::MAX);
        assert!(read["nan"].is_null());
        assert_eq!(read["f"], 0.1);
    }

    #[test]
    fn every_byte_at_every_place_is_escaped_as_serde_does() {
        for length in 1..20 {
            for at in 0..length {
                for byte in 0..0x80_u8 {
                    let mut text = "a".repeat(length);
                    text.replace_range(at..=at, &char::from(byte).to_string());
                    let mut out = String::new();
                    string(&mut out, &text);
                    assert_eq!(out, serde_json::to_string(&text).expect("JSON"));
                }
            }
        }
        let mut out = String::new();
        string(&mut out, "größer als 8 Zeichen, \u{2028}");
        assert_eq!(out, "\"größer als 8 Zeichen, \u{2028}\"");
    }
}
