//! What an operator sees of a run: how it stands, and the outline of its executions. No text of anybody's is in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::entry::Entry;
use super::{Outcome, RunLog};
use crate::clock::{Micros, Moment, micros};
use crate::events::fold::Slot;
use crate::ids;

/// Most executions and calls of tools that an outline has. Of more, the latest.
const MAX_ITEMS: usize = 1_000;
/// Most characters of the name of an error's class.
const MAX_ERROR: usize = 80;

/// A run as a line of a list.
#[derive(Debug, Clone)]
pub struct Glance {
    /// When its log was opened.
    pub opened: Moment,
    /// Events published.
    pub head: u64,
    /// How it ended, if it has, and when by the monotonic clock.
    pub ended: Option<(Outcome, Micros)>,
    /// The agent of the first execution.
    pub agent: Option<Arc<str>>,
    /// Executions that have begun.
    pub executions: u32,
    /// Of them, those that failed.
    pub failed: u32,
    /// The most executions within each other.
    pub depth: u16,
    /// The execution that is going on for longest, and since when.
    pub longest: Option<(Arc<str>, Micros)>,
}

/// What a line of an outline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutlineKind {
    /// An execution of an agent.
    Agent,
    /// A call of a tool.
    Tool,
}

/// One execution or call of a tool.
#[derive(Debug, Clone)]
pub struct OutlineItem {
    /// What it is.
    pub kind: OutlineKind,
    /// The number of the execution in its run.
    pub span: u32,
    /// Of a call, its number in the execution; 0 for the execution itself.
    pub call: u32,
    /// The number of the execution around it; for a call, that which made it.
    pub parent: Option<u32>,
    /// The name of the agent or tool.
    pub name: Box<str>,
    /// `running`, `completed`, `failed`, or `unfinished` for a call that was left behind.
    pub state: &'static str,
    /// When it began, since the log was opened.
    pub start: Micros,
    /// How long it took, if it has ended and that is known.
    pub took: Option<Micros>,
    /// Its events that are kept.
    pub events: u32,
    /// The class of its error.
    pub error: Option<Box<str>>,
}

/// What is read of a message. What users wrote is not.
#[derive(Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow, default)]
    pub(super) agent_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) parent_request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) traceparent: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Ending<'a> {
    #[serde(borrow)]
    payload: EndingBody<'a>,
}

#[derive(Deserialize)]
struct EndingBody<'a> {
    #[serde(borrow, default)]
    tool_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error_type: Option<Cow<'a, str>>,
    #[serde(default)]
    execution_time_ms: Option<f64>,
}

#[derive(Default)]
struct Outline {
    /// By execution and call.
    items: BTreeMap<(u32, u32), OutlineItem>,
    /// Which execution has which id.
    ids: HashMap<Box<str>, u32>,
    opened: Micros,
}

impl Outline {
    fn item(&mut self, kind: OutlineKind, span: u32, call: u32, at: Micros) -> &mut OutlineItem {
        let start = at.saturating_sub(self.opened);
        self.items.entry((span, call)).or_insert_with(|| OutlineItem {
            kind,
            span,
            call,
            parent: Some(span).filter(|_| kind == OutlineKind::Tool),
            name: Box::default(),
            state: "running",
            start,
            took: None,
            events: 0,
            error: None,
        })
    }

    fn take(&mut self, entry: &Entry) {
        let (span, slot) = entry.key;
        if entry.is_dropped() || span == 0 {
            return;
        }
        self.item(OutlineKind::Agent, span, 0, entry.monotonic).events += 1;
        match slot {
            Slot::Started => self.began(entry, span),
            Slot::Terminal => self.ended(entry, span, 0),
            Slot::ToolBegun(call, _) => {
                let tool = self.item(OutlineKind::Tool, span, call, entry.monotonic);
                tool.events += 1;
                name_tool(tool, entry);
            }
            Slot::ToolEnded(_) => {
                if let Some((_, Slot::ToolBegun(call, _))) = entry.closes {
                    let tool = self.item(OutlineKind::Tool, span, call, entry.monotonic);
                    tool.events += 1;
                    if tool.name.is_empty() {
                        name_tool(tool, entry);
                    }
                    self.ended(entry, span, call);
                }
            }
            // How a call began whose end is kept as well, and what is no beginning and no end.
            Slot::ToolPaired(_) | Slot::Thinking | Slot::Custom(_) | Slot::Progress(_) | Slot::Text => {}
        }
    }

