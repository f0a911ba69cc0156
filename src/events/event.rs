//! What is published, and why it may be refused.

use crate::clock::{Micros, SECOND};
use crate::context::TraceContext;
use crate::metrics::CUSTOM;
use crate::owner::IsolationViolation;

/// An event larger than this is refused, unless configured otherwise.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;

/// How long a delta waits at most for the ones after it, once something of its stream was written.
pub(super) const DELTA_DELAY: Micros = 20 * MILLISECOND;
/// Until when a progress event must be written.
pub(super) const PROGRESS_DELAY: Micros = 250 * MILLISECOND;
/// Until when a debug event must be written.
pub(super) const DEBUG_DELAY: Micros = SECOND;

const MILLISECOND: Micros = SECOND / 1_000;

/// How urgently an event is written, and what becomes of it when there is not room or time for all. Never the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Written at once, never merged, never left out.
    Critical = 1,
    /// Written at once; deltas of one text may be merged.
    Content = 2,
    /// The latest of each key counts.
    Progress = 3,
    /// The first to go.
    Debug = 4,
}

impl Class {
    /// The class of a number.
    pub fn new(number: u8) -> Option<Self> {
        [Self::Critical, Self::Content, Self::Progress, Self::Debug]
            .into_iter()
            .find(|class| *class as u8 == number)
    }

    /// How soon readers must know of an event of the class that came at `now`.
    pub(super) fn urgency(self, is_part: bool, now: Micros) -> Urgency {
        match self {
            Self::Content if is_part => Urgency::Soon(now.saturating_add(DELTA_DELAY)),
            Self::Critical | Self::Content => Urgency::Now,
            Self::Progress => Urgency::Soon(now.saturating_add(PROGRESS_DELAY)),
            Self::Debug => Urgency::Soon(now.saturating_add(DEBUG_DELAY)),
        }
    }
}

impl Urgency {
    /// The more urgent of the two.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Soon(one), Self::Soon(two)) => Self::Soon(one.min(two)),
            _ => Self::Now,
        }
    }
}

/// When those who read a stream must be told of something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// At once.
    Now,
    /// It must be written by this time of the monotonic clock: who will look by then need not be told.
    Soon(Micros),
}

/// A part of a text that comes in parts.
#[derive(Debug, Clone, Copy)]
pub struct Delta<'a> {
    /// Which text.
    pub message: &'a str,
    /// Where the contents of the string `delta` lie in the payload.
    pub at: (usize, usize),
}

/// What not every event has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extra<'a> {
    /// The class, if not that of the kind.
    pub class: Option<Class>,
    /// Of a progress event: what it is the latest of, if not of its type.
    pub key: Option<&'a str>,
    /// Of a content event: that it is a part of a text.
    pub delta: Option<Delta<'a>>,
    /// The producer's own id: published again, it is not appended again.
    pub event_id: Option<&'a str>,
    /// The `traceparent` of what published it; checked, so that it is written as it is.
    pub trace: Option<&'a TraceContext>,
}

impl Extra<'_> {
    /// What it adds to an event, in bytes, generously.
    pub(super) fn bytes(&self) -> usize {
        let id = self.event_id.map_or(0, |id| 4 * id.len() + 128);
        let trace = self.trace.map_or(0, |trace| trace.parent().len() + 32);
        id + trace + self.delta.map_or(0, |delta| 2 * delta.message.len() + 256)
    }
}

/// The six agent events, and whatever else an application sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind<'a> {
    /// An agent execution begins: opens a span.
    Started,
    /// What the agent is thinking.
    Thinking,
    /// A tool call begins.
    ToolExecuting(&'a str),
    /// A tool call ended.
    ToolCompleted(&'a str),
    /// The agent execution ended well: closes the span.
    Completed,
    /// The agent execution failed: closes the span.
    Error,
    /// An application's own event.
    Custom(&'a str),
}

impl EventKind<'_> {
    /// The names of the six.
    pub const AGENT_EVENTS: [&'static str; 6] = [
        "agent_started",
        "agent_thinking",
        "tool_executing",
        "tool_completed",
        "agent_completed",
        "agent_error",
    ];

    /// The `type` on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Started => "agent_started",
            Self::Thinking => "agent_thinking",
            Self::ToolExecuting(_) => "tool_executing",
            Self::ToolCompleted(_) => "tool_completed",
            Self::Completed => "agent_completed",
            Self::Error => "agent_error",
            Self::Custom(name) => name,
        }
    }

    /// Its place among [`AGENT_EVENTS`](Self::AGENT_EVENTS); none for an application's own.
    pub fn place(&self) -> Option<usize> {
        match self {
            Self::Started => Some(0),
            Self::Thinking => Some(1),
            Self::ToolExecuting(_) => Some(2),
            Self::ToolCompleted(_) => Some(3),
            Self::Completed => Some(4),
            Self::Error => Some(5),
            Self::Custom(_) => None,
        }
    }

    /// Its place among the kinds that are counted.
    pub fn kind(&self) -> usize {
        self.place().unwrap_or(CUSTOM)
    }

    /// The class, unless its producer chose one.
    pub fn class(&self) -> Class {
        match self {
            Self::Started | Self::Completed | Self::Error | Self::ToolCompleted(_) => Class::Critical,
            Self::Thinking | Self::ToolExecuting(_) | Self::Custom(_) => Class::Content,
        }
    }

    /// Whether it ends its span.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Error)
    }
}

/// An event on its way into a log.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// What happened.
    pub kind: EventKind<'a>,
    /// Which agent; the innermost open span's when absent.
    pub agent: Option<&'a str>,
    /// One line for people.
    pub message: Option<&'a str>,
    /// A JSON object that is not closed yet: `{"status":"started"`.
    pub payload: &'a str,
    /// Whether the payload lacks `execution_time_ms` and wants it from the log.
    pub timed: bool,
    /// What not every event has.
    pub extra: Extra<'a>,
}

impl Draft<'_> {
    /// Its class.
    pub fn class(&self) -> Class {
        self.extra.class.unwrap_or(self.kind.class())
    }

    /// How soon readers must know of it, when it is published at `now`.
    pub(super) fn urgency(&self, now: Micros) -> Urgency {
        self.class().urgency(self.extra.delta.is_some(), now)
    }
}

/// Why an event was not accepted. Nothing of it is in the text: errors are logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// It breaks the order of its span, or its type or payload is not allowed.
    #[error("{reason}")]
    Invalid {
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The stream has ended.
    #[error("the run's event stream has ended; publish before the engine or emitter is cleaned up")]
    Closed,
    /// Another worker publishes the run, and this one only shows it.
    #[error(
        "the run goes on in another worker, and this one only shows its events; publish, end and cancel it where it runs"
    )]
    Elsewhere,
    /// Too large.
    #[error(
        "the event is {bytes} bytes, the limit is {limit}; store the data and send where it is, or raise max_event_bytes"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The log, the user or the process has no room, even after folding.
    #[error("no room for the event: {what} is full ({limit}); end runs, or raise the bound")]
    Budget {
        /// Which bound.
        what: &'static str,
        /// Whose it is: `run`, `user` or `process`.
        scope: &'static str,
        /// The bound.
        limit: usize,
    },
    /// It belongs to another user.
    #[error(transparent)]
    Isolation(#[from] IsolationViolation),
}

impl EventError {
    /// An invalid event.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }
}
