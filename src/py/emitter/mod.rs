//! `UserWebSocketEmitter`: the six agent events, in both signatures of the seeds, and an application's own.

mod arguments;
mod delivery;
mod failures;
mod figures;
mod opening;
mod payload;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};

use self::arguments::{
    COMPLETED, Call, ERROR, Method, STARTED, THINKING, TOOL_COMPLETED, TOOL_EXECUTING, checked_name, name_of,
};
use self::figures::Accepted;
use self::payload::{Built, MAX_ERROR_TEXT, Payload, error_text, joined};
use super::awaitable::ReadyAwaitable;
use super::context::PyContext;
use super::errors::{InvalidEvent, to_python};
use super::isolation::gate;
use super::policy::with_placeholders;
use super::process::{CLOCK, Stamp};
use super::request::NoteId;
use crate::clock::Clock;
use crate::context::{ContextCore, ContextFault, Identity, is_traced};
use crate::events::{
    self, Class, Delta, Draft, EventError, EventKind, Extra, Level, LogBounds, Outcome, RunLog, SpanScope,
    StreamWriter, Streams,
};
use crate::ids::{self, RequestId, RunId, ThreadId};
use crate::isolation::{Boundary, Delivery};
use crate::lanes::LaneHandle;
use crate::metrics::{CUSTOM, Counter};
use crate::sanitize::{EventMask, EventTexts, KeyRule};

pub(crate) use self::delivery::DeliveryAwaitable;
pub(crate) use self::failures::FailedEvent;
pub(super) use self::opening::bounds;
pub(crate) use self::opening::{
    bind_event_bounds, emitter_for_context, emitter_for_user, end_stream, stream_has_ended, user_streams,
};

/// Most characters of the reason why an event failed.
const MAX_REASON: usize = 200;
/// Most characters of an id that a producer chooses.
const MAX_EVENT_ID: usize = 128;
/// Runs that an emitter of a user has open before those without an open execution are ended.
const MAX_OPEN_RUNS: usize = 64;

/// What an emitter publishes into.
enum Target {
    /// The stream of one run.
    Run {
        scope: SpanScope,
        run: RunId,
        writer: Mutex<Option<StreamWriter>>,
        owns_stream: bool,
        /// Asked before each event whether its run was ended by force.
        context: Arc<ContextCore<NoteId>>,
    },
    /// One stream for each run id of its user.
    User {
        thread: ThreadId,
        bounds: LogBounds,
        runs: Mutex<HashMap<RunId, (StreamWriter, SpanScope)>>,
    },
}

/// Publishes a user's agent events. Publishing is synchronous, takes microseconds and never waits for a client: what the
/// methods return is complete already and yields the event's number.
///
/// Made by `WebSocketBridgeFactory.create_user_emitter` or `context.get_websocket_emitter()`.
///
/// Raises `InvalidEvent` for events out of order or payloads that are not JSON-able, `EventTooLarge`, `BudgetExceeded`,
/// `RunClosed` after the stream has ended, and `ContextIsolationError` for a run of another user.
#[pyclass(frozen, subclass, weakref, module = "isolane")]
pub(crate) struct UserWebSocketEmitter {
    lane: LaneHandle,
    connection_id: Option<String>,
    target: Target,
    mask: EventMask,
    stamp: Stamp,
    closed: AtomicBool,
    published: Counter,
    refused: Counter,
    accepted: Accepted,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an application's own event has beside its payload.
fn extra<'a>(
    py: Python<'_>,
    priority: i64,
    key: Option<&'a str>,
    message_id: Option<&'a str>,
    event_id: Option<&'a str>,
) -> PyResult<Extra<'a>> {
    let invalid = |why: &str| InvalidEvent::raise(py, why.to_owned());
    let class = u8::try_from(priority).ok().and_then(Class::new);
    let class =
        class.ok_or_else(|| invalid("priority must be 1 (critical), 2 (content), 3 (progress) or 4 (debug)"))?;
    if let Some(key) = key {
        checked_name(py, key, "key")?;
        if class != Class::Progress {
            return Err(invalid(
                "a key says what an event of priority 3 is the latest of; pass priority=3, or no key",
            ));
        }
    }
    if let Some(message_id) = message_id {
        checked_name(py, message_id, "message_id")?;
        if class != Class::Content {
            return Err(invalid(
                "a part of a text has priority 2; leave priority out, or pass no message_id",
            ));
        }
    }
    if event_id.is_some_and(|id| id.is_empty() || id.len() > MAX_EVENT_ID || !ids::is_graphic(id.as_bytes())) {
        return Err(invalid("event_id must be 1 to 128 visible ASCII characters"));
    }
    Ok(Extra {
        class: Some(class),
        key,
        delta: None,
        event_id,
        trace: None,
    })
}

