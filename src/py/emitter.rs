//! `UserWebSocketEmitter`: the six agent events, in both signatures of the seeds, and an application's own.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};

use super::awaitable::ReadyAwaitable;
use super::context::PyContext;
use super::errors::{InvalidEvent, to_python};
use super::json::{exception_text, write, write_members_except};
use super::policy::with_placeholders;
use super::process::{CLOCK, Stamp, lane_of, registry};
use super::request::NoteId;
use crate::clock::{Clock, micros, seconds};
use crate::context::{ContextCore, ContextFault, Identity};
use crate::events::{Draft, EventError, EventKind, Extra, LogBounds, Outcome, SpanScope, StreamWriter, Streams, json};
use crate::ids::{self, RequestId, RunId, ThreadId};
use crate::lanes::LaneHandle;
use crate::metrics::Counter;

/// Most characters of an agent's, a tool's or an event type's name.
const MAX_NAME: usize = 128;

/// Most characters of an error's text.
const MAX_ERROR_TEXT: usize = 4_000;
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
    stamp: Stamp,
    closed: AtomicBool,
    published: Counter,
    refused: Counter,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the six, with its names in both signatures.
struct Method {
    name: &'static str,
    /// Positional order of the first seed: agent, run, then these.
    first: &'static [&'static str],
    /// Positional order of the second seed.
    second: &'static [&'static str],
    forms: &'static str,
    /// What is published, for the name of a tool where there is one.
    kind: for<'a> fn(&'a str) -> EventKind<'a>,
    /// Whether the payload gets the time that the call or the execution took.
    timed: bool,
}

const STARTED: Method = Method {
    name: "notify_agent_started",
    first: &["agent_name", "run_id"],
    second: &["agent_type", "metadata"],
    forms: "notify_agent_started(agent_name, run_id) or notify_agent_started(agent_type, metadata=None)",
    kind: |_| EventKind::Started,
    timed: false,
};
const THINKING: Method = Method {
    name: "notify_agent_thinking",
    first: &["agent_name", "run_id", "thinking"],
    second: &["content", "metadata"],
    forms: "notify_agent_thinking(agent_name, run_id, thinking) or notify_agent_thinking(content, metadata=None)",
    kind: |_| EventKind::Thinking,
    timed: false,
};
const TOOL_EXECUTING: Method = Method {
    name: "notify_tool_executing",
    first: &["agent_name", "run_id", "tool_name", "tool_input"],
    second: &["tool_name", "params"],
    forms: "notify_tool_executing(agent_name, run_id, tool_name, tool_input) or notify_tool_executing(tool_name, params)",
    kind: |tool| EventKind::ToolExecuting(tool),
    timed: false,
};
const TOOL_COMPLETED: Method = Method {
    name: "notify_tool_completed",
    first: &["agent_name", "run_id", "tool_name", "tool_output"],
    second: &["tool_name", "result"],
    forms: "notify_tool_completed(agent_name, run_id, tool_name, tool_output) or notify_tool_completed(tool_name, result=…)",
    kind: |tool| EventKind::ToolCompleted(tool),
    timed: true,
};
const COMPLETED: Method = Method {
    name: "notify_agent_completed",
    first: &["agent_name", "run_id", "result"],
    second: &["result", "metadata"],
    forms: "notify_agent_completed(agent_name, run_id, result) or notify_agent_completed(result=…, metadata=None)",
    kind: |_| EventKind::Completed,
    timed: true,
};
const ERROR: Method = Method {
    name: "notify_agent_error",
    first: &["agent_name", "run_id", "error"],
    second: &["error", "metadata"],
    forms: "notify_agent_error(agent_name, run_id, error) or notify_agent_error(error=…, metadata=None)",
    kind: |_| EventKind::Error,
    timed: true,
};

/// Keywords that only the first seed has.
const FIRST_ONLY: [&str; 4] = ["run_id", "thinking", "tool_input", "tool_output"];

/// More arguments than any of the six has names for.
const MAX_ARGUMENTS: usize = 8;

/// The arguments of one call, whichever signature was meant.
#[derive(Default)]
struct Call<'py> {
    values: [Option<(&'static str, Bound<'py, PyAny>)>; MAX_ARGUMENTS],
}

impl Method {
    fn wrong(&self, why: &str) -> PyErr {
        PyTypeError::new_err(format!("{}: {why}; call {}", self.name, self.forms))
    }

