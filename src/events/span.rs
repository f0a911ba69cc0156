//! Spans: each agent execution is one, from `agent_started` to exactly one of `agent_completed` and `agent_error`.

use std::collections::HashMap;
use std::sync::Arc;

use super::event::{EventError, EventKind};
use crate::clock::Micros;
use crate::context::TraceContext;
use crate::ids::{self, RequestId};
use crate::mutants::mutant;

/// Most spans of one run.
pub(super) const MAX_SPANS: u32 = 10_000;
/// Most tool calls open in one span.
const MAX_OPEN_TOOLS: usize = 256;

/// The context that publishes.
#[derive(Debug, Clone)]
pub struct SpanScope {
    /// Its request id, which names its first span.
    pub request: RequestId,
    /// The request that started it.
    pub parent: Option<RequestId>,
}

/// A tool call that has not ended.
#[derive(Debug, Clone)]
pub(super) struct OpenTool {
    pub(super) name: Box<str>,
    /// Tells the calls of a span apart.
    call: u32,
    since: Micros,
}

/// A span that has not ended.
#[derive(Debug, Clone)]
pub(super) struct Span {
    /// Counts the spans of the run.
    pub(super) index: u32,
    pub(super) id: Arc<str>,
    pub(super) parent: Option<Arc<str>>,
    scope: Box<str>,
    pub(super) agent: Arc<str>,
    pub(super) since: Micros,
    /// Executions around it, itself included.
    depth: u16,
    pub(super) tools: Vec<OpenTool>,
    calls: u32,
    /// Where its beginning stood in a trace, for what the log itself writes at its end.
    pub(super) trace: Option<Box<TraceContext>>,
}

/// What the log needs to know to write an event of a span.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) index: u32,
    pub(super) id: Arc<str>,
    pub(super) parent: Option<Arc<str>>,
    pub(super) agent: Option<Arc<str>>,
    /// How long the tool call or the span took.
    pub(super) took: Option<Micros>,
    /// Which tool call of the span begins or ends.
    pub(super) call: u32,
}

/// The spans of one run.
#[derive(Debug, Default)]
pub(super) struct SpanBook {
    /// Open spans in the order in which they began.
    open: Vec<Span>,
    /// Ids of spans, with the last number that was added to each: the second span of a request needs a name of its own.
    used: HashMap<Box<str>, u32>,
    /// Bytes of `used`.
    used_bytes: usize,
    count: u32,
    failed: u32,
    completed: u32,
    /// The agent of the first execution.
    first: Option<Arc<str>>,
    /// The most executions within each other.
    deepest: u16,
}

impl SpanBook {
    /// The agent of the first execution.
    pub(super) fn first(&self) -> Option<&Arc<str>> {
        self.first.as_ref()
    }

    /// How many executions have begun, and how many of them were within each other at the most.
    pub(super) fn extent(&self) -> (u32, u16) {
        (self.count, self.deepest)
    }

    /// Open spans in the order in which they began.
    pub(super) fn open(&self) -> &[Span] {
        &self.open
    }

    /// Notes where an open span stands in a trace.
    pub(super) fn note_trace(&mut self, index: u32, trace: &TraceContext) {
        if let Some(span) = self.open.iter_mut().find(|span| span.index == index) {
            span.trace = Some(Box::new(trace.clone()));
        }
    }

    pub(super) fn is_open(&self, index: u32) -> bool {
        self.open.iter().any(|span| span.index == index)
    }

    /// Spans that completed and spans that failed.
    pub(super) fn ended(&self) -> (u32, u32) {
        (self.completed, self.failed)
    }

    /// Whether an event of a tool has its place.
    pub(super) fn has_execution(&self, scope: &SpanScope) -> bool {
        self.find(scope, None).is_some()
    }

    fn find(&self, scope: &SpanScope, agent: Option<&str>) -> Option<usize> {
        self.open
            .iter()
            .rposition(|span| &*span.scope == scope.request.as_str() && agent.is_none_or(|agent| agent == &*span.agent))
    }

