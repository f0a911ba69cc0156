//! Writing JSON without building it first.

use std::io::Write;

/// Appends a string with its quotes.
pub fn string(out: &mut Vec<u8>, value: &str) {
    // Writing to a vector does not fail, and a string is always JSON.
    let _ = serde_json::to_writer(out, value);
}

/// Appends an unsigned number.
pub fn number(out: &mut Vec<u8>, value: u64) {
    let _ = write!(out, "{value}");
}

/// Appends a float. JSON has no NaN and no infinity: they become `null`, as in JavaScript's `JSON.stringify`.
pub fn float(out: &mut Vec<u8>, value: f64) {
    let _ = serde_json::to_writer(out, &value);
}

/// Appends `"name":`, after a comma unless the object was just opened.
pub fn key(out: &mut Vec<u8>, name: &str) {
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    string(out, name);
    out.push(b':');
}

/// Appends a member whose value is a string.
pub fn text_member(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    string(out, value);
}

/// Appends a member whose value is an unsigned number.
pub fn number_member(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    number(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_valid_json() {
        let mut out = b"{".to_vec();
        text_member(&mut out, "a\"b", "line\nbreak\u{0}é");
        number_member(&mut out, "n", u64::MAX);
        key(&mut out, "nan");
        float(&mut out, f64::NAN);
        key(&mut out, "f");
        float(&mut out, 0.1);
        out.push(b'}');
        let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(read["a\"b"], "line\nbreak\u{0}é");
        assert_eq!(read["n"], u64::MAX);
        assert!(read["nan"].is_null());
        assert_eq!(read["f"], 0.1);
    }
}
