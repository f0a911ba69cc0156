//! The payload of an event: an object that stays open.

use std::borrow::Cow;
use std::cell::Cell;

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::super::errors::InvalidEvent;
use super::super::json::{exception_text, write, write_members_except};
use crate::events::json;
use crate::ids;
use crate::sanitize::{EventTexts, KeyRule};

/// Most characters of an error's text: the end of an execution must fit into the log whatever was raised.
pub(super) const MAX_ERROR_TEXT: usize = 4_000;

thread_local! {
    /// The text of the last payload, emptied: most payloads need as much room as the one before.
    static SPARE: Cell<String> = const { Cell::new(String::new()) };
}

/// What one large payload needed is not kept for the small ones.
const KEPT_SPARE: usize = 16 * 1024;

/// Builds the payload: an object that stays open.
pub(super) struct Payload<'py, 'e> {
    py: Python<'py>,
    texts: EventTexts<'e>,
    pub(super) out: String,
}

impl Drop for Payload<'_, '_> {
    fn drop(&mut self) {
        if self.out.capacity() <= KEPT_SPARE {
            SPARE.set(std::mem::take(&mut self.out));
        }
    }
}

impl<'py, 'e> Payload<'py, 'e> {
    pub(super) fn new(py: Python<'py>, texts: EventTexts<'e>) -> Self {
        // Writing may run Python code that publishes: that finds no spare and makes its own.
        let mut out = SPARE.take();
        out.clear();
        out.push('{');
        Self { py, texts, out }
    }

    /// A text as it may be shown.
    pub(super) fn shown<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.texts.shown(text, KeyRule::Plain)
    }

    pub(super) fn text(mut self, name: &str, value: &str) -> Self {
        json::text_member(&mut self.out, name, value);
        self
    }

    pub(super) fn value(mut self, name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        json::key(&mut self.out, name);
        match value {
            None => self.out.push_str("null"),
            Some(value) => {
                write(&mut self.out, value, name, &self.texts).map_err(|error| InvalidEvent::raise(self.py, error))?;
            }
        }
        Ok(self)
    }

    /// The part of a text that `dict` holds, and the text's name, first. Answers where the contents of the part lie.
    pub(super) fn delta(mut self, dict: Option<&Bound<'_, PyDict>>, message: &str) -> PyResult<(Self, (usize, usize))> {
        let part = dict
            .map(|dict| dict.get_item(intern!(self.py, "delta")))
            .transpose()?
            .flatten();
        let Some(part) = part.as_ref().and_then(|part| part.cast::<PyString>().ok()) else {
            let why =
                "an event with a message_id is a part of a text: its payload must have the part as a string, delta";
            return Err(InvalidEvent::raise(self.py, why.to_owned()));
        };
        json::text_member(&mut self.out, "message_id", message);
        json::key(&mut self.out, "delta");
        let from = self.out.len() + 1;
        write(&mut self.out, part, "delta", &self.texts).map_err(|error| InvalidEvent::raise(self.py, error))?;
        if !self.out[from - 1..].starts_with('"') {
            let why = "delta must be a plain string";
            return Err(InvalidEvent::raise(self.py, why.to_owned()));
        }
        let to = self.out.len() - 1;
        Ok((self, (from, to)))
    }

    pub(super) fn members(mut self, dict: Option<&Bound<'_, PyDict>>, except: &[&str]) -> PyResult<Self> {
        if let Some(dict) = dict {
            write_members_except(&mut self.out, dict, except, &self.texts)
                .map_err(|error| InvalidEvent::raise(self.py, error))?;
        }
        Ok(self)
    }
}

impl<'py, 'e> Payload<'py, 'e> {
    /// That a tool is called.
    pub(super) fn tool_executing(
        self,
        tool: Cow<'e, str>,
        parameters: Option<&Bound<'_, PyAny>>,
        metadata: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Built<'py, 'e>> {
        let payload = self
            .text("tool_name", &tool)
            .value("parameters", parameters)?
            .text("status", "executing")
            .members(metadata, &["tool_name", "parameters", "status"])?;
        let message = Some(joined("Running ", &tool));
        Ok(Built { payload, tool, message })
    }

    /// That a call of a tool ended: with an error, or else with a result.
    pub(super) fn tool_completed(
        self,
        tool: Cow<'e, str>,
        result: Option<&Bound<'_, PyAny>>,
        error: Option<&str>,
        metadata: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Built<'py, 'e>> {
        let payload = self.text("tool_name", &tool);
        let payload = match error {
            None => payload.value("result", result)?.text("status", "completed"),
            Some(error) => payload.text("status", "error").text("error", error),
        };
        let except = ["tool_name", "result", "status", "error", "execution_time_ms"];
        let payload = payload.members(metadata, &except)?;
        let message = Some(joined(&tool, if error.is_none() { " completed" } else { " failed" }));
        Ok(Built { payload, tool, message })
    }
}

/// What is particular to one of the six.
pub(super) struct Built<'py, 'call> {
    pub(super) payload: Payload<'py, 'call>,
    pub(super) tool: Cow<'call, str>,
    pub(super) message: Option<String>,
}

/// Two texts as one.
pub(super) fn joined(first: &str, second: &str) -> String {
    let mut text = String::with_capacity(first.len() + second.len());
    text.push_str(first);
    text.push_str(second);
    text
}

/// The text of an error and its class. It is longer than what is shown of it: what is masked must not be cut before.
pub(super) fn error_text(error: &Bound<'_, PyAny>) -> PyResult<(String, Option<String>)> {
    if error.is_instance_of::<PyBaseException>() {
        let kind = error.get_type().name()?.to_string();
        return Ok((
            ids::cut(&exception_text(error), 2 * MAX_ERROR_TEXT).to_owned(),
            Some(kind),
        ));
    }
    Ok((
        ids::cut(&error.str()?.to_string_lossy(), 2 * MAX_ERROR_TEXT).to_owned(),
        None,
    ))
}
