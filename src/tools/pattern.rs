//! Patterns of roles: text in which `*` stands for any characters. Matching takes time in proportion to the text.

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 256;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `*`.
    Any,
    /// No `*`.
    Exact(Box<str>),
    /// One `*`, at the end.
    Prefix(Box<str>),
    /// What stands before, between and after the `*`.
    Parts(Box<[Box<str>]>),
}

impl Pattern {
    /// Compiles `text`; says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("a pattern is not blank; use '*' for everything".to_owned());
        }
        if text.len() > MAX_PATTERN {
            return Err(format!("a pattern has at most {MAX_PATTERN} bytes, got {}", text.len()));
        }
        if text.chars().any(|char| char.is_control() || char.is_whitespace()) {
            return Err("a pattern has no white space and no control characters".to_owned());
        }
        if text.bytes().all(|byte| byte == b'*') {
            return Ok(Self::Any);
        }
        if !text.contains('*') {
            return Ok(Self::Exact(text.into()));
        }
        if let Some(prefix) = text.strip_suffix('*').filter(|prefix| !prefix.contains('*')) {
            return Ok(Self::Prefix(prefix.into()));
        }
        Ok(Self::Parts(text.split('*').map(Box::from).collect()))
    }

    /// Whether it is `*`.
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }

    /// Whether the text has the form.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Parts(parts) => Self::has_parts(parts, text),
        }
    }

    fn has_parts(parts: &[Box<str>], text: &str) -> bool {
        let Some((first, rest)) = parts.split_first() else {
            return text.is_empty();
        };
        let Some((last, between)) = rest.split_last() else {
            return **first == *text;
        };
        let Some(mut left) = text.strip_prefix(&**first) else {
            return false;
        };
        for part in between {
            // The first place is the best one: it leaves most of the text for what follows.
            let Some(at) = memchr::memmem::find(left.as_bytes(), part.as_bytes()) else {
                return false;
            };
            left = &left[at + part.len()..];
        }
        left.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by its definition, in exponential time.
    fn reference(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => reference(&pattern[1..], text) || (!text.is_empty() && reference(pattern, &text[1..])),
            (Some(wanted), Some(found)) => wanted == found && reference(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_star_stands_for_any_characters(pattern in "[ab*]{1,8}", text in "[ab]{0,10}") {
            let compiled = Pattern::new(&pattern).expect("valid");
            prop_assert_eq!(compiled.matches(&text), reference(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn blank_long_and_odd_patterns_are_refused() {
        for text in ["", "  ", "a b", "a\n"] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN + 1)).is_err());
        assert!(Pattern::new("**").expect("valid").is_any());
        assert!(Pattern::new("document:*").expect("valid").matches("document:ann/7"));
        assert!(!Pattern::new("document:*").expect("valid").matches(""));
    }
}
