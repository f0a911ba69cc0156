//! Event delivery: one append-only log per root run, and connections that are cursors into the logs of their user.

mod connection;
mod event;
mod fold;
pub mod frame;
pub mod json;
mod log;
mod span;
mod streams;

pub use connection::{Connection, CursorMode, SubscribeMode, Wake};
pub use event::{Class, Delta, Draft, EventError, EventKind, Extra, MAX_EVENT_BYTES, Urgency};
pub use frame::ClientFrame;
pub use log::{Level, LogBounds, Outcome, RunLog, StreamView, StreamWriter};
pub use span::SpanScope;
pub use streams::{MAX_STREAMS, Streams};