/// Ends the runs of an emitter that have no open execution, when there are many: nobody else would.
fn end_idle_runs(runs: &Mutex<HashMap<RunId, (StreamWriter, SpanScope)>>) {
    let idle: Vec<_> = {
        let mut runs = lock(runs);
        if runs.len() < MAX_OPEN_RUNS {
            return;
        }
        let idle: Vec<RunId> = runs
            .iter()
            .filter(|(_, (writer, _))| !writer.log().has_open_spans())
            .map(|(run, _)| run.clone())
            .collect();
        idle.iter().filter_map(|run| runs.remove(run)).collect()
    };
    for (writer, _) in idle {
        writer.log().end(None, "the run ended", CLOCK.unix(), CLOCK.monotonic());
    }
}

impl UserWebSocketEmitter {
    /// Publishes one of the six.
    fn notify<'py>(
        &self,
        method: &Method,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        build: impl for<'call> FnOnce(Payload<'py, 'call>, &'call Call<'py>, Option<&str>) -> PyResult<Built<'py, 'call>>,
    ) -> PyResult<ReadyAwaitable> {
        let py = args.py();
        let event = || (Cow::Borrowed(method.event_type()), None);
        self.counting(event, || {
            let call = method.bind(args, kwargs)?;
            let (agent, run) = (call.text(&["agent_name", "agent_type"])?, call.text(&["run_id"])?);
            let event = build(Payload::new(py, self.texts()), &call, agent.as_deref())?;
            self.emit_built(py, method, run.as_deref(), agent.as_deref(), &event)
                .map(|number| Self::answer(py, number))
        })
    }

    fn emit_built(
        &self,
        py: Python<'_>,
        method: &Method,
        run: Option<&str>,
        agent: Option<&str>,
        event: &Built<'_, '_>,
    ) -> PyResult<u64> {
        let draft = Draft {
            kind: (method.kind)(&event.tool),
            agent,
            message: event.message.as_deref(),
            payload: &event.payload.out,
            timed: method.timed,
            extra: Extra::default(),
        };
        self.emit(py, run, draft)
    }

    /// Publishes one of a tool for a dispatcher, which has its arguments in order.
    fn show_tool<'py, 'call>(
        &'call self,
        tool: &'call Bound<'py, PyString>,
        method: &Method,
        build: impl FnOnce(Payload<'py, 'call>, Cow<'call, str>) -> PyResult<Built<'py, 'call>>,
    ) -> PyResult<()> {
        let py = tool.py();
        self.counting(
            || (Cow::Borrowed(method.event_type()), None),
            || {
                let event = build(Payload::new(py, self.texts()), name_of(tool, "tool_name")?)?;
                self.emit_built(py, method, None, None, &event).map(drop)
            },
        )
    }

    fn make(lane: LaneHandle, connection_id: Option<String>, target: Target, mask: EventMask) -> Self {
        Self {
            lane,
            connection_id,
            target,
            mask,
            stamp: Stamp::now(),
            closed: AtomicBool::new(false),
            published: Counter::default(),
            refused: Counter::default(),
            accepted: Accepted::default(),
        }
    }

    /// The emitter of a context, which does not end the stream.
    pub(crate) fn for_context(context: &PyContext, writer: StreamWriter, mask: EventMask) -> Self {
        Self::bound(context, writer, false, mask)
    }

    /// What is done with the texts of its events.
    fn texts(&self) -> EventTexts<'_> {
        EventTexts::new(self.mask, self.lane.user().as_str())
    }

    fn bound(context: &PyContext, writer: StreamWriter, owns_stream: bool, mask: EventMask) -> Self {
        let identity = context.core().identity();
        let scope = SpanScope {
            request: identity.request.clone(),
            parent: context.core().lineage().parent().cloned(),
        };
        let target = Target::Run {
            scope,
            run: identity.run.clone(),
            writer: Mutex::new(Some(writer)),
            owns_stream,
            context: context.core().clone(),
        };
        Self::make(context.core().lane().clone(), None, target, mask)
    }

    /// The stream and scope of a run of an emitter that serves its whole user.
    fn run_of_user(
        &self,
        py: Python<'_>,
        run: Option<&str>,
        thread: &ThreadId,
        bounds: LogBounds,
        runs: &Mutex<HashMap<RunId, (StreamWriter, SpanScope)>>,
    ) -> PyResult<(StreamWriter, SpanScope)> {
        if self.closed.load(Ordering::Acquire) {
            return Err(to_python(py, EventError::Closed));
        }
        let Some(run) = run else {
            let why = "this emitter serves all runs of its user: pass run_id, or make the emitter for a context";
            return Err(InvalidEvent::raise(py, why.to_owned()));
        };
        let run = with_placeholders(|policy| Identity::check("run_id", run, policy).map(RunId::from))
            .map_err(|error| to_python(py, error))?;
        let held = lock(runs).get(&run).cloned();
        if let Some((writer, scope)) = held {
            if !writer.log().is_over() {
                return Ok((writer, scope));
            }
            if matches!(writer.log().view().ended, Some((Outcome::Cancelled, _))) {
                // The user ended it: what goes on publishing into it is told so.
                return Err(to_python(py, EventError::Closed));
            }
        }
        end_idle_runs(runs);
        let writer = Streams::open(&self.lane, &run, thread, bounds).map_err(|error| to_python(py, error))?;
        let request = RequestId::fresh(crate::clock::unix_millis_of_system());
        let held = (writer, SpanScope { request, parent: None });
        let old = lock(runs).insert(run, held.clone());
        drop(old);
        Ok(held)
    }

    /// An emitter of one run accepts that run's id and the ids of its children, and tells a foreign run from a wrong one.
    fn check_run(&self, py: Python<'_>, run: &str, own: &RunId, scope: &SpanScope) -> PyResult<()> {
        let request = scope.request.as_str();
        let is_child = run
            .strip_prefix(request)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        if run == own.as_str() || is_child {
            return Ok(());
        }
        if let Ok(run) = RunId::new(run) {
            self.lane
                .shared()
                .check_run_owner(&run, self.lane.user())
                .map_err(|error| to_python(py, error))?;
        }
        let why = format!(
            "run_id names another run than this emitter's; leave it out, or pass {}",
            ids::shorten(own.as_str())
        );
        Err(InvalidEvent::raise(py, why))
    }

    fn emit(&self, py: Python<'_>, run: Option<&str>, draft: Draft<'_>) -> PyResult<u64> {
        self.stamp.check(py)?;
        self.scan(py, run, &draft)?;
        let (kind, now) = (draft.kind, CLOCK.now());
        let published = match &self.target {
            Target::Run {
                scope,
                run: own,
                writer,
                context,
                ..
            } => {
                context
                    .pass()
                    .map_err(|fenced| to_python(py, ContextFault::from(fenced)))?;
                if let Some(run) = run {
                    self.check_run(py, run, own, scope)?;
                }
                // Publishing may wake a client, which runs Python code, so the writer's lock is let go before.
                let log = lock(writer).as_ref().map(|writer| writer.log().clone());
                let trace = if is_traced() { context.trace() } else { None };
                let mut draft = draft;
                draft.extra.trace = trace.as_deref();
                log.ok_or(EventError::Closed)
                    .and_then(|log| log.publish(&self.lane, scope, draft, now))
            }
            Target::User { thread, bounds, runs } => {
                let (writer, scope) = self.run_of_user(py, run, thread, *bounds, runs)?;
                writer.log().publish(&self.lane, &scope, draft, now)
            }
        };
        let number = published.map_err(|error| to_python(py, error))?;
        self.note_accepted(kind, now.unix);
        Ok(number)
    }

    /// Has the detector, if one is installed, look at what is to be published.
    fn scan(&self, py: Python<'_>, run: Option<&str>, draft: &Draft<'_>) -> PyResult<()> {
        let is_error = matches!(draft.kind, EventKind::Error);
        let boundary = if is_error { Boundary::Error } else { Boundary::WsOut };
        if !gate::is_on(boundary) {
            return Ok(());
        }
        let user = self.lane.user().as_str();
        gate::check_text(py, boundary, user, ("payload", draft.payload), Delivery::First)?;
        if let Some(message) = draft.message {
            gate::check_text(py, boundary, user, ("message", message), Delivery::Again)?;
        }
        // Names are published as they are; that of a tool is in the payload.
        let custom = match draft.kind {
            EventKind::Custom(name) => Some(name),
            _ => None,
        };
        let names = [
            ("agent_name", draft.agent),
            ("event_type", custom),
            ("key", draft.extra.key),
            ("event_id", draft.extra.event_id),
        ];
        for (path, name) in names {
            gate::check_name(py, boundary, user, (path, name.unwrap_or_default()))?;
        }
        if let Some(Delta {
            message,
            at: (from, to),
        }) = draft.extra.delta
        {
            let run = match &self.target {
                Target::Run { run, .. } => run.as_str(),
                Target::User { .. } => run.unwrap_or_default(),
            };
            gate::check_part(py, boundary, user, (run, message), &draft.payload[from..to])?;
        }
        Ok(())
    }

    fn answer(py: Python<'_>, number: u64) -> ReadyAwaitable {
        ReadyAwaitable::value(PyInt::new(py, number).into_any().unbind())
    }

    /// Counts what was published and what was refused, for whatever reason.
    fn counting<'e, T>(
        &self,
        event: impl FnOnce() -> (Cow<'e, str>, Option<&'e str>),
        publish: impl FnOnce() -> PyResult<T>,
    ) -> PyResult<T> {
        let result = publish();
        match &result {
            Ok(_) => self.published.increment(),
            Err(error) => {
                self.refused.increment();
                let (event_type, event_id) = event();
                let kind = EventKind::AGENT_EVENTS.iter().position(|known| *known == event_type);
                self.lane.shared().events.failed.increment(kind.unwrap_or(CUSTOM));
                self.lane.streams().note_failed(events::FailedEvent {
                    unix: CLOCK.unix(),
                    event_id: event_id.map(|id| ids::cut(id, MAX_EVENT_ID).into()),
                    event_type: ids::cut(&event_type, arguments::MAX_NAME).into(),
                    reason: ids::cut(&error.to_string(), MAX_REASON).into(),
                });
            }
        }
        result
    }

    /// The log of a run of this emitter, as long as it is there.
    fn log_of(&self, py: Python<'_>, run_id: Option<&str>) -> PyResult<Arc<RunLog>> {
        let run = match (&self.target, run_id) {
            (Target::Run { scope, run, .. }, wanted) => {
                if let Some(wanted) = wanted {
                    self.check_run(py, wanted, run, scope)?;
                }
                run.as_str()
            }
            (Target::User { .. }, Some(run)) => run,
            (Target::User { .. }, None) => {
                let why = "this emitter serves all runs of its user: pass run_id";
                return Err(InvalidEvent::raise(py, why.to_owned()));
            }
        };
        let log = self.lane.streams().find(run);
        log.ok_or_else(|| to_python(py, EventError::Closed))
    }

    fn writers(&self) -> Vec<(StreamWriter, Option<SpanScope>)> {
        match &self.target {
            Target::Run { scope, writer, .. } => lock(writer)
                .iter()
                .map(|writer| (writer.clone(), Some(scope.clone())))
                .collect(),
            Target::User { runs, .. } => lock(runs).values().map(|(writer, _)| (writer.clone(), None)).collect(),
        }
    }
}

