//! A connection: a cursor that sees all runs of its user.
//!
//! `position` is where it stands in each log, `reading` takes turns among them, `write` gives what was read its form, `acks`
//! counts what the client has not acknowledged, `commands` what it asks, and `waiting` wakes who writes.
//!
//! *Order of locks*: an emitter's map of runs, connection, log, the lane's streams. A publisher takes the last two and wakes
//! after both.

mod acks;
mod commands;
mod position;
mod reading;
mod waiting;
mod write;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

pub use self::acks::ACK_EVENTS;
use self::position::{MAX_INCARNATIONS, State};
pub use self::waiting::{Parking, Wake};
use super::frame::{self, CancelState, Welcome};
use super::log::RunLog;
use super::sse::Place;
use crate::clock::Micros;
use crate::ids;
use crate::lanes::LaneHandle;
use crate::mutants::mutant;
use crate::owner::Crossing;
use crate::sync::{AtomicU16, AtomicU64, Mutex, MutexGuard};

/// Close code for a client that is to come back and begin from its positions.
const RESYNC: u16 = 4010;
/// Close code for too many commands.
const TOO_MANY: u16 = 4029;

/// How a connection wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorMode {
    /// Frames of `isolane.v1`.
    Framed,
    /// Each event as one bare JSON message, for clients that know nothing of positions.
    Plain,
    /// Records of an event stream, of one run.
    Sse,
}

/// What is agreed with the client. By default everything is handed out at once, and nothing need be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The client acknowledges: what it has not makes the connection pause.
    pub acks: bool,
    /// What is not urgent waits for what comes after it.
    pub defers: bool,
    /// A frame may hold several events.
    pub batches: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            acks: false,
            defers: false,
            batches: true,
        }
    }
}

/// What is told of a connection as a whole.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionView {
    /// How it wants its events.
    pub mode: CursorMode,
    /// Since when it is attached, by the monotonic clock.
    pub attached: Micros,
    /// When something was last read for it.
    pub last_read: Micros,
    /// Events that wait to be read for it.
    pub unread: u64,
    /// Since when it owes an answer to a ping.
    pub asked: Option<Micros>,
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