    /// Decides which signature was meant: by keywords first, then by the shape of the arguments.
    fn order(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<&'static [&'static str]> {
        let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
        if let Some(kwargs) = kwargs {
            for (name, _) in kwargs.iter() {
                if FIRST_ONLY.contains(&&*name.cast::<PyString>()?.to_string_lossy()) {
                    return Ok(self.first);
                }
            }
        }
        if kwargs.is_some() && args.len() <= self.second.len() {
            return Ok(self.second);
        }
        let text = |at: usize| {
            let value = args.get_borrowed_item(at);
            value.is_ok_and(|value| value.is_instance_of::<PyString>())
        };
        match args.len() {
            // Two strings are the first seed's where it takes two.
            2 if text(0) && text(1) && self.first.len() == 2 => Ok(self.first),
            2 if text(0) && text(1) => Err(self.wrong("two strings fit both signatures")),
            0..=2 => Ok(self.second),
            many if many <= self.first.len() => Ok(self.first),
            many => Err(self.wrong(&format!("it takes at most {} arguments, got {many}", self.first.len()))),
        }
    }

    fn bind<'py>(&self, args: &Bound<'py, PyTuple>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Call<'py>> {
        let mut call = Call::default();
        for (name, value) in self.order(args, kwargs)?.iter().zip(args.iter()) {
            call.put(name, value);
        }
        for (name, value) in kwargs.into_iter().flatten() {
            let name = name.cast::<PyString>()?.to_string_lossy();
            let also = ["agent_name", "agent_type", "metadata"];
            let known = self
                .first
                .iter()
                .chain(self.second)
                .chain(&also)
                .find(|known| **known == name);
            let Some(known) = known else {
                return Err(self.wrong(&format!("unexpected keyword argument '{}'", ids::cut(&name, 60))));
            };
            if !call.put(known, value) {
                return Err(self.wrong(&format!("got two values for '{known}'")));
            }
        }
        Ok(call)
    }
}

impl<'py> Call<'py> {
    /// Answers `false` when the name has a value already.
    fn put(&mut self, name: &'static str, value: Bound<'py, PyAny>) -> bool {
        for place in &mut self.values {
            match place {
                Some((taken, _)) if *taken == name => return false,
                Some(_) => {}
                None => {
                    *place = Some((name, value));
                    return true;
                }
            }
        }
        // No method has so many names.
        false
    }

    /// A value by any of its names. `None` stands for nothing, but for what a tool or an agent returned.
    fn get(&self, names: &[&str]) -> Option<&Bound<'py, PyAny>> {
        names.iter().find_map(|name| {
            let mut values = self.values.iter().map_while(Option::as_ref);
            let (_, value) = values.find(|(known, _)| known == name)?;
            let present = !value.is_none() || *name == "result" || *name == "tool_output";
            present.then_some(value)
        })
    }

    fn text(&self, names: &[&str]) -> PyResult<Option<Cow<'_, str>>> {
        self.get(names).map(|value| name_of(value, names[0])).transpose()
    }

    fn metadata(&self) -> PyResult<Option<&Bound<'py, PyDict>>> {
        let Some(value) = self.get(&["metadata"]) else {
            return Ok(None);
        };
        match value.cast::<PyDict>() {
            Ok(metadata) => Ok(Some(metadata)),
            Err(_) => Err(PyTypeError::new_err("metadata must be a dict")),
        }
    }
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

fn name_of<'a>(value: &'a Bound<'_, PyAny>, what: &str) -> PyResult<Cow<'a, str>> {
    let Ok(text) = value.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!(
            "{what} must be a string, got {}",
            value.get_type().name()?
        )));
    };
    let text = text.to_string_lossy();
    checked_name(value.py(), &text, what)?;
    Ok(text)
}

fn checked_name<'a>(py: Python<'_>, text: &'a str, what: &str) -> PyResult<&'a str> {
    if ids::is_graphic(text.as_bytes()) && text.len() <= MAX_NAME {
        return Ok(text);
    }
    if text.trim().is_empty() || text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        let why = format!("{what} must have 1 to {MAX_NAME} characters and no control characters");
        return Err(InvalidEvent::raise(py, why));
    }
    Ok(text)
}

thread_local! {
    /// The text of the last payload, emptied: most payloads need as much room as the one before.
    static SPARE: Cell<String> = const { Cell::new(String::new()) };
}

/// What one large payload needed is not kept for the small ones.
const KEPT_SPARE: usize = 16 * 1024;

/// Builds the payload: an object that stays open.
struct Payload<'py> {
    py: Python<'py>,
    out: String,
}

impl Drop for Payload<'_> {
    fn drop(&mut self) {
        if self.out.capacity() <= KEPT_SPARE {
            SPARE.set(std::mem::take(&mut self.out));
        }
    }
}

