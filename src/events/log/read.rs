//! What a reader gets.

use std::borrow::Cow;
use std::sync::Arc;

use super::entry::Entry;
use super::waits::Level;
use super::{Outcome, RunLog};
use crate::clock::{Micros, SECOND};
use crate::events::connection::Wake;
use crate::events::event::{Class, DELTA_DELAY, EventError};
use crate::metrics::EVENT_KINDS;
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
    /// Its place among the kinds that are counted.
    pub(in crate::events) kind: usize,
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
    /// How many were left out for this reader alone, by their kind.
    pub(in crate::events) left_out: Option<[u32; EVENT_KINDS.len()]>,
}

impl Batch<'_> {
    /// The position after it, if it moves it.
    pub(in crate::events) fn position(&self) -> Option<u64> {
        let last = self.items.last().map(|item| item.number);
        self.skip.map(|(_, last, _)| last).or(last).or(self.snapshot_to)
    }
}

/// A cursor that is further behind is sent no debug events.
const DEBUG_LAG: u64 = 64;
/// How long a debug event is worth sending.
const DEBUG_TTL: Micros = 5 * SECOND;

/// Why events are skipped in this read.
struct Skipping {
    now: Micros,
    progress_ttl: Micros,
    lags: bool,
}

impl Skipping {
    fn skips(&self, entry: &Entry) -> bool {
        match entry.class {
            Class::Critical => self.lags && mutant!(CriticalSkipped),
            Class::Content => false,
            Class::Progress => entry.superseded || entry.has_expired(self.now, self.progress_ttl),
            Class::Debug => self.lags || entry.has_expired(self.now, DEBUG_TTL),
        }
    }
}

/// The parts of a text that become one item.
struct Joining<'a> {
    /// Its place among the items.
    at: usize,
    latest: &'a Entry,
    /// The contents of the parts, once there are two.
    pieces: Vec<&'a str>,
}

/// Makes items of entries, as many as fit.
struct Reading<'a> {
    items: Vec<Item<'a>>,
    /// Everything up to here is in the items.
    covered: u64,
    bytes: usize,
    limit: Limits,
    joining: Option<Joining<'a>>,
    /// What was left out for this reader alone, by kind: before what was taken last, and after it.
    left_out: Option<[u32; EVENT_KINDS.len()]>,
    since: Option<[u32; EVENT_KINDS.len()]>,
}

impl<'a> Reading<'a> {
    fn new(position: u64, limit: Limits) -> Self {
        Self {
            items: Vec::new(),
            covered: position,
            bytes: 0,
            limit,
            joining: None,
            left_out: None,
            since: None,
        }
    }

    /// Leaves one out.
    fn skip(&mut self, entry: &Entry) {
        self.since.get_or_insert_default()[usize::from(entry.kind)] += 1;
        if mutant!(LeftOutCountedAgain) {
            self.pass();
        }
    }

    /// What was left out is behind the reader: it will not be looked at again.
    #[inline]
    fn pass(&mut self) {
        if let Some(since) = self.since.take() {
            let all = self.left_out.get_or_insert_default();
            all.iter_mut().zip(since).for_each(|(all, more)| *all += more);
        }
    }

    /// Takes one more. Answers `false` when it does not fit any more.
    fn take(&mut self, entry: &'a Entry) -> bool {
        if let Some(part) = entry.part()
            && let Some(joining) = self.joining.as_mut()
            && joining
                .latest
                .part()
                .is_some_and(|before| before.of == part.of || mutant!(TextsMixed))
        {
            let piece = entry.contents();
            if self.bytes + piece.len() > self.limit.bytes {
                return false;
            }
            if joining.pieces.is_empty() {
                joining.pieces.push(joining.latest.contents());
            }
            joining.pieces.push(piece);
            joining.latest = entry;
            self.bytes += piece.len();
            let item = &mut self.items[joining.at];
            // One more is delivered, and those between are skipped.
            item.skipped += entry.number.saturating_sub(self.covered + 1);
            (item.number, item.unix, item.id) = (entry.number, entry.unix, entry.id());
            self.covered = entry.number;
            self.pass();
            return true;
        }
        let full = self.items.len() >= self.limit.events
            || (self.bytes + entry.text.len() > self.limit.bytes && !self.items.is_empty());
        if full {
            return false;
        }
        if !mutant!(TextJoinsAcrossEvents) || entry.part().is_some() {
            self.join();
        }
        if entry.part().is_some() {
            self.joining = Some(Joining {
                at: self.items.len(),
                latest: entry,
                pieces: Vec::new(),
            });
        }
        self.bytes += entry.text.len();
        self.items.push(Item {
            first: self.covered + 1,
            number: entry.number,
            skipped: entry.number.saturating_sub(self.covered + 1),
            class: entry.class as u8,
            kind: usize::from(entry.kind),
            unix: entry.unix,
            id: entry.id(),
            text: Cow::Borrowed(&entry.text),
        });
        self.covered = entry.number;
        self.pass();
        true
    }

