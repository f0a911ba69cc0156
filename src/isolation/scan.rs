//! What is found in one text, and how it is searched.

use std::sync::OnceLock;

use memchr::memmem;

use super::canary::{CANARY_LENGTH, CANARY_PREFIX};
use super::decode::{Plain, encoded_candidates};
use crate::ids::UserId;
use crate::mutants::mutant;

/// How sure a sighting is, and of what kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// An object of isolane that says itself whose it is.
    Owner,
    /// A signed canary.
    Canary,
    /// A registered secret.
    Secret,
}

impl Tier {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner_tag",
            Self::Canary => "canary",
            Self::Secret => "secret",
        }
    }
}

/// How it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// With capitals.
    Folded,
    /// With escapes, or with characters of no width in it.
    Escaped,
    /// In base 64.
    Base64,
    /// In hexadecimal digits.
    Hex,
}

impl Form {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Folded => "folded",
            Self::Escaped => "escaped",
            Self::Base64 => "base64",
            Self::Hex => "hex",
        }
    }
}

/// How much is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Canaries as they are.
    Canaries,
    /// Canaries in all forms, and secrets.
    Everything,
}

/// Something of somebody else. It says where it was and whose it is, and has nothing of the text.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// What it is.
    pub tier: Tier,
    /// The keyed hash of whose it is.
    pub owner: u64,
    /// Whose it is, if this process knows the user.
    pub user: Option<UserId>,
    /// Where it begins in the text, in bytes.
    pub offset: usize,
    /// How many bytes it takes there.
    pub length: usize,
    /// How it was written.
    pub form: Form,
    /// The keyed hash of what was found: the same for the same canary or secret.
    pub evidence: u64,
    /// The observer brought it, so it is no leak of ours.
    pub is_prior: bool,
}

/// Sightings that are kept of one scan; others are counted, unless they are the first of their owner: what one owner may be
/// shown decides nothing about another.
const MAX_SIGHTINGS: usize = 64;
/// The same with the first of each owner.
const MAX_OWNERS: usize = 1_024;

impl Sighting {
    /// Whether it is kept beside those that are.
    pub fn is_kept<'a>(&self, kept: impl ExactSizeIterator<Item = &'a Self>) -> bool {
        let count = kept.len();
        count < MAX_SIGHTINGS
            || (count < MAX_OWNERS && !mutant!(SightingsCrowdOut) && !kept.into_iter().any(|other| self.is_like(other)))
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.owner, self.is_prior) == (other.owner, other.is_prior)
    }
}

/// What one scan has found.
#[derive(Debug, Default)]
pub struct Found {
    /// Canaries of the observer.
    pub own: usize,
    /// What is somebody else's.
    pub sightings: Vec<Sighting>,
    /// Sightings beyond those that are kept.
    pub more: usize,
    /// Bytes that were looked at.
    pub bytes: usize,
}

impl Found {
    /// Keeps a sighting, or counts it.
    pub fn push(&mut self, sighting: Sighting) {
        if sighting.is_kept(self.sightings.iter()) {
            self.sightings.push(sighting);
        } else {
            self.more += 1;
        }
    }
}

/// What may be a canary, and where.
pub(super) struct Candidate {
    pub(super) canary: [u8; CANARY_LENGTH],
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) form: Form,
}

fn finder(which: &'static OnceLock<memmem::Finder<'static>>, of: &'static [u8]) -> &'static memmem::Finder<'static> {
    which.get_or_init(|| memmem::Finder::new(of))
}

/// Canaries as they are: the fast search.
pub(super) fn exact(text: &[u8], mut visit: impl FnMut(Candidate)) {
    static FINDER: OnceLock<memmem::Finder<'static>> = OnceLock::new();
    for from in finder(&FINDER, CANARY_PREFIX).find_iter(text) {
        if let Some(canary) = text[from..].first_chunk() {
            let to = from + CANARY_LENGTH;
            visit(Candidate {
                canary: *canary,
                from,
                to,
                form: Form::Plain,
            });
        }
    }
}

/// Canaries in letters of any case.
fn folded(text: &[u8], mut visit: impl FnMut(Candidate)) {
    static FINDER: OnceLock<memmem::Finder<'static>> = OnceLock::new();
    const END: &[u8; 2] = b"1_";
    for at in finder(&FINDER, END).find_iter(text) {
        let Some(from) = at.checked_sub(CANARY_PREFIX.len() - END.len()) else {
            continue;
        };
        if !text[from..at].eq_ignore_ascii_case(&CANARY_PREFIX[..3]) {
            continue;
        }
        if let Some(written) = text[from..].first_chunk::<CANARY_LENGTH>() {
            let canary = written.map(|byte| byte.to_ascii_lowercase());
            visit(Candidate {
                canary,
                from,
                to: from + CANARY_LENGTH,
                form: if canary == *written { Form::Plain } else { Form::Folded },
            });
        }
    }
}

/// Canaries in all forms. `plain` gets the text without its escapes; answers whether it has any.
pub(super) fn all_forms(text: &[u8], plain: &mut Plain, mut visit: impl FnMut(Candidate)) -> bool {
    folded(text, &mut visit);
    if mutant!(EncodedCanaryMissed) {
        return false;
    }
    encoded_candidates(text, |from, to, canary, is_hex| {
        let form = if is_hex { Form::Hex } else { Form::Base64 };
        visit(Candidate { canary, from, to, form });
    });
    let has_escapes = plain.take(text);
    if has_escapes {
        folded(&plain.text, |candidate| {
            let (from, to) = plain.span(candidate.from, candidate.to);
            // What has no escape inside was found above.
            if to - from > CANARY_LENGTH {
                visit(Candidate {
                    from,
                    to,
                    form: Form::Escaped,
                    ..candidate
                });
            }
        });
    }
    has_escapes
}
