//! A connection: a cursor that sees all runs of its user.
//!
//! *Order of locks*: an emitter's map of runs, connection, log, the lane's streams. A publisher takes the last two and wakes
//! after both.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::event::Urgency;
use super::frame;
use super::log::{Batch, Limits, RunLog};
use crate::clock::Micros;
use crate::ids;
use crate::lanes::LaneHandle;
use crate::mutants::mutant;
use crate::owner::Crossing;
use crate::sync::{AtomicU16, Mutex, MutexGuard};

/// Control frames that may wait to be written. A client that asks for more without reading is asked to come back.
const MAX_CONTROL: usize = 512;
/// Incarnations of one run's log that may wait to be read. A client that reads none of them is asked to come back.
const MAX_INCARNATIONS: usize = 16;
/// Close code for too many commands.
const TOO_MANY: u16 = 4029;

/// Wakes whoever waits for a connection to have something to write.
pub trait Wake: Send + Sync {
    /// Called without any lock held.
    fn wake(&self);
}

/// How a connection wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorMode {
    /// Frames of `isolane.v1`.
    Framed,
    /// Each event as one bare JSON message, for clients that know nothing of positions.
    Plain,
}

/// From where a subscription goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeMode {
    /// Right after the client's position: nothing lost, nothing twice.
    Exact,
    /// The client is behind the fold: a snapshot first.
    Snapshot,
    /// The client's position is of another incarnation or makes no sense: it starts over.
    Reset,
    /// There is no such stream for this client.
    Gone,
}

impl SubscribeMode {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Snapshot => "snapshot",
            Self::Reset => "reset",
            Self::Gone => "gone",
        }
    }
}

struct Position {
    log: Arc<RunLog>,
    /// The latest number that the client was sent.
    number: u64,
    /// Whether the client was told all: that the stream has ended, or that it is gone.
    end_told: bool,
    /// The answer that opens the position, as long as it was not written: it waits for the end of an earlier incarnation.
    opening: Option<SubscribeMode>,
    /// Waits until an earlier incarnation of the log has been read to its end.
    behind: bool,
}

impl Position {
    fn new(log: &Arc<RunLog>, number: u64) -> Self {
        Self {
            log: log.clone(),
            number,
            end_told: false,
            opening: None,
            behind: false,
        }
    }

    fn has_work(&self) -> bool {
        let unread = self.log.head() > self.number || self.log.is_over() && !self.end_told || self.log.is_forgotten();
        !self.behind && (unread || self.opening.is_some())
    }
}

#[derive(Default)]
struct State {
    positions: Vec<Position>,
    /// Where the next read begins, so that one busy run does not keep the others waiting.
    turn: usize,
    /// Control frames that go first.
    control: Vec<String>,
    waker: Option<Arc<dyn Wake>>,
    last_read: Micros,
}

impl State {
    /// Queues a control frame. Answers `false` when there are too many.
    fn queue(&mut self, text: String) -> bool {
        let fits = self.control.len() < MAX_CONTROL;
        if fits {
            self.control.push(text);
        }
        fits
    }

    fn has_work(&self) -> bool {
        !self.control.is_empty() || self.positions.iter().any(Position::has_work)
    }

    /// Reads the log from `number` on, and no earlier incarnation any more.
    fn seek(&mut self, log: &Arc<RunLog>, number: u64) {
        self.positions.retain(|position| position.log.run() != log.run());
        self.positions.push(Position::new(log, number));
    }

    /// Reads a new incarnation of a log from its first event, after what is left of the earlier ones. Answers how many of these
    /// there are; nothing is queued without one, or behind too many.
    fn queue_behind(&mut self, log: &Arc<RunLog>, opening: Option<SubscribeMode>) -> usize {
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
    fn drop_finished(&mut self) {
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
        }
    }
}

