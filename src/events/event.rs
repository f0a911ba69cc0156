//! What is published, and why it may be refused.

use crate::owner::IsolationViolation;

/// An event larger than this is refused, unless configured otherwise.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;

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

    /// The class: 1 critical, 2 content, 3 progress, 4 debug.
    pub fn class(&self) -> u8 {
        match self {
            Self::Started | Self::Completed | Self::Error | Self::ToolCompleted(_) => 1,
            Self::Thinking | Self::ToolExecuting(_) | Self::Custom(_) => 2,
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
