//! A log that another worker writes: the same epoch, numbers, frames and folding, and nobody but its feeder appends.
//!
//! What arrives twice is passed over, what arrives after a gap is refused, and a snapshot of the writer's begins anew where the
//! store does not go back far enough. It keeps its own bounds: what it leaves out or folds is its own affair.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Deserialize;

use super::codec::{Arrived, Malformed, Moved, Seal, Snapshot, decode, decode_snapshot};
use super::entries::Entries;
use super::entry::Entry;
use super::glance::Head;
use super::names::Names;
use super::replicate::Chunk;
use super::waits::{Deferral, Level};
use super::{Inner, LogBounds, Outcome, RunLog};
use crate::clock::{Micros, Moment};
use crate::context::TraceContext;
use crate::events::event::{EventError, Urgency};
use crate::events::fold::{Fold, Slot};
use crate::events::span::SpanBook;
use crate::events::streams::Streams;
use crate::ids::{self, RunId, ThreadId};
use crate::lanes::LaneHandle;
use crate::metrics::EVENT_KINDS;
use crate::mutants::mutant;

/// What a mirror has that a log of this worker has not.
#[derive(Debug)]
pub(super) struct Mirrored {
    /// Who writes it.
    worker: Box<str>,
    seal: Seal,
    /// When it was made, since the epoch: what is older was there before it.
    since: Micros,
    /// The latest number that was there before it.
    backlog: AtomicU64,
    /// Another incarnation has taken its place before it ended.
    superseded: AtomicBool,
}

/// Why a mirror did not take something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// It is no piece of this log.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no room, or the mirror has ended.
    #[error(transparent)]
    Event(#[from] EventError),
}

#[derive(Deserialize)]
struct ToolHead<'a> {
    #[serde(borrow)]
    payload: ToolBody<'a>,
}

#[derive(Deserialize)]
struct ToolBody<'a> {
    #[serde(borrow)]
    tool_name: Cow<'a, str>,
}

/// The name of the tool of a message. What else is in a payload is its publisher's, who may have put anything there.
fn tool_name(message: &str) -> Box<str> {
    if let Ok(ToolHead { payload }) = serde_json::from_str(message) {
        return payload.tool_name.into();
    }
    let message: serde_json::Value = serde_json::from_str(message).unwrap_or_default();
    message["payload"]["tool_name"].as_str().unwrap_or_default().into()
}

/// What an event says of executions and calls of tools, read of its message.
enum Noted {
    Started {
        id: Arc<str>,
        parent: Option<Arc<str>>,
        agent: Arc<str>,
        trace: Option<TraceContext>,
    },
    Tool(Box<str>),
    Nothing,
}

impl Noted {
    fn of(entry: &Entry) -> Result<Self, Malformed> {
        let wrong = |_| Malformed("its message is none");
        Ok(match entry.key.1 {
            Slot::Started => {
                let head: Head<'_> = serde_json::from_str(&entry.text).map_err(wrong)?;
                let shared = |text: Cow<'_, str>| Arc::<str>::from(&*text);
                Self::Started {
                    id: head.request_id.map(shared).ok_or(Malformed("its message is none"))?,
                    parent: head.parent_request_id.map(shared),
                    agent: head.agent_name.map(shared).unwrap_or_default(),
                    trace: head
                        .traceparent
                        .and_then(|parent| TraceContext::new(&parent, None, true)),
                }
            }
            Slot::ToolBegun(..) => Self::Tool(tool_name(&entry.text)),
            _ => Self::Nothing,
        })
    }

    /// Takes note of it. `counts` is whether the end of an execution is not counted yet.
    fn note(self, spans: &mut SpanBook, names: &mut Names, entry: &Entry, counts: bool) {
        if mutant!(MirrorForgetsSpans) {
            return;
        }
        let (span, slot) = entry.key;
        match (self, slot) {
            (
                Self::Started {
                    id,
                    parent,
                    agent,
                    trace,
                },
                _,
            ) => {
                spans.replay_start(span, id, parent, agent, trace, entry.monotonic);
            }
            (Self::Tool(name), Slot::ToolBegun(call, tool)) => {
                names.note(&name, tool);
                spans.replay_tool(span, call, &name, entry.monotonic);
            }
            (_, Slot::ToolEnded(_)) => {
                if let Some((_, Slot::ToolBegun(call, _))) = entry.closes {
                    spans.replay_tool_end(span, call);
                }
            }
            (_, Slot::Terminal) => {
                let is_error = EVENT_KINDS.get(usize::from(entry.kind)) == Some(&"agent_error");
                spans.replay_end(span, counts.then_some(is_error));
            }
            _ => {}
        }
    }
}

