//! Where a connection stands in each log of its user.

use std::collections::VecDeque;
use std::sync::Arc;

use super::SubscribeMode;
use super::acks::{Load, Sent, Unacked};
use super::commands::Bucket;
use super::waiting::Parked;
use crate::clock::Micros;
use crate::events::RunLog;
use crate::events::frame;
use crate::mutants::mutant;

/// Control frames that may wait to be written. A client that asks for more without reading is asked to come back.
const MAX_CONTROL: usize = 512;
/// Incarnations of one run's log that may wait to be read. A client that reads none of them is asked to come back.
pub(super) const MAX_INCARNATIONS: usize = 16;
/// Runs that were read to their end and whose last acks are awaited.
const MAX_ENDED: usize = 64;

pub(super) struct Position {
    pub(super) log: Arc<RunLog>,
    /// The latest number that the client was sent.
    pub(super) number: u64,
    /// The latest number when the client came: how old what was published before that is says nothing of the delivery.
    pub(super) live_from: u64,
    /// Whether the client was told all: that the stream has ended, or that it is gone.
    pub(super) end_told: bool,
    /// The answer that opens the position, as long as it was not written: it waits for the end of an earlier incarnation.
    pub(super) opening: Option<SubscribeMode>,
    /// Waits until an earlier incarnation of the log has been read to its end.
    pub(super) behind: bool,
    /// When something of the log was last handed out.
    pub(super) last_write: Option<Micros>,
    /// Bytes that it may still be read, less those that it was read too much, in its turn among the user's runs.
    pub(super) credit: i64,
    /// Whether there is something to read, in the read that is going on.
    pub(super) is_ready: bool,
    pub(super) unacked: Unacked,
}

impl Position {
    pub(super) fn new(log: &Arc<RunLog>, number: u64) -> Self {
        Self {
            log: log.clone(),
            number,
            live_from: log.head(),
            end_told: false,
            opening: None,
            behind: false,
            last_write: None,
            credit: 0,
            is_ready: false,
            unacked: Unacked::default(),
        }
    }

    /// Whether the client has not been told all there is to tell now.
    pub(super) fn has_unread(&self) -> bool {
        let unread = self.log.head() > self.number || self.is_urgent();
        !self.behind && unread
    }

    /// Whether there is something to tell besides events.
    fn is_urgent(&self) -> bool {
        self.opening.is_some() || self.log.is_over() && !self.end_told || self.log.is_forgotten()
    }

    /// When something must be written: `None` for nothing, a time that is over for at once.
    pub(super) fn due(&self, now: Micros, defers: bool) -> Option<Micros> {
        if !self.has_unread() {
            return None;
        }
        if !defers || self.is_urgent() {
            return Some(now);
        }
        self.log.due(self.number, self.last_write, now)
    }
}

/// A run that was read to its end.
struct Ended {
    log: Arc<RunLog>,
    number: u64,
    unacked: Unacked,
}

pub(super) struct State {
    pub(super) positions: Vec<Position>,
    /// Where the next read begins, so that one busy run does not keep the others waiting.
    pub(super) turn: usize,
    /// Control frames that go first.
    pub(super) control: Vec<String>,
    pub(super) parked: Option<Parked>,
    pub(super) last_read: Micros,
    pub(super) last_ack: Micros,
    /// What was handed out by the last read: when the writer comes back, it has been sent.
    pub(super) handed: Vec<(Arc<RunLog>, u64)>,
    /// What is un-acked, of all runs.
    pub(super) unacked: Load,
    /// Nothing but control frames is written until enough is acknowledged.
    pub(super) paused: bool,
    pub(super) commands: Bucket,
    ended: VecDeque<Ended>,
}

impl State {
    pub(super) fn new(now: Micros) -> Self {
        Self {
            positions: Vec::new(),
            turn: 0,
            control: Vec::new(),
            parked: None,
            last_read: now,
            last_ack: now,
            handed: Vec::new(),
            unacked: Load::default(),
            paused: false,
            commands: Bucket::new(now),
            ended: VecDeque::new(),
        }
    }

    /// Queues a control frame. Answers `false` when there are too many.
    pub(super) fn queue(&mut self, text: String) -> bool {
        let fits = self.control.len() < MAX_CONTROL;
        if fits {
            self.control.push(text);
        }
        fits
    }

    /// A ping with the latest number of each stream.
    pub(super) fn ping(&self) -> String {
        let current = self.positions.iter().filter(|position| !position.behind);
        // A mirror may be behind what its client has from the writer.
        let head = |position: &Position| position.log.head().max(position.number);
        frame::ping(current.map(|position| (position.log.run().as_str(), head(position))))
    }

