//! What a reader gets.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use super::{Outcome, RunLog};
use crate::clock::Micros;
use crate::events::event::EventError;
use crate::mutants::mutant;
use crate::owner::{Crossing, OwnerTag};

/// How much a reader takes at a time.
#[derive(Debug, Clone, Copy)]
pub(in crate::events) struct Limits {
    /// Events, merged ones counted as one.
    pub(in crate::events) events: usize,
    /// Bytes of their messages. One event is handed out however large it is.
    pub(in crate::events) bytes: usize,
}

/// One event as it is delivered, and the numbers that it stands for.
#[derive(Debug)]
pub(in crate::events) struct Item<'a> {
    /// The first number that it covers: the one after the previous item's.
    pub(in crate::events) first: u64,
    /// Its own number, the last one that it covers.
    pub(in crate::events) number: u64,
    /// How many of the covered ones were skipped. The others were merged into it.
    pub(in crate::events) skipped: u64,
    pub(in crate::events) class: u8,
    pub(in crate::events) unix: Micros,
    /// The id that its producer chose; for `RunLog::write_event_id`.
    pub(in crate::events) id: Option<&'a str>,
    /// The bare JSON message.
    pub(in crate::events) text: Cow<'a, str>,
}

/// What follows a position.
#[derive(Debug, Default)]
pub(in crate::events) struct Batch<'a> {
    /// The messages that stand for the folded prefix, when the reader was behind it.
    pub(in crate::events) snapshot: Vec<Cow<'a, str>>,
    /// Set when the reader was behind the fold: the number that the snapshot stands for.
    pub(in crate::events) snapshot_to: Option<u64>,
    pub(in crate::events) items: Vec<Item<'a>>,
    /// Numbers after the last item that were skipped: the first, the last, and how many of them, which is all.
    pub(in crate::events) skip: Option<(u64, u64, u64)>,
    /// Set when the reader has everything and the stream has ended.
    pub(in crate::events) end: Option<(u64, Outcome)>,
}

impl Batch<'_> {
    /// The position after it, if it moves it.
    pub(in crate::events) fn position(&self) -> Option<u64> {
        let last = self.items.last().map(|item| item.number);
        self.skip.map(|(_, last, _)| last).or(last).or(self.snapshot_to)
    }
}

impl RunLog {
    /// Whether a position can be resumed exactly.
    pub(in crate::events) fn has_from(&self, position: u64) -> bool {
        let inner = self.inner();
        (inner.folded..=inner.head()).contains(&position)
    }

    /// When what follows `position` must be written: `None` for nothing, a time that is over for at once. `last_write` is when
    /// something of the stream was last written to the same socket. Whether the end was told the caller knows.
    pub(in crate::events) fn due(&self, position: u64, _last_write: Option<Micros>, now: Micros) -> Option<Micros> {
        (self.head() > position).then_some(now)
    }

    /// Some socket of the user was written this number.
    pub(in crate::events) fn note_sent(&self, number: u64) {
        self.sent.fetch_max(number, Ordering::Relaxed);
    }

    /// The latest number that some socket of the user was written.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Some socket of the user has acknowledged this number.
    pub(in crate::events) fn note_acked(&self, _number: u64) {}

    /// Hands what follows `position` to `write`. `now` is by the monotonic clock.
    pub(in crate::events) fn read<R>(
        &self,
        reader: &OwnerTag,
        position: u64,
        limit: Limits,
        _now: Micros,
        write: impl FnOnce(&Batch<'_>) -> R,
    ) -> Result<R, EventError> {
        reader.same_owner(&self.owner, Crossing::Write)?;
        let inner = self.inner();
        let mut batch = Batch::default();
        let mut position = position;
        if position < inner.folded {
            let messages = inner.fold.entries().map(|entry| Cow::Borrowed(&*entry.text));
            batch.snapshot.extend(messages);
            batch.snapshot_to = Some(inner.folded);
            position = inner.folded;
        }
        let from = usize::try_from(position - inner.folded).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for entry in inner.entries.iter().skip(from).take(limit.events) {
            bytes += entry.text.len();
            if bytes > limit.bytes && !batch.items.is_empty() {
                break;
            }
            batch.items.push(Item {
                first: entry.number,
                number: entry.number,
                skipped: 0,
                class: entry.class,
                unix: entry.unix,
                id: None,
                text: Cow::Borrowed(&entry.text),
            });
            position = entry.number;
        }
        if position == inner.head() && !mutant!(EndFrameLost) {
            batch.end = inner.ended.map(|(outcome, _)| (inner.head(), outcome));
        }
        Ok(write(&batch))
    }
}