/// An event that was read, and what it says.
struct Read {
    arrived: Arrived,
    noted: Noted,
}

fn read_all<'a>(seal: Seal, entries: impl IntoIterator<Item = (u64, &'a [u8])>) -> Result<Vec<Read>, Malformed> {
    let read = |(number, bytes)| {
        let arrived = decode(seal, bytes)?;
        if arrived.number != number {
            return Err(Malformed("it has another number"));
        }
        let noted = arrived.entry.as_ref().map_or(Ok(Noted::Nothing), Noted::of)?;
        Ok(Read { arrived, noted })
    };
    entries.into_iter().map(read).collect()
}

/// When something happened by this worker's monotonic clock, as far as the clocks of the two agree.
fn monotonic_of(unix: Micros, now: Moment) -> Micros {
    now.monotonic.saturating_sub(now.unix.saturating_sub(unix))
}

impl RunLog {
    /// The log of another worker.
    pub(in crate::events) fn mirror_of(
        lane: LaneHandle,
        run: RunId,
        thread: ThreadId,
        epoch: &str,
        worker: &str,
        bounds: LogBounds,
    ) -> Self {
        let mirrored = Mirrored {
            worker: worker.into(),
            seal: Seal::new(lane.user().as_str(), run.as_str(), epoch),
            since: lane.shared().clock.unix(),
            backlog: AtomicU64::new(0),
            superseded: AtomicBool::new(false),
        };
        Self::make(lane, run, thread, epoch.into(), Some(Box::new(mirrored)), bounds)
    }

    /// Whether another worker writes it.
    #[inline]
    pub fn is_mirror(&self) -> bool {
        self.mirror.is_some()
    }

    /// Which worker writes it, if that is another one.
    pub fn mirrored_from(&self) -> Option<&str> {
        self.mirror.as_ref().map(|mirrored| &*mirrored.worker)
    }

    /// The latest number that was there before the mirror was.
    pub(in crate::events) fn backlog(&self) -> u64 {
        let backlog = self.mirror.as_ref().map(|mirrored| &mirrored.backlog);
        backlog.map_or(0, |backlog| backlog.load(Ordering::Relaxed))
    }

    /// Whether another incarnation has taken its place: its readers go on there, and are told nothing.
    pub(in crate::events) fn is_superseded(&self) -> bool {
        let superseded = self.mirror.as_ref().map(|mirrored| &mirrored.superseded);
        superseded.is_some_and(|superseded| superseded.load(Ordering::Acquire))
    }

    /// Another incarnation takes its place.
    pub(in crate::events) fn supersede(&self) {
        if let Some(mirrored) = &self.mirror {
            mirrored.superseded.store(true, Ordering::Release);
        }
        self.forget();
    }

    fn mirrored(&self) -> Result<&Mirrored, EventError> {
        let own = || EventError::invalid("this worker writes the log itself; only a mirror is fed");
        self.mirror.as_deref().ok_or_else(own)
    }

    /// Takes what the writer appended. What it has is passed over. Answers `false`, and takes nothing more, at a gap. When
    /// anything cannot be read, nothing is taken.
    pub fn mirror_append<'a>(
        &self,
        entries: impl IntoIterator<Item = (u64, &'a [u8])>,
        now: Moment,
    ) -> Result<bool, MirrorError> {
        let read = read_all(self.mirrored()?.seal, entries)?;
        self.feed(None, read, now)
    }

