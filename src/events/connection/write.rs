//! What was read of a log, in the form that a connection wants.

use super::acks::{Load, Sent};
use super::{CursorMode, Options, SubscribeMode};
use crate::clock::Micros;
use crate::events::frame;
use crate::events::log::{Batch, Item, RunLog};
use crate::events::sse::{self, Record};
use crate::mutants::mutant;

/// What one read hands out.
pub(super) struct Output {
    mode: CursorMode,
    options: Options,
    now: Micros,
    pub(super) texts: Vec<String>,
    pub(super) records: Vec<Record>,
    /// The frames of the log that was read last which its client has to acknowledge.
    pub(super) sent: Vec<Sent>,
}

/// How much of a log was written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    /// Events, those of a snapshot included.
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Output {
    pub(super) fn new(mode: CursorMode, options: Options, now: Micros) -> Self {
        Self {
            mode,
            options,
            now,
            texts: Vec::new(),
            records: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Pieces written so far.
    pub(super) fn len(&self) -> usize {
        self.texts.len() + self.records.len()
    }

    /// A position begins.
    pub(super) fn opening(&mut self, log: &RunLog, mode: SubscribeMode, number: u64) {
        if self.mode == CursorMode::Framed {
            self.texts.push(frame::subscribed(log, mode, number));
        }
    }

    /// The log was dropped before all of it was read.
    pub(super) fn gone(&mut self, log: &RunLog) {
        match self.mode {
            CursorMode::Framed => self.texts.push(frame::gone(log.run().as_str())),
            CursorMode::Plain => {}
            CursorMode::Sse => self.records.push(sse::lost()),
        }
    }

    pub(super) fn batch(&mut self, log: &RunLog, batch: &Batch<'_>) -> Written {
        let (texts, records) = (self.texts.len(), self.records.len());
        match self.mode {
            CursorMode::Framed => self.framed(log, batch),
            CursorMode::Plain => {
                let messages = batch.snapshot.iter().chain(batch.items.iter().map(|item| &item.text));
                self.texts.extend(messages.map(ToString::to_string));
            }
            CursorMode::Sse => sse::records(&mut self.records, log, batch),
        }
        let bytes = self.texts[texts..].iter().map(String::len);
        let bytes = bytes.chain(self.records[records..].iter().map(|record| record.data.len()));
        Written {
            events: batch.snapshot.len() + batch.items.len(),
            bytes: bytes.sum(),
        }
    }

    fn framed(&mut self, log: &RunLog, batch: &Batch<'_>) {
        if let Some(to) = batch.snapshot_to {
            self.texts.push(frame::snapshot(log, to, &batch.snapshot));
            // Whatever is in it: its client acknowledges it as a frame of class 1.
            self.note(to, 1, true);
        }
        let mut rest = &batch.items[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.in_one_frame(rest));
            self.texts.push(frame::events(log, now));
            let number = now.last().map_or(0, |item| item.number);
            self.note(number, now.len(), now.iter().any(|item| item.class == 1));
            rest = later;
        }
        if let Some((first, last, skipped)) = batch.skip.filter(|_| !mutant!(SkipNotSent)) {
            self.texts.push(frame::skip(log, first, last, skipped));
        }
        if let Some((number, outcome)) = batch.end {
            self.texts.push(frame::end(log, number, outcome));
        }
    }

    /// How many of the events go into the next frame, at least one.
    fn in_one_frame(&self, items: &[Item<'_>]) -> usize {
        if !self.options.batches {
            return 1;
        }
        let mut bytes = 0;
        let fits = items.iter().take(frame::BATCH_EVENTS).take_while(|item| {
            let first = bytes == 0;
            bytes += item.text.len();
            first || bytes <= frame::BATCH_BYTES
        });
        fits.count()
    }

    /// The frame that was written last has to be acknowledged.
    fn note(&mut self, number: u64, events: usize, critical: bool) {
        if !self.options.acks || mutant!(AckNeverDue) {
            return;
        }
        let bytes = self.texts.last().map_or(0, String::len);
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.sent.push(Sent {
            number,
            load: Load { events, bytes },
            critical,
            critical_to: if critical { number } else { 0 },
            at: self.now,
        });
    }
}