    fn start(&mut self, scope: &SpanScope, agent: Option<&str>, now: Micros) -> Result<usize, EventError> {
        let Some(agent) = agent else {
            return Err(EventError::invalid("agent_started names no agent; pass its name"));
        };
        if self.find(scope, Some(agent)).is_some() {
            return Err(EventError::invalid(format!(
                "agent {} has started already and has not ended; send agent_completed or agent_error first, or use a child \
                 context for the second execution",
                quoted(agent)
            )));
        }
        if self.count >= MAX_SPANS {
            return Err(EventError::Budget {
                what: "the run's number of agent executions",
                scope: "run",
                limit: MAX_SPANS as usize,
            });
        }
        let request = scope.request.as_str();
        let (id, parent) = if self.used.contains_key(request) && !mutant!(SpanIdReused) {
            (self.derived_id(request), Some(Arc::from(request)))
        } else {
            (
                request.to_owned(),
                scope.parent.as_ref().map(|parent| Arc::from(parent.as_str())),
            )
        };
        self.note_used(request);
        self.note_used(&id);
        self.count += 1;
        let agent: Arc<str> = Arc::from(agent);
        let around = |parent: &Arc<str>| self.open.iter().rev().find(|span| span.id == *parent);
        let depth = 1 + parent.as_ref().and_then(around).map_or(0, |span| span.depth);
        self.deepest = self.deepest.max(depth);
        self.first.get_or_insert_with(|| agent.clone());
        self.open.push(Span {
            index: self.count,
            id: id.into(),
            parent,
            scope: Box::from(request),
            agent,
            since: now,
            depth,
            tools: Vec::new(),
            calls: 0,
            trace: None,
        });
        Ok(self.open.len() - 1)
    }

    fn note_used(&mut self, id: &str) {
        if !self.used.contains_key(id) {
            self.used.insert(Box::from(id), 1);
            self.used_bytes += id.len() + size_of::<(Box<str>, u32)>();
        }
    }

    /// Bytes of the ids that are remembered.
    pub(super) fn bytes(&self) -> usize {
        self.used_bytes
    }

    /// The stream has ended: no new span will need a name.
    pub(super) fn forget_ids(&mut self) {
        self.used = HashMap::new();
        self.used_bytes = 0;
    }

    /// A name for the second and further spans of a request: `{request}#2`. A child's name continues with `_`, so the two kinds
    /// do not meet; should somebody have chosen such a request id, the next number is taken.
    fn derived_id(&mut self, request: &str) -> String {
        let mut count = self.used.get(request).copied().unwrap_or(1);
        loop {
            count += 1;
            let id = format!("{}#{count}", ids::cut(request, 240));
            if !self.used.contains_key(id.as_str()) {
                self.used.insert(Box::from(request), count);
                return id;
            }
        }
    }

    /// Finds the place of an event, and refuses one that has none. Changes nothing when it refuses.
    pub(super) fn place(
        &mut self,
        scope: &SpanScope,
        kind: EventKind<'_>,
        agent: Option<&str>,
        now: Micros,
    ) -> Result<Placed, EventError> {
        let at = match kind {
            EventKind::Started => Some(self.start(scope, agent, now)?),
            _ => self.find(scope, agent),
        };
        let Some(at) = at else {
            if let EventKind::Custom(_) = kind {
                // An application's own event needs no agent around it.
                return Ok(Placed {
                    index: 0,
                    id: scope.request.shared().clone(),
                    parent: scope.parent.as_ref().map(|parent| parent.shared().clone()),
                    agent: agent.map(Arc::from),
                    took: None,
                    call: 0,
                });
            }
            let who = agent.map_or_else(
                || "no agent".to_owned(),
                |agent| format!("agent {} has not", quoted(agent)),
            );
            let verb = if agent.is_some() {
                "started, or has ended already"
            } else {
                "has started, or it has ended already"
            };
            return Err(EventError::invalid(format!(
                "{} before agent_started: {who} {verb}",
                kind.name()
            )));
        };
        let span = &mut self.open[at];
        let mut elapsed = None;
        let mut call = 0;
        match kind {
            EventKind::ToolExecuting(tool) => {
                if span.tools.len() >= MAX_OPEN_TOOLS {
                    return Err(EventError::Budget {
                        what: "the number of open tool calls",
                        scope: "run",
                        limit: MAX_OPEN_TOOLS,
                    });
                }
                span.calls += 1;
                call = span.calls;
                span.tools.push(OpenTool {
                    name: Box::from(tool),
                    call,
                    since: now,
                });
            }
            EventKind::ToolCompleted(tool) => {
                let Some(open) = span.tools.iter().position(|open| &*open.name == tool) else {
                    return Err(EventError::invalid(format!(
                        "tool_completed without tool_executing: tool {} is not running; send tool_executing first",
                        quoted(tool)
                    )));
                };
                let ended = span.tools.remove(open);
                call = ended.call;
                elapsed = Some(now.saturating_sub(ended.since));
            }
            EventKind::Completed | EventKind::Error => {
                if let Some(tool) = span.tools.first().filter(|_| !mutant!(ToolLeftOpen)) {
                    return Err(EventError::invalid(format!(
                        "{} while tool {} is running; send tool_completed first",
                        kind.name(),
                        quoted(&tool.name)
                    )));
                }
                elapsed = Some(now.saturating_sub(span.since));
            }
            EventKind::Started | EventKind::Thinking | EventKind::Custom(_) => {}
        }
        let placed = Placed {
            index: span.index,
            id: span.id.clone(),
            parent: span.parent.clone(),
            agent: Some(span.agent.clone()),
            took: elapsed,
            call,
        };
        if kind.is_terminal() {
            if !mutant!(TwoTerminals) {
                self.open.remove(at);
            }
            if kind == EventKind::Completed {
                self.completed += 1;
            } else {
                self.failed += 1;
            }
        }
        Ok(placed)
    }

