//! The frames of `isolane.v1` that the server sends.
//!
//! Only `ev`, `skip` and `snap` move a client's position; control frames carry no number of their own.

use std::borrow::Cow;

use super::connection::SubscribeMode;
use super::json;
use super::log::{Item, Outcome, RunLog, StreamView};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "isolane.v1";
/// Most events in one frame.
pub const BATCH_EVENTS: usize = 16;
/// A frame is closed when it is this long, in bytes.
pub const BATCH_BYTES: usize = 64 * 1024;
/// How frames are compressed: what a client asks for, and what the welcome confirms.
pub const COMPRESSION: &str = "deflate-raw";

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

/// What a welcome says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Welcome<'a> {
    /// The connection's name.
    pub(super) connection: &'a str,
    /// The user's streams.
    pub(super) streams: &'a [StreamView],
    /// A client that is silent for so long is asked whether it is there.
    pub(super) ping_ms: u64,
    /// How often in a row the client is to try again; 0 for ever.
    pub(super) reconnect_attempts: u64,
    /// After so many events of a run at the latest it acknowledges.
    pub(super) ack_events: u32,
    /// Whether large frames come compressed.
    pub(super) compresses: bool,
}

/// The first frame of a connection.
pub(super) fn welcome(welcome: &Welcome<'_>) -> String {
    let mut out = open("welcome");
    json::text_member(&mut out, "conn", welcome.connection);
    json::key(&mut out, "streams");
    out.push('[');
    for (at, stream) in welcome.streams.iter().enumerate() {
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
    json::number_member(&mut out, "ping_ms", welcome.ping_ms);
    json::key(&mut out, "reconnect");
    out.push('{');
    json::number_member(&mut out, "attempts", welcome.reconnect_attempts);
    out.push('}');
    json::key(&mut out, "ack");
    out.push('{');
    json::number_member(&mut out, "events", u64::from(welcome.ack_events));
    out.push('}');
    if welcome.compresses {
        json::text_member(&mut out, "z", COMPRESSION);
    }
    close(out)
}

/// The answer to a subscription.
pub(super) fn subscribed(log: &RunLog, mode: SubscribeMode, position: u64) -> String {
    let mut out = open_for("sub", log);
    json::text_member(&mut out, "mode", mode.name());
    json::number_member(&mut out, "n", position);
    // A mirror may be behind what its client has from the writer.
    json::number_member(&mut out, "head", log.head().max(position));
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
        if entry.skipped > 0 {
            json::number_member(&mut out, "k", entry.skipped);
        }
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

/// Numbers of which nothing is delivered.
pub(super) fn skip(log: &RunLog, first: u64, last: u64, skipped: u64) -> String {
    let mut out = open_for("skip", log);
    json::number_member(&mut out, "f", first);
    json::number_member(&mut out, "n", last);
    json::number_member(&mut out, "k", skipped);
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

/// The announcement that the sign-in of a connection ends soon.
pub(super) fn auth_expiring(expires_in_ms: u64) -> String {
    let mut out = open("auth_expiring");
    json::number_member(&mut out, "expires_in_ms", expires_in_ms);
    close(out)
}

/// The answer to a client that signed in again on its connection. Without a time the sign-in does not end by itself.
pub(super) fn auth_refreshed(expires_in_ms: Option<u64>) -> String {
    let mut out = open("auth_refreshed");
    if let Some(expires_in_ms) = expires_in_ms {
        json::number_member(&mut out, "expires_in_ms", expires_in_ms);
    }
    close(out)
}

/// What became of a client's wish to cancel a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelState {
    /// It is being cancelled.
    Accepted,
    /// It has ended already.
    Ended,
    /// There is no such run for this client.
    Gone,
}

impl CancelState {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Ended => "ended",
            Self::Gone => "gone",
        }
    }
}

/// The answer to a client that asked to cancel a run.
pub(super) fn cancelled(run: &str, command: Option<&str>, state: CancelState) -> String {
    let mut out = open("cancel");
    json::text_member(&mut out, "s", run);
    if let Some(command) = command {
        json::text_member(&mut out, "cid", command);
    }
    json::text_member(&mut out, "state", state.name());
    close(out)
}
