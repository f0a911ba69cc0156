//! The message that every client gets.

use std::cell::Cell;

use super::RunLog;
use crate::clock::{Micros, write_iso8601};
use crate::events::event::Draft;
use crate::events::json;
use crate::events::span::Placed;
use crate::ids::{RunId, ThreadId};
use crate::mutants::mutant;

thread_local! {
    /// Where a thread writes a message before it is kept in its own size: one text for all logs stays in the processor's cache.
    /// It is emptied before each use.
    pub(super) static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

/// What one large event needed is not kept for the small ones.
pub(super) const KEPT_BUFFER: usize = 16 * 1024;

/// What is the same in all messages of a log, written once.
pub(super) struct Envelope {
    /// `,"run_id":"…"`, and from `thread` on `,"thread_id":"…"`.
    text: Box<str>,
    thread: usize,
}

impl Envelope {
    pub(super) fn new(run: &RunId, thread: &ThreadId) -> Self {
        let mut text = String::new();
        json::text_member(&mut text, "run_id", run.as_str());
        let at = text.len();
        json::text_member(&mut text, "thread_id", thread.as_str());
        Self {
            text: text.into_boxed_str(),
            thread: at,
        }
    }

    pub(super) fn run(&self) -> &str {
        &self.text[..self.thread]
    }

    pub(super) fn thread(&self) -> &str {
        &self.text[self.thread..]
    }
}

impl RunLog {
    /// Writes the message that every client gets. The envelope is written here and nowhere else, so that no payload can
    /// reach it. Answers as well where the payload begins.
    pub(super) fn message(
        &self,
        out: &mut String,
        placed: &Placed,
        draft: Draft<'_>,
        number: u64,
        unix: Micros,
    ) -> (Box<str>, usize) {
        out.clear();
        out.push_str("{\"type\":");
        json::string(out, draft.kind.name());
        if let Some(agent) = placed.agent.as_deref().or(draft.agent) {
            out.push_str(",\"agent_name\":");
            json::string(out, agent);
        }
        out.push_str(self.envelope.run());
        out.push_str(",\"timestamp\":\"");
        write_iso8601(out, unix);
        out.push('"');
        if let Some(message) = draft.message {
            out.push_str(",\"message\":");
            json::string(out, message);
        }
        out.push_str(self.envelope.thread());
        out.push_str(",\"event_id\":");
        self.write_event_id(out, number, draft.extra.event_id);
        out.push_str(",\"request_id\":");
        json::string(out, &placed.id);
        if let Some(parent) = placed.parent.as_deref() {
            out.push_str(",\"parent_request_id\":");
            json::string(out, parent);
        }
        if let Some(trace) = draft.extra.trace.filter(|_| !mutant!(TraceNotPublished)) {
            // Hexadecimal digits and dashes: nothing to escape.
            out.push_str(",\"traceparent\":\"");
            out.push_str(trace.parent());
            out.push('"');
        }
        out.push_str(",\"payload\":");
        let payload_at = out.len();
        out.push_str(draft.payload);
        if let Some(took) = placed.took.filter(|_| draft.timed) {
            json::key(out, "execution_time_ms");
            json::float(out, took as f64 / 1e3);
        }
        out.push_str("},\"seq\":");
        json::number(out, number);
        out.push('}');
        // Exactly as large as it is: the buffer stays with the log.
        (Box::from(out.as_str()), payload_at)
    }

    /// The id of an event, quoted: its producer's `own`, else one that is unique, because the epoch is.
    pub(in crate::events) fn write_event_id(&self, out: &mut String, number: u64, own: Option<&str>) {
        if let Some(own) = own {
            return json::string(out, own);
        }
        out.push_str("\"evt_");
        out.push_str(&self.epoch);
        out.push('_');
        json::number(out, number);
        out.push('"');
    }
}
