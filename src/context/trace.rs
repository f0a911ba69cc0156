//! Where a run stands in a trace, in the form that the W3C gave it.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether anybody traces: what publishing looks at before it looks for a trace.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Length of `00-{trace}-{span}-{flags}`.
const PARENT_LENGTH: usize = 55;
/// Most characters of a `tracestate` that is passed on.
const MAX_STATE: usize = 512;

/// Contexts take their place in a trace from now on, and events say it; or they do not.
pub fn set_tracing(on: bool) {
    IS_ON.store(on, Ordering::Relaxed);
}

/// Whether anybody traces.
pub fn is_traced() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// A span of a trace: `traceparent`, and perhaps the `tracestate` that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    parent: Box<str>,
    state: Option<Box<str>>,
    is_remote: bool,
}

impl TraceContext {
    /// Checks both. What is no `traceparent` of version 00 is none; a `tracestate` that may not be passed on is left out, as the
    /// recommendation has it.
    pub fn new(parent: &str, state: Option<&str>, is_remote: bool) -> Option<Self> {
        is_parent(parent).then(|| Self {
            parent: parent.into(),
            state: state.filter(|state| is_state(state)).map(Box::from),
            is_remote,
        })
    }

    /// The `traceparent`.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Whether another process began the span: samplers may trust it less.
    pub fn is_remote(&self) -> bool {
        self.is_remote
    }
}

fn is_parent(text: &str) -> bool {
    let hex = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let some = |part: &str| hex(part) && part.bytes().any(|byte| byte != b'0');
    if text.len() != PARENT_LENGTH || !text.is_ascii() {
        return false;
    }
    let dashes = [2, 35, 52].into_iter().all(|at| text.as_bytes()[at] == b'-');
    dashes && &text[..2] == "00" && some(&text[3..35]) && some(&text[36..52]) && hex(&text[53..])
}

fn is_state(text: &str) -> bool {
    let printable = |byte: u8| (b' '..=b'~').contains(&byte);
    !text.is_empty() && text.len() <= MAX_STATE && text.bytes().all(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_what_the_recommendation_says() {
        let read = |text: &str| TraceContext::new(text, None, false).is_some();
        assert!(read(PARENT));
        assert!(read(&PARENT.replace("-01", "-00")));
        let wrong = [
            String::new(),
            PARENT.to_uppercase(),
            PARENT.replace("00-0", "01-0"),
            PARENT.replace("00-0", "ff-0"),
            PARENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            PARENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            PARENT.replace('-', "_"),
            PARENT.replace("-01", "-0\""),
            format!("{PARENT}0"),
            PARENT[1..].to_owned(),
            PARENT.replace("af76", "é76"),
        ];
        for text in wrong {
            assert!(!read(&text), "{text}");
        }
    }

    #[test]
    fn a_tracestate_that_may_not_go_on_is_left_out_alone() {
        let state =
            |text: &str| TraceContext::new(PARENT, Some(text), true).and_then(|trace| trace.state().map(str::to_owned));
        assert_eq!(state("congo=t61rcWkgMzE").as_deref(), Some("congo=t61rcWkgMzE"));
        assert_eq!(state(""), None);
        assert_eq!(state("a=b\r\nx: y"), None);
        assert_eq!(state(&"a".repeat(MAX_STATE + 1)), None);
    }
}
