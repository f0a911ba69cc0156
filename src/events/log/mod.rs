//! The log of one root run: numbered events, the oldest of which are folded into a snapshot when it is full.
//!
//! *Order.* The number is given and the entry appended under one lock, so numbers are dense and a publish that returned
//! before another began has the smaller one (G1). *Ownership.* The owner's tag is compared on publish, on subscribe and on
//! each read for a socket (G6). *Independence.* Publishing copies bytes and wakes; it never waits (G7).

mod bounds;
mod closing;
mod codec;
mod entries;
mod entry;
mod glance;
mod health;
mod message;
mod mirror;
mod names;
mod producer_ids;
mod read;
mod replicate;
mod room;
mod view;
mod waits;
mod writer;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use self::entries::Entries;
use self::entry::{Entry, Extras, Part};
use self::health::Health;
use self::message::{BUFFER, Envelope, KEPT_BUFFER};
use self::mirror::Mirrored;
use self::names::Names;
use self::producer_ids::ProducerIds;
use self::replicate::Marked;
use self::waits::{Deferral, Waits};
use super::event::{Class, Delta, Draft, EventError, EventKind};
use super::fold::{Fold, Slot};
use super::span::{Placed, SpanBook, SpanScope};
use crate::clock::{Micros, Moment};
use crate::ids::{self, RunId, ThreadId};
use crate::lanes::{Charge, LaneHandle};
use crate::mutants::mutant;
use crate::owner::{Crossing, OwnerTag};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard};

pub use self::bounds::LogBounds;
pub use self::codec::Malformed;
pub(super) use self::codec::{Moved, Moving};
pub(super) use self::entry::{Entry as LogEntry, TextId};
pub use self::glance::{Glance, OutlineItem, OutlineKind};
pub use self::health::{Deliveries, LogAccount, set_late};
pub use self::mirror::MirrorError;
pub(super) use self::read::{Batch, Item, Limits};
pub use self::replicate::Chunk;
pub use self::view::{Outcome, StreamView};
pub use self::waits::Level;
pub use self::writer::StreamWriter;

struct Inner {
    entries: Entries,
    /// The latest number.
    head: u64,
    fold: Fold,
    /// Everything up to this number is in the fold.
    folded: u64,
    /// How many events were folded, and how many were left out.
    folded_events: u64,
    shed_events: u64,
    /// What an execution says that is closed because its agent left it open.
    end_code: Option<Box<str>>,
    spans: SpanBook,
    names: Names,
    /// Keys of progress.
    keys: Names,
    producer_ids: Option<Box<ProducerIds>>,
    ended: Option<(Outcome, Micros)>,
    opened: Moment,
    charge: Charge,
    user_charge: Charge,
    /// Keeps the lane in use until the log is forgotten.
    lane: Option<LaneHandle>,
}

impl Inner {
    /// All that the log holds, in the log, in the snapshot and in its books.
    fn bytes(&self) -> usize {
        self.entries.bytes() + self.fixed_bytes()
    }

    /// What folding does not make less.
    fn fixed_bytes(&self) -> usize {
        self.fold.bytes() + self.book_bytes()
    }

    /// Bytes of the books.
    fn book_bytes(&self) -> usize {
        let ids = self.producer_ids.as_ref().map_or(0, |ids| ids.bytes());
        self.spans.bytes() + self.names.bytes + self.keys.bytes + ids
    }

    fn settle(&mut self) {
        let bytes = self.bytes();
        self.charge.set(size_of::<RunLog>() + bytes);
        self.user_charge.set(bytes);
    }
}