    fn began(&mut self, entry: &Entry, span: u32) {
        let Ok(head) = serde_json::from_str::<Head<'_>>(&entry.text) else {
            return;
        };
        if let Some(id) = head.request_id {
            self.ids.insert(id.into(), span);
        }
        let parent = head.parent_request_id.and_then(|id| self.ids.get(&*id).copied());
        let start = entry.monotonic.saturating_sub(self.opened);
        let item = self.item(OutlineKind::Agent, span, 0, entry.monotonic);
        item.start = start;
        item.parent = parent.filter(|parent| *parent != span);
        item.name = head.agent_name.unwrap_or_default().into();
    }

    fn ended(&mut self, entry: &Entry, span: u32, call: u32) {
        let at = entry.monotonic.saturating_sub(self.opened);
        let Some(item) = self.items.get_mut(&(span, call)) else {
            return;
        };
        item.state = "completed";
        // Its beginning may have been folded away: then the message may say how long it took.
        item.took = Some(at.saturating_sub(item.start));
        if item.name.is_empty()
            && let Ok(head) = serde_json::from_str::<Head<'_>>(&entry.text)
        {
            item.name = head.agent_name.unwrap_or_default().into();
        }
        let Ok(Ending { payload }) = serde_json::from_str::<Ending<'_>>(&entry.text) else {
            return;
        };
        match payload.status.as_deref() {
            Some("error") => item.state = "failed",
            Some("unfinished") => item.state = "unfinished",
            _ => {}
        }
        if let Some(took) = payload.execution_time_ms.filter(|_| item.start == at) {
            let took = micros(took / 1e3);
            item.start = at.saturating_sub(took);
            item.took = Some(took);
        }
        // The name of a class; whatever else somebody put there may be a text of somebody's.
        let is_name = |name: &Cow<'_, str>| {
            let sign = |sign: char| sign.is_alphanumeric() || matches!(sign, '_' | '.');
            !name.is_empty() && name.chars().all(sign)
        };
        item.error = (payload.error_type.filter(is_name)).map(|name| ids::cut(&name, MAX_ERROR).into());
    }
}

fn name_tool(tool: &mut OutlineItem, entry: &Entry) {
    if let Ok(Ending { payload }) = serde_json::from_str::<Ending<'_>>(&entry.text) {
        tool.name = payload.tool_name.unwrap_or_default().into();
    }
}

impl RunLog {
    /// How the run stands.
    pub fn glance(&self) -> Glance {
        let inner = self.inner();
        let (executions, depth) = inner.spans.extent();
        let oldest = inner.spans.open().iter().min_by_key(|span| span.since);
        Glance {
            opened: inner.opened,
            head: inner.head,
            ended: inner.ended,
            agent: inner.spans.first().cloned(),
            executions,
            failed: inner.spans.ended().1,
            depth,
            longest: oldest.map(|span| (span.agent.clone(), span.since)),
        }
    }

    /// When the log was opened.
    pub fn opened(&self) -> Moment {
        self.inner().opened
    }

