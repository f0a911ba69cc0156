"""The verdict: is anything missing, out of order, doubled, ill-formed or somebody else's?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from examples.optimizer.check.received import Entry, Inbox

PIPELINE = ("data", "optimization", "report")
_TERMINAL = ("agent_completed", "agent_error")
_TEXT_FIELDS = ("type", "agent_name", "run_id", "timestamp", "event_id", "request_id")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a user is to receive: the events of the own run, and nothing that carries a foreign mark."""

    run_id: str
    foreign_marks: Sequence[str]
    streams_end: bool = True


def judge(inbox: Inbox, expected: Expectation) -> list[str]:
    """All that is wrong, in words; empty when everything is right."""
    entries = list(inbox.entries())
    own = [entry for entry in entries if entry.message.get("run_id") == expected.run_id]
    return [
        *_foreign(inbox, entries, expected),
        *(problem for entry in entries for problem in _ill_formed(entry)),
        *_positions(entries),
        *_doubled(entries),
        *_spans(own),
        *(_end(inbox, own, expected) if expected.streams_end else ()),
    ]


def _foreign(inbox: Inbox, entries: Sequence[Entry], expected: Expectation) -> Iterator[str]:
    for entry in entries:
        if entry.message.get("run_id") != expected.run_id:
            yield f"foreign event: {_named(entry)} belongs to run {entry.message.get('run_id')}"
    for number, frame in enumerate(inbox.frames, 1):
        for mark in expected.foreign_marks:
            if mark in frame.raw:
                yield f"foreign data: frame {number} holds {mark}"


def _ill_formed(entry: Entry) -> Iterator[str]:
    for name in _TEXT_FIELDS:
        if not isinstance(entry.message.get(name), str) or not entry.message[name]:
            yield f"ill-formed: {_named(entry)} has no {name}"
    if not isinstance(entry.message.get("payload"), dict):
        yield f"ill-formed: {_named(entry)} has no payload"


def _positions(entries: Sequence[Entry]) -> Iterator[str]:
    position = 0
    for entry in entries:
        if entry.last <= position:
            yield f"doubled or out of order: {_named(entry)} came after number {position}"
            continue
        if entry.first != position + 1:
            yield f"missing: number {position + 1} did not come before {_named(entry)}"
        position = entry.last


def _doubled(entries: Sequence[Entry]) -> Iterator[str]:
    seen: set[str] = set()
    for entry in entries:
        event_id = str(entry.message.get("event_id"))
        if event_id in seen:
            yield f"doubled: {_named(entry)} came before under the same event id"
        seen.add(event_id)


@dataclass(slots=True)
class _Span:
    """One agent execution while its events are read."""

    agent: str
    open_tools: list[str] = field(default_factory=list)
    ended: bool = False


def _spans(entries: Sequence[Entry]) -> Iterator[str]:
    spans: dict[str, _Span] = {}
    for entry in entries:
        yield from _step(spans, entry)
    for span in spans.values():
        if not span.ended:
            yield f"missing: {span.agent} neither completed nor failed"
        for tool in span.open_tools:
            yield f"missing: {span.agent} never completed the tool {tool}"
    agents = tuple(span.agent for span in spans.values())
    if agents != PIPELINE:
        yield f"missing or out of order: the agents that ran are {', '.join(agents) or 'none'}"


def _step(spans: dict[str, _Span], entry: Entry) -> Iterator[str]:
    message = entry.message
    kind, key = str(message.get("type")), str(message.get("request_id"))
    span = spans.get(key)
    if kind == "agent_started":
        if span is not None:
            yield f"doubled: {_named(entry)} starts a span that has begun"
        spans[key] = _Span(str(message.get("agent_name")))
        return
    if span is None:
        yield f"out of order: {_named(entry)} came before its span's start"
        return
    if span.ended:
        yield f"out of order: {_named(entry)} came after its span's end"
    if kind in _TERMINAL:
        span.ended = True
        if kind == "agent_error":
            yield f"failed: {span.agent} says {_payload(message).get('error_message')}"
    elif kind == "tool_executing":
        span.open_tools.append(str(_payload(message).get("tool_name")))
    elif kind == "tool_completed":
        tool = str(_payload(message).get("tool_name"))
        if tool in span.open_tools:
            span.open_tools.remove(tool)
        else:
            yield f"missing: {_named(entry)} completes a tool that did not start"


def _end(inbox: Inbox, own: Sequence[Entry], expected: Expectation) -> Iterator[str]:
    ends = inbox.ends()
    last = max((entry.last for entry in own), default=0)
    if len(ends) != 1:
        yield f"missing or doubled: the stream ended {len(ends)} times instead of once"
    for end in ends:
        if end.get("s") != expected.run_id:
            yield f"foreign end: run {end.get('s')}"
        if end.get("n") != last:
            yield f"missing: the stream ended at number {end.get('n')}, the last event was number {last}"
        if end.get("outcome") != "completed":
            yield f"failed: the run's outcome is {end.get('outcome')}"


def _payload(message: dict[str, Any]) -> dict[str, Any]:
    payload = message.get("payload")
    return payload if isinstance(payload, dict) else {}


def _named(entry: Entry) -> str:
    return f"number {entry.last} ({entry.message.get('type')} of {entry.message.get('agent_name')})"