impl Inner {
    /// What is kept of an event beside its message, if there is anything.
    fn extras(&self, placed: &Placed, draft: &Draft<'_>, payload_at: usize) -> Option<Box<Extras>> {
        if draft.extra.event_id.is_none() && draft.extra.delta.is_none() {
            return None;
        }
        let agent = placed.agent.as_deref().or(draft.agent);
        let part = draft.extra.delta.map(
            |Delta {
                 message,
                 at: (from, to),
             }| {
                let kind = draft.kind.name();
                // Most parts follow one of the same text.
                let latest = self.entries.latest_text().map(|part| &part.of).filter(|of| {
                    *of.kind == *kind
                        && of.request == placed.id
                        && *of.message == *message
                        && of.agent.as_deref() == agent
                });
                let of = latest.cloned().unwrap_or_else(|| {
                    Arc::new(TextId {
                        agent: agent.map(Box::from),
                        kind: kind.into(),
                        request: placed.id.clone(),
                        message: message.into(),
                    })
                });
                Part {
                    of,
                    at: payload_at + from..payload_at + to,
                }
            },
        );
        let id = draft.extra.event_id.map(Arc::from);
        Some(Box::new(Extras { id, part }))
    }
}

/// The ids of producers have at most this part of a log's bytes.
const IDS_PART: usize = 4;

/// Numbers the logs of the process in the order in which they were opened.
static NEXT_SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// The log of one root run.
pub struct RunLog {
    serial: u64,
    owner: OwnerTag,
    run: RunId,
    thread: ThreadId,
    epoch: Arc<str>,
    envelope: Envelope,
    bounds: LogBounds,
    /// Of a log that another worker writes: what is the mirror's alone.
    mirror: Option<Box<Mirrored>>,
    /// Whether whoever stores logs is to look at this one.
    marked: Marked,
    /// The latest number, to be read without the lock: readers that have it need not look.
    head: AtomicU64,
    /// When the stream ended, by the monotonic clock, which is never 0; 0 while it has not.
    over: AtomicU64,
    /// Whether the log was dropped.
    forgotten: AtomicBool,
    /// Who may still end the stream.
    writers: AtomicUsize,
    waits: Waits,
    health: Health,
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
    pub(in crate::events) fn new(lane: LaneHandle, run: RunId, thread: ThreadId, bounds: LogBounds) -> Self {
        let epoch = ids::fresh();
        // The last 64 bits of the id are its random ones, all but two.
        Self::make(lane, run, thread, Arc::from(&epoch[16..]), None, bounds)
    }