/// One socket of a user.
pub struct Connection {
    id: String,
    lane: LaneHandle,
    mode: CursorMode,
    /// Close code, once the connection is to be closed; 0 before.
    closed: AtomicU16,
    state: Mutex<State>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(lane: LaneHandle, mode: CursorMode, now: Micros) -> Self {
        let state = State {
            last_read: now,
            ..State::default()
        };
        Self {
            id: ids::fresh_with("conn"),
            lane,
            mode,
            closed: AtomicU16::new(0),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name in the welcome.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The user's lane.
    pub fn lane(&self) -> &LaneHandle {
        &self.lane
    }

    /// How it wants its events.
    pub fn mode(&self) -> CursorMode {
        self.mode
    }

    /// When something was last read for it, by the monotonic clock.
    pub fn last_read(&self) -> Micros {
        self.state().last_read
    }

    /// The close code, once it is to be closed.
    pub fn close_code(&self) -> Option<u16> {
        Some(self.closed.load(Ordering::SeqCst)).filter(|code| *code != 0)
    }

    /// Says that the connection is to be closed. The first code counts.
    pub fn close(&self, code: u16) {
        let _ = self
            .closed
            .compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
        self.wake();
    }

    /// Puts the welcome and the client's position of each stream in front, for a framed connection.
    pub fn welcome(&self, ping_ms: u64) {
        let streams = self.lane.streams().views();
        self.tell(frame::welcome(&self.id, &streams, ping_ms));
    }

    /// Queues a control frame, and wakes the writer for it. A plain client knows no such frames.
    fn tell(&self, text: String) {
        if self.mode == CursorMode::Plain {
            return;
        }
        let fits = self.state().queue(text);
        if fits {
            self.wake();
        } else {
            self.close(TOO_MANY);
        }
    }

    /// Puts a ping in front.
    pub fn ping(&self) {
        let ping = {
            let state = self.state();
            frame::ping(
                state
                    .positions
                    .iter()
                    .filter(|position| !position.behind)
                    .map(|position| (position.log.run().as_str(), position.log.head())),
            )
        };
        self.tell(ping);
    }

    /// A stream that began after the connection did: it is seen from its first event.
    pub(super) fn follow(&self, log: &Arc<RunLog>) {
        if log.owner().same_owner(self.lane.tag(), Crossing::Subscribe).is_err() {
            return;
        }
        let opening = Some(SubscribeMode::Reset).filter(|_| self.mode == CursorMode::Framed);
        let left = self.state().queue_behind(log, opening);
        match left {
            0 => self.begin(log, 0, SubscribeMode::Exact),
            1..=MAX_INCARNATIONS => self.wake(),
            _ => self.close(TOO_MANY),
        }
    }

    /// Sets a position and announces it, in one step: no event of the stream may come before the announcement.
    fn begin(&self, log: &Arc<RunLog>, number: u64, mode: SubscribeMode) {
        let fits = {
            let mut state = self.state();
            state.seek(log, number);
            self.mode == CursorMode::Plain || state.queue(frame::subscribed(log, mode, number))
        };
        if fits {
            self.wake();
        } else {
            self.close(TOO_MANY);
        }
    }

    /// Begins to read a stream after `position` of `epoch`. Foreign and unknown streams get the same answer.
    pub fn subscribe(&self, stream: &str, epoch: Option<&str>, position: Option<u64>) -> SubscribeMode {
        self.lane.shared().sweep_logs();
        let found = self.lane.streams().find(stream);
        let log = found.filter(|log| log.owner().same_owner(self.lane.tag(), Crossing::Subscribe).is_ok());
        let Some(log) = log else {
            self.tell(frame::gone(stream));
            return SubscribeMode::Gone;
        };
        let wanted = position.unwrap_or(0);
        let (mode, number) = match epoch {
            None if wanted > 0 => (SubscribeMode::Reset, 0),
            Some(epoch)
                if (*epoch != **log.epoch() && !mutant!(EpochIgnored)) || wanted > log.head() || position.is_none() =>
            {
                (SubscribeMode::Reset, 0)
            }
            _ if log.has_from(wanted) => {
                let again = u64::from(mutant!(ReadTwiceAfterResume) && wanted > 0);
                (SubscribeMode::Exact, wanted - again)
            }
            _ => (SubscribeMode::Snapshot, wanted),
        };
        self.begin(&log, number, mode);
        mode
    }

    /// What there is to write, at most about `limit` events, in frames or as bare messages.
    pub fn read(&self, limit: usize, now: Micros) -> Vec<String> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.last_read = now;
        let mut out = std::mem::take(&mut state.control);
        let mut left = limit.max(1);
        let mut sent = 0;
        let count = state.positions.len();
        for step in 0..count {
            if left == 0 {
                break;
            }
            let position = &mut state.positions[(state.turn.wrapping_add(step)) % count];
            if !position.has_work() {
                continue;
            }
            let before = out.len();
            let events = self.read_one(position, left, now, &mut out);
            left = left.saturating_sub(events.max(out.len() - before));
            sent += events;
        }
        state.turn = state.turn.wrapping_add(1);
        state.drop_finished();
        drop(guard);
        self.lane.shared().events.sent.add(sent as u64);
        out
    }

    fn read_one(&self, position: &mut Position, limit: usize, now: Micros, out: &mut Vec<String>) -> usize {
        let log = position.log.clone();
        if log.is_forgotten() {
            if position.number < log.head() && self.mode == CursorMode::Framed {
                out.push(frame::gone(log.run().as_str()));
            }
            position.end_told = true;
            return 0;
        }
        if let Some(mode) = position.opening.take() {
            out.push(frame::subscribed(&log, mode, position.number));
        }
        // A foreign log cannot be among the positions; should one be, nothing of it is written, and it is counted.
        let limits = Limits {
            events: limit,
            bytes: usize::MAX,
        };
        let result = log.read(self.lane.tag(), position.number, limits, now, |batch| match self.mode {
            CursorMode::Framed => write_framed(&log, batch, position, out),
            CursorMode::Plain => write_plain(batch, position, out),
        });
        result.unwrap_or_else(|_| {
            position.number = log.head();
            0
        })
    }

    /// Parks `waker` until there is something to read. Answers `false`, and keeps nothing, when there already is.
    pub fn park(&self, waker: Arc<dyn Wake>) -> bool {
        let streams = self.lane.streams();
        // Counted before looking: a publisher that does not see the count is seen here.
        let late = mutant!(WakeLostWhenParking);
        if !late {
            streams.parked(1);
        }
        let earlier = {
            let mut state = self.state();
            if state.has_work() || self.close_code().is_some() {
                drop(state);
                streams.parked(if late { 0 } else { -1 });
                return false;
            }
            state.waker.replace(waker)
        };
        if late {
            streams.parked(1);
        }
        if let Some(earlier) = earlier {
            streams.parked(-1);
            earlier.wake();
        }
        true
    }

    /// Takes `waker` back, if it is the one that is parked.
    pub fn unpark_if(&self, waker: &Arc<dyn Wake>) {
        let taken = {
            let mut state = self.state();
            let is_it = state
                .waker
                .as_ref()
                .is_some_and(|held| std::ptr::addr_eq(Arc::as_ptr(held), Arc::as_ptr(waker)));
            if is_it { state.waker.take() } else { None }
        };
        if taken.is_some() {
            self.lane.streams().parked(-1);
        }
    }

    /// Takes the waker back.
    fn unpark(&self) -> Option<Arc<dyn Wake>> {
        let waker = self.state().waker.take();
        if waker.is_some() {
            self.lane.streams().parked(-1);
        }
        waker
    }

    /// Wakes who waits, if anybody does and what is new cannot wait.
    pub(super) fn wake_for(&self, _urgency: Urgency) {
        self.wake();
    }

    /// Wakes who waits, if anybody does.
    pub fn wake(&self) {
        if let Some(waker) = self.unpark() {
            waker.wake();
        }
    }
}

fn write_framed(log: &RunLog, batch: &Batch<'_>, position: &mut Position, out: &mut Vec<String>) -> usize {
    if let Some(to) = batch.snapshot_to {
        out.push(frame::snapshot(log, to, &batch.snapshot));
        position.number = to;
    }
    let mut rest = &batch.items[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(frame::BATCH_EVENTS).take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.text.len();
            first || bytes <= frame::BATCH_BYTES
        });
        let (now, later) = rest.split_at(fits.count());
        out.push(frame::events(log, now));
        rest = later;
    }
    position.number = batch.position().unwrap_or(position.number);
    if let Some((number, outcome)) = batch.end {
        out.push(frame::end(log, number, outcome));
        position.end_told = true;
    }
    batch.snapshot.len() + batch.items.len()
}

