//! The log of one root run: numbered events, the oldest of which are folded into a snapshot when it is full.
//!
//! *Order.* The number is given and the entry appended under one lock, so numbers are dense and a publish that returned
//! before another began has the smaller one (G1). *Ownership.* The owner's tag is compared on publish, on subscribe and on
//! each read for a socket (G6). *Independence.* Publishing copies bytes and wakes; it never waits (G7).

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use foldhash::fast::RandomState;

use super::event::{Draft, EventError, EventKind};
use super::fold::{Fold, FoldKey, Slot};
use super::json;
use super::span::{Placed, SpanBook, SpanScope};
use crate::clock::{Micros, Moment, write_iso8601};
use crate::ids::{self, RunId, ThreadId};
use crate::lanes::{Charge, LaneHandle};
use crate::mutants::mutant;
use crate::owner::{Crossing, OwnerTag};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard};

/// Names of tools and custom event types that one log tells apart; the rest share one number.
const NAMES: usize = 1_000;

/// Events of a log that are folded at once to make room for another log.
const FOLD_AT_ONCE: u64 = 64;

/// How much one log may hold, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct LogBounds {
    /// Events before the oldest are folded.
    pub events: usize,
    /// Bytes before the oldest are folded.
    pub bytes: usize,
    /// Bytes of all logs of the user.
    pub user_bytes: usize,
    /// Bytes that the core holds for all users.
    pub process_bytes: usize,
    /// Bytes of one event.
    pub event_bytes: usize,
    /// How long an ended log stays readable.
    pub retention: Micros,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self {
            events: 1_000,
            bytes: 1 << 20,
            user_bytes: 4 << 20,
            process_bytes: 512 << 20,
            event_bytes: super::MAX_EVENT_BYTES,
            retention: 300 * crate::clock::SECOND,
        }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All agents completed.
    Completed,
    /// Some did.
    Partial,
    /// None did.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its writer went away without ending it.
    Lost,
}

impl Outcome {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

/// One event, as it goes to every client.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) class: u8,
    pub(super) unix: Micros,
    pub(super) key: FoldKey,
    /// What it makes needless in a snapshot: the beginning of the tool call that it ends.
    pub(super) closes: Option<FoldKey>,
    /// The bare JSON message.
    pub(super) text: Box<str>,
}

impl Entry {
    /// Bytes charged for it.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Box<str>, u32, RandomState>,
    bytes: usize,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.numbers.len() >= NAMES {
            return 0;
        }
        let number = u32::try_from(self.numbers.len() + 1).unwrap_or(0);
        self.numbers.insert(Box::from(name), number);
        self.bytes += name.len() + size_of::<(Box<str>, u32)>();
        number
    }
}

