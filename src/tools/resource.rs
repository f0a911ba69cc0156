//! Names of resources, and whose they are by their name.
//!
//! | form | whose it is |
//! |---|---|
//! | `kind:owner/path` | the owner's; `%`, `/` and control characters in the owner's id are percent-encoded |
//! | `kind:/path` | nobody's |
//! | `user:id` | that user |
//! | `kind:name` | what the process knows of runs, else unknown |
//! | anything else, and whatever begins with `run_` | an id: what the process knows of runs, else unknown |
//!
//! A path is text: it is never decoded. So that nobody who decodes it reads another name than the one that was checked, paths
//! with `.` and `..` segments, backslashes, and encodings of characters that need none are refused.

use std::borrow::Cow;

/// Longest name of a resource, in bytes.
pub const MAX_RESOURCE: usize = 1024;
/// Longest kind.
const MAX_KIND: usize = 64;
/// What ids of runs begin with: they may contain any id of a thread, so they are never read as `kind:owner/path`.
const RUN_PREFIX: &str = "run_";

/// Why a name of a resource is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResourceFault {
    /// Nothing, or only white space.
    #[error("a resource needs a name")]
    Blank,
    /// Over [`MAX_RESOURCE`].
    #[error("a resource's name has at most {MAX_RESOURCE} bytes")]
    TooLong,
    /// Control characters.
    #[error("a resource's name has no control characters")]
    Control,
    /// It can be read as another name.
    #[error("a resource's name has no '.' or '..' segments, no backslashes and no needless percent-encoding")]
    Ambiguous,
}

/// A name, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named<'a> {
    /// It names its owner.
    Owned {
        /// What kind of thing it is.
        kind: &'a str,
        /// Whose it is.
        owner: Cow<'a, str>,
    },
    /// It says that it is nobody's.
    Unowned {
        /// What kind of thing it is.
        kind: &'a str,
    },
    /// It has a kind and an id.
    Kind {
        /// What kind of thing it is.
        kind: &'a str,
        /// Its id.
        name: &'a str,
    },
    /// It is an id.
    Bare(&'a str),
}

/// Reads a name.
pub fn parse(text: &str) -> Result<Named<'_>, ResourceFault> {
    if text.len() > MAX_RESOURCE {
        return Err(ResourceFault::TooLong);
    }
    if !crate::ids::is_graphic(text.as_bytes()) {
        if text.trim().is_empty() {
            return Err(ResourceFault::Blank);
        }
        if text.chars().any(char::is_control) {
            return Err(ResourceFault::Control);
        }
    }
    let Some((kind, rest)) = text.split_once(':').filter(|(kind, _)| is_kind(kind)) else {
        return Ok(Named::Bare(text));
    };
    if text.starts_with(RUN_PREFIX) {
        return Ok(Named::Bare(text));
    }
    if rest.is_empty() {
        return Err(ResourceFault::Blank);
    }
    let Some((owner, path)) = rest.split_once('/') else {
        if kind == "user" {
            let owner = decoded(rest)?;
            return Ok(Named::Owned { kind, owner });
        }
        return Ok(Named::Kind { kind, name: rest });
    };
    check_path(path)?;
    if owner.is_empty() {
        return Ok(Named::Unowned { kind });
    }
    Ok(Named::Owned {
        kind,
        owner: decoded(owner)?,
    })
}

/// A user's id as it stands in a name.
pub fn encode_owner(owner: &str) -> Cow<'_, str> {
    let needs = |byte: u8| byte == b'%' || byte == b'/' || byte < 0x20 || byte == 0x7f;
    if !owner.bytes().any(needs) {
        return Cow::Borrowed(owner);
    }
    let mut encoded = String::with_capacity(owner.len() + 8);
    for char in owner.chars() {
        match u8::try_from(char) {
            Ok(byte) if needs(byte) => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                encoded.push('%');
                encoded.push(char::from(HEX[usize::from(byte >> 4)]));
                encoded.push(char::from(HEX[usize::from(byte & 15)]));
            }
            _ => encoded.push(char),
        }
    }
    Cow::Owned(encoded)
}