    /// The executions of the run and their calls of tools, as far as their events are kept: the latest 1 000, the one that
    /// began first in front. Answers as well how many events were folded or left out.
    pub fn outline(&self) -> (Vec<OutlineItem>, u64) {
        let inner = self.inner();
        let mut outline = Outline {
            opened: inner.opened.monotonic,
            ..Outline::default()
        };
        for entry in inner.fold.kept().chain(inner.entries.after(0)) {
            outline.take(entry);
        }
        let gone = inner.folded_events + inner.shed_events;
        let gone = gone.saturating_sub(inner.fold.len() as u64);
        drop(inner);
        let mut items: Vec<_> = outline.items.into_values().collect();
        let surplus = items.len().saturating_sub(MAX_ITEMS);
        items.drain(..surplus);
        items.sort_by_key(|item| (item.start, item.span, item.call));
        (items, gone)
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::{Moment, ProcessClock};
    use crate::events::{Draft, EventKind, Extra, LogBounds, OutlineKind, SpanScope, StreamWriter, Streams};
    use crate::ids::{RequestId, RunId, ThreadId, UserId};
    use crate::lanes::{LaneHandle, Registry};

    struct Run {
        lane: LaneHandle,
        writer: StreamWriter,
        since: u64,
    }

    impl Run {
        fn new(bounds: LogBounds) -> Self {
            let registry = Registry::new(Box::new(ProcessClock::new()));
            let lane = registry.lane(&UserId::new("ann").expect("an id"));
            let (run, thread) = (
                RunId::new("run").expect("an id"),
                ThreadId::new("thread").expect("an id"),
            );
            let writer = Streams::open(&lane, &run, &thread, bounds).expect("a log");
            let since = writer.log().opened().monotonic;
            Self { lane, writer, since }
        }

        fn tell(&self, request: &str, parent: Option<&str>, kind: EventKind<'_>, payload: &str, at: u64) {
            let id = |text| RequestId::new(text).expect("an id");
            let scope = SpanScope {
                request: id(request),
                parent: parent.map(id),
            };
            let draft = Draft {
                kind,
                agent: Some(if request == "top" { "planner" } else { "writer" }),
                message: None,
                payload,
                timed: true,
                extra: Extra::default(),
            };
            let now = Moment {
                monotonic: self.since + at,
                unix: at,
            };
            self.writer
                .log()
                .publish(&self.lane, &scope, draft, now)
                .expect("published");
        }

        fn example(&self) {
            self.tell("top", None, EventKind::Started, "{\"x\":1", 10);
            self.tell("sub", Some("top"), EventKind::Started, "{\"x\":1", 20);
            let tool = "{\"tool_name\":\"search\",\"status\":\"executing\",\"parameters\":{\"q\":\"a secret\"}";
            self.tell("sub", Some("top"), EventKind::ToolExecuting("search"), tool, 30);
            let tool = "{\"tool_name\":\"search\",\"result\":\"a secret\",\"status\":\"completed\"";
            self.tell("sub", Some("top"), EventKind::ToolCompleted("search"), tool, 50);
            let error = "{\"status\":\"error\",\"error_message\":\"a secret\",\"error_type\":\"ValueError\"";
            self.tell("sub", Some("top"), EventKind::Error, error, 70);
        }
    }

    #[test]
    fn the_outline_is_a_tree_with_timings_and_no_texts() {
        let run = Run::new(LogBounds::default());
        run.example();
        let (items, gone) = run.writer.log().outline();
        let lines: Vec<_> = items
            .iter()
            .map(|item| {
                (
                    item.span,
                    item.call,
                    item.parent,
                    &*item.name,
                    item.state,
                    item.start,
                    item.took,
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                (1, 0, None, "planner", "running", 10, None),
                (2, 0, Some(1), "writer", "failed", 20, Some(50)),
                (2, 1, Some(2), "search", "completed", 30, Some(20)),
            ]
        );
        assert_eq!((items[2].kind, gone), (OutlineKind::Tool, 0));
        assert_eq!(items[1].error.as_deref(), Some("ValueError"));
        assert!(!format!("{items:?}").contains("secret"));
        let glance = run.writer.log().glance();
        assert_eq!(
            (glance.executions, glance.failed, glance.depth, glance.head),
            (2, 1, 2, 5)
        );
        assert_eq!(glance.agent.as_deref(), Some("planner"));
        let (agent, since) = glance.longest.expect("the planner runs");
        assert_eq!((&*agent, since - run.since), ("planner", 10));
    }

    #[test]
    fn what_was_folded_is_in_the_outline_as_far_as_it_is_kept() {
        let run = Run::new(LogBounds {
            events: 4,
            ..LogBounds::default()
        });
        run.example();
        for at in 0..20 {
            run.tell("top", None, EventKind::Thinking, "{\"x\":1", 100 + at);
        }
        let (items, gone) = run.writer.log().outline();
        assert!(gone > 0);
        assert_eq!((&*items[0].name, items[0].state), ("planner", "running"));
    }

    #[test]
    fn what_is_no_class_is_not_shown_as_an_error() {
        let run = Run::new(LogBounds::default());
        run.tell("top", None, EventKind::Started, "{\"x\":1", 1);
        let error = "{\"status\":\"error\",\"error_type\":\"a secret, with spaces\"";
        run.tell("top", None, EventKind::Error, error, 2);
        let (items, _) = run.writer.log().outline();
        assert_eq!((items[0].state, items[0].error.as_deref()), ("failed", None));
    }
}
