//! Event delivery: one append-only log per root run, and connections that are cursors into the logs of their user.

mod client_frame;
mod connection;
pub mod deflate;
mod event;
mod failures;
mod fold;
pub mod frame;
pub mod json;
mod log;
mod replica;
mod span;
pub mod sse;
mod streams;

pub use client_frame::{Acks, ClientFrame};
pub use connection::{ACK_EVENTS, Connection, ConnectionView, CursorMode, Options, Parking, SubscribeMode, Wake};
pub use event::{Class, Delta, Draft, EventError, EventKind, Extra, MAX_EVENT_BYTES, Urgency};
pub use failures::FailedEvent;
pub use frame::CancelState;
pub use log::{
    Chunk, Deliveries, Glance, Level, LogAccount, LogBounds, Malformed, MirrorError, Outcome, OutlineItem, OutlineKind,
    RunLog, StreamView, StreamWriter, set_late,
};
pub use replica::{Append, ReplicaFigures, ReplicaSlot, Replicator};
pub use span::SpanScope;
pub use streams::{MAX_STREAMS, Streams};