    /// The same behind a snapshot of the writer's, which is passed over when the mirror has come so far.
    pub fn mirror_reset<'a>(
        &self,
        upto: u64,
        snapshot: &[u8],
        entries: impl IntoIterator<Item = (u64, &'a [u8])>,
        now: Moment,
    ) -> Result<bool, MirrorError> {
        let seal = self.mirrored()?.seal;
        let snapshot = decode_snapshot(seal, snapshot)?;
        if snapshot.summary.upto != upto {
            return Err(Malformed("it has another number").into());
        }
        let kept = snapshot.kept.iter().map(|moved| match moved {
            Moved::Event(entry, _) => Noted::of(entry),
            Moved::Text(..) => Ok(Noted::Nothing),
        });
        let noted = kept.collect::<Result<Vec<_>, _>>()?;
        let read = read_all(seal, entries)?;
        self.feed(Some((snapshot, noted)), read, now)
    }

    fn feed(
        &self,
        snapshot: Option<(Snapshot, Vec<Noted>)>,
        read: Vec<Read>,
        now: Moment,
    ) -> Result<bool, MirrorError> {
        let mut urgency = None;
        // Made before the lock is taken, dropped after it was let go.
        let _deferred = Deferral::begin();
        let (lane, result, head) = {
            let mut inner = self.inner();
            let Some(lane) = inner.lane.clone() else {
                return Err(EventError::Closed.into());
            };
            let mut result = Ok(true);
            if let Some((snapshot, noted)) = snapshot
                && snapshot.summary.upto > inner.head
            {
                if inner.ended.is_some() {
                    return Err(EventError::Closed.into());
                }
                self.begin_anew(&mut inner, &lane, snapshot, noted, now)?;
                urgency = Some(Urgency::Now);
            }
            for Read { arrived, noted } in read {
                if arrived.number <= inner.head && !mutant!(MirrorTakesAgain) {
                    continue;
                }
                if inner.ended.is_some() {
                    result = Err(EventError::Closed);
                    break;
                }
                if arrived.before > inner.head && !mutant!(MirrorTakesGaps) {
                    result = Ok(false);
                    break;
                }
                match self.take(&mut inner, &lane, arrived, noted, now) {
                    Ok(own) => urgency = Some(urgency.map_or(own, |before: Urgency| before.or(own))),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            inner.settle();
            let head = inner.head;
            self.head.store(head, Ordering::SeqCst);
            (lane, result, head)
        };
        if let Some(urgency) = urgency {
            // What came from a store is stored.
            Deferral::wake(self.waits.note(Level::Stored, head));
            lane.streams().wake(urgency);
        }
        Ok(result?)
    }

    /// Takes one that comes next.
    fn take(
        &self,
        inner: &mut Inner,
        lane: &LaneHandle,
        arrived: Arrived,
        noted: Noted,
        now: Moment,
    ) -> Result<Urgency, EventError> {
        let Arrived { number, entry, .. } = arrived;
        let passed = number.saturating_sub(inner.head + 1);
        let Some(mut entry) = entry else {
            inner.shed_events += passed + 1;
            inner.head = number;
            return Ok(Urgency::Soon(now.monotonic));
        };
        self.room_for(inner, lane, entry.weight(), now)?;
        inner.shed_events += passed;
        inner.head = number;
        if let Some(mirrored) = &self.mirror
            && entry.unix < mirrored.since
        {
            mirrored.backlog.fetch_max(number, Ordering::Relaxed);
        }
        entry.monotonic = monotonic_of(entry.unix, now);
        // Most parts follow one of the same text.
        if let Some(latest) = inner.entries.latest_text().map(|part| part.of.clone())
            && let Some(part) = entry.extras.as_mut().and_then(|extras| extras.part.as_mut())
            && part.of == latest
        {
            part.of = latest;
        }
        if number == 1 {
            inner.opened = Moment {
                monotonic: entry.monotonic,
                unix: entry.unix,
            };
        }
        let Inner { spans, names, .. } = inner;
        noted.note(spans, names, &entry, true);
        let urgency = entry.class.urgency(entry.part().is_some(), now.monotonic);
        inner.entries.push(entry);
        inner.settle();
        Ok(urgency)
    }

    /// Room for so many bytes. Where the writer had room its mirror has: what the log alone has too much is taken all the same.
    fn room_for(&self, inner: &mut Inner, lane: &LaneHandle, bytes: usize, now: Moment) -> Result<(), EventError> {
        match self.make_room(inner, lane, bytes.saturating_sub(512), now.monotonic) {
            Err(EventError::Budget { scope: "run", .. }) => Ok(()),
            other => other,
        }
    }

    /// Goes on from a snapshot, which stands for all that the mirror had and more.
    fn begin_anew(
        &self,
        inner: &mut Inner,
        lane: &LaneHandle,
        snapshot: Snapshot,
        noted: Vec<Noted>,
        now: Moment,
    ) -> Result<(), EventError> {
        let Snapshot { summary, cut, mut kept } = snapshot;
        let bytes = kept.iter().map(Moved::weight).sum();
        self.room_for(inner, lane, bytes, now)?;
        let mut spans = SpanBook::restored(
            summary.executions,
            (summary.completed, summary.failed),
            summary.deepest,
            summary.first.as_deref(),
        );
        let mut names = Names::default();
        for (moved, noted) in kept.iter_mut().zip(noted) {
            let entry = moved.entry();
            entry.monotonic = monotonic_of(entry.unix, now);
            // How an ended call began says nothing of what is open.
            if let Moved::Event(entry, false) = moved {
                noted.note(&mut spans, &mut names, entry, false);
            }
        }
        inner.entries = Entries::default();
        inner.fold = Fold::restored(cut, kept);
        (inner.spans, inner.names) = (spans, names);
        (inner.head, inner.folded) = (summary.upto, summary.upto);
        inner.folded_events = summary.folded;
        inner.shed_events = summary.upto - summary.folded;
        inner.opened = Moment {
            monotonic: monotonic_of(summary.opened, now),
            unix: summary.opened,
        };
        self.shrink_fold(inner, lane);
        inner.settle();
        if let Some(mirrored) = &self.mirror {
            mirrored.backlog.fetch_max(summary.upto, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The writer's stream has ended, and everything before its end was taken.
    pub fn mirror_end(self: &Arc<Self>, outcome: Outcome, now: Moment) -> Result<(), EventError> {
        self.mirrored()?;
        let lane = {
            let mut inner = self.inner();
            let Some(lane) = inner.lane.clone() else {
                return Err(EventError::Closed);
            };
            if inner.ended.is_some() {
                return Ok(());
            }
            inner.ended = Some((outcome, now.monotonic));
            inner.names = Names::default();
            inner.settle();
            self.over.store(now.monotonic.max(1), Ordering::SeqCst);
            lane
        };
        lane.shared()
            .expire_at(now.monotonic.max(1).saturating_add(self.bounds.retention), self);
        lane.streams().wake(Urgency::Now);
        Ok(())
    }

    /// Ends the run of a worker that is gone: everything that was read of it becomes the snapshot of a new incarnation, in which
    /// what is open is closed with `code`, and which ends as lost. It takes the place of this one. Answers it, and what a store
    /// is to keep of it.
    pub fn adopt(&self, code: &str, reason: &str, now: Moment) -> Result<(Arc<Self>, Chunk), EventError> {
        let mirrored = self.mirrored()?;
        let epoch = ids::fresh();
        let (lane, log) = {
            let mut inner = self.inner();
            let Some(lane) = inner.lane.clone().filter(|_| inner.ended.is_none()) else {
                return Err(EventError::Closed);
            };
            // Before anything is taken away: whoever reads it finds nothing, and goes on in the other one.
            mirrored.superseded.store(true, Ordering::Release);
            let log = Self::mirror_of(
                lane.clone(),
                self.run.clone(),
                self.thread.clone(),
                &epoch[16..],
                &mirrored.worker,
                self.bounds,
            );
            {
                let mut heir = log.inner();
                heir.fold = std::mem::take(&mut inner.fold);
                heir.folded_events = inner.folded_events;
                heir.shed_events = inner.shed_events;
                while let Some(entry) = inner.entries.pop_oldest() {
                    heir.fold.take(entry);
                    heir.folded_events += 1;
                }
                (heir.head, heir.folded) = (inner.head, inner.head);
                heir.opened = inner.opened;
                heir.spans = std::mem::take(&mut inner.spans);
                heir.names = std::mem::take(&mut inner.names);
                heir.end_code = Some(code.into());
                inner.folded = inner.head;
                inner.settle();
                log.shrink_fold(&mut heir, &lane);
                heir.settle();
                log.head.store(heir.head, Ordering::SeqCst);
            }
            (lane, Arc::new(log))
        };
        if let Some(mirrored) = &log.mirror {
            mirrored.backlog.store(log.head(), Ordering::Relaxed);
        }
        // Counted here: whoever counted its beginning is gone.
        lane.shared().events.opened.increment();
        log.finish(Some(Outcome::Lost), reason, now.unix, now.monotonic);
        Streams::replace(&lane, &log);
        let chunk = log.chunk(0, true, usize::MAX);
        Ok((log, chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ProcessClock;
    use crate::events::{Connection, CursorMode, Draft, EventKind, Extra, LogAccount, SpanScope, StreamWriter};
    use crate::ids::{RequestId, UserId};
    use crate::lanes::Registry;

    /// Two workers: who publishes and who mirrors.
    struct Pair {
        here: LaneHandle,
        there: LaneHandle,
        writer: StreamWriter,
        mirror: Arc<RunLog>,
        taken: u64,
    }

    const NOW: Moment = Moment { monotonic: 9, unix: 9 };

    fn names() -> (RunId, ThreadId) {
        (
            RunId::new("run").expect("valid"),
            ThreadId::new("thread").expect("valid"),
        )
    }

    impl Pair {
        fn new(events: usize) -> Self {
            let lane = || Registry::new(Box::new(ProcessClock::new())).lane(&UserId::new("ann").expect("valid"));
            let (here, there) = (lane(), lane());
            let bounds = LogBounds {
                events,
                ..LogBounds::default()
            };
            let (run, thread) = names();
            let writer = Streams::open(&here, &run, &thread, bounds).expect("opens");
            let mirror =
                Streams::mirror(&there, &run, &thread, writer.log().epoch(), "w1", bounds).expect("is mirrored");
            Self {
                here,
                there,
                writer,
                mirror,
                taken: 0,
            }
        }

        fn publish_in(lane: &LaneHandle, log: &RunLog, kind: EventKind<'_>) -> Result<u64, EventError> {
            let scope = SpanScope {
                request: RequestId::new("request").expect("valid"),
                parent: None,
            };
            let draft = Draft {
                kind,
                agent: Some("agent"),
                message: None,
                payload: "{\"tool_name\":\"search\"",
                timed: false,
                extra: Extra::default(),
            };
            log.publish(lane, &scope, draft, NOW)
        }

        fn publish(&self, kind: EventKind<'_>) {
            Self::publish_in(&self.here, self.writer.log(), kind).expect("is published");
        }

        fn bring(&mut self) {
            let chunk = self.writer.log().chunk(self.taken, false, usize::MAX);
            let entries = chunk.entries.iter().map(|(number, bytes)| (*number, &**bytes));
            let taken = match &chunk.snapshot {
                Some((upto, snapshot)) => self.mirror.mirror_reset(*upto, snapshot, entries, NOW),
                None => self.mirror.mirror_append(entries, NOW),
            };
            assert_eq!(taken, Ok(true));
            self.taken = chunk.upto;
            assert_eq!(self.mirror.head(), self.writer.log().head());
        }
    }

    fn reader(lane: &LaneHandle) -> Arc<Connection> {
        let connection = Streams::attach(lane, CursorMode::Framed, 9, 9);
        connection.subscribe("run", None, None);
        connection
    }

    const TOOL: EventKind<'static> = EventKind::ToolExecuting("search");
    const TOOL_END: EventKind<'static> = EventKind::ToolCompleted("search");

    #[test]
    fn nobody_but_its_feeder_ends_a_mirror() {
        let mut pair = Pair::new(100);
        pair.publish(EventKind::Started);
        pair.bring();
        pair.mirror.end(Some(Outcome::Cancelled), "the user wants it", 9, 9);
        pair.mirror.repair(None, false, "the engine ended", 9, 9);
        assert!(!pair.mirror.is_over() && pair.mirror.has_open_spans());
        let refused = Pair::publish_in(&pair.there, &pair.mirror, EventKind::Thinking);
        assert_eq!(refused, Err(EventError::Elsewhere));
        let (run, thread) = names();
        let opened = Streams::open(&pair.there, &run, &thread, LogBounds::default());
        assert_eq!(opened.err(), Some(EventError::Elsewhere));
        // Nor does its feeder feed what is no mirror.
        assert!(pair.writer.log().mirror_append([], NOW).is_err());
        assert!(pair.writer.log().mirror_end(Outcome::Lost, NOW).is_err());
        assert!(pair.writer.log().adopt("worker_lost", "gone", NOW).is_err());
        pair.mirror.mirror_end(Outcome::Partial, NOW).expect("ends");
        assert_eq!(pair.mirror.view().ended, Some((Outcome::Partial, 9)));
        // The run id can be used again, as after any end.
        assert!(Streams::open(&pair.there, &run, &thread, LogBounds::default()).is_ok());
    }

    #[test]
    fn a_snapshot_that_travels_keeps_the_calls_apart() {
        let mut pair = Pair::new(1);
        for kind in [EventKind::Started, TOOL, TOOL, TOOL_END, EventKind::Thinking] {
            pair.publish(kind);
        }
        pair.bring();
        let read = |lane: &LaneHandle| reader(lane).read(99, 9);
        assert_eq!(read(&pair.there), read(&pair.here));
        for kind in [TOOL_END, EventKind::Thinking, EventKind::Thinking] {
            pair.publish(kind);
            pair.bring();
        }
        assert_eq!(read(&pair.there), read(&pair.here));
        assert_eq!(
            pair.mirror.account(),
            LogAccount {
                serial: pair.mirror.serial(),
                ..pair.writer.log().account()
            }
        );
        let (here, there) = (pair.writer.log().glance(), pair.mirror.glance());
        assert_eq!((there.executions, there.depth, there.failed), (1, 1, 0));
        assert_eq!((here.agent, here.head), (there.agent, there.head));
    }

    #[test]
    fn what_a_snapshot_counts_is_not_counted_again() {
        let mut pair = Pair::new(3);
        for _ in 0..3 {
            pair.publish(EventKind::Started);
            pair.publish(EventKind::Error);
        }
        pair.publish(EventKind::Started);
        pair.publish(EventKind::Completed);
        pair.publish(EventKind::Started);
        pair.bring();
        let glance = pair.mirror.glance();
        assert_eq!((glance.executions, glance.failed), (5, 3));
        assert!(glance.longest.is_some());
    }

    #[test]
    fn a_payload_may_hold_anything() {
        let message = |payload| format!("{{\"type\":\"tool_executing\",\"payload\":{payload},\"seq\":1}}");
        for (payload, name) in [
            ("{\"tool_name\":\"a\\\"b\"}", "a\"b"),
            ("{\"tool_name\":\"a\",\"error_type\":5,\"status\":[]}", "a"),
            ("{\"tool_name\":1,\"tool_name\":\"a\"}", "a"),
            ("{\"tool_name\":1}", ""),
            ("{}", ""),
        ] {
            assert_eq!(&*tool_name(&message(payload)), name, "{payload}");
        }
    }

    #[test]
    fn another_incarnation_takes_the_place_of_one_that_has_not_ended() {
        let mut pair = Pair::new(100);
        pair.publish(EventKind::Started);
        pair.bring();
        let connection = reader(&pair.there);
        assert!(!connection.read(99, 9).is_empty());
        let (run, thread) = names();
        let again =
            Streams::mirror(&pair.there, &run, &thread, "another", "w2", LogBounds::default()).expect("mirrored");
        assert!(pair.mirror.is_forgotten() && !again.is_forgotten());
        let texts: Vec<_> = (0..3).flat_map(|_| connection.read(99, 9)).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(texts[0].contains("\"mode\":\"reset\"") && texts[0].contains("another"));
        assert_eq!(pair.mirror.mirror_append([], NOW), Err(EventError::Closed.into()));
        drop(pair);
        again.forget();
    }
}
