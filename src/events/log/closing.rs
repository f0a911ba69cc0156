//! How a log comes to its end: what is left open is closed, the stream ends, the log is dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::names::Names;
use super::waits::Deferral;
use super::{Inner, Outcome, RunLog};
use crate::clock::Micros;
use crate::context::TraceContext;
use crate::events::event::{Class, Draft, EventKind, Extra, Urgency};
use crate::events::json;
use crate::events::span::{SpanBook, SpanScope};
use crate::mutants::mutant;

impl RunLog {
    /// Closes what an agent left open, on cancel, failure and shutdown: each open tool gets its `tool_completed`, and each
    /// open span of `scope` (of all, without one) its `agent_error`. With `only_tools` the spans stay open.
    ///
    /// What another worker publishes is closed there.
    pub fn repair(&self, scope: Option<&SpanScope>, only_tools: bool, reason: &str, unix: Micros, monotonic: Micros) {
        if !self.is_mirror() {
            self.close_open(scope, only_tools, reason, unix, monotonic);
        }
    }

    pub(super) fn close_open(
        &self,
        scope: Option<&SpanScope>,
        only_tools: bool,
        reason: &str,
        unix: Micros,
        monotonic: Micros,
    ) {
        let mut lane = None;
        {
            let mut inner = self.inner();
            if inner.ended.is_some() {
                return;
            }
            let left: Vec<_> = inner
                .spans
                .open()
                .iter()
                .rev()
                .filter_map(|span| {
                    let own = SpanBook::scope_of(span)?;
                    let wanted = scope.is_none_or(|scope| scope.request == own.request);
                    wanted.then(|| (own, span.agent.clone(), span.tools.clone(), span.trace.clone()))
                })
                .collect();
            for (own, agent, tools, trace) in left {
                let trace = trace.as_deref();
                for tool in tools {
                    let mut payload = "{".to_owned();
                    json::text_member(&mut payload, "tool_name", &tool.name);
                    json::text_member(&mut payload, "status", "unfinished");
                    json::text_member(&mut payload, "error", reason);
                    let kind = EventKind::ToolCompleted(&tool.name);
                    self.append_repair(&mut inner, &own, kind, &agent, &payload, reason, trace, unix, monotonic);
                }
                if !only_tools {
                    let mut payload = "{".to_owned();
                    json::text_member(&mut payload, "status", "error");
                    json::text_member(&mut payload, "error_message", reason);
                    json::key(&mut payload, "retriable");
                    payload.push_str("true");
                    if let Some(code) = &inner.end_code {
                        json::text_member(&mut payload, "code", code);
                    }
                    self.append_repair(
                        &mut inner,
                        &own,
                        EventKind::Error,
                        &agent,
                        &payload,
                        reason,
                        trace,
                        unix,
                        monotonic,
                    );
                }
                lane.clone_from(&inner.lane);
            }
        }
        if let Some(lane) = lane {
            self.tell_replica(&lane, Class::Critical);
            lane.streams().wake(Urgency::Now);
        }
    }

    fn append_repair(
        &self,
        inner: &mut Inner,
        scope: &SpanScope,
        kind: EventKind<'_>,
        agent: &str,
        payload: &str,
        reason: &str,
        trace: Option<&TraceContext>,
        unix: Micros,
        monotonic: Micros,
    ) {
        let draft = Draft {
            kind,
            agent: Some(agent),
            message: Some(reason),
            payload,
            timed: true,
            extra: Extra {
                trace,
                ..Extra::default()
            },
        };
        // A repair is owed, so it may exceed the bounds by what it is: a few hundred bytes for each open tool and span.
        // It is well-formed because it was read from the book a moment ago, under the same lock.
        let _ = self.append(inner, scope, draft, unix, monotonic);
    }

    /// Ends the stream: what is open is repaired, and the log stays readable for its retention. Ending twice is nothing.
    /// Without an outcome it follows from the spans. The stream of another worker ends there.
    pub fn end(self: &Arc<Self>, outcome: Option<Outcome>, reason: &str, unix: Micros, monotonic: Micros) {
        if !self.is_mirror() || mutant!(MirrorEndedHere) {
            self.finish(outcome, reason, unix, monotonic);
        }
    }

    pub(super) fn finish(self: &Arc<Self>, outcome: Option<Outcome>, reason: &str, unix: Micros, monotonic: Micros) {
        if !mutant!(OpenSpansLeftOpen) {
            self.close_open(None, false, reason, unix, monotonic);
        }
        let goes_on = mutant!(EndInTwoSteps) && !self.is_over();
        let opened;
        let (lane, outcome) = {
            let mut inner = self.inner();
            if inner.ended.is_some() && !goes_on {
                return;
            }
            let outcome = outcome.unwrap_or(match inner.spans.ended() {
                (_, 0) => Outcome::Completed,
                (0, _) => Outcome::Failed,
                _ => Outcome::Partial,
            });
            inner.ended = Some((outcome, monotonic));
            opened = inner.opened;
            inner.spans.forget_ids();
            inner.names = Names::default();
            inner.keys = Names::default();
            inner.settle();
            self.over.store(monotonic.max(1), Ordering::SeqCst);
            (inner.lane.clone(), outcome)
        };
        if let Some(lane) = lane {
            let events = &lane.shared().events;
            events.ended[outcome as usize].increment();
            events.run_time.record(monotonic.saturating_sub(opened.monotonic));
            lane.shared()
                .expire_at(monotonic.max(1).saturating_add(self.bounds.retention), self);
            self.tell_replica(&lane, Class::Critical);
            if !mutant!(EndWakesNobody) {
                lane.streams().wake(Urgency::Now);
            }
        }
    }

    /// Drops the log: its lane no longer knows it, and its bytes are free when the last reader lets go. Answers `false` when
    /// it was dropped before, or somebody else is about to.
    pub fn forget(&self) -> bool {
        let lane = {
            let mut inner = self.inner();
            let Some(lane) = inner.lane.take() else { return false };
            // Under the lock: who comes second finds the mark.
            self.forgotten.store(true, Ordering::Release);
            lane
        };
        lane.streams().remove(self, lane.shared());
        self.tell_replica(&lane, Class::Critical);
        if let Some(ended) = self.ended_at() {
            lane.shared()
                .forget_expiry(ended.saturating_add(self.bounds.retention), self.serial);
        }
        let (entries, fold) = {
            let mut inner = self.inner();
            inner.folded = inner.head;
            inner.producer_ids = None;
            let freed = (std::mem::take(&mut inner.entries), std::mem::take(&mut inner.fold));
            inner.settle();
            freed
        };
        drop((entries, fold));
        Deferral::wake(self.waits.take_all());
        true
    }

    /// Whether the log was dropped.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }
}