fn is_kind(kind: &str) -> bool {
    let bytes = kind.as_bytes();
    bytes.len() <= MAX_KIND
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-'))
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The byte that a `%` at `at` stands for.
fn escaped(bytes: &[u8], at: usize) -> Option<u8> {
    Some(hex(*bytes.get(at + 1)?)? << 4 | hex(*bytes.get(at + 2)?)?)
}

fn decoded(owner: &str) -> Result<Cow<'_, str>, ResourceFault> {
    if !owner.contains('%') {
        return Ok(Cow::Borrowed(owner));
    }
    let bytes = owner.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            plain.push(escaped(bytes, at).ok_or(ResourceFault::Ambiguous)?);
            at += 3;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(plain)
        .map(Cow::Owned)
        .map_err(|_| ResourceFault::Ambiguous)
}

fn check_path(path: &str) -> Result<(), ResourceFault> {
    let bytes = path.as_bytes();
    if memchr::memchr3(b'.', b'\\', b'%', bytes).is_none() {
        return Ok(());
    }
    if bytes.contains(&b'\\') || path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(ResourceFault::Ambiguous);
    }
    for at in memchr::memchr_iter(b'%', bytes) {
        let needless = escaped(bytes, at)
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte.is_ascii_control() || b"-._~/\\%".contains(&byte));
        if needless {
            return Err(ResourceFault::Ambiguous);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner_of(text: &str) -> Option<String> {
        match parse(text) {
            Ok(Named::Owned { owner, .. }) => Some(owner.into_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_name_says_whose_it_is() {
        assert_eq!(owner_of("document:ann/7").as_deref(), Some("ann"));
        assert_eq!(owner_of("document:ann/reports/7.pdf").as_deref(), Some("ann"));
        assert_eq!(owner_of("document:a%2Fb/7").as_deref(), Some("a/b"));
        assert_eq!(owner_of("document:auth0|ann/7").as_deref(), Some("auth0|ann"));
        assert_eq!(owner_of("user:ann").as_deref(), Some("ann"));
        assert_eq!(parse("document:/7"), Ok(Named::Unowned { kind: "document" }));
        assert_eq!(
            parse("run:r-1"),
            Ok(Named::Kind {
                kind: "run",
                name: "r-1"
            })
        );
        assert_eq!(parse("Document:ann/7"), Ok(Named::Bare("Document:ann/7")));
        assert_eq!(parse("r-1"), Ok(Named::Bare("r-1")));
        assert_eq!(parse("run_x:ann/7"), Ok(Named::Bare("run_x:ann/7")), "an id of a run");
    }

    #[test]
    fn names_that_can_be_read_in_two_ways_are_refused() {
        for text in [
            "document:ann/../bob/7",
            "document:ann/./7",
            "document:ann/..",
            "document:ann/a\\..\\b",
            "document:ann/%2e%2e/bob",
            "document:ann/%2Fbob",
            "document:ann/secre%74",
            "document:ann/%25",
            "document:a%2/7",
            "document:a%FF/7",
        ] {
            assert_eq!(parse(text), Err(ResourceFault::Ambiguous), "{text}");
        }
        assert!(parse("document:ann/..hidden/a.b/...").is_ok());
        assert!(parse("document:ann/100%/a%20b").is_ok(), "a space needs its encoding");
        assert_eq!(parse("document:"), Err(ResourceFault::Blank));
        assert_eq!(parse(" "), Err(ResourceFault::Blank));
        assert_eq!(parse("document:ann/a\nb"), Err(ResourceFault::Control));
        assert_eq!(parse(&"x".repeat(MAX_RESOURCE + 1)), Err(ResourceFault::TooLong));
    }

    proptest! {
        #[test]
        fn an_encoded_owner_is_read_back(owner in "\\PC{1,40}", path in "[a-z0-9/]{0,20}") {
            let text = format!("document:{}/{path}", encode_owner(&owner));
            prop_assert_eq!(owner_of(&text), Some(owner));
        }

        #[test]
        fn nothing_makes_it_panic(text in ".{0,80}") {
            let _ = parse(&text);
        }
    }
}