#[pymethods]
impl UserWebSocketEmitter {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        Err(PyTypeError::new_err(
            "UserWebSocketEmitter is made by a factory, which checks whose it is: use \
             await WebSocketBridgeFactory().create_user_emitter(user_id, context), or context.get_websocket_emitter()",
        ))
    }

    /// The user whose events it publishes.
    #[getter]
    fn user_id(&self) -> &str {
        self.lane.user().as_str()
    }

    /// The run, when it serves a single one.
    #[getter]
    fn run_id(&self) -> Option<&str> {
        match &self.target {
            Target::Run { run, .. } => Some(run.as_str()),
            Target::User { .. } => None,
        }
    }

    /// The socket that it was made for, if one was named. Events go to all of the user's.
    #[getter]
    fn connection_id(&self) -> Option<&str> {
        self.connection_id.as_deref()
    }

    /// An agent execution begins. `(agent_name, run_id)` or `(agent_type, metadata=None)`.
    #[pyo3(signature = (*args, **kwargs) -> "collections.abc.Awaitable[int]")]
    fn notify_agent_started(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<ReadyAwaitable> {
        self.notify(&STARTED, args, kwargs, |payload, call, agent| {
            let agent = agent.ok_or_else(|| STARTED.wrong("it needs the agent's name"))?;
            let payload = payload
                .text("status", "started")
                .members(call.metadata()?, &["status"])?;
            Ok(Built {
                payload,
                tool: Cow::Borrowed(""),
                message: Some(joined(agent, " started")),
            })
        })
    }

    /// What the agent is thinking. `(agent_name, run_id, thinking)` or `(content, metadata=None)`; metadata such as
    /// `step_number`, `total_steps`, `progress_percentage` goes into the payload.
    #[pyo3(signature = (*args, **kwargs) -> "collections.abc.Awaitable[int]")]
    fn notify_agent_thinking(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<ReadyAwaitable> {
        self.notify(&THINKING, args, kwargs, |payload, call, _| {
            let payload = payload
                .value("reasoning", call.get(&["thinking", "content"]))?
                .text("status", "thinking")
                .members(call.metadata()?, &["reasoning", "status"])?;
            Ok(Built {
                payload,
                tool: Cow::Borrowed(""),
                message: None,
            })
        })
    }

    /// A tool call begins. `(agent_name, run_id, tool_name, tool_input)` or `(tool_name, params)`.
    #[pyo3(signature = (*args, **kwargs) -> "collections.abc.Awaitable[int]")]
    fn notify_tool_executing(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<ReadyAwaitable> {
        self.notify(&TOOL_EXECUTING, args, kwargs, |payload, call, _| {
            let tool = call
                .text(&["tool_name"])?
                .ok_or_else(|| TOOL_EXECUTING.wrong("it needs the tool's name"))?;
            payload.tool_executing(tool, call.get(&["tool_input", "params"]), call.metadata()?)
        })
    }

    /// A tool call ended. `(agent_name, run_id, tool_name, tool_output)` or `(tool_name, result)`. A call that failed has an
    /// `error=`, a text: then the status is `error` and there is no result.
    #[pyo3(signature = (*args, **kwargs) -> "collections.abc.Awaitable[int]")]
    fn notify_tool_completed(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<ReadyAwaitable> {
        self.notify(&TOOL_COMPLETED, args, kwargs, |payload, call, _| {
            let tool = call
                .text(&["tool_name"])?
                .ok_or_else(|| TOOL_COMPLETED.wrong("it needs the tool's name"))?;
            let error = call.get(&["error"]).map(error_text).transpose()?;
            let error = error.as_ref().map(|(text, _)| text.as_str());
            payload.tool_completed(tool, call.get(&["tool_output", "result"]), error, call.metadata()?)
        })
    }

    /// Whether an agent execution of the context is going on: without one an event of a tool has no place.
    fn _has_execution(&self) -> bool {
        match &self.target {
            Target::Run { scope, writer, .. } => lock(writer)
                .as_ref()
                .is_some_and(|writer| writer.log().has_execution(scope)),
            Target::User { .. } => false,
        }
    }

    /// `notify_tool_executing(tool_name=…, params=…)` for a dispatcher, without an answer that can be awaited.
    fn _show_tool_begin(&self, tool_name: &Bound<'_, PyString>, params: &Bound<'_, PyAny>) -> PyResult<()> {
        self.show_tool(tool_name, &TOOL_EXECUTING, |payload, tool| {
            payload.tool_executing(tool, Some(params), None)
        })
    }

    /// `notify_tool_completed(tool_name=…, result=…)` for a dispatcher, without an answer that can be awaited.
    fn _show_tool_end(&self, tool_name: &Bound<'_, PyString>, result: &Bound<'_, PyAny>) -> PyResult<()> {
        self.show_tool(tool_name, &TOOL_COMPLETED, |payload, tool| {
            payload.tool_completed(tool, Some(result), None, None)
        })
    }

    /// The agent execution ended well. `(agent_name, run_id, result)` or `(result, metadata=None)`.
    #[pyo3(signature = (*args, **kwargs) -> "collections.abc.Awaitable[int]")]
    fn notify_agent_completed(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<ReadyAwaitable> {
        self.notify(&COMPLETED, args, kwargs, |payload, call, agent| {
            let payload = payload
                .text("status", "completed")
                .value("result", call.get(&["result"]))?
                .members(call.metadata()?, &["status", "result", "execution_time_ms"])?;
            let message = agent.map(|agent| joined(agent, " completed"));
            Ok(Built {
                payload,
                tool: Cow::Borrowed(""),
                message,
            })
        })
    }

    /// The agent execution failed. `(agent_name, run_id, error)` or `(error, metadata=None)`; `error` is an exception or text.
    #[pyo3(signature = (*args, **kwargs) -> "collections.abc.Awaitable[int]")]
    fn notify_agent_error(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<ReadyAwaitable> {
        self.notify(&ERROR, args, kwargs, |payload, call, _| {
            let error = call.get(&["error"]).ok_or_else(|| ERROR.wrong("it needs the error"))?;
            let (text, kind) = error_text(error)?;
            let text = payload.shown(&text);
            let text = ids::cut(&text, MAX_ERROR_TEXT);
            let mut payload = payload.text("status", "error").text("error_message", text);
            if let Some(kind) = kind {
                payload = payload.text("error_type", &kind);
            }
            let except = ["status", "error_message", "error_type", "execution_time_ms"];
            let payload = payload.members(call.metadata()?, &except)?;
            Ok(Built {
                payload,
                tool: Cow::Borrowed(""),
                message: Some(ids::cut(text, 200).to_owned()),
            })
        })
    }

    /// An application's own event. `event_type` is any name but the six.
    ///
    /// `priority` is the class, from 1 to 4: 1 is never merged or left out, 2 is content, of 3 the latest of each `key`
    /// counts (by default of each type), 4 goes first. It never changes the order. With `message_id` the event is a part of
    /// a text, and its payload has the part in `delta`: a client that is behind gets several parts as one. `event_id` is an
    /// id of your own: published again, the event is not appended again, and the number that it has is returned.
    #[pyo3(
        signature = (
            event_type, payload = None, *, agent_name = None, run_id = None, message = None, priority = 2, key = None,
            message_id = None, event_id = None,
        ) -> "collections.abc.Awaitable[int]"
    )]
    fn send_custom_event(
        &self,
        py: Python<'_>,
        event_type: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyDict>>,
        agent_name: Option<&str>,
        run_id: Option<&str>,
        message: Option<&str>,
        priority: i64,
        key: Option<&str>,
        message_id: Option<&str>,
        event_id: Option<&str>,
    ) -> PyResult<ReadyAwaitable> {
        self.publish(
            py, event_type, payload, agent_name, run_id, message, priority, key, message_id, event_id,
        )
        .map(|number| Self::answer(py, number))
    }

    /// The same as `send_custom_event`.
    #[pyo3(
        signature = (
            event_type, payload = None, *, agent_name = None, run_id = None, message = None, priority = 2, key = None,
            message_id = None, event_id = None,
        ) -> "collections.abc.Awaitable[int]"
    )]
    fn notify_custom(
        &self,
        py: Python<'_>,
        event_type: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyDict>>,
        agent_name: Option<&str>,
        run_id: Option<&str>,
        message: Option<&str>,
        priority: i64,
        key: Option<&str>,
        message_id: Option<&str>,
        event_id: Option<&str>,
    ) -> PyResult<ReadyAwaitable> {
        self.send_custom_event(
            py, event_type, payload, agent_name, run_id, message, priority, key, message_id, event_id,
        )
    }

    /// The synchronous form of `send_custom_event`. Returns the event's number.
    #[pyo3(
        signature = (
            event_type, payload = None, *, agent_name = None, run_id = None, message = None, priority = 2, key = None,
            message_id = None, event_id = None,
        )
    )]
    fn publish(
        &self,
        py: Python<'_>,
        event_type: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyDict>>,
        agent_name: Option<&str>,
        run_id: Option<&str>,
        message: Option<&str>,
        priority: i64,
        key: Option<&str>,
        message_id: Option<&str>,
        event_id: Option<&str>,
    ) -> PyResult<u64> {
        let event = || {
            let name = event_type.cast::<PyString>().ok().map(|name| name.to_string_lossy());
            (name.unwrap_or_default(), event_id)
        };
        self.counting(event, || {
            let name = name_of(event_type, "event_type")?;
            if EventKind::AGENT_EVENTS.contains(&&*name) {
                let why = format!(
                    "{name} is one of the six agent events: use notify_{name}, which keeps its span well-formed"
                );
                return Err(InvalidEvent::raise(py, why));
            }
            let agent_name = agent_name
                .map(|agent| checked_name(py, agent, "agent_name"))
                .transpose()?;
            let mut extra = extra(py, priority, key, message_id, event_id)?;
            let texts = self.texts();
            let message = message.map(|message| texts.shown(message, KeyRule::Plain));
            let payload = if let Some(text) = message_id {
                let (part, at) = Payload::new(py, texts).delta(payload, text)?;
                extra.delta = Some(Delta { message: text, at });
                part.members(payload, &["message_id", "delta"])?
            } else {
                Payload::new(py, texts).members(payload, &[])?
            };
            let draft = Draft {
                kind: EventKind::Custom(&name),
                agent: agent_name,
                message: message.as_deref(),
                payload: &payload.out,
                timed: false,
                extra,
            };
            self.emit(py, run_id, draft)
        })
    }

    /// Waits until event `n` is in the store that several workers share (`stored`), was written to some socket of the user
    /// (`sent`: the server took it), or some client of the user has acknowledged it or a later one (`acked`; clients of
    /// `isolane.v1` do). The event stays in the log either way.
    ///
    /// Raises `DeliveryTimeout`, a `TimeoutError`, after `timeout` seconds; `InvalidEvent` for a number that was not
    /// published, and for `stored` where nothing stores events; `RunClosed` when the log is gone, and `BudgetExceeded` when 1000 wait for events of the run.
    #[pyo3(
        signature = (n, level = "sent", timeout = None, run_id = None) -> "collections.abc.Awaitable[None]"
    )]
    fn wait<'py>(
        &self,
        py: Python<'py>,
        n: i64,
        level: &str,
        timeout: Option<f64>,
        run_id: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.stamp.check(py)?;
        // A number below the first is as little published as one beyond the last.
        let n = u64::try_from(n).unwrap_or(0);
        let level = match level {
            "stored" if !self.lane.shared().replica.is_on() => {
                let why = "nothing stores events here: set ISOLANE_REDIS_URL, or wait for sent or acked";
                return Err(InvalidEvent::raise(py, why.to_owned()));
            }
            "stored" => Level::Stored,
            "sent" => Level::Sent,
            "acked" => Level::Acked,
            _ => return Err(PyValueError::new_err("level must be stored, sent or acked")),
        };
        delivery::wait(py, self.log_of(py, run_id)?, level, n, timeout)
    }

    /// The latest 256 events of the user that were not accepted, by any emitter, the oldest first.
    #[getter]
    fn failed_events(&self) -> Vec<FailedEvent> {
        let failed = self.lane.streams().failed();
        failed.into_iter().map(FailedEvent::new).collect()
    }

    /// What was published, refused and written to sockets, by type and with times: a copy.
    #[pyo3(signature = () -> "isolane.events.EventStats")]
    fn get_event_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.event_stats(py)
    }

    /// Closes what the agent left open, with one event each: tool calls, and with `spans=True` the executions themselves.
    #[pyo3(signature = (reason, *, spans = true))]
    fn close_open(&self, py: Python<'_>, reason: &str, spans: bool) -> PyResult<()> {
        self.stamp.check(py)?;
        for (writer, scope) in self.writers() {
            writer
                .log()
                .repair(scope.as_ref(), !spans, reason, CLOCK.unix(), CLOCK.monotonic());
        }
        Ok(())
    }

    /// Ends what the emitter opened: open tool calls and executions get their last event, and a stream that belongs to the
    /// emitter ends and stays readable for its retention. Calling it again does nothing.
    #[pyo3(signature = () -> "collections.abc.Awaitable[None]")]
    fn cleanup(&self, py: Python<'_>) -> PyResult<ReadyAwaitable> {
        self.stamp.check(py)?;
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.end_streams(None, "the emitter was cleaned up");
        }
        Ok(ReadyAwaitable::value(py.None()))
    }

    /// Whether it was cleaned up.
    #[getter]
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn __repr__(&self) -> String {
        let what = match &self.target {
            Target::Run { run, .. } => format!("run={}", ids::shorten(run.as_str())),
            Target::User { runs, .. } => format!("{} runs", lock(runs).len()),
        };
        format!(
            "<UserWebSocketEmitter user={} {what}>",
            ids::shorten(self.lane.user().as_str())
        )
    }
}

impl UserWebSocketEmitter {
    fn end_streams(&self, outcome: Option<Outcome>, reason: &str) {
        let (unix, monotonic) = (CLOCK.unix(), CLOCK.monotonic());
        match &self.target {
            Target::Run {
                scope,
                writer,
                owns_stream,
                ..
            } => {
                let Some(writer) = lock(writer).take() else { return };
                if *owns_stream {
                    writer.log().end(outcome, reason, unix, monotonic);
                } else {
                    writer.log().repair(Some(scope), false, reason, unix, monotonic);
                }
            }
            Target::User { runs, .. } => {
                let taken = std::mem::take(&mut *lock(runs));
                for (writer, _) in taken.values() {
                    writer.log().end(outcome, reason, unix, monotonic);
                }
            }
        }
    }
}
