//! Events: their texts are looked at once, while they are written as JSON.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use super::keynames::KeyRule;
use super::kind::{Kind, Kinds};
use super::mask::{mask_spans, process_key};
use super::policy::EventMask;
use super::scan::scan_value;
use crate::mutants::mutant;

static FOUND: [AtomicU64; Kind::ALL.len()] = [const { AtomicU64::new(0) }; Kind::ALL.len()];

/// How often each kind was found in events that were published in this process.
pub fn event_findings() -> impl Iterator<Item = (&'static str, u64)> {
    Kind::ALL
        .iter()
        .map(|kind| (kind.name(), FOUND[*kind as usize].load(Ordering::Relaxed)))
}

/// What is done with the texts of one user's events.
#[derive(Debug, Clone, Copy)]
pub struct EventTexts<'a> {
    mask: Kinds,
    looks: bool,
    user: &'a str,
}

impl<'a> EventTexts<'a> {
    /// For the events of a user.
    pub fn new(mask: EventMask, user: &'a str) -> Self {
        let looks = mask != EventMask::Off && !mutant!(EventSecretsShown);
        Self {
            mask: mask.kinds(),
            looks,
            user,
        }
    }

    /// Texts as they are.
    pub const fn plain() -> Self {
        Self {
            mask: Kinds::NONE,
            looks: false,
            user: "",
        }
    }

    /// Whether texts are looked at.
    #[inline]
    pub const fn looks(&self) -> bool {
        self.looks
    }

    /// A text as it may be published. One in which nothing is masked is the same text.
    pub fn shown<'t>(&self, text: &'t str, rule: KeyRule) -> Cow<'t, str> {
        if !self.looks {
            return Cow::Borrowed(text);
        }
        let mut found = Vec::new();
        scan_value(text, rule, Kinds::DEFAULT, &mut found);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        for span in &found {
            FOUND[span.kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        if !found.iter().any(|span| self.mask.has(span.kind)) {
            return Cow::Borrowed(text);
        }
        mask_spans(text, rule, self.mask, &process_key().of(self.user))
            .map_or(Cow::Borrowed(text), |masked| Cow::Owned(masked.text))
    }
}