impl<'py> Payload<'py> {
    fn new(py: Python<'py>) -> Self {
        // Writing may run Python code that publishes: that finds no spare and makes its own.
        let mut out = SPARE.take();
        out.clear();
        out.push('{');
        Self { py, out }
    }

    fn text(mut self, name: &str, value: &str) -> Self {
        json::text_member(&mut self.out, name, value);
        self
    }

    fn value(mut self, name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        json::key(&mut self.out, name);
        match value {
            None => self.out.push_str("null"),
            Some(value) => {
                write(&mut self.out, value, name).map_err(|error| InvalidEvent::raise(self.py, error))?;
            }
        }
        Ok(self)
    }

    fn members(mut self, dict: Option<&Bound<'_, PyDict>>, except: &[&str]) -> PyResult<Self> {
        if let Some(dict) = dict {
            write_members_except(&mut self.out, dict, except).map_err(|error| InvalidEvent::raise(self.py, error))?;
        }
        Ok(self)
    }
}

/// What is particular to one of the six.
struct Built<'py, 'call> {
    payload: Payload<'py>,
    tool: Cow<'call, str>,
    message: Option<String>,
}

/// Two texts as one.
fn joined(first: &str, second: &str) -> String {
    let mut text = String::with_capacity(first.len() + second.len());
    text.push_str(first);
    text.push_str(second);
    text
}

