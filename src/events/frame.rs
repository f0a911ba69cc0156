//! The frames of `isolane.v1`.
//!
//! Only `ev` and `snap` move a client's position; control frames carry no number of their own.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::connection::SubscribeMode;
use super::json;
use super::log::{Item, Outcome, RunLog, StreamView};
use crate::ids::MAX_ID_CHARS;

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "isolane.v1";
/// Most events in one frame.
pub const BATCH_EVENTS: usize = 16;
/// A frame is closed when it is this long, in bytes.
pub const BATCH_BYTES: usize = 64 * 1024;

fn open(kind: &str) -> String {
    let mut out = String::with_capacity(128);
    out.push_str("{\"v\":1");
    json::text_member(&mut out, "t", kind);
    out
}

fn open_for(kind: &str, log: &RunLog) -> String {
    let mut out = open(kind);
    json::text_member(&mut out, "s", log.run().as_str());
    json::text_member(&mut out, "e", log.epoch());
    out
}

fn close(mut out: String) -> String {
    out.push('}');
    out
}

/// The first frame of a connection.
pub fn welcome(connection: &str, streams: &[StreamView], ping_ms: u64) -> String {
    let mut out = open("welcome");
    json::text_member(&mut out, "conn", connection);
    json::key(&mut out, "streams");
    out.push('[');
    for (at, stream) in streams.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push('{');
        json::text_member(&mut out, "s", stream.run.as_str());
        json::text_member(&mut out, "e", &stream.epoch);
        json::number_member(&mut out, "n", stream.head);
        json::text_member(
            &mut out,
            "state",
            if stream.ended.is_some() { "ended" } else { "running" },
        );
        json::text_member(&mut out, "thread_id", stream.thread.as_str());
        out.push('}');
    }
    out.push(']');
    json::number_member(&mut out, "ping_ms", ping_ms);
    close(out)
}

/// The answer to a subscription.
pub(super) fn subscribed(log: &RunLog, mode: SubscribeMode, position: u64) -> String {
    let mut out = open_for("sub", log);
    json::text_member(&mut out, "mode", mode.name());
    json::number_member(&mut out, "n", position);
    json::number_member(&mut out, "head", log.head());
    close(out)
}

/// The answer to a subscription to a stream that is not there, or not the asker's: the same answer.
pub(super) fn gone(stream: &str) -> String {
    let mut out = open("sub");
    json::text_member(&mut out, "s", stream);
    json::text_member(&mut out, "mode", SubscribeMode::Gone.name());
    close(out)
}

/// Events in log order.
pub(super) fn events(log: &RunLog, entries: &[Item<'_>]) -> String {
    let mut out = open_for("ev", log);
    json::key(&mut out, "b");
    out.push('[');
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push('{');
        json::number_member(&mut out, "n", entry.number);
        json::number_member(&mut out, "f", entry.first);
        json::number_member(&mut out, "p", u64::from(entry.class));
        json::number_member(&mut out, "ts", entry.unix / 1_000);
        json::key(&mut out, "id");
        log.write_event_id(&mut out, entry.number, entry.id);
        json::key(&mut out, "ev");
        out.push_str(&entry.text);
        out.push('}');
    }
    out.push(']');
    close(out)
}

/// The snapshot that stands for everything up to `number`.
pub(super) fn snapshot(log: &RunLog, number: u64, messages: &[Cow<'_, str>]) -> String {
    let mut out = open_for("snap", log);
    json::number_member(&mut out, "n", number);
    json::key(&mut out, "b");
    out.push('[');
    for (at, message) in messages.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(message);
    }
    out.push(']');
    close(out)
}

/// The end of a stream.
pub(super) fn end(log: &RunLog, number: u64, outcome: Outcome) -> String {
    let mut out = open_for("end", log);
    json::number_member(&mut out, "n", number);
    json::text_member(&mut out, "outcome", outcome.name());
    close(out)
}

/// A question whether the client is still there, with the latest number of each stream.
pub(super) fn ping<'a>(heads: impl Iterator<Item = (&'a str, u64)>) -> String {
    let mut out = open("ping");
    json::key(&mut out, "head");
    out.push('{');
    for (run, head) in heads {
        json::number_member(&mut out, run, head);
    }
    out.push('}');
    close(out)
}

/// The announcement that the server closes the connection.
pub fn bye(code: u16, retry_ms: u64) -> String {
    let mut out = open("bye");
    json::number_member(&mut out, "code", u64::from(code));
    json::number_member(&mut out, "retry_ms", retry_ms);
    close(out)
}

#[derive(Deserialize)]
struct RawFrame {
    t: String,
    s: Option<Value>,
    e: Option<Value>,
    n: Option<Value>,
}

/// Other frames than `sub` may have anything under the same names.
fn string(value: Option<Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// It wants a stream, from a position of an epoch if it has one. A position that is no number is none.
    Subscribe {
        /// The stream.
        stream: String,
        /// The incarnation that the position belongs to.
        epoch: Option<String>,
        /// The latest number that the client has.
        position: Option<u64>,
    },
    /// It is still there.
    Pong,
    /// A frame of a later version, to be ignored.
    Unknown,
}

impl ClientFrame {
    /// Reads a frame. The error says what is wrong with it, and nothing of what is in it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let raw: RawFrame = serde_json::from_str(text).map_err(|_| "a frame must be a JSON object with a string t")?;
        match raw.t.as_str() {
            "sub" => Ok(Self::Subscribe {
                stream: string(raw.s)
                    .filter(|stream| stream.chars().count() <= MAX_ID_CHARS)
                    .ok_or("a sub frame names its stream in s")?,
                epoch: string(raw.e),
                position: raw.n.and_then(|n| n.as_u64()),
            }),
            "pong" => Ok(Self::Pong),
            _ => Ok(Self::Unknown),
        }
    }
}