thread_local! {
    /// Where a thread writes a message before it is kept in its own size: one text for all logs stays in the processor's cache.
    /// It is emptied before each use.
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

/// What one large event needed is not kept for the small ones.
const KEPT_BUFFER: usize = 16 * 1024;

/// What is the same in all messages of a log, written once.
struct Envelope {
    /// `,"run_id":"…"`, and from `thread` on `,"thread_id":"…"`.
    text: Box<str>,
    thread: usize,
}

impl Envelope {
    fn new(run: &RunId, thread: &ThreadId) -> Self {
        let mut text = String::new();
        json::text_member(&mut text, "run_id", run.as_str());
        let at = text.len();
        json::text_member(&mut text, "thread_id", thread.as_str());
        Self {
            text: text.into_boxed_str(),
            thread: at,
        }
    }

    fn run(&self) -> &str {
        &self.text[..self.thread]
    }

    fn thread(&self) -> &str {
        &self.text[self.thread..]
    }
}

struct Inner {
    entries: VecDeque<Entry>,
    entry_bytes: usize,
    fold: Fold,
    /// Everything up to this number is in the fold.
    folded: u64,
    spans: SpanBook,
    names: Names,
    ended: Option<(Outcome, Micros)>,
    charge: Charge,
    user_charge: Charge,
    /// Keeps the lane in use until the log is forgotten.
    lane: Option<LaneHandle>,
}

impl Inner {
    fn head(&self) -> u64 {
        self.folded + self.entries.len() as u64
    }

    /// All that the log holds, in the log, in the snapshot and in its books.
    fn bytes(&self) -> usize {
        self.entry_bytes + self.fixed_bytes()
    }

    /// What folding does not make less.
    fn fixed_bytes(&self) -> usize {
        self.fold.bytes() + self.spans.bytes() + self.names.bytes
    }

    fn settle(&mut self) {
        let bytes = self.bytes();
        self.charge.set(size_of::<RunLog>() + bytes);
        self.user_charge.set(bytes);
    }

    fn fold_oldest(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else {
            return false;
        };
        self.entry_bytes -= entry.weight();
        self.folded = entry.number;
        self.fold.take(entry);
        true
    }
}

/// Numbers the logs of the process in the order in which they were opened.
static NEXT_SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// What a welcome says of a stream.
#[derive(Debug, Clone)]
pub struct StreamView {
    /// Orders streams by when they were opened.
    pub serial: u64,
    /// The run.
    pub run: RunId,
    /// The thread.
    pub thread: ThreadId,
    /// This incarnation of the log.
    pub epoch: Arc<str>,
    /// The latest number.
    pub head: u64,
    /// How it ended, if it has, and when by the monotonic clock.
    pub ended: Option<(Outcome, Micros)>,
}

/// What a reader gets.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    pub(super) snapshot: Vec<&'a Entry>,
    /// Set when the reader was behind the fold: the number that the snapshot stands for.
    pub(super) snapshot_to: Option<u64>,
    pub(super) entries: Vec<&'a Entry>,
    pub(super) end: Option<(u64, Outcome)>,
}

/// The log of one root run.
pub struct RunLog {
    serial: u64,
    owner: OwnerTag,
    run: RunId,
    thread: ThreadId,
    epoch: Arc<str>,
    envelope: Envelope,
    bounds: LogBounds,
    /// The latest number, to be read without the lock: readers that have it need not look.
    head: AtomicU64,
    /// When the stream ended, by the monotonic clock, which is never 0; 0 while it has not.
    over: AtomicU64,
    /// Whether the log was dropped.
    forgotten: AtomicBool,
    /// Who may still end the stream.
    writers: AtomicUsize,
    inner: Mutex<Inner>,
}

impl fmt::Debug for RunLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLog")
            .field("run", &self.run)
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