impl UserWebSocketEmitter {
    /// Publishes one of the six.
    fn notify<'py>(
        &self,
        method: &Method,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        build: impl for<'call> FnOnce(Payload<'py>, &'call Call<'py>, Option<&str>) -> PyResult<Built<'py, 'call>>,
    ) -> PyResult<ReadyAwaitable> {
        self.counting(|| {
            let py = args.py();
            let call = method.bind(args, kwargs)?;
            let (agent, run) = (call.text(&["agent_name", "agent_type"])?, call.text(&["run_id"])?);
            let event = build(Payload::new(py), &call, agent.as_deref())?;
            let draft = Draft {
                kind: (method.kind)(&event.tool),
                agent: agent.as_deref(),
                message: event.message.as_deref(),
                payload: &event.payload.out,
                timed: method.timed,
                extra: Extra::default(),
            };
            self.emit(py, run.as_deref(), draft)
                .map(|number| Self::answer(py, number))
        })
    }

    fn make(lane: LaneHandle, connection_id: Option<String>, target: Target) -> Self {
        Self {
            lane,
            connection_id,
            target,
            stamp: Stamp::now(),
            closed: AtomicBool::new(false),
            published: Counter::default(),
            refused: Counter::default(),
        }
    }

    /// The emitter of a context, which does not end the stream.
    pub(crate) fn for_context(context: &PyContext, writer: StreamWriter) -> Self {
        Self::bound(context, writer, false)
    }

    fn bound(context: &PyContext, writer: StreamWriter, owns_stream: bool) -> Self {
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
        Self::make(context.core().lane().clone(), None, target)
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
        if let Some(held) = held.filter(|(writer, _)| !writer.log().is_over()) {
            return Ok(held);
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
                log.ok_or(EventError::Closed)
                    .and_then(|log| log.publish(&self.lane, scope, draft, CLOCK.now()))
            }
            Target::User { thread, bounds, runs } => {
                let (writer, scope) = self.run_of_user(py, run, thread, *bounds, runs)?;
                writer.log().publish(&self.lane, &scope, draft, CLOCK.now())
            }
        };
        published.map_err(|error| to_python(py, error))
    }

    fn answer(py: Python<'_>, number: u64) -> ReadyAwaitable {
        ReadyAwaitable::value(PyInt::new(py, number).into_any().unbind())
    }

    /// Counts what was published and what was refused, for whatever reason.
    fn counting<T>(&self, publish: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        let result = publish();
        if result.is_ok() {
            self.published.increment();
        } else {
            self.refused.increment();
            self.lane.shared().events.failed.increment();
        }
        result
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

/// The text of an error, cut: the end of an execution must fit into the log whatever was raised.
fn error_text(error: &Bound<'_, PyAny>) -> PyResult<(String, Option<String>)> {
    if error.is_instance_of::<PyBaseException>() {
        return Ok((
            ids::cut(&exception_text(error), MAX_ERROR_TEXT).to_owned(),
            Some(error.get_type().name()?.to_string()),
        ));
    }
    Ok((
        ids::cut(&error.str()?.to_string_lossy(), MAX_ERROR_TEXT).to_owned(),
        None,
    ))
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
            let payload = payload
                .text("tool_name", &tool)
                .value("parameters", call.get(&["tool_input", "params"]))?
                .text("status", "executing")
                .members(call.metadata()?, &["tool_name", "parameters", "status"])?;
            let message = Some(joined("Running ", &tool));
            Ok(Built { payload, tool, message })
        })
    }

    /// A tool call ended. `(agent_name, run_id, tool_name, tool_output)` or `(tool_name, result)`.
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
            let payload = payload
                .text("tool_name", &tool)
                .value("result", call.get(&["tool_output", "result"]))?
                .text("status", "completed")
                .members(
                    call.metadata()?,
                    &["tool_name", "result", "status", "execution_time_ms"],
                )?;
            let message = Some(joined(&tool, " completed"));
            Ok(Built { payload, tool, message })
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
            let mut payload = payload.text("status", "error").text("error_message", &text);
            if let Some(kind) = kind {
                payload = payload.text("error_type", &kind);
            }
            let except = ["status", "error_message", "error_type", "execution_time_ms"];
            let payload = payload.members(call.metadata()?, &except)?;
            Ok(Built {
                payload,
                tool: Cow::Borrowed(""),
                message: Some(ids::cut(&text, 200).to_owned()),
            })
        })
    }

    /// An application's own event. `event_type` is any name but the six.
    #[pyo3(
        signature = (event_type, payload = None, *, agent_name = None, run_id = None, message = None)
            -> "collections.abc.Awaitable[int]"
    )]
    fn send_custom_event(
        &self,
        py: Python<'_>,
        event_type: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyDict>>,
        agent_name: Option<&str>,
        run_id: Option<&str>,
        message: Option<&str>,
    ) -> PyResult<ReadyAwaitable> {
        self.publish(py, event_type, payload, agent_name, run_id, message)
            .map(|number| Self::answer(py, number))
    }

    /// The same as `send_custom_event`.
    #[pyo3(
        signature = (event_type, payload = None, *, agent_name = None, run_id = None, message = None)
            -> "collections.abc.Awaitable[int]"
    )]
    fn notify_custom(
        &self,
        py: Python<'_>,
        event_type: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyDict>>,
        agent_name: Option<&str>,
        run_id: Option<&str>,
        message: Option<&str>,
    ) -> PyResult<ReadyAwaitable> {
        self.send_custom_event(py, event_type, payload, agent_name, run_id, message)
    }

    /// The synchronous form of `send_custom_event`. Returns the event's number.
    #[pyo3(signature = (event_type, payload = None, *, agent_name = None, run_id = None, message = None))]
    fn publish(
        &self,
        py: Python<'_>,
        event_type: &Bound<'_, PyAny>,
        payload: Option<&Bound<'_, PyDict>>,
        agent_name: Option<&str>,
        run_id: Option<&str>,
        message: Option<&str>,
    ) -> PyResult<u64> {
        self.counting(|| {
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
            let payload = Payload::new(py).members(payload, &[])?;
            let draft = Draft {
                kind: EventKind::Custom(&name),
                agent: agent_name,
                message,
                payload: &payload.out,
                timed: false,
                extra: Extra::default(),
            };
            self.emit(py, run_id, draft)
        })
    }

    /// Counts of this emitter: `events_published`, `events_refused`; and of its stream: `stream_head`.
    #[pyo3(signature = () -> "dict[str, int]")]
    fn get_event_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        stats.set_item("events_published", self.published.get())?;
        stats.set_item("events_refused", self.refused.get())?;
        let head: u64 = self.writers().iter().map(|(writer, _)| writer.log().head()).sum();
        stats.set_item("stream_head", head)?;
        Ok(stats)
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

fn bounds(
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
) -> LogBounds {
    LogBounds {
        events: max_events.max(1),
        bytes: max_run_bytes,
        user_bytes: max_user_bytes,
        event_bytes: max_event_bytes,
        retention: micros(retention),
        ..LogBounds::default()
    }
}

/// Makes the emitter of a context's run, and opens its stream. Used by the factories.
#[pyfunction]
#[pyo3(signature = (
    ctx, *, max_events = 1000, max_run_bytes = 1 << 20, max_user_bytes = 4 << 20, max_event_bytes = 65536, retention = 300.0,
))]
pub(crate) fn emitter_for_context(
    ctx: &Bound<'_, PyContext>,
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
) -> PyResult<UserWebSocketEmitter> {
    let (py, context) = (ctx.py(), ctx.get());
    context.stamp().check(py)?;
    let bounds = bounds(max_events, max_run_bytes, max_user_bytes, max_event_bytes, retention);
    context.request(py)?.get().set_bounds(bounds);
    let writer = context.open_stream(py)?;
    Ok(UserWebSocketEmitter::bound(
        context,
        writer,
        context.core().lineage().path().len() == 1,
    ))
}

