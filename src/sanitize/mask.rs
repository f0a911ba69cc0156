//! What stands in the place of a finding: `[EMAIL:7f3a]`.
//!
//! The digits are a keyed hash of what was there. The key is the user's own: who reads a user's log sees which addresses in it
//! are the same, and nobody sees whether two users have the same one. Four digits tell little apart and give nothing away.

use std::cell::OnceCell;
use std::hash::Hasher;
use std::sync::OnceLock;

use hkdf::Hkdf;
use sha2::Sha256;
use siphasher::sip::SipHasher24;
use zeroize::Zeroize;

use super::keynames::KeyRule;
use super::kind::Kinds;
use super::scan::{Span, scan_value, settle};
use crate::mutants::mutant;

/// The key of which those of the users are made.
pub struct MaskKey(Hkdf<Sha256>);

impl std::fmt::Debug for MaskKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MaskKey")
    }
}

/// A key drawn when it is first needed: masks of one process can be compared with each other alone.
pub fn process_key() -> &'static MaskKey {
    static KEY: OnceLock<MaskKey> = OnceLock::new();
    KEY.get_or_init(|| {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        let key = MaskKey::new(&bytes);
        bytes.zeroize();
        key
    })
}

impl MaskKey {
    /// A key that is given: the same masks in all processes that have it.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hkdf::new(Some(b"isolane/mask/1"), secret))
    }

    /// The masks of one user.
    pub fn of<'a>(&'a self, user: &'a str) -> UserMask<'a> {
        UserMask {
            key: self,
            user,
            hasher: OnceCell::new(),
        }
    }
}

/// Writes the masks of one user. The user's key is made with the first one.
pub struct UserMask<'a> {
    key: &'a MaskKey,
    user: &'a str,
    hasher: OnceCell<SipHasher24>,
}

impl std::fmt::Debug for UserMask<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("UserMask")
    }
}

impl UserMask<'_> {
    fn hasher(&self) -> SipHasher24 {
        *self.hasher.get_or_init(|| {
            let mut key = [0; 16];
            // Sixteen bytes are never too many.
            let _ = self.key.0.expand(self.user.as_bytes(), &mut key);
            let hasher = SipHasher24::new_with_key(&key);
            key.zeroize();
            hasher
        })
    }

    /// Appends the mask of what the user's text had.
    pub fn write(&self, out: &mut String, name: &str, value: &str) {
        let mut hasher = self.hasher();
        hasher.write(name.as_bytes());
        hasher.write_u8(0);
        hasher.write(value.as_bytes());
        let digest = hasher.finish() & 0xffff;
        out.push('[');
        out.push_str(name);
        out.push(':');
        for shift in [12, 8, 4, 0] {
            out.push(char::from(
                b"0123456789abcdef"[usize::try_from(digest >> shift & 0xf).unwrap_or_default()],
            ));
        }
        out.push(']');
    }
}

/// Most characters of a name in a mask.
const MAX_NAME: usize = 24;

/// Whether a detector of the application may name its findings so.
pub fn is_name(name: &str) -> bool {
    (2..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// Whether a text is a mask and nothing else.
pub fn is_mask(text: &str) -> bool {
    if mutant!(MaskIsNoMask) {
        return false;
    }
    let Some((name, digest)) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|inner| inner.split_once(':'))
    else {
        return false;
    };
    is_name(name) && digest.len() == 4 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether somebody else has put it in the place of a secret: `[REDACTED]`, `<hidden>`, `***`.
pub(super) fn is_redacted(text: &str) -> bool {
    const WORDS: [&str; 6] = ["redacted", "masked", "filtered", "hidden", "removed", "secret"];
    let inner = text.trim_matches(|each| matches!(each, '[' | ']' | '<' | '>' | '*' | '(' | ')'));
    inner.is_empty() || (inner.len() < text.len() && WORDS.iter().any(|word| inner.eq_ignore_ascii_case(word)))
}

/// A text with masks, and what they stand for, in bytes of the text that was given.
#[derive(Debug)]
pub struct Masked {
    /// What may be shown.
    pub text: String,
    /// What was found.
    pub found: Vec<Span>,
}

/// Masks what a text has of these kinds; `None` when there is nothing.
pub fn mask_spans(text: &str, rule: KeyRule, kinds: Kinds, masks: &UserMask<'_>) -> Option<Masked> {
    mask_with(text, rule, kinds, &[], &|span: &Span| span.kind.name(), masks)
}

/// The same with what was found by other means, and with names for it.
///
/// The result is looked at again until nothing is left in it, so that masking it once more changes nothing: beside a mask
/// something may stand alone that was part of a longer word before.
pub fn mask_with<'n>(
    text: &str,
    rule: KeyRule,
    kinds: Kinds,
    others: &[Span],
    name: &dyn Fn(&Span) -> &'n str,
    masks: &UserMask<'_>,
) -> Option<Masked> {
    let mut found = Vec::new();
    scan_value(text, rule, kinds, &mut found);
    if !others.is_empty() {
        found.extend_from_slice(others);
        settle(text.as_bytes(), &mut found);
    }
    if found.is_empty() {
        return None;
    }
    let mut again = Vec::new();
    loop {
        let (masked, places) = write_masks(text, &found, name, masks);
        scan_value(&masked, rule, kinds, &mut again);
        let before = found.clone();
        for span in &again {
            found.push(Span {
                start: original(&places, span.start, false),
                end: original(&places, span.end, true),
                kind: span.kind,
            });
        }
        settle(text.as_bytes(), &mut found);
        if again.is_empty() || found == before {
            return Some(Masked {
                text: masked,
                found: before,
            });
        }
    }
}

/// Where the masks of a text are, in bytes.
pub fn masks_in(text: &str) -> Vec<(usize, usize)> {
    let begins = text.match_indices('[').map(|(start, _)| start);
    begins
        .filter_map(|start| {
            let end = start
                + text[start..]
                    .char_indices()
                    .take(MAX_NAME + 7)
                    .find(|(_, each)| *each == ']')?
                    .0
                + 1;
            is_mask(&text[start..end]).then_some((start, end))
        })
        .collect()
}

/// A mask in the masked text, and the finding that it stands for.
struct Place {
    mask: (usize, usize),
    span: Span,
}

fn write_masks<'n>(
    text: &str,
    found: &[Span],
    name: &dyn Fn(&Span) -> &'n str,
    masks: &UserMask<'_>,
) -> (String, Vec<Place>) {
    let mut out = String::with_capacity(text.len() + 16);
    let mut places = Vec::with_capacity(found.len());
    let mut past = 0;
    for span in found {
        out.push_str(&text[past..span.start]);
        let start = out.len();
        masks.write(&mut out, name(span), &text[span.start..span.end]);
        places.push(Place {
            mask: (start, out.len()),
            span: *span,
        });
        past = span.end;
    }
    out.push_str(&text[past..]);
    (out, places)
}

/// Where a place of the masked text was before. Within a mask it is the mask's beginning or end.
fn original(places: &[Place], at: usize, is_end: bool) -> usize {
    let before = places.partition_point(|place| place.mask.1 <= at);
    if let Some(place) = places.get(before)
        && place.mask.0 < at
    {
        return if is_end { place.span.end } else { place.span.start };
    }
    let (masked, given) = before
        .checked_sub(1)
        .map_or((0, 0), |last| (places[last].mask.1, places[last].span.end));
    given + (at - masked)
}