    /// Writes the text whose parts came so far.
    fn join(&mut self) {
        let Some(mut joining) = self.joining.take().filter(|joining| !joining.pieces.is_empty()) else {
            return;
        };
        if mutant!(TextJoinedBackwards) {
            joining.pieces.reverse();
        }
        self.items[joining.at].text = Cow::Owned(joining.latest.with_contents(&joining.pieces, false));
    }
}

impl RunLog {
    /// Whether a position can be resumed exactly.
    pub(in crate::events) fn has_from(&self, position: u64) -> bool {
        let inner = self.inner();
        (inner.folded..=inner.head).contains(&position)
    }

    /// When what follows `position` must be written: `None` for nothing, a time that is over for at once. `last_write` is when
    /// something of the stream was last written to the same socket. Whether the end was told the caller knows.
    pub(in crate::events) fn due(&self, position: u64, last_write: Option<Micros>, now: Micros) -> Option<Micros> {
        if self.head() <= position {
            return None;
        }
        let inner = self.inner();
        if position < inner.folded || inner.ended.is_some() || inner.entries.has_urgent(position) {
            return Some(now);
        }
        let part = last_write.filter(|_| inner.entries.has_part(position));
        let part = part.map(|at| at.saturating_add(DELTA_DELAY));
        if part.is_none() && inner.entries.has_part(position) {
            return Some(now);
        }
        // Of what was dropped there is only to tell that it was.
        let deadlines = part.into_iter().chain(inner.entries.lossy_deadline(position));
        Some(deadlines.min().unwrap_or(now))
    }

    /// Some socket of the user was written this number. Answers who waits for that, to be woken when no lock is held.
    #[must_use = "who waits is to be woken, when no lock is held"]
    pub(in crate::events) fn note_sent(&self, number: u64) -> Vec<Arc<dyn Wake>> {
        self.waits.note(Level::Sent, number)
    }

    /// Some socket of the user has acknowledged this number, or a higher one.
    #[must_use = "who waits is to be woken, when no lock is held"]
    pub(in crate::events) fn note_acked(&self, number: u64) -> Vec<Arc<dyn Wake>> {
        self.waits.note(Level::Acked, number)
    }

    /// Hands what follows `position` to `write`. `now` is by the monotonic clock.
    pub(in crate::events) fn read<R>(
        &self,
        reader: &OwnerTag,
        position: u64,
        limit: Limits,
        now: Micros,
        write: impl FnOnce(&Batch<'_>) -> R,
    ) -> Result<R, EventError> {
        reader.same_owner(&self.owner, Crossing::Write)?;
        let inner = self.inner();
        let mut batch = Batch::default();
        if self.is_superseded() {
            // Its reader goes on in the incarnation that took its place.
            return Ok(write(&batch));
        }
        let mut position = position;
        if position < inner.folded {
            batch.snapshot.extend(inner.fold.messages());
            batch.snapshot_to = Some(inner.folded);
            position = inner.folded;
        }
        let skipping = Skipping {
            now,
            progress_ttl: self.bounds.progress_ttl,
            lags: inner.head.saturating_sub(position) > DEBUG_LAG,
        };
        let mut reading = Reading::new(position, limit);
        let mut entries = inner.entries.after(position);
        let is_all = entries.all(|entry| {
            let is_left_out = !entry.is_dropped() && skipping.skips(entry);
            if is_left_out {
                reading.skip(entry);
            }
            is_left_out || entry.is_dropped() || reading.take(entry)
        });
        if is_all {
            reading.pass();
        }
        reading.join();
        batch.left_out = reading.left_out;
        let covered = reading.covered;
        batch.items = reading.items;
        if mutant!(ReadByUrgency) {
            batch.items.sort_by_key(|item| item.class);
        }
        if is_all && covered < inner.head && !mutant!(TrailingSkipNotTold) {
            batch.skip = Some((covered + 1, inner.head, inner.head - covered));
        }
        if is_all && !mutant!(EndFrameLost) {
            batch.end = inner.ended.map(|(outcome, _)| (inner.head, outcome));
        }
        Ok(write(&batch))
    }
}