    fn make(
        lane: LaneHandle,
        run: RunId,
        thread: ThreadId,
        epoch: Arc<str>,
        mirror: Option<Box<Mirrored>>,
        bounds: LogBounds,
    ) -> Self {
        let charge = Charge::new(lane.account().clone(), size_of::<Self>());
        let user_charge = Charge::new(lane.streams().account().clone(), 0);
        Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            owner: lane.tag().clone(),
            envelope: Envelope::new(&run, &thread),
            run,
            thread,
            epoch,
            bounds,
            mirror,
            marked: Marked::default(),
            head: AtomicU64::new(0),
            over: AtomicU64::new(0),
            forgotten: AtomicBool::new(false),
            writers: AtomicUsize::new(0),
            waits: Waits::default(),
            health: Health::default(),
            inner: Mutex::new(Inner {
                entries: Entries::default(),
                head: 0,
                fold: Fold::default(),
                folded: 0,
                folded_events: 0,
                shed_events: 0,
                end_code: None,
                spans: SpanBook::default(),
                names: Names::default(),
                keys: Names::default(),
                producer_ids: None,
                ended: None,
                opened: lane.shared().clock.now(),
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

    /// Whether an agent execution of this scope is going on, which an event of a tool needs.
    pub fn has_execution(&self, scope: &SpanScope) -> bool {
        self.inner().spans.has_execution(scope)
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
            head: inner.head,
            ended: inner.ended,
            worker: self.mirrored_from().map(Box::from),
        }
    }

    /// Appends an event. `lane` is the publisher's. Answers its number: the one that it has already, if its producer's id is
    /// known.
    pub fn publish(
        &self,
        lane: &LaneHandle,
        scope: &SpanScope,
        draft: Draft<'_>,
        now: Moment,
    ) -> Result<u64, EventError> {
        lane.tag().same_owner(&self.owner, Crossing::Publish)?;
        if self.is_mirror() && !mutant!(MirrorTakesEvents) {
            return Err(EventError::Elsewhere);
        }
        let is_critical = draft.class() == Class::Critical;
        let result = self.publish_own(lane, scope, draft, now);
        if is_critical {
            self.health.published(&result);
        }
        result
    }

    fn publish_own(
        &self,
        lane: &LaneHandle,
        scope: &SpanScope,
        draft: Draft<'_>,
        now: Moment,
    ) -> Result<u64, EventError> {
        // Made before the lock is taken, dropped after it was let go.
        let _deferred = Deferral::begin();
        let number = {
            let mut inner = self.inner();
            if inner.lane.is_none() {
                return Err(EventError::Closed);
            }
            // Also after the end: who asks again is answered as before.
            let known = draft.extra.event_id.zip(inner.producer_ids.as_ref());
            if let Some(number) = known.and_then(|(id, known)| known.number(id)) {
                return Ok(number);
            }
            if inner.ended.is_some() && !mutant!(EndedStreamTakesEvents) {
                return Err(EventError::Closed);
            }
            let bytes = draft.payload.len() + draft.message.map_or(0, str::len);
            if bytes > self.bounds.event_bytes && !mutant!(LargeEventAccepted) {
                return Err(EventError::TooLarge {
                    bytes,
                    limit: self.bounds.event_bytes,
                });
            }
            self.make_room(&mut inner, lane, bytes + draft.extra.bytes(), now.monotonic)?;
            if mutant!(PublishInTwoSteps) {
                drop(inner);
                inner = self.inner();
            }
            self.append(&mut inner, scope, draft, now.unix, now.monotonic)?
        };
        lane.shared().events.published.increment(draft.kind.kind());
        self.tell_replica(lane, draft.class());
        if !mutant!(PublishWakesNobody) {
            lane.streams().wake(draft.urgency(now.monotonic));
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
        if let (EventKind::Started, Some(trace)) = (draft.kind, draft.extra.trace) {
            inner.spans.note_trace(placed.index, trace);
        }
        let class = draft.class();
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
            EventKind::Custom(_) if draft.extra.delta.is_some() => Slot::Text,
            EventKind::Custom(name) if class == Class::Progress => {
                let key = draft.extra.key.unwrap_or(name);
                Slot::Progress(if placed.index > 0 {
                    inner.keys.number(key)
                } else {
                    // Outside of executions each request has its own.
                    inner.keys.number(&format!("{}\n{key}", placed.id))
                })
            }
            EventKind::Custom(name) => Slot::Custom(inner.names.number(name)),
        };
        inner.head += 1;
        let mut number = inner.head;
        if mutant!(NumberReusedAfterFold) && inner.folded > 0 || mutant!(NumberSkipped) && number.is_multiple_of(5) {
            number = if mutant!(NumberSkipped) { number + 1 } else { number - 1 };
        }
        let mut buffer = BUFFER.take();
        let (text, payload_at) = self.message(&mut buffer, &placed, draft, number, unix);
        if buffer.capacity() <= KEPT_BUFFER {
            BUFFER.set(buffer);
        }
        let extras = inner.extras(&placed, &draft, payload_at);
        if let Some(id) = extras.as_ref().and_then(|extras| extras.id.clone())
            && !mutant!(ProducerIdForgotten)
        {
            let room = self.bounds.bytes / IDS_PART;
            inner.producer_ids.get_or_insert_default().remember(id, number, room);
        }
        inner.entries.push(Entry {
            number,
            class,
            #[allow(clippy::cast_possible_truncation)] // there are few kinds
            kind: draft.kind.kind() as u8,
            superseded: false,
            unix,
            monotonic,
            key: (placed.index, slot),
            closes,
            extras,
            text,
        });
        inner.settle();
        self.head.store(number, Ordering::SeqCst);
        Ok(number)
    }

    /// Whether what folding does not make less takes this part of the room: little or nothing more is accepted.
    pub fn is_full(&self, part: f64) -> bool {
        let inner = self.inner();
        inner.ended.is_none() && inner.fixed_bytes() as f64 >= part * self.bounds.bytes as f64
    }

    /// Events kept, in the log and in the snapshot.
    pub fn kept(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.entries.len(), inner.fold.len())
    }
}