    /// When something must be written: `None` for nothing, a time that is over for at once.
    pub(super) fn due(&self, now: Micros, defers: bool) -> Option<Micros> {
        if !self.control.is_empty() {
            return Some(now);
        }
        if self.paused {
            return None;
        }
        let mut earliest = None;
        for position in &self.positions {
            let Some(due) = position.due(now, defers) else { continue };
            if due <= now {
                return Some(due);
            }
            earliest = Some(earliest.map_or(due, |earlier: Micros| earlier.min(due)));
        }
        earliest
    }

    /// Reads the log from `number` on, and no earlier incarnation any more.
    pub(super) fn seek(&mut self, log: &Arc<RunLog>, number: u64) {
        self.forget_unacked(log);
        self.positions.retain(|position| position.log.run() != log.run());
        self.positions.push(Position::new(log, number));
    }

    /// What was sent of a run is not waited for any more: its client begins anew.
    fn forget_unacked(&mut self, log: &RunLog) {
        let (of_run, others) = std::mem::take(&mut self.ended)
            .into_iter()
            .partition::<Vec<_>, _>(|ended| ended.log.run() == log.run());
        self.ended = others.into();
        let positions = self.positions.iter().filter(|position| position.log.run() == log.run());
        let ended = of_run.iter().map(|ended| &ended.unacked);
        let mut load = Load::default();
        for unacked in ended.chain(positions.map(|position| &position.unacked)) {
            load.add(unacked.load());
        }
        self.release(load);
    }

    /// So much is not waited for any more.
    fn release(&mut self, load: Load) {
        self.unacked.subtract(load);
        self.paused = self.unacked.pauses(self.paused);
    }

    /// Reads a new incarnation of a log from its first event, after what is left of the earlier ones. Answers how many of these
    /// there are; nothing is queued without one, or behind too many.
    pub(super) fn queue_behind(&mut self, log: &Arc<RunLog>, opening: Option<SubscribeMode>) -> usize {
        let earlier = self.positions.iter().filter(|position| position.log.run() == log.run());
        let left = earlier.count();
        if (1..=MAX_INCARNATIONS).contains(&left) {
            self.positions.push(Position {
                opening,
                behind: true,
                ..Position::new(log, 0)
            });
        }
        left
    }

    /// Drops the positions that have nothing to come, and lets the next incarnation of their runs begin.
    pub(super) fn drop_finished(&mut self) {
        if !self.positions.iter().any(|position| position.end_told) {
            return;
        }
        let finished: Vec<_> = self.positions.extract_if(.., |position| position.end_told).collect();
        for position in finished {
            let next = self
                .positions
                .iter_mut()
                .find(|next| next.log.run() == position.log.run());
            if let Some(next) = next {
                next.behind = false;
            }
            if position.unacked.is_empty() || mutant!(EndedRunOwesNoAck) {
                self.release(position.unacked.load());
                continue;
            }
            if self.ended.len() >= MAX_ENDED
                && let Some(oldest) = self.ended.pop_front()
            {
                self.release(oldest.unacked.load());
            }
            self.ended.push_back(Ended {
                log: position.log,
                number: position.number,
                unacked: position.unacked,
            });
        }
    }

    /// Counts a frame of the position at `index` as un-acked.
    pub(super) fn note_sent(&mut self, index: usize, sent: Sent) {
        self.unacked.add(sent.load);
        self.paused = self.unacked.pauses(self.paused);
        self.positions[index].unacked.note(sent);
    }

    /// Takes an ack. Answers the log that it is of, unless nothing of that name was sent as far as that.
    pub(super) fn ack(&mut self, run: &str, number: u64) -> Option<Arc<RunLog>> {
        let is_it = |position: &&mut Position| !position.behind && position.log.run().as_str() == run;
        if let Some(position) = self.positions.iter_mut().find(is_it)
            && number <= position.number
        {
            let (mut load, log) = (position.unacked.ack(number), position.log.clone());
            // What was sent of earlier incarnations came before.
            self.ended.retain(|ended| {
                let is_earlier = ended.log.run().as_str() == run;
                if is_earlier {
                    load.add(ended.unacked.load());
                }
                !is_earlier
            });
            self.release(load);
            return Some(log);
        }
        // The latest that was sent so far, should the run id have been used more than once.
        let reaches = |ended: &Ended| ended.log.run().as_str() == run && number <= ended.number;
        let at = self.ended.iter().rposition(reaches)?;
        let ended = &mut self.ended[at];
        let (load, log) = (ended.unacked.ack(number), ended.log.clone());
        if ended.unacked.is_empty() && !mutant!(AckNotCounted) {
            self.ended.remove(at);
        }
        self.release(load);
        Some(log)
    }

    /// Since when an ack is due.
    pub(super) fn ack_due_since(&self) -> Option<Micros> {
        let live = self.positions.iter().map(|position| &position.unacked);
        let ended = self.ended.iter().map(|ended| &ended.unacked);
        live.chain(ended).filter_map(Unacked::due_since).min()
    }
}