impl RunLog {
    pub(super) fn new(lane: LaneHandle, run: RunId, thread: ThreadId, bounds: LogBounds) -> Self {
        let charge = Charge::new(lane.account().clone(), size_of::<Self>());
        let user_charge = Charge::new(lane.streams().account().clone(), 0);
        let epoch = ids::fresh();
        Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            owner: lane.tag().clone(),
            envelope: Envelope::new(&run, &thread),
            run,
            thread,
            // The last 64 bits of the id are its random ones, all but two.
            epoch: Arc::from(&epoch[16..]),
            bounds,
            head: AtomicU64::new(0),
            over: AtomicU64::new(0),
            forgotten: AtomicBool::new(false),
            writers: AtomicUsize::new(0),
            inner: Mutex::new(Inner {
                entries: VecDeque::new(),
                entry_bytes: 0,
                fold: Fold::default(),
                folded: 0,
                spans: SpanBook::default(),
                names: Names::default(),
                ended: None,
                charge,
                user_charge,
                lane: Some(lane),
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its number, in the order in which logs were opened.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whose it is.
    pub fn owner(&self) -> &OwnerTag {
        &self.owner
    }

    /// The root run.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The thread.
    pub fn thread(&self) -> &ThreadId {
        &self.thread
    }

    /// This incarnation of the log.
    pub fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// The latest number.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::SeqCst)
    }

    /// Whether the stream has ended.
    pub fn is_over(&self) -> bool {
        self.ended_at().is_some()
    }

    /// Whether an agent execution is going on.
    pub fn has_open_spans(&self) -> bool {
        !self.inner().spans.open().is_empty()
    }

    /// When the stream ended, by the monotonic clock.
    pub fn ended_at(&self) -> Option<Micros> {
        Some(self.over.load(Ordering::SeqCst)).filter(|at| *at != 0)
    }

    /// What a welcome says of the stream.
    pub fn view(&self) -> StreamView {
        let inner = self.inner();
        StreamView {
            serial: self.serial,
            run: self.run.clone(),
            thread: self.thread.clone(),
            epoch: self.epoch.clone(),
            head: inner.head(),
            ended: inner.ended,
        }
    }

    /// Appends an event. `lane` is the publisher's. Answers its number.
    pub fn publish(
        &self,
        lane: &LaneHandle,
        scope: &SpanScope,
        draft: Draft<'_>,
        now: Moment,
    ) -> Result<u64, EventError> {
        lane.tag().same_owner(&self.owner, Crossing::Publish)?;
        let number = {
            let mut inner = self.inner();
            if inner.lane.is_none() || inner.ended.is_some() {
                return Err(EventError::Closed);
            }
            let bytes = draft.payload.len() + draft.message.map_or(0, str::len);
            if bytes > self.bounds.event_bytes && !mutant!(LargeEventAccepted) {
                return Err(EventError::TooLarge {
                    bytes,
                    limit: self.bounds.event_bytes,
                });
            }
            self.make_room(&mut inner, lane, bytes)?;
            if mutant!(PublishInTwoSteps) {
                drop(inner);
                inner = self.inner();
            }
            self.append(&mut inner, scope, draft, now.unix, now.monotonic)?
        };
        lane.shared().events.published.increment();
        if !mutant!(PublishWakesNobody) {
            lane.streams().wake();
        }
        Ok(number)
    }

    fn append(
        &self,
        inner: &mut Inner,
        scope: &SpanScope,
        draft: Draft<'_>,
        unix: Micros,
        monotonic: Micros,
    ) -> Result<u64, EventError> {
        let placed = inner.spans.place(scope, draft.kind, draft.agent, monotonic)?;
        let mut closes = None;
        let slot = match draft.kind {
            EventKind::Started => Slot::Started,
            EventKind::Thinking => Slot::Thinking,
            EventKind::ToolExecuting(tool) => Slot::ToolBegun(placed.call, inner.names.number(tool)),
            EventKind::ToolCompleted(tool) => {
                let tool = inner.names.number(tool);
                closes = Some((placed.index, Slot::ToolBegun(placed.call, tool)));
                Slot::ToolEnded(tool)
            }
            EventKind::Completed | EventKind::Error => Slot::Terminal,
            EventKind::Custom(name) => Slot::Custom(inner.names.number(name)),
        };
        let mut number = inner.head() + 1;
        if mutant!(NumberReusedAfterFold) && inner.folded > 0 || mutant!(NumberSkipped) && number.is_multiple_of(5) {
            number = if mutant!(NumberSkipped) { number + 1 } else { number - 1 };
        }
        let mut buffer = BUFFER.take();
        let text = self.message(&mut buffer, &placed, draft, number, unix);
        if buffer.capacity() <= KEPT_BUFFER {
            BUFFER.set(buffer);
        }
        let entry = Entry {
            number,
            class: draft.kind.class(),
            unix,
            key: (placed.index, slot),
            closes,
            text,
        };
        inner.entry_bytes += entry.weight();
        inner.entries.push_back(entry);
        inner.settle();
        self.head.store(number, Ordering::SeqCst);
        Ok(number)
    }

    /// Folds until one more event of `bytes` fits, or says what is full.
    fn make_room(&self, inner: &mut Inner, lane: &LaneHandle, bytes: usize) -> Result<(), EventError> {
        // The envelope of a message, generously.
        let wanted = bytes + size_of::<Entry>() + 512;
        let shared = lane.shared();
        while shared.logs.bytes() + wanted > self.bounds.process_bytes {
            if !shared.drop_oldest_ended() {
                return Err(EventError::Budget {
                    what: "the process's event memory",
                    scope: "process",
                    limit: self.bounds.process_bytes,
                });
            }
        }
        while lane.streams().account().bytes() + wanted > self.bounds.user_bytes && !mutant!(UserBudgetIgnored) {
            if lane.streams().drop_oldest_ended() || lane.streams().fold_larger(self, inner.user_charge.bytes()) {
                continue;
            }
            if !inner.fold_oldest() {
                return Err(EventError::Budget {
                    what: "the user's event memory",
                    scope: "user",
                    limit: self.bounds.user_bytes,
                });
            }
            shared.events.folded.increment();
            self.shrink_fold(inner, lane);
            inner.settle();
        }
        let mut folded = 0;
        while inner.entries.len() >= self.bounds.events || inner.bytes() + wanted > self.bounds.bytes {
            if !inner.fold_oldest() {
                break;
            }
            folded += 1;
            self.shrink_fold(inner, lane);
        }
        if folded > 0 {
            shared.events.folded.add(folded);
            // The event may still be refused.
            inner.settle();
        }
        if inner.fixed_bytes() + wanted > self.bounds.bytes {
            return Err(EventError::Budget {
                what: "the run's event memory",
                scope: "run",
                limit: self.bounds.bytes,
            });
        }
        Ok(())
    }

    /// Folds some of this log, to make room for another of the same user. Answers whether anything could be folded. Does not
    /// wait for a publisher: two that make room for each other must not wait for each other.
    pub(super) fn try_fold_some(&self, larger_than: usize) -> bool {
        let taken = if mutant!(LogsWaitForEachOther) {
            Some(self.inner())
        } else {
            self.inner.try_lock().ok()
        };
        let Some(mut inner) = taken else {
            return false;
        };
        let Some(lane) = inner.lane.clone().filter(|_| inner.user_charge.bytes() > larger_than) else {
            return false;
        };
        let mut folded = 0;
        while folded < FOLD_AT_ONCE && inner.fold_oldest() {
            folded += 1;
        }
        lane.shared().events.folded.add(folded);
        self.shrink_fold(&mut inner, &lane);
        inner.settle();
        drop(inner);
        folded > 0
    }

    fn shrink_fold(&self, inner: &mut Inner, lane: &LaneHandle) {
        let before = inner.fold.forgotten();
        let spans = &inner.spans;
        // The snapshot gets half of what the books leave.
        let room = self.bounds.bytes.saturating_sub(spans.bytes() + inner.names.bytes) / 2;
        inner
            .fold
            .shrink(room, self.bounds.events, |index| spans.is_open(index));
        let forgotten = inner.fold.forgotten() - before;
        if forgotten > 0 {
            lane.shared().events.forgotten.add(forgotten);
        }
    }

    /// Writes the message that every client gets. The envelope is written here and nowhere else, so that no payload can
    /// reach it.
    fn message(&self, out: &mut String, placed: &Placed, draft: Draft<'_>, number: u64, unix: Micros) -> Box<str> {
        out.clear();
        out.push_str("{\"type\":");
        json::string(out, draft.kind.name());
        if let Some(agent) = placed.agent.as_deref().or(draft.agent) {
            out.push_str(",\"agent_name\":");
            json::string(out, agent);
        }
        out.push_str(self.envelope.run());
        out.push_str(",\"timestamp\":\"");
        write_iso8601(out, unix);
        out.push('"');
        if let Some(message) = draft.message {
            out.push_str(",\"message\":");
            json::string(out, message);
        }
        out.push_str(self.envelope.thread());
        out.push_str(",\"event_id\":");
        self.write_event_id(out, number);
        out.push_str(",\"request_id\":");
        json::string(out, &placed.id);
        if let Some(parent) = placed.parent.as_deref() {
            out.push_str(",\"parent_request_id\":");
            json::string(out, parent);
        }
        out.push_str(",\"payload\":");
        out.push_str(draft.payload);
        if let Some(took) = placed.took.filter(|_| draft.timed) {
            json::key(out, "execution_time_ms");
            json::float(out, took as f64 / 1e3);
        }
        out.push_str("},\"seq\":");
        json::number(out, number);
        out.push('}');
        // Exactly as large as it is: the buffer stays with the log.
        Box::from(out.as_str())
    }

    /// The id of an event, quoted: unique, because the epoch is.
    pub(super) fn write_event_id(&self, out: &mut String, number: u64) {
        out.push_str("\"evt_");
        out.push_str(&self.epoch);
        out.push('_');
        json::number(out, number);
        out.push('"');
    }

    /// Closes what an agent left open, on cancel, failure and shutdown: each open tool gets its `tool_completed`, and each
    /// open span of `scope` (of all, without one) its `agent_error`. With `only_tools` the spans stay open.
    pub fn repair(&self, scope: Option<&SpanScope>, only_tools: bool, reason: &str, unix: Micros, monotonic: Micros) {
        let mut lane = None;
        {
            let mut inner = self.inner();
            if inner.ended.is_some() {
                return;
            }
            let left: Vec<_> = inner
                .spans
                .open()
                .iter()
                .rev()
                .filter_map(|span| {
                    let own = SpanBook::scope_of(span)?;
                    let wanted = scope.is_none_or(|scope| scope.request == own.request);
                    wanted.then(|| (own, span.agent.clone(), span.tools.clone()))
                })
                .collect();
            for (own, agent, tools) in left {
                for tool in tools {
                    let mut payload = "{".to_owned();
                    json::text_member(&mut payload, "tool_name", &tool.name);
                    json::text_member(&mut payload, "status", "unfinished");
                    json::text_member(&mut payload, "error", reason);
                    let kind = EventKind::ToolCompleted(&tool.name);
                    self.append_repair(&mut inner, &own, kind, &agent, &payload, reason, unix, monotonic);
                }
                if !only_tools {
                    let mut payload = "{".to_owned();
                    json::text_member(&mut payload, "status", "error");
                    json::text_member(&mut payload, "error_message", reason);
                    json::key(&mut payload, "retriable");
                    payload.push_str("true");
                    self.append_repair(
                        &mut inner,
                        &own,
                        EventKind::Error,
                        &agent,
                        &payload,
                        reason,
                        unix,
                        monotonic,
                    );
                }
                lane.clone_from(&inner.lane);
            }
        }
        if let Some(lane) = lane {
            lane.streams().wake();
        }
    }

    fn append_repair(
        &self,
        inner: &mut Inner,
        scope: &SpanScope,
        kind: EventKind<'_>,
        agent: &str,
        payload: &str,
        reason: &str,
        unix: Micros,
        monotonic: Micros,
    ) {
        let draft = Draft {
            kind,
            agent: Some(agent),
            message: Some(reason),
            payload,
            timed: true,
        };
        // A repair is owed, so it may exceed the bounds by what it is: a few hundred bytes for each open tool and span.
        // It is well-formed because it was read from the book a moment ago, under the same lock.
        let _ = self.append(inner, scope, draft, unix, monotonic);
    }

    /// Ends the stream: what is open is repaired, and the log stays readable for its retention. Ending twice is nothing.
    /// Without an outcome it follows from the spans.
    pub fn end(self: &Arc<Self>, outcome: Option<Outcome>, reason: &str, unix: Micros, monotonic: Micros) {
        if !mutant!(OpenSpansLeftOpen) {
            self.repair(None, false, reason, unix, monotonic);
        }
        let goes_on = mutant!(EndInTwoSteps) && !self.is_over();
        let lane = {
            let mut inner = self.inner();
            if inner.ended.is_some() && !goes_on {
                return;
            }
            let outcome = outcome.unwrap_or(match inner.spans.ended() {
                (_, 0) => Outcome::Completed,
                (0, _) => Outcome::Failed,
                _ => Outcome::Partial,
            });
            inner.ended = Some((outcome, monotonic));
            inner.spans.forget_ids();
            inner.names = Names::default();
            inner.settle();
            self.over.store(monotonic.max(1), Ordering::SeqCst);
            inner.lane.clone()
        };
        if let Some(lane) = lane {
            lane.shared()
                .expire_at(monotonic.max(1).saturating_add(self.bounds.retention), self);
            if !mutant!(EndWakesNobody) {
                lane.streams().wake();
            }
        }
    }

    /// Drops the log: its lane no longer knows it, and its bytes are free when the last reader lets go. Answers `false` when
    /// it was dropped before, or somebody else is about to.
    pub fn forget(&self) -> bool {
        let lane = {
            let mut inner = self.inner();
            let Some(lane) = inner.lane.take() else { return false };
            // Under the lock: who comes second finds the mark.
            self.forgotten.store(true, Ordering::Release);
            lane
        };
        lane.streams().remove(self, lane.shared());
        if let Some(ended) = self.ended_at() {
            lane.shared()
                .forget_expiry(ended.saturating_add(self.bounds.retention), self.serial);
        }
        let (entries, fold) = {
            let mut inner = self.inner();
            inner.entry_bytes = 0;
            inner.folded = inner.head();
            let freed = (std::mem::take(&mut inner.entries), std::mem::take(&mut inner.fold));
            inner.settle();
            freed
        };
        drop((entries, fold));
        true
    }

    /// Whether the log was dropped.
    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Whether a position can be resumed exactly.
    pub(super) fn has_from(&self, position: u64) -> bool {
        let inner = self.inner();
        (inner.folded..=inner.head()).contains(&position)
    }

    /// Hands what follows `position` to `write`, at most `limit` events.
    pub(super) fn read<R>(
        &self,
        reader: &OwnerTag,
        position: u64,
        limit: usize,
        write: impl FnOnce(&Batch<'_>) -> R,
    ) -> Result<R, EventError> {
        reader.same_owner(&self.owner, Crossing::Write)?;
        let inner = self.inner();
        let mut batch = Batch::default();
        let mut position = position;
        if position < inner.folded {
            batch.snapshot.extend(inner.fold.entries());
            batch.snapshot_to = Some(inner.folded);
            position = inner.folded;
        }
        let from = usize::try_from(position - inner.folded).unwrap_or(usize::MAX);
        batch.entries.extend(inner.entries.iter().skip(from).take(limit));
        if position + batch.entries.len() as u64 == inner.head() && !mutant!(EndFrameLost) {
            batch.end = inner.ended.map(|(outcome, _)| (inner.head(), outcome));
        }
        Ok(write(&batch))
    }

    /// Somebody publishes into the log, and ends it when nobody else does any more.
    pub(super) fn writer(self: &Arc<Self>) -> StreamWriter {
        self.writers.fetch_add(1, Ordering::AcqRel);
        StreamWriter { log: self.clone() }
    }

    /// The same, unless the stream has ended or its last writer has left and is about to end it.
    pub(super) fn join(self: &Arc<Self>) -> Option<StreamWriter> {
        let one_more = |writers: usize| (writers > 0 || mutant!(LeftStreamJoined)).then(|| writers + 1);
        let joined = self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        let writer = joined.ok().map(|_| StreamWriter { log: self.clone() })?;
        (!self.is_over()).then_some(writer)
    }

    /// Events kept, in the log and in the snapshot.
    pub fn kept(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.entries.len(), inner.fold.len())
    }
}

/// The right to publish into a log. When the last one is dropped without the stream having been ended, it ends by itself: no
/// reader waits for ever for an agent that is gone.
#[derive(Debug)]
pub struct StreamWriter {
    log: Arc<RunLog>,
}

impl StreamWriter {
    /// The log.
    pub fn log(&self) -> &Arc<RunLog> {
        &self.log
    }
}

impl Clone for StreamWriter {
    fn clone(&self) -> Self {
        self.log.writer()
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        let writers = if mutant!(WriterCountRaces) {
            let writers = self.log.writers.load(Ordering::Acquire);
            self.log.writers.store(writers - 1, Ordering::Release);
            writers
        } else {
            self.log.writers.fetch_sub(1, Ordering::AcqRel)
        };
        if writers != 1 || self.log.is_over() {
            return;
        }
        let (shared, open) = {
            let inner = self.log.inner();
            let Some(lane) = &inner.lane else { return };
            (lane.shared().clone(), !inner.spans.open().is_empty())
        };
        let outcome = open.then_some(Outcome::Lost);
        self.log.end(
            outcome,
            "the run was dropped before it ended",
            shared.clock.unix(),
            shared.clock.monotonic(),
        );
    }
}