/// Sets the bounds of a context's event stream, for when it is opened. Used by the factories.
#[pyfunction]
#[pyo3(signature = (
    ctx, *, max_events = 1000, max_run_bytes = 1 << 20, max_user_bytes = 4 << 20, max_event_bytes = 65536, retention = 300.0,
))]
pub(crate) fn bind_event_bounds(
    ctx: &Bound<'_, PyContext>,
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
) -> PyResult<()> {
    let bounds = bounds(max_events, max_run_bytes, max_user_bytes, max_event_bytes, retention);
    ctx.get().request(ctx.py())?.get().set_bounds(bounds);
    Ok(())
}

/// Makes an emitter that serves all runs of a user. Used by the factory.
#[pyfunction]
#[pyo3(signature = (
    user_id, thread_id, connection_id = None, *, max_events = 1000, max_run_bytes = 1 << 20, max_user_bytes = 4 << 20,
    max_event_bytes = 65536, retention = 300.0,
))]
pub(crate) fn emitter_for_user(
    py: Python<'_>,
    user_id: &str,
    thread_id: &str,
    connection_id: Option<String>,
    max_events: usize,
    max_run_bytes: usize,
    max_user_bytes: usize,
    max_event_bytes: usize,
    retention: f64,
) -> PyResult<UserWebSocketEmitter> {
    let lane = lane_of(py, user_id)?;
    with_placeholders(|policy| Identity::check("thread_id", thread_id, policy))
        .map_err(|error| to_python(py, error))?;
    let thread = ThreadId::new(thread_id).map_err(|_| to_python(py, EventError::invalid("thread_id is no id")))?;
    let bounds = bounds(max_events, max_run_bytes, max_user_bytes, max_event_bytes, retention);
    Ok(UserWebSocketEmitter::make(
        lane,
        connection_id,
        Target::User {
            thread,
            bounds,
            runs: Mutex::default(),
        },
    ))
}

/// Ends the stream of a context's run: open tool calls and executions get their last event. `outcome` is `completed`,
/// `partial`, `failed`, `cancelled` or `lost`; without one it follows from the executions.
#[pyfunction]
#[pyo3(signature = (ctx, outcome = None, reason = "the run ended"))]
pub(crate) fn end_stream(ctx: &Bound<'_, PyContext>, outcome: Option<&str>, reason: &str) -> PyResult<()> {
    let py = ctx.py();
    ctx.get().stamp().check(py)?;
    let outcome = match outcome {
        None => None,
        Some("completed") => Some(Outcome::Completed),
        Some("partial") => Some(Outcome::Partial),
        Some("failed") => Some(Outcome::Failed),
        Some("cancelled") => Some(Outcome::Cancelled),
        Some("lost") => Some(Outcome::Lost),
        Some(_) => {
            return Err(PyTypeError::new_err(
                "outcome must be completed, partial, failed, cancelled or lost",
            ));
        }
    };
    if let Some(writer) = ctx.get().request(py)?.get().writer() {
        writer.log().end(outcome, reason, CLOCK.unix(), CLOCK.monotonic());
    }
    Ok(())
}

/// Whether the event stream of a context's run was opened and has ended.
#[pyfunction]
pub(crate) fn stream_has_ended(ctx: &Bound<'_, PyContext>) -> PyResult<bool> {
    Ok(ctx
        .get()
        .request(ctx.py())?
        .get()
        .writer()
        .is_some_and(|writer| writer.log().is_over()))
}

/// The streams of a user that are not expired: `run_id`, `thread_id`, `epoch`, `head`, `outcome` and, for ended ones,
/// `ended_seconds_ago`.
#[pyfunction]
#[pyo3(signature = (user_id) -> "list[dict[str, typing.Any]]")]
pub(crate) fn user_streams<'py>(py: Python<'py>, user_id: &str) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let lane = registry().find(user_id);
    let Some(lane) = lane else { return Ok(Vec::new()) };
    let mut streams = Vec::new();
    for view in lane.streams().views() {
        let dict = PyDict::new(py);
        dict.set_item("run_id", view.run.as_str())?;
        dict.set_item("thread_id", view.thread.as_str())?;
        dict.set_item("epoch", &*view.epoch)?;
        dict.set_item("head", view.head)?;
        dict.set_item("outcome", view.ended.map(|(outcome, _)| outcome.name()))?;
        let ago = view.ended.map(|(_, at)| seconds(CLOCK.monotonic().saturating_sub(at)));
        dict.set_item("ended_seconds_ago", ago)?;
        streams.push(dict);
    }
    Ok(streams)
}