fn write_plain(batch: &Batch<'_>, position: &mut Position, out: &mut Vec<String>) -> usize {
    let messages = batch.snapshot.iter().chain(batch.items.iter().map(|item| &item.text));
    out.extend(messages.map(|message| message.to_string()));
    position.number = batch.position().unwrap_or(position.number);
    position.end_told = batch.end.is_some();
    batch.snapshot.len() + batch.items.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Moment, ProcessClock};
    use crate::events::{Draft, EventKind, Extra, LogBounds, SpanScope, StreamWriter, Streams};
    use crate::ids::{RequestId, RunId, ThreadId, UserId};
    use crate::lanes::Registry;
    use crate::owner::violation_counts;

    /// A stream of Ann with one event, and the lanes of Ann and Bob.
    fn stream_of_ann() -> (StreamWriter, [LaneHandle; 2]) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let lanes = ["ann", "bob"].map(|user| registry.lane(&UserId::new(user).expect("valid")));
        let (run, thread) = (RunId::new("run-1").expect("valid"), ThreadId::new("t").expect("valid"));
        let writer = Streams::open(&lanes[0], &run, &thread, LogBounds::default()).expect("opens");
        let request = RequestId::new("req-1").expect("valid");
        let draft = Draft {
            kind: EventKind::Custom("note"),
            agent: None,
            message: None,
            payload: "{\"secret\":1",
            timed: false,
            extra: Extra::default(),
        };
        let scope = SpanScope { request, parent: None };
        writer
            .log()
            .publish(&lanes[0], &scope, draft, Moment { unix: 0, monotonic: 1 })
            .expect("is taken");
        (writer, lanes)
    }

    #[test]
    fn a_stream_of_another_user_is_not_followed() {
        let (writer, [ann, bob]) = stream_of_ann();
        let before = violation_counts()[Crossing::Subscribe as usize].1;
        let connections = [&ann, &bob].map(|lane| Streams::attach(lane, CursorMode::Framed, 3, 0));
        for connection in &connections {
            connection.follow(writer.log());
        }
        let [own, foreign] = connections.map(|connection| connection.state().positions.len());
        assert_eq!((own, foreign), (1, 0));
        assert!(violation_counts()[Crossing::Subscribe as usize].1 > before);
    }

    #[test]
    fn a_stream_of_another_user_is_not_read() {
        let (writer, [ann, bob]) = stream_of_ann();
        let before = violation_counts()[Crossing::Write as usize].1;
        let read = [&ann, &bob].map(|lane| {
            let connection = Streams::attach(lane, CursorMode::Plain, 3, 0);
            // As if the check before this one had been left out.
            connection.state().seek(writer.log(), 0);
            connection.read(8, 0)
        });
        assert_eq!((read[0].len(), read[1].len()), (1, 0));
        assert!(violation_counts()[Crossing::Write as usize].1 > before);
    }
}