/// One socket of a user.
pub struct Connection {
    id: String,
    lane: LaneHandle,
    mode: CursorMode,
    options: Options,
    /// Close code, once the connection is to be closed; 0 before.
    closed: AtomicU16,
    attached: Micros,
    /// Since when it owes an answer to a ping, by the monotonic clock; 0 when it owes none.
    asked: AtomicU64,
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
    pub(super) fn new(lane: LaneHandle, mode: CursorMode, options: Options, now: Micros) -> Self {
        Self {
            id: ids::fresh_with("conn"),
            lane,
            mode,
            options,
            closed: AtomicU16::new(0),
            attached: now,
            asked: AtomicU64::new(0),
            state: Mutex::new(State::new(now)),
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

    /// What is agreed with its client.
    pub fn options(&self) -> Options {
        self.options
    }

    /// When there was a sign that its client follows, by the monotonic clock: the latest ack, or, from a client that sends
    /// none, the latest read for it.
    pub fn last_sign(&self) -> Micros {
        let state = self.state();
        if self.options.acks {
            state.last_ack
        } else {
            state.last_read
        }
    }

    /// What is told of it as a whole.
    pub fn view(&self) -> ConnectionView {
        let state = self.state();
        let reading = state.positions.iter().filter(|position| !position.end_told);
        ConnectionView {
            mode: self.mode,
            attached: self.attached,
            last_read: state.last_read,
            unread: reading
                .map(|position| position.log.head().saturating_sub(position.number))
                .sum(),
            asked: Some(self.asked.load(Ordering::Relaxed)).filter(|at| *at != 0),
        }
    }

    /// How many events of a run wait to be read for it; `None` when it does not read that run.
    pub fn behind(&self, log: &Arc<RunLog>) -> Option<u64> {
        let state = self.state();
        let mut positions = state.positions.iter();
        let position = positions.find(|position| Arc::ptr_eq(&position.log, log) && !position.end_told)?;
        Some(log.head().saturating_sub(position.number))
    }

    /// The client said something.
    pub fn heard(&self) {
        if !mutant!(PongNotHeard) {
            self.asked.store(0, Ordering::Relaxed);
        }
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

    /// Puts the welcome with the user's streams in front, for a framed connection.
    pub fn welcome(&self, ping_ms: u64, reconnect_attempts: u64, compresses: bool) {
        let streams = self.lane.streams().views();
        // A client may ask for each of them at once.
        self.state().commands.allow(streams.len());
        self.tell(frame::welcome(&Welcome {
            connection: &self.id,
            streams: &streams,
            ping_ms,
            reconnect_attempts,
            ack_events: ACK_EVENTS,
            compresses,
        }));
    }

    /// Queues a control frame, and wakes the writer for it. A plain client knows no such frames.
    fn tell(&self, text: String) {
        if self.mode != CursorMode::Framed {
            return;
        }
        let fits = self.state().queue(text);
        if fits {
            self.wake();
        } else {
            self.close(RESYNC);
        }
    }

    /// Puts a ping in front.
    pub fn ping(&self) {
        if self.mode != CursorMode::Framed {
            return;
        }
        let now = self.lane.shared().clock.monotonic();
        let _ = self
            .asked
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let ping = self.state().ping();
        self.tell(ping);
    }

    /// Whether the client may give one more command. One that gives too many is asked to come back later.
    pub fn may_command(&self, now: Micros) -> bool {
        let may = self.state().commands.take(now) || mutant!(CommandsUnbounded);
        if !may {
            self.close(TOO_MANY);
        }
        may
    }

    /// Answers a client that asked to cancel a run.
    pub fn answer_cancel(&self, run: &str, command: Option<&str>, state: CancelState) {
        self.tell(frame::cancelled(run, command, state));
    }

    /// Tells the client that its sign-in ends in so many milliseconds.
    pub fn auth_expiring(&self, expires_in_ms: u64) {
        self.tell(frame::auth_expiring(expires_in_ms));
    }

    /// Answers a client that signed in again.
    pub fn auth_refreshed(&self, expires_in_ms: Option<u64>) {
        self.tell(frame::auth_refreshed(expires_in_ms));
    }

    /// The client has acknowledged these numbers of these runs. What was not sent, or is of no run that it reads, is ignored.
    pub fn ack<'a>(&self, acks: impl Iterator<Item = (&'a str, u64)>, now: Micros) {
        let mut told = Vec::new();
        let resumes = {
            let mut state = self.state();
            let paused = state.paused;
            for (run, number) in acks {
                if let Some(log) = state.ack(run, number) {
                    state.last_ack = now;
                    told.push((log, number));
                }
            }
            paused && !state.paused
        };
        // Outside the lock: somebody may wait for it.
        for (log, number) in told {
            for waiting in log.note_acked(number) {
                waiting.wake();
            }
        }
        if resumes {
            self.wake();
        }
    }

    /// How long an ack has been due.
    pub fn ack_overdue(&self, now: Micros) -> Option<Micros> {
        let since = self.state().ack_due_since()?;
        Some(now.saturating_sub(since))
    }

    /// A stream that began after the connection did: it is seen from its first event.
    pub(super) fn follow(&self, log: &Arc<RunLog>) {
        // An event stream is of one incarnation, unless another worker's takes its place before its end.
        let is_read = |state: &State| state.positions.iter().any(|position| position.log.run() == log.run());
        let goes_on = self.mode != CursorMode::Sse || log.is_mirror() && is_read(&self.state());
        if !goes_on || log.owner().same_owner(self.lane.tag(), Crossing::Subscribe).is_err() {
            return;
        }
        let opening = Some(SubscribeMode::Reset).filter(|_| self.mode == CursorMode::Framed);
        let left = self.state().queue_behind(log, opening);
        match left {
            0 => self.begin(log, 0, SubscribeMode::Exact),
            1..=MAX_INCARNATIONS => self.wake(),
            _ => self.close(RESYNC),
        }
    }

    /// Sets a position and announces it, in one step: no event of the stream may come before the announcement.
    fn begin(&self, log: &Arc<RunLog>, number: u64, mode: SubscribeMode) {
        let fits = {
            let mut state = self.state();
            state.seek(log, number);
            self.mode != CursorMode::Framed || state.queue(frame::subscribed(log, mode, number))
        };
        if fits {
            self.wake();
        } else {
            self.close(RESYNC);
        }
    }

    fn own_log(&self, stream: &str) -> Option<Arc<RunLog>> {
        let found = self.lane.streams().find(stream);
        found.filter(|log| log.owner().same_owner(self.lane.tag(), Crossing::Subscribe).is_ok())
    }

    /// Begins to read a stream after the record with this id. Answers `None`, and reads nothing, for a client that was told
    /// the end already.
    pub fn subscribe_after(&self, stream: &str, id: &str) -> Option<SubscribeMode> {
        let place = Place::of(id, stream);
        let told_all = |log: &RunLog| place.is_end && log.is_over() && place.epoch.as_deref() == Some(&**log.epoch());
        if self.own_log(stream).is_some_and(|log| told_all(&log)) {
            return None;
        }
        // An id that cannot be read is none of this log: its client is told that it begins anew.
        let epoch = place.epoch.as_deref().or((!id.is_empty()).then_some(""));
        Some(self.subscribe(stream, epoch, place.number))
    }

    /// Begins to read a stream after `position` of `epoch`. Foreign and unknown streams get the same answer.
    pub fn subscribe(&self, stream: &str, epoch: Option<&str>, position: Option<u64>) -> SubscribeMode {
        self.lane.shared().sweep_logs();
        let Some(log) = self.own_log(stream) else {
            self.tell(frame::gone(stream));
            return SubscribeMode::Gone;
        };
        let wanted = position.unwrap_or(0);
        // A mirror may not have come yet to where its client was with the writer.
        let is_ahead = log.is_mirror() && !log.is_over() && wanted > log.head() && !mutant!(MirrorAheadResets);
        let (mode, number) = match epoch {
            Some(epoch) if is_ahead && *epoch == **log.epoch() => (SubscribeMode::Exact, wanted),
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
