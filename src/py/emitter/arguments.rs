//! The arguments of the six, in both signatures.

use std::borrow::Cow;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::super::errors::InvalidEvent;
use crate::events::EventKind;
use crate::ids;

/// Most characters of an agent's, a tool's or an event type's name.
pub(super) const MAX_NAME: usize = 128;

/// One of the six, with its names in both signatures.
pub(super) struct Method {
    pub(super) name: &'static str,
    /// Positional order of the first seed: agent, run, then these.
    first: &'static [&'static str],
    /// Positional order of the second seed.
    second: &'static [&'static str],
    forms: &'static str,
    /// What is published, for the name of a tool where there is one.
    pub(super) kind: for<'a> fn(&'a str) -> EventKind<'a>,
    /// Whether the payload gets the time that the call or the execution took.
    pub(super) timed: bool,
    /// Keywords that neither signature has.
    keywords: &'static [&'static str],
}

pub(super) const STARTED: Method = Method {
    name: "notify_agent_started",
    first: &["agent_name", "run_id"],
    second: &["agent_type", "metadata"],
    forms: "notify_agent_started(agent_name, run_id) or notify_agent_started(agent_type, metadata=None)",
    kind: |_| EventKind::Started,
    timed: false,
    keywords: &[],
};
pub(super) const THINKING: Method = Method {
    name: "notify_agent_thinking",
    first: &["agent_name", "run_id", "thinking"],
    second: &["content", "metadata"],
    forms: "notify_agent_thinking(agent_name, run_id, thinking) or notify_agent_thinking(content, metadata=None)",
    kind: |_| EventKind::Thinking,
    timed: false,
    keywords: &[],
};
pub(super) const TOOL_EXECUTING: Method = Method {
    name: "notify_tool_executing",
    first: &["agent_name", "run_id", "tool_name", "tool_input"],
    second: &["tool_name", "params"],
    forms: "notify_tool_executing(agent_name, run_id, tool_name, tool_input) or notify_tool_executing(tool_name, params)",
    kind: |tool| EventKind::ToolExecuting(tool),
    timed: false,
    keywords: &[],
};
pub(super) const TOOL_COMPLETED: Method = Method {
    name: "notify_tool_completed",
    first: &["agent_name", "run_id", "tool_name", "tool_output"],
    second: &["tool_name", "result"],
    forms: "notify_tool_completed(agent_name, run_id, tool_name, tool_output) or notify_tool_completed(tool_name, result=…)",
    kind: |tool| EventKind::ToolCompleted(tool),
    timed: true,
    keywords: &["error"],
};
pub(super) const COMPLETED: Method = Method {
    name: "notify_agent_completed",
    first: &["agent_name", "run_id", "result"],
    second: &["result", "metadata"],
    forms: "notify_agent_completed(agent_name, run_id, result) or notify_agent_completed(result=…, metadata=None)",
    kind: |_| EventKind::Completed,
    timed: true,
    keywords: &[],
};
pub(super) const ERROR: Method = Method {
    name: "notify_agent_error",
    first: &["agent_name", "run_id", "error"],
    second: &["error", "metadata"],
    forms: "notify_agent_error(agent_name, run_id, error) or notify_agent_error(error=…, metadata=None)",
    kind: |_| EventKind::Error,
    timed: true,
    keywords: &[],
};

/// Keywords that only the first seed has.
const FIRST_ONLY: [&str; 4] = ["run_id", "thinking", "tool_input", "tool_output"];

/// More arguments than any of the six has names for.
const MAX_ARGUMENTS: usize = 8;

/// The arguments of one call, whichever signature was meant.
#[derive(Default)]
pub(super) struct Call<'py> {
    values: [Option<(&'static str, Bound<'py, PyAny>)>; MAX_ARGUMENTS],
}

impl Method {
    /// The type of its events.
    pub(super) fn event_type(&self) -> &'static str {
        self.name.trim_start_matches("notify_")
    }

    pub(super) fn wrong(&self, why: &str) -> PyErr {
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

    pub(super) fn bind<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Call<'py>> {
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
                .chain(self.keywords)
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
    pub(super) fn get(&self, names: &[&str]) -> Option<&Bound<'py, PyAny>> {
        names.iter().find_map(|name| {
            let mut values = self.values.iter().map_while(Option::as_ref);
            let (_, value) = values.find(|(known, _)| known == name)?;
            let present = !value.is_none() || *name == "result" || *name == "tool_output";
            present.then_some(value)
        })
    }

    pub(super) fn text(&self, names: &[&str]) -> PyResult<Option<Cow<'_, str>>> {
        self.get(names).map(|value| name_of(value, names[0])).transpose()
    }

    pub(super) fn metadata(&self) -> PyResult<Option<&Bound<'py, PyDict>>> {
        let Some(value) = self.get(&["metadata"]) else {
            return Ok(None);
        };
        match value.cast::<PyDict>() {
            Ok(metadata) => Ok(Some(metadata)),
            Err(_) => Err(PyTypeError::new_err("metadata must be a dict")),
        }
    }
}

pub(super) fn name_of<'a>(value: &'a Bound<'_, PyAny>, what: &str) -> PyResult<Cow<'a, str>> {
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

pub(super) fn checked_name<'a>(py: Python<'_>, text: &'a str, what: &str) -> PyResult<&'a str> {
    if ids::is_graphic(text.as_bytes()) && text.len() <= MAX_NAME {
        return Ok(text);
    }
    if text.trim().is_empty() || text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        let why = format!("{what} must have 1 to {MAX_NAME} characters and no control characters");
        return Err(InvalidEvent::raise(py, why));
    }
    Ok(text)
}
