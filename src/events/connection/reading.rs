//! Reading the logs of a user in turns, by bytes.

use std::sync::Arc;

use super::position::{Position, State};
use super::write::{Output, Written};
use super::{Connection, Options, SubscribeMode};
use crate::clock::Micros;
use crate::events::log::{Batch, Limits, RunLog};
use crate::events::sse::Record;
use crate::metrics::{self, SNAPSHOT};
use crate::mutants::mutant;

/// Bytes that a run may be read in its turn, while others wait for theirs.
const TURN_BYTES: i64 = 16 * 1024;
/// Bytes after which a read ends, however many events they are.
const READ_BYTES: usize = 256 * 1024;

/// What one read may still take.
struct Left {
    events: usize,
    bytes: usize,
}

impl Connection {
    /// What there is to write, at most about `limit` events, in frames or as bare messages. Nothing for a connection that is
    /// read by [`Connection::read_records`].
    pub fn read(&self, limit: usize, now: Micros) -> Vec<String> {
        self.read_out(limit, now).texts
    }

    /// The same as records of an event stream.
    pub fn read_records(&self, limit: usize, now: Micros) -> Vec<Record> {
        self.read_out(limit, now).records
    }

    /// The writer is back and reads no more: what it was handed last has been written.
    pub fn written(&self) {
        let handed = std::mem::take(&mut self.state().handed);
        note_written(handed);
    }

    fn read_out(&self, limit: usize, now: Micros) -> Output {
        let mut out = Output::new(self.mode(), self.options(), now);
        let handed;
        {
            let mut guard = self.state();
            let state = &mut *guard;
            state.last_read = now;
            // The writer is back: what it was handed has been written.
            handed = std::mem::take(&mut state.handed);
            out.texts = std::mem::take(&mut state.control);
            if !state.paused {
                self.take_turns(state, limit.max(1), now, &mut out);
                if state.paused {
                    // Few large events make no ack due: the client is asked for one.
                    out.texts.push(state.ping());
                }
            }
            state.drop_finished();
        }
        note_written(handed);
        out
    }

    /// Reads the runs that have something to read, each by as many bytes as the others.
    fn take_turns(&self, state: &mut State, limit: usize, now: Micros, out: &mut Output) {
        let mut ready = 0;
        let mut depth = 0;
        for position in &mut state.positions {
            position.is_ready = position.due(now, self.options().defers).is_some_and(|due| due <= now);
            if position.is_ready {
                ready += 1;
                depth += position.log.head().saturating_sub(position.number);
            }
        }
        if ready > 0 {
            metrics::Id::WsQueueDepth.only().observe(depth);
        }
        let count = state.positions.len();
        let mut left = Left {
            events: limit,
            bytes: READ_BYTES,
        };
        // Each round hands every run that is ready something, or makes it readier.
        while ready > 0 && left.events > 0 && left.bytes > 0 && !state.paused {
            let index = state.turn % count;
            state.turn = (index + 1) % count;
            let position = &mut state.positions[index];
            if !position.is_ready {
                continue;
            }
            let bytes = if ready == 1 || mutant!(RunsTakeNoTurns) {
                left.bytes
            } else {
                position.credit = position.credit.min(0) + TURN_BYTES;
                let Ok(credit @ 1..) = usize::try_from(position.credit) else {
                    continue;
                };
                credit.min(left.bytes)
            };
            let limits = Limits {
                events: left.events,
                bytes,
            };
            let before = out.len();
            let number = position.number;
            let (written, goes_on) = self.read_one(position, limits, now, out);
            if ready > 1 {
                position.credit -= i64::try_from(written.bytes).unwrap_or(i64::MAX);
            }
            if !goes_on {
                position.is_ready = false;
                position.credit = 0;
                ready -= 1;
            }
            if position.number > number {
                position.last_write = Some(now);
                state.handed.push((position.log.clone(), position.number));
            }
            for sent in out.sent.drain(..) {
                state.note_sent(index, sent);
            }
            left.events = left.events.saturating_sub(written.events.max(out.len() - before));
            left.bytes = left.bytes.saturating_sub(written.bytes);
            if mutant!(RunsTakeNoTurns) {
                state.turn = index;
            }
        }
    }

    /// Counts what is handed out and left out.
    fn note_handed(&self, batch: &Batch<'_>) {
        let events = &self.lane().shared().events;
        if !batch.snapshot.is_empty() {
            events.sent.add(SNAPSHOT, batch.snapshot.len() as u64);
        }
        // Mostly there is one, or one kind after the other.
        let mut rest = &batch.items[..];
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|item| item.kind == first.kind).count();
            events.sent.add(first.kind, same as u64);
            rest = &rest[same..];
        }
        for (kind, many) in batch.left_out.iter().flatten().enumerate() {
            if *many > 0 {
                events.skipped.add(kind, u64::from(*many));
            }
        }
    }

    /// Counts how long what was published while the client was there has waited: of all of it, and of the oldest.
    fn note_delay(&self, batch: &Batch<'_>, live_from: u64) {
        if let Some(oldest) = batch
            .items
            .iter()
            .find(|item| item.number > live_from || mutant!(DelayCountsReplay))
        {
            let shared = self.lane().shared();
            let now = shared.clock.unix();
            shared.events.delay.record(now.saturating_sub(oldest.unix));
            if metrics::enabled() {
                let family = metrics::Id::WsEventLatency.family();
                for item in batch.items.iter().filter(|item| item.number >= oldest.number) {
                    family.cell(item.kind).observe_micros(now.saturating_sub(item.unix));
                }
            }
        }
    }

    /// Reads some of one run. Answers how much was written, and whether there is more.
    fn read_one(&self, position: &mut Position, limits: Limits, now: Micros, out: &mut Output) -> (Written, bool) {
        let log: Arc<RunLog> = position.log.clone();
        if log.is_forgotten() {
            // Whoever was told the end reads it no more; whom another incarnation waits for goes on there.
            if !log.is_superseded() {
                out.gone(&log);
            }
            position.end_told = true;
            return (Written::default(), false);
        }
        if position.number > log.head() && log.is_over() {
            // The end came before what this client said that it has.
            position.number = 0;
            position.opening = Some(SubscribeMode::Reset);
        }
        if let Some(mode) = position.opening.take() {
            out.opening(&log, mode, position.number);
        }
        // A foreign log cannot be among the positions; should one be, nothing of it is written, and it is counted.
        let live_from = position.live_from.max(log.backlog());
        let result = log.read(self.lane().tag(), position.number, limits, now, |batch| {
            self.note_handed(batch);
            self.note_delay(batch, live_from);
            log.note_handed(batch, live_from, self.lane().shared().clock.unix());
            let written = out.batch(&log, batch);
            (written, batch.position(), batch.end.is_some())
        });
        let Ok((written, reached, ended)) = result else {
            position.number = log.head();
            return (Written::default(), false);
        };
        let moved = reached.is_some_and(|reached| reached > position.number);
        position.number = reached.unwrap_or(position.number);
        position.end_told = ended;
        (written, moved && !ended && position.has_unread())
    }
}

impl Options {
    /// As the wire's contract has it.
    pub const WIRE: Self = Self {
        acks: true,
        defers: true,
        batches: true,
    };
}

/// Tells whoever waits for it that events have been written, up to a number of each log. Not under a lock of a connection:
/// who is woken may want it.
fn note_written(handed: Vec<(Arc<RunLog>, u64)>) {
    for (log, number) in handed {
        for waiting in log.note_sent(number) {
            waiting.wake();
        }
    }
}
