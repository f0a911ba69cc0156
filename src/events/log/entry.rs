//! One event in a log.

use std::ops::Range;
use std::sync::Arc;

use crate::clock::Micros;
use crate::events::event::Class;
use crate::events::fold::{FoldKey, Slot};

/// What the bookkeeping of an event costs that may be left out.
const LOSSY_BYTES: usize = 2 * size_of::<u64>() + size_of::<(FoldKey, u64)>();

/// Which text a delta is a part of. Only parts of one text are joined: whose messages differ in nothing but what the latest
/// part may say.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(in crate::events) struct TextId {
    pub(super) agent: Option<Box<str>>,
    pub(super) kind: Box<str>,
    pub(super) request: Arc<str>,
    pub(super) message: Box<str>,
}

/// A part of a text.
#[derive(Debug)]
pub(in crate::events) struct Part {
    pub(in crate::events) of: Arc<TextId>,
    /// Where the contents of the string `delta` lie in the message.
    pub(super) at: Range<usize>,
}

/// What few events have.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// The id that its producer chose.
    pub(super) id: Option<Arc<str>>,
    pub(super) part: Option<Part>,
}

/// One event, as it goes to every client.
#[derive(Debug)]
pub(in crate::events) struct Entry {
    pub(in crate::events) number: u64,
    pub(super) class: Class,
    /// Its place among the kinds that are counted.
    pub(in crate::events) kind: u8,
    /// Of a progress event: a later one of its key is in the log.
    pub(super) superseded: bool,
    pub(super) unix: Micros,
    pub(super) monotonic: Micros,
    pub(in crate::events) key: FoldKey,
    /// What it makes needless in a snapshot: the beginning of the tool call that it ends.
    pub(in crate::events) closes: Option<FoldKey>,
    pub(super) extras: Option<Box<Extras>>,
    /// The bare JSON message. Empty when the event was dropped and its place is not yet freed.
    pub(in crate::events) text: Box<str>,
}

impl Entry {
    /// Bytes charged for it.
    pub(in crate::events) fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.extra_weight()
    }

    fn extra_weight(&self) -> usize {
        let lossy = if self.class >= Class::Progress { LOSSY_BYTES } else { 0 };
        let extras = self.extras.as_ref().map_or(0, |extras| {
            let id = extras.id.as_ref().map_or(0, |id| id.len());
            let text = extras.part.as_ref().map_or(0, |part| {
                size_of::<TextId>()
                    + part.of.agent.as_ref().map_or(0, |agent| agent.len())
                    + part.of.kind.len()
                    + part.of.message.len()
            });
            size_of::<Extras>() + id + text
        });
        lossy + extras
    }

    /// The part of a text that it is.
    pub(in crate::events) fn part(&self) -> Option<&Part> {
        self.extras.as_ref()?.part.as_ref()
    }

    /// The id that its producer chose.
    pub(super) fn id(&self) -> Option<&str> {
        self.extras.as_ref()?.id.as_deref()
    }

    /// The JSON contents of its delta.
    pub(in crate::events) fn contents(&self) -> &str {
        self.part().map_or("", |part| &self.text[part.at.clone()])
    }

    /// Its message with other contents of its delta, which are pieces of a JSON string. With `is_cut` the payload says that
    /// the beginning of the text is missing.
    pub(in crate::events) fn with_contents(&self, pieces: &[&str], is_cut: bool) -> String {
        let at = self.part().map_or(0..0, |part| part.at.clone());
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut text = String::with_capacity(self.text.len() - at.len() + length);
        text.push_str(&self.text[..at.start]);
        for piece in pieces {
            text.push_str(piece);
        }
        let rest = &self.text[at.end..];
        match rest.strip_prefix('"').filter(|_| is_cut) {
            Some(rest) => {
                text.push_str("\",\"truncated\":true");
                text.push_str(rest);
            }
            None => text.push_str(rest),
        }
        text
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.text.is_empty()
    }

    /// What it is the latest of, if it is an event of which only the latest counts. Keys that have no number of their own
    /// never supersede each other.
    pub(super) fn progress_key(&self) -> Option<FoldKey> {
        match self.key {
            (_, Slot::Progress(number)) if number != 0 => Some(self.key),
            _ => None,
        }
    }
}