    /// The book of a log that goes on from a snapshot: counts of what was before it.
    pub(super) fn restored(count: u32, (completed, failed): (u32, u32), deepest: u16, first: Option<&str>) -> Self {
        Self {
            count,
            completed,
            failed,
            deepest,
            first: first.map(Arc::from),
            ..Self::default()
        }
    }

    /// A span began in the log that this one mirrors. It is found by its own name, which no other has.
    pub(super) fn replay_start(
        &mut self,
        index: u32,
        id: Arc<str>,
        parent: Option<Arc<str>>,
        agent: Arc<str>,
        trace: Option<TraceContext>,
        now: Micros,
    ) {
        self.count = self.count.max(index);
        if self.open.len() >= MAX_SPANS as usize || self.is_open(index) {
            return;
        }
        let around = |parent: &Arc<str>| self.open.iter().rev().find(|span| span.id == *parent);
        let depth = 1 + parent.as_ref().and_then(around).map_or(0, |span| span.depth);
        self.deepest = self.deepest.max(depth);
        self.first.get_or_insert_with(|| agent.clone());
        self.open.push(Span {
            index,
            scope: Box::from(&*id),
            id,
            parent,
            agent,
            since: now,
            depth,
            tools: Vec::new(),
            calls: 0,
            trace: trace.map(Box::new),
        });
    }

    /// A tool call began there.
    pub(super) fn replay_tool(&mut self, index: u32, call: u32, name: &str, now: Micros) {
        let span = self.open.iter_mut().find(|span| span.index == index);
        if let Some(span) = span.filter(|span| span.tools.len() < MAX_OPEN_TOOLS) {
            span.calls = span.calls.max(call);
            span.tools.push(OpenTool {
                name: name.into(),
                call,
                since: now,
            });
        }
    }

    /// A tool call ended there.
    pub(super) fn replay_tool_end(&mut self, index: u32, call: u32) {
        if let Some(span) = self.open.iter_mut().find(|span| span.index == index) {
            span.tools.retain(|tool| tool.call != call);
        }
    }

    /// A span ended there: with an error or without, or counted before.
    pub(super) fn replay_end(&mut self, index: u32, is_error: Option<bool>) {
        self.open.retain(|span| span.index != index);
        match is_error {
            Some(true) => self.failed += 1,
            Some(false) => self.completed += 1,
            None => {}
        }
    }

    /// The scope in which an open span was published.
    pub(super) fn scope_of(span: &Span) -> Option<SpanScope> {
        Some(SpanScope {
            request: RequestId::new(&span.scope).ok()?,
            parent: None,
        })
    }
}

fn quoted(name: &str) -> String {
    format!("'{}'", ids::cut(name, 60))
}
