"""Events as users received them, and what is wrong with them: order, owner, and the one end of each span."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from isolane.acceptance.records import Receipt, Run, Transcript

MISSING = object()
NO_WORD = "(no word)"
_WORD = re.compile(r"[\w.:/-]{1,80}")


def as_word(text: str) -> str:
    """Return a name that a service gave, for a report; what does not look like a name may be somebody's data."""
    return text if _WORD.fullmatch(text) else NO_WORD


def pointed(value: Any, pointer: str) -> Any:
    """Return what a JSON pointer points at, or `MISSING`."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return MISSING
    return value


Places = str | tuple[str, ...]
"""A JSON pointer, or several of which the first that is there counts: services on the move have two shapes."""


def found_at(value: Any, places: Places) -> Any:
    """Return what the first of the pointers that leads somewhere points at, or `MISSING`."""
    for place in (places,) if isinstance(places, str) else places:
        found = pointed(value, place) if place else MISSING
        if found is not MISSING:
            return found
    return MISSING


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One event as it was received.

    Attributes:
        type: of the event.
        run: whose run it says it is of; empty without one.
        span: which execution of an agent it is of.
        number: its number in its run, where it has one.
        first: the number of the first event that it stands for.
        at: when it was received: Unix time in seconds.
        sent: when it was made, where it says so.
        connection: over which of the user's connections it came.
        place: the socket or route.
        message: all of it.
    """

    type: str
    run: str
    span: str
    number: int | None
    first: int | None
    at: float
    sent: float | None
    connection: int
    place: str
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the events of one user."""

    what: str
    user: str
    text: str
    count: int = 1

    def __str__(self) -> str:
        """Return the fault as a sentence."""
        return f"{self.what}: {self.user}, {self.text}" + (f", {self.count} times" if self.count > 1 else "")


@dataclass(frozen=True, slots=True)
class EventShape:
    """Where the events of a service have what is looked at. Places are JSON pointers into a message.

    Attributes:
        type: what kind of event it is.
        run: the run it is of.
        span: the execution of an agent it is of: the first of these that is there.
        number: its number in its run; events without one are not numbered.
        timestamp: when it was made, as ISO 8601 or Unix time.
        tool: the name of a tool, in the events of tools.
        user: the user it is of, where events say so; empty when they do not.
        started: types that begin a span.
        ended: types that end it.
        tool_started: types that begin a tool's call.
        tool_ended: types that end it.
        required: types that each completed run must have.
        merged: types whose events may stand for several, so that numbers before them may be missing.
        ignored: types that are of no run.
        spans: whether events are of spans at all.
    """

    type: Places = "/type"
    run: Places = "/run_id"
    span: tuple[str, ...] = ("/request_id", "/agent_name")
    number: Places = "/seq"
    timestamp: Places = "/timestamp"
    tool: Places = "/payload/tool_name"
    user: Places = ""
    started: tuple[str, ...] = ("agent_started",)
    ended: tuple[str, ...] = ("agent_completed", "agent_error")
    tool_started: tuple[str, ...] = ("tool_executing",)
    tool_ended: tuple[str, ...] = ("tool_completed",)
    required: tuple[str, ...] = ("agent_started", "agent_completed")
    merged: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    spans: bool = True

    def events(self, transcript: Transcript) -> list[ReceivedEvent]:
        """Return all events that a user received, in the order in which they came."""
        return [event for receipt in transcript.receipts for event in self.events_of(receipt)]

    def events_of(self, receipt: Receipt) -> Iterator[ReceivedEvent]:
        """Return the events of one frame."""
        if receipt.channel not in {"frame", "stream"}:
            return
        value = receipt.value
        if isinstance(value, bytes):
            value = Receipt("frame", "", _inflated(value), 0.0).value
        if not isinstance(value, dict):
            return
        match value.get("t"):
            case "ev" | "snap" | "skip":
                yield from self._framed(receipt, value)
            case _:
                kind = found_at(value, self.type)
                if isinstance(kind, str) and kind not in self.ignored:
                    yield self._event(receipt, value, {})

    def _framed(self, receipt: Receipt, frame: Mapping[str, Any]) -> Iterator[ReceivedEvent]:
        """Return the events of a frame of isolane.v1."""
        if frame["t"] == "skip":
            yield self._event(receipt, {}, frame)
            return
        entries = frame.get("b")
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, dict):
                continue
            if frame["t"] == "ev" and isinstance(entry.get("ev"), dict):
                yield self._event(receipt, entry["ev"], entry)
            elif frame["t"] == "snap":
                # What is left of older events: numbers between them are not missing.
                yield self._event(receipt, entry, {"f": 1})

    def message(self, kind: str, run: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return a message of this shape, as a fault that is planted needs one."""
        message: dict[str, Any] = {"payload": dict(payload)}
        for places, value in ((self.type, kind), (self.run, run)):
            pointer = places if isinstance(places, str) else places[0]
            *above, last = pointer.split("/")[1:]
            place = message
            for part in above:
                place = place.setdefault(part, {})
            place[last] = value
        return message

    def _event(self, receipt: Receipt, message: Mapping[str, Any], entry: Mapping[str, Any]) -> ReceivedEvent:
        number = entry.get("n", found_at(message, self.number))
        span, kind = found_at(message, self.span), found_at(message, self.type)
        run = entry.get("s", found_at(message, self.run))
        return ReceivedEvent(
            type="" if kind is MISSING else as_word(str(kind)),
            run=run if isinstance(run, str) else "",
            span="" if span is MISSING else str(span),
            number=number if isinstance(number, int) else None,
            first=entry.get("f"),
            at=receipt.at,
            sent=_moment(found_at(message, self.timestamp)),
            connection=receipt.connection,
            place=receipt.place,
            message=message,
        )


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompress(data, wbits=-zlib.MAX_WBITS)
    except zlib.error:
        return data


def _moment(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Milliseconds, as JavaScript writes them, are far in the future as seconds.
        return value / 1000 if value > 10_000_000_000 else float(value)  # noqa: PLR2004
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


@dataclass(slots=True)
class _Span:
    started: bool = False
    ends: int = 0
    tools: list[str] = field(default_factory=list)


def ownership_faults(
    user: str, own_runs: Iterable[str], events: Sequence[ReceivedEvent], shape: EventShape
) -> Iterator[Fault]:
    """Return events of runs, or of users, that are not this user's."""
    own = set(own_runs)
    foreign = Counter((event.place, event.type) for event in events if event.run and event.run not in own)
    for (place, kind), count in foreign.items():
        yield Fault("foreign event", user, f"{kind} of a run of somebody else over {place}", count)
    if not shape.user:
        return
    known = (MISSING, None, user)
    others = Counter(event.type for event in events if found_at(event.message, shape.user) not in known)
    for kind, count in others.items():
        yield Fault("foreign event", user, f"{kind} under the name of somebody else at {shape.user}", count)


def order_faults(user: str, events: Sequence[ReceivedEvent], shape: EventShape) -> Iterator[Fault]:
    """Return what is missing, doubled or out of order among the events of one run."""
    last: int | None = None
    for event in events:
        if event.number is None:
            continue
        first = event.first if event.first is not None else event.number
        if last is not None and event.number <= last:
            yield Fault("out of order", user, f"{event.type} has number {event.number} and came after number {last}")
            continue
        if first > (last or 0) + 1 and event.type not in shape.merged:
            yield Fault("missing", user, f"nothing with number {(last or 0) + 1} came before {event.type}")
        last = event.number
    if shape.spans:
        yield from _span_faults(user, events, shape)


def _span_faults(user: str, events: Sequence[ReceivedEvent], shape: EventShape) -> Iterator[Fault]:
    spans: dict[str, _Span] = {}
    tools = {*shape.tool_started, *shape.tool_ended}
    for event in events:
        span = spans.setdefault(event.span, _Span())
        if event.type in shape.started and span.ends and event.number is None:
            # Neither spans nor events have names of their own: the same agent runs again.
            span = spans[event.span] = _Span(started=True)
        elif event.type in shape.started:
            if span.started:
                yield Fault("doubled", user, f"{event.type} of a span that has begun")
            span.started = True
        elif event.type in shape.ended:
            yield from _before_start(user, event, span)
            span.ends += 1
            if span.ends > 1:
                yield Fault("doubled", user, f"{event.type}: a second end of one span")
        elif event.type in tools:
            yield from (*_before_start(user, event, span), *_after_end(user, event, span))
            yield from _tool(user, event, span, shape)
        elif span.started:
            yield from _after_end(user, event, span)
    yield from _unended(user, spans)


def _unended(user: str, spans: Mapping[str, _Span]) -> Iterator[Fault]:
    for span in spans.values():
        if span.started and not span.ends:
            yield Fault("missing", user, "the end of a span")
        for tool in span.tools:
            yield Fault("missing", user, f"the end of a call of the tool {as_word(tool)}")


def _before_start(user: str, event: ReceivedEvent, span: _Span) -> Iterator[Fault]:
    if not span.started:
        yield Fault("out of order", user, f"{event.type} came before its span began")


def _after_end(user: str, event: ReceivedEvent, span: _Span) -> Iterator[Fault]:
    if span.ends:
        yield Fault("out of order", user, f"{event.type} came after the end of its span")


def _tool(user: str, event: ReceivedEvent, span: _Span, shape: EventShape) -> Iterator[Fault]:
    named = found_at(event.message, shape.tool)
    tool = "" if named is MISSING else str(named)
    if event.type in shape.tool_started:
        span.tools.append(tool)
    elif tool in span.tools:
        span.tools.remove(tool)
    else:
        yield Fault("out of order", user, f"{event.type} of a tool that was not called")


def completeness_faults(user: str, run: Run, events: Sequence[ReceivedEvent], shape: EventShape) -> Iterator[Fault]:
    """Return the types that a completed run must have and has not."""
    kinds = {event.type for event in events}
    for kind in shape.required:
        if run.ok and kind not in kinds:
            yield Fault("missing", user, f"a completed run without {kind}")


def judged(transcript: Transcript, events: Sequence[ReceivedEvent], shape: EventShape) -> list[Fault]:
    """Return all that is wrong with the events of one user, the same fault once with its count."""
    own = set(transcript.run_ids)
    found = Counter(ownership_faults(transcript.user, own, events, shape))
    by_run: dict[str, list[ReceivedEvent]] = {run.run_id: [] for run in transcript.runs if run.run_id}
    for event in events:
        if event.run in by_run:
            by_run[event.run].append(event)
    for run in transcript.runs:
        if run.run_id:
            mine = by_run[run.run_id]
            found.update(order_faults(transcript.user, mine, shape))
            found.update(completeness_faults(transcript.user, run, mine, shape))
    return [Fault(fault.what, fault.user, fault.text, fault.count * count) for fault, count in found.items()]
