"""The run log against a model: what is accepted and numbered, what is folded, and what each kind of reader gets.

The model keeps every event of a run and works out the spans, the fold, what is joined, skipped and shed, and the
answers of subscriptions for itself, in the plainest way. Readers of any speed are compared with it frame by frame.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import isolane
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from isolane import InvalidEvent, RunClosed, UserExecutionContext, UserWebSocketEmitter
from isolane._core import EventCursor, emitter_for_context, end_stream, user_streams
from isolane.testing import manual_clock

pytestmark = pytest.mark.timeout(1_800)

_examples = itertools.count(1)
RETENTION = 300
AGENTS = ("planner", "writer")
TOOLS = ("sql", "web")
TYPES = ("mine", "other")
OWN = {"custom": 2, "milestone": 1, "text": 2, "progress": 3, "debug": 4}
"""An application's own events, with their classes."""
PROGRESS_TTL = 30
DEBUG_TTL = 5
DEBUG_LAG = 64
REPLACED = 4504


@dataclass(eq=False)
class Event:
    number: int
    kind: str
    agent: str | None
    request: str
    parent: str | None
    span: int
    what: tuple[str, Any]
    """A key of the payload and its value."""
    key: Any
    """Of all events with one key a fold keeps the latest."""
    closes: Any = None
    paired: bool = False
    """It began a call that is over, and is kept in the fold for the count of those that are open."""
    priority: int = 2
    at: float = 0.0
    text: Any = None
    """Which text it is a part of."""
    event_id: str | None = None
    dropped: bool = False


@dataclass(eq=False)
class Item:
    """What is delivered at once: an event, or parts of a text in one."""

    first: int
    parts: list[Event]

    @property
    def event(self) -> Event:
        return joined(self.parts)


def joined(parts: list[Event]) -> Event:
    """Return the latest part with the contents of all."""
    return (
        replace(parts[-1], what=(parts[-1].what[0], "".join(part.what[1] for part in parts))) if parts[1:] else parts[0]
    )


@dataclass(eq=False)
class Span:
    scope: str
    agent: str
    request: str
    parent: str | None
    index: int
    tools: list[tuple[str, int]] = field(default_factory=list)
    calls: int = 0


@dataclass(eq=False)
class Run:
    """One incarnation of a log."""

    user: str
    run: str
    thread: str
    epoch: str
    contexts: list[UserExecutionContext]
    emitters: list[UserWebSocketEmitter]
    bound: int
    events: list[Event] = field(default_factory=list)
    folded: int = 0
    fold: list[Event] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)
    count: int = 0
    outcomes: list[bool] = field(default_factory=list)
    outcome: str | None = None
    ended_at: float | None = None
    gone: bool = False
    replaced: bool = False
    """Its run id was used again: it is read to its end by those who read it, and found by nobody else."""
    forgotten: int = 0
    shed: int = 0
    superseded: list[Event] = field(default_factory=list)
    """Progress of which there is a later one, in the order in which that came."""
    ids: dict[str, int] = field(default_factory=dict)

    @property
    def head(self) -> int:
        return len(self.events)

    def fold_oldest(self) -> None:
        event = self.kept()[0]
        self.folded = event.number
        earlier = next((kept for kept in self.fold if kept.key == event.key), None)
        self.fold = [kept for kept in self.fold if kept is not earlier]
        if event.closes is not None:
            self.close_call(event.closes)
        self.fold.append(event if event.text is None or earlier is None else joined([earlier, event]))
        is_open = {span.index for span in self.spans}
        while len(self.fold) > self.bound:
            mine = {"thinking", "custom", "progress", "text"}
            victims = [kept for kept in self.fold if kept.span not in is_open]
            victims = victims or [kept for kept in self.fold if kept.key[1] in mine]
            if not victims:
                return
            self.fold.remove(victims[0])
            self.forgotten += 1

    def close_call(self, closes: Any) -> None:
        """Fold away how a call began, unless a client that counts would take its end for that of another one."""
        calls = [kept for kept in self.fold if kept.key[1] == "begun" and kept.span == closes[0]]
        calls = [kept for kept in calls if kept.key[3] == closes[3]]
        own = [kept for kept in calls if kept.key == closes]
        others_are_open = any(not kept.paired and kept not in own for kept in calls)
        gone = [kept for kept in calls if kept.paired] + ([] if others_are_open else own)
        self.fold = [kept for kept in self.fold if kept not in gone]
        for kept in own:
            kept.paired = True

    def kept(self) -> list[Event]:
        return [event for event in self.events[self.folded :] if not event.dropped]

    def make_room(self, now: float) -> None:
        while len(kept := self.kept()) >= self.bound:
            debug = [event for event in kept if event.priority == 4]
            superseded = [event for event in self.superseded if not event.dropped]
            expired = [event for event in kept if event.priority == 3 and event.at + PROGRESS_TTL < now]
            may_go = debug or superseded or expired
            if may_go:
                may_go[0].dropped = True
                self.shed += may_go[0].priority == 4
            else:
                self.fold_oldest()

    def reading(self, number: int, now: float) -> list[Item]:
        """Return what is delivered after a number and after the fold."""
        start = covered = max(number, self.folded)
        lags = self.head - start > DEBUG_LAG
        items: list[Item] = []
        for event in self.events[start:]:
            expired = event.at + {3: PROGRESS_TTL, 4: DEBUG_TTL}.get(event.priority, now) < now
            if event.dropped or expired or event in self.superseded or (lags and event.priority == 4):
                continue
            if items and event.text is not None and items[-1].parts[-1].text == event.text:
                items[-1].parts.append(event)
            else:
                items.append(Item(covered + 1, [event]))
            covered = event.number
        return items

    def find(self, scope: str, agent: str | None) -> Span | None:
        return next(
            (span for span in reversed(self.spans) if span.scope == scope and agent in {None, span.agent}), None
        )

    def append(
        self,
        kind: str,
        span: Span | None,
        agent: str | None,
        ctx: Any,
        what: Any,
        key: Any,
        closes: Any,
        **more: Any,
    ) -> None:
        index = span.index if span else 0
        critical = kind in {"agent_started", "tool_completed", "agent_completed", "agent_error"}
        more.setdefault("priority", 1 if critical else 2)
        self.events.append(
            Event(
                number=self.head + 1,
                kind=kind,
                agent=span.agent if span else agent,
                request=span.request if span else ctx.request_id,
                parent=span.parent if span else ctx.parent_request_id,
                span=index,
                what=what,
                key=(index, *key),
                closes=(index, *closes) if closes else None,
                **more,
            )
        )

    def append_own(
        self, kind: str, span: Span | None, agent: str | None, ctx: Any, name: str, what: Any, **more: Any
    ) -> None:
        more["priority"] = OWN[kind]
        type_ = name if kind == "custom" else kind
        key: tuple[Any, ...] = ("custom", type_)
        if kind == "text":
            request, agent_name = span.request if span else ctx.request_id, span.agent if span else agent
            more["text"] = (agent_name, request, name)
            key = ("text", more["text"])
        elif kind == "progress":
            # Outside of executions each request has its own.
            key = ("progress", None if span else ctx.request_id, name)
        self.append(type_, span, agent, ctx, what, key, None, **more)
        event = self.events[-1]
        if kind == "text":
            # One text whichever execution its parts are of, as long as the request is one.
            event.key = (0, *key)
        if kind == "progress":
            latest = [kept for kept in self.kept()[:-1] if kept.key == event.key and kept not in self.superseded]
            self.superseded += latest

    def accepts(  # noqa: PLR0911
        self, at: int, kind: str, agent: str | None, name: str, what: Any, **more: Any
    ) -> bool:
        """Publish in the model. Returns whether the event is in order."""
        ctx = self.contexts[at]
        scope = ctx.request_id
        span = self.find(scope, agent)
        if kind == "agent_started":
            if agent is None or span is not None:
                return False
            self.count += 1
            times = self.begun[scope] = self.begun.get(scope, 0) + 1
            request = scope if times == 1 else f"{scope}#{times}"
            span = Span(scope, agent, request, ctx.parent_request_id if times == 1 else scope, self.count)
            self.spans.append(span)
            self.append(kind, span, agent, ctx, what, ("started",), None)
            return True
        if kind in OWN:
            self.append_own(kind, span, agent, ctx, name, what, **more)
            if more.get("event_id"):
                self.ids[more["event_id"]] = self.head
            return True
        if span is None:
            return False
        if kind == "agent_thinking":
            self.append(kind, span, agent, ctx, what, ("thinking",), None)
        elif kind == "tool_executing":
            span.calls += 1
            span.tools.append((name, span.calls))
            self.append(kind, span, agent, ctx, what, ("begun", span.calls, name), None)
        elif kind == "tool_completed":
            call = next((call for tool, call in span.tools if tool == name), None)
            if call is None:
                return False
            span.tools.remove((name, call))
            self.append(kind, span, agent, ctx, what, ("ended", name), ("begun", call, name))
        else:
            if span.tools:
                return False
            self.append(kind, span, agent, ctx, what, ("terminal",), None)
            self.spans.remove(span)
            self.outcomes.append(kind == "agent_completed")
        return True

    def repair(self, scope: str | None, *, only_tools: bool) -> None:
        for span in reversed([span for span in self.spans if scope in {None, span.scope}]):
            for tool, call in span.tools:
                what = ("status", "unfinished")
                self.append("tool_completed", span, None, None, what, ("ended", tool), ("begun", call, tool))
            span.tools.clear()
            if not only_tools:
                self.append("agent_error", span, None, None, ("retriable", True), ("terminal",), None)
                self.spans.remove(span)
                self.outcomes.append(False)

    def end(self, outcome: str | None, now: float) -> None:
        if self.outcome is not None:
            return
        self.repair(None, only_tools=False)
        follows = "completed" if all(self.outcomes) else "partial" if any(self.outcomes) else "failed"
        self.outcome, self.ended_at = outcome or follows, now

    def check(self, message: dict[str, Any], event: Event) -> None:
        """Compare a message with the event that it must be."""
        assert message["type"] == event.kind
        own = event.event_id or f"evt_{self.epoch}_{event.number}"
        assert (message["seq"], message["event_id"]) == (event.number, own)
        assert (message["run_id"], message["thread_id"]) == (self.run, self.thread)
        assert message.get("agent_name") == event.agent
        assert (message["request_id"], message.get("parent_request_id")) == (event.request, event.parent)
        assert message["payload"][event.what[0]] == event.what[1]


@dataclass(eq=False)
class Position:
    run: Run
    number: int
    end_told: bool = False
    opening: bool = False
    """The answer that opens it was not written yet: an earlier incarnation of the run came first."""
    behind: bool = False
    """An earlier incarnation of the run is still read."""

    def has_work(self) -> bool:
        over = self.run.outcome is not None and not self.end_told
        return not self.behind and (self.run.head > self.number or over or self.run.gone or self.opening)

    def state(self) -> tuple[Any, ...]:
        run = self.run
        return self.number, run.head, run.outcome, run.gone, run.replaced, self.end_told, self.opening, self.behind

    def passes_in_silence(self, now: float, *, framed: bool) -> bool:
        """Whether all that is unread is skipped, which a plain client is not told."""
        there = not framed and not self.run.gone and self.number >= self.run.folded
        return there and not self.run.reading(self.number, now)

    def is_finished(self, now: float, *, framed: bool) -> bool:
        """Whether a look at it, which comes some time, is the last one and is not seen by the client."""
        read_up = self.number == self.run.head or self.passes_in_silence(now, framed=framed)
        return not framed and (self.run.gone or (read_up and self.run.outcome is not None))

    def has_nothing_to_tell(self, now: float, *, framed: bool) -> bool:
        """Whether a look at it, which comes some time, is not seen by the client."""
        return self.is_finished(now, framed=framed) or self.passes_in_silence(now, framed=framed)


@dataclass(eq=False)
class Reader:
    user: str
    cursor: EventCursor
    framed: bool
    last_read: float
    positions: list[Position] = field(default_factory=list)
    now: Callable[[], float] = lambda: 0.0
    answers: list[dict[str, Any]] = field(default_factory=list)
    """Control frames that must come first, with the keys that are compared."""

    def position(self, run: str, epoch: str | None = None, *, gone: bool = False) -> Position | None:
        """Return what is read of a run. Positions of which nothing was left to tell make way for the one that is named.

        It is named by its epoch, or, in the frame that says so, by being gone.
        """
        found = next((position for position in self.positions if position.run.run == run), None)
        if found is None or (not gone and epoch in {None, found.run.epoch}):
            return found
        if not found.end_told and not found.is_finished(self.now(), framed=self.framed):
            return found
        self.drop(found)
        return self.position(run, epoch, gone=gone)

    def drop(self, finished: Position) -> None:
        self.positions.remove(finished)
        behind = next((position for position in self.positions if position.run.run == finished.run.run), None)
        if behind is not None:
            behind.behind = False

    def seek(self, run: Run, number: int) -> None:
        self.positions = [position for position in self.positions if position.run.run != run.run]
        self.positions.append(Position(run, number))

    def answer(self, **frame: Any) -> None:
        if self.framed:
            self.answers.append(frame)


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock_block = manual_clock()
        self.clock = self.clock_block.__enter__()
        self.now = 0.0
        number = next(_examples)
        self.users = (f"ann-{number}-of-logs", f"ben-{number}-of-logs")
        # A lane that is made drops the expired logs of all users: both are made before there are any.
        self.lanes = [isolane.UserContextFactory.create_context(user) for user in self.users]
        self.runs: list[Run] = []
        self.readers: list[Reader] = []
        self.numbers = itertools.count(1)
        self.forgotten_before = isolane.lane_stats()["events_forgotten"]
        self.shed_before = isolane.lane_stats()["events_shed"]

    def streams(self, user: str) -> list[Run]:
        return [run for run in self.runs if run.user == user and not run.gone and not run.replaced]

    def new_cursor(self, user: str, *, framed: bool) -> Any:
        return EventCursor(user, framed=framed)

    @initialize(bound=st.integers(1, 8))
    def begin_with_two_readers(self, bound: int) -> None:
        self.attach(0, framed=True, welcome=True)
        self.begin(0, bound)
        self.attach(0, framed=False, welcome=False)
        self.readers[-1].seek(self.runs[0], 0)
        assert self.readers[-1].cursor.subscribe(self.runs[0].run) == "exact"

    # -- runs ----------------------------------------------------------------------------------------------------------

    def open(self, user: str, run: str, bound: int) -> None:
        thread = f"thread-{next(self.numbers)}"
        root = UserExecutionContext(user, thread, run)
        contexts = [root, root.create_child_context("a")]
        contexts.append(contexts[1].create_child_context("b"))
        emitters = [emitter_for_context(ctx, max_events=bound, retention=RETENTION) for ctx in contexts]
        (stream,) = [stream for stream in user_streams(user) if stream["run_id"] == run]
        new = Run(user, run, thread, stream["epoch"], contexts, emitters, bound)
        for old in [old for old in self.streams(user) if old.run == run]:
            old.replaced = True
        self.runs.append(new)
        for reader in self.readers:
            if reader.user != user:
                continue
            if reader.position(run) is not None:
                reader.positions.append(Position(new, 0, opening=reader.framed, behind=True))
            else:
                reader.seek(new, 0)
                reader.answer(t="sub", s=run, e=new.epoch, mode="exact", n=0, head=0)

    @precondition(lambda self: sum(run.outcome is None for run in self.runs) < 2)
    @rule(user=st.integers(0, 1), bound=st.integers(1, 8))
    def begin(self, user: int, bound: int) -> None:
        self.open(self.users[user], f"run-{self.users[user]}-{next(self.numbers)}", bound)

    @precondition(lambda self: any(run.outcome is not None for run in self.runs))
    @rule(data=st.data(), bound=st.integers(1, 8))
    def begin_again(self, data: st.DataObject, bound: int) -> None:
        """A run id that is used again gets a new incarnation of its log."""
        old = data.draw(st.sampled_from([run for run in self.runs if run.outcome is not None]))
        live = [run for run in self.runs if run.outcome is None]
        if len(live) < 3 and all(run.run != old.run for run in live):
            self.open(old.user, old.run, bound)

    def publish_really(self, run: Run, at: int, kind: str, agent: str | None, name: str, number: int) -> None:
        emitter = run.emitters[at]
        extra = {} if agent is None else {"agent_name": agent}
        if kind == "agent_started":
            emitter.notify_agent_started(agent, {"i": number})
        elif kind == "agent_thinking":
            emitter.notify_agent_thinking(content=str(number), **extra)
        elif kind == "tool_executing":
            emitter.notify_tool_executing(tool_name=name, params={"i": number}, **extra)
        elif kind == "tool_completed":
            emitter.notify_tool_completed(tool_name=name, result=number, **extra)
        elif kind == "agent_completed":
            emitter.notify_agent_completed(result=number, **extra)
        elif kind == "agent_error":
            emitter.notify_agent_error(error=f"e{number}", **extra)
        elif kind == "text":
            payload = {"delta": f"{number};"}
            assert emitter.publish(kind, payload, message_id=name, **extra) == run.head + 1
        else:
            key = {"key": name} if kind == "progress" else {}
            event_id = {"event_id": f"id_{run.epoch}_{number}"} if kind == "milestone" else {}
            own = {"priority": OWN[kind], **key, **event_id}
            type_ = name if kind == "custom" else kind
            assert emitter.publish(type_, {"i": number}, **own, **extra) == run.head + 1

    EXPECTED = {  # noqa: RUF012 - read only
        "agent_started": lambda number: ("i", number),
        "agent_thinking": lambda number: ("reasoning", str(number)),
        "tool_executing": lambda number: ("parameters", {"i": number}),
        "tool_completed": lambda number: ("result", number),
        "agent_completed": lambda number: ("result", number),
        "agent_error": lambda number: ("error_message", f"e{number}"),
        "custom": lambda number: ("i", number),
        "milestone": lambda number: ("i", number),
        "text": lambda number: ("delta", f"{number};"),
        "progress": lambda number: ("i", number),
        "debug": lambda number: ("i", number),
    }

    @precondition(lambda self: self.runs)
    @rule(
        data=st.data(),
        at=st.integers(0, 2),
        begun=st.booleans(),
        steps=st.lists(
            st.tuples(
                st.sampled_from([*EXPECTED, "text", "text", "progress", "agent_thinking", "tool_executing"]),
                st.sampled_from([None, None, None, *AGENTS]),
                st.integers(0, 1),
            ),
            min_size=2,
            max_size=14,
        ),
    )
    def publish(self, data: st.DataObject, at: int, begun: bool, steps: list[tuple[str, str | None, int]]) -> None:
        run = data.draw(st.sampled_from(self.runs[-3:]))
        if begun:
            steps = [("agent_started", None, 0), *steps]
        for kind, who, which in steps:
            name = (TYPES if kind in OWN else TOOLS)[which]
            agent = who or (AGENTS[0] if kind == "agent_started" else None)
            number = next(self.numbers)
            if run.outcome is not None:
                with pytest.raises(RunClosed):
                    self.publish_really(run, at, kind, agent, name, number)
                return
            run.make_room(self.now)
            refused = self.try_publishing(run, at, kind, agent, name, number)
            event_id = f"id_{run.epoch}_{number}" if kind == "milestone" else None
            what = self.EXPECTED[kind](number)
            more = {"event_id": event_id} if kind in OWN else {}
            accepted = run.accepts(at, kind, agent, name, what, **more)
            if accepted:
                run.events[-1].at = self.now
            assert (refused is None) == accepted, f"refused: {refused}"
            assert run.emitters[at].get_event_stats()["stream_head"] == run.head

    def try_publishing(self, run: Run, at: int, kind: str, agent: str | None, name: str, number: int) -> Any:
        try:
            self.publish_really(run, at, kind, agent, name, number)
        except InvalidEvent as error:
            return error
        return None

    @precondition(lambda self: any(run.ids for run in self.runs))
    @rule(data=st.data(), at=st.integers(0, 2))
    def publish_again(self, data: st.DataObject, at: int) -> None:
        """An event whose id is known is not appended again, also when its stream has ended."""
        run = data.draw(st.sampled_from([run for run in self.runs if run.ids]))
        event_id, number = data.draw(st.sampled_from(sorted(run.ids.items())))
        if run.gone:
            return
        assert run.emitters[at].publish("again", {}, event_id=event_id) == number
        assert run.emitters[at].get_event_stats()["stream_head"] == run.head

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), at=st.integers(0, 2), spans=st.booleans())
    def close_what_is_open(self, data: st.DataObject, at: int, spans: bool) -> None:
        run = data.draw(st.sampled_from(self.runs[-3:]))
        if run.outcome is None:
            run.emitters[at].close_open("repaired", spans=spans)
            run.repair(run.contexts[at].request_id, only_tools=not spans)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), outcome=st.none() | st.sampled_from(["cancelled", "failed"]), sure=st.integers(0, 2))
    def end(self, data: st.DataObject, outcome: str | None, sure: int) -> None:
        run = data.draw(st.sampled_from(self.runs[-3:]))
        if sure < 2 and run.head < 4:
            return
        end_stream(run.contexts[0], outcome)
        run.end(outcome, self.now)

    # -- readers -------------------------------------------------------------------------------------------------------

    @rule(user=st.integers(0, 1), framed=st.booleans(), welcome=st.booleans())
    def attach(self, user: int, framed: bool, welcome: bool) -> None:
        """One more than three replaces the one that was read from longest ago."""
        name = self.users[user]
        self.expire()
        own = [reader for reader in self.readers if reader.user == name]
        cursor = self.new_cursor(name, framed=framed)
        if len(own) == 3:
            oldest = min(own, key=lambda reader: reader.last_read)
            self.readers.remove(oldest)
            assert oldest.cursor.close_code == REPLACED
        reader = Reader(name, cursor, framed, self.now, now=lambda: self.now)
        self.readers.append(reader)
        if welcome:
            cursor.welcome(1_000)
            streams = [
                {
                    "s": run.run,
                    "e": run.epoch,
                    "n": run.head,
                    "state": "running" if run.outcome is None else "ended",
                    "thread_id": run.thread,
                }
                for run in self.streams(name)
            ]
            reader.answer(t="welcome", conn=cursor.connection_id, streams=streams)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        reader.cursor.detach()

    @precondition(lambda self: self.readers and self.runs)
    @rule(data=st.data(), where=st.sampled_from(["start", "own", "own", "ahead", "other epoch", "no epoch"]))
    def subscribe(self, data: st.DataObject, where: str) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        run = data.draw(st.sampled_from(self.runs))
        position = data.draw(st.integers(0, run.head))
        epoch: str | None = run.epoch
        self.expire()
        if where == "start":
            epoch, asked = None, None
        elif where == "own":
            asked = position
        elif where == "ahead":
            asked = run.head + 1 + position
        else:
            epoch, asked = ("0123456789abcdef" if where == "other epoch" else None), position
        mode = reader.cursor.subscribe(run.run, epoch, asked)
        current = next((one for one in self.streams(reader.user) if one.run == run.run), None)
        if current is None:
            assert mode == "gone"
            reader.answer(t="sub", s=run.run, mode="gone")
            return
        wanted = asked or 0
        reset = wanted > 0 if epoch is None else epoch != current.epoch or wanted > current.head
        number = 0 if reset else wanted
        assert mode == ("reset" if reset else "exact" if number >= current.folded else "snapshot")
        reader.seek(current, number)
        reader.answer(t="sub", s=run.run, e=current.epoch, mode=mode, n=number, head=current.head)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), limit=st.sampled_from([1, 3, 64]))
    def read(self, data: st.DataObject, limit: int) -> None:
        self.read_some(data.draw(st.sampled_from(self.readers)), limit)

    def read_some(self, reader: Reader, limit: int) -> bool:
        # What a plain reader passes over in silence, when it is not full, is passed over to the end.
        limit = limit if reader.framed else 1_000
        work = [position for position in reader.positions if position.has_work()]
        silent = all(position.has_nothing_to_tell(self.now, framed=reader.framed) for position in work)
        got = [json.loads(text) for text in reader.cursor.read(limit)]
        reader.last_read = self.now
        answers, reader.answers = reader.answers, []
        for expected in answers:
            frame = got.pop(0)
            assert {key: frame.get(key) for key in expected} == expected
        if not work:
            assert got == []
        elif not silent:
            assert got, f"there is something to read, and nothing is read: {[one.state() for one in reader.positions]}"
        self.told_gone: set[str] = set()
        self.expected: dict[str, list[Item]] = {}
        events = (self.follow_frames if reader.framed else self.follow_messages)(reader, got)
        assert events <= limit
        # A snapshot counts as many events as it has.
        full = sum(len(frame.get("b", ())) or 1 for frame in got) >= limit
        for position in work:
            if position not in reader.positions:
                continue
            silent = position.is_finished(self.now, framed=reader.framed)
            if not reader.framed and not position.run.gone:
                position.number = position.run.head
            unread = position.run.gone and not silent and position.run.run not in self.told_gone
            # In this read or, when it was full, in a later one.
            assert not unread or full, "a stream went away and the client was not told"
            if position.end_told or (position.run.gone and not unread and not silent) or (silent and not full):
                reader.drop(position)
        # Among them those whose turn came in this read, after an earlier incarnation of which nothing was left to tell.
        for position in [position for position in reader.positions if position.end_told]:
            reader.drop(position)
        return bool(answers or work)

    def follow_frames(self, reader: Reader, frames: list[dict[str, Any]]) -> int:
        events = 0
        for frame in frames:
            position = reader.position(frame["s"], frame.get("e"), gone=frame.get("mode") == "gone")
            assert position is not None, "a frame of a stream that the client does not follow"
            assert not position.behind
            run = position.run
            if frame["t"] == "sub" and position.opening and not run.gone:
                assert (frame["mode"], frame["e"], frame["n"]) == ("reset", run.epoch, 0)
                position.opening = False
                continue
            assert not position.opening or run.gone
            if frame["t"] == "sub":
                assert (frame["mode"], run.gone) == ("gone", True)
                assert not position.end_told
                self.told_gone.add(run.run)
                position.end_told = True
                continue
            assert not run.gone
            assert frame["e"] == run.epoch
            if frame["t"] == "snap":
                assert position.number < run.folded == frame["n"]
                self.check_snapshot(run, frame["b"])
                position.number = run.folded
            elif frame["t"] == "ev":
                assert position.number >= run.folded, "the snapshot is missing"
                expected = self.expected.setdefault(run.epoch, run.reading(position.number, self.now))
                for entry in frame["b"]:
                    events += 1
                    item = expected.pop(0)
                    event = item.event
                    assert (entry["n"], entry["f"], entry["id"]) == (event.number, item.first, entry["ev"]["event_id"])
                    assert (entry["p"], entry.get("k", 0)) == (
                        event.priority,
                        event.number + 1 - item.first - len(item.parts),
                    )
                    assert item.first == position.number + 1
                    run.check(entry["ev"], event)
                    position.number = event.number
            elif frame["t"] == "skip":
                assert self.expected.setdefault(run.epoch, run.reading(position.number, self.now)) == []
                covered = (position.number + 1, run.head, run.head - position.number)
                assert (frame["f"], frame["n"], frame["k"]) == covered
                position.number = run.head
            else:
                assert (frame["t"], frame["n"], frame["outcome"]) == ("end", run.head, run.outcome)
                assert position.number == run.head
                assert not position.end_told
                position.end_told = True
        return events

    def check_snapshot(self, run: Run, body: list[dict[str, Any]]) -> None:
        assert [message["seq"] for message in body] == [event.number for event in run.fold]
        for message, event in zip(body, run.fold, strict=True):
            run.check(message, event)

    def follow_messages(self, reader: Reader, messages: list[dict[str, Any]]) -> int:
        events = 0
        by_run = itertools.groupby(messages, key=lambda each: (each["run_id"], each["event_id"].split("_")[1]))
        for (name, epoch), each in [(key, list(each)) for key, each in by_run]:
            position = reader.position(name, epoch)
            assert position is not None
            assert not position.behind
            run = position.run
            if position.number < run.folded:
                self.check_snapshot(run, each[: len(run.fold)])
                each = each[len(run.fold) :]  # noqa: PLW2901
                position.number = run.folded
            expected = run.reading(position.number, self.now)
            assert len(each) == len(expected)
            for message, item in zip(each, expected, strict=True):
                run.check(message, item.event)
            events += len(each)
            position.number = run.head
        return events

    # -- time ----------------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        for run in self.runs:
            if run.ended_at is not None and run.ended_at + RETENTION < self.now:
                run.gone = True

    @rule(seconds=st.sampled_from([7, 151]), sweep=st.booleans())
    def wait(self, seconds: float, sweep: bool) -> None:
        """Seven times any number and 151 times any number do not meet at the retention."""
        self.clock.advance(seconds)
        self.now += seconds
        if sweep:
            isolane.sweep_lanes()
            self.expire()

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def streams_are_those_of_the_model(self) -> None:
        for user in self.users:
            real = [
                (stream["run_id"], stream["epoch"], stream["head"], stream["outcome"], stream["ended_seconds_ago"])
                for stream in user_streams(user)
            ]
            assert real == [
                (
                    run.run,
                    run.epoch,
                    run.head,
                    run.outcome,
                    None if run.ended_at is None else pytest.approx(self.now - run.ended_at),
                )
                for run in self.streams(user)
            ]
            usage = isolane.lane_usage(user)
            connections = sum(reader.user == user for reader in self.readers)
            assert (usage["connections"] if usage else 0) == connections
        stats = isolane.lane_stats()
        assert stats["events_forgotten"] - self.forgotten_before == sum(run.forgotten for run in self.runs)
        assert stats["events_shed"] - self.shed_before == sum(run.shed for run in self.runs)

    def teardown(self) -> None:
        try:
            for run in self.runs:
                end_stream(run.contexts[0])
                run.end(None, self.now)
            for reader in self.readers:
                for _ in range(10_000):
                    if not self.read_some(reader, 3):
                        break
                assert reader.positions == []
                assert reader.cursor.close_code is None
                reader.cursor.detach()
            self.readers.clear()
            self.clock.advance(RETENTION + 1)
            isolane.sweep_lanes()
            for user in self.users:
                usage = isolane.lane_usage(user)
                assert usage is None or (usage["event_bytes"], usage["streams"], usage["connections"]) == (0, 0, 0)
        finally:
            self.runs.clear()
            self.clock_block.__exit__(None, None, None)


LogMachine.TestCase.settings = settings(settings.get_profile("machines"), stateful_step_count=50)
TestLog = LogMachine.TestCase


def test_each_stream_that_went_away_is_told_of(new_user) -> None:
    user = new_user()
    with manual_clock() as clock:
        contexts = [isolane.UserContextFactory.create_context(user) for _ in range(3)]
        cursor = EventCursor(user)
        for ctx in contexts:
            ctx.get_websocket_emitter().publish("mine")
            cursor.subscribe(ctx.run_id)
        # The answers of the subscriptions, and one event.
        assert len(cursor.read(1)) == 7
        for ctx in contexts:
            end_stream(ctx)
        clock.advance(RETENTION + 1)
        isolane.sweep_lanes()
        told = [json.loads(text) for _ in range(5) for text in cursor.read(1)]
        gone = {frame["s"] for frame in told if frame.get("mode") == "gone"}
        # Of the first, all but its end had been read.
        assert {ctx.run_id for ctx in contexts[1:]} <= gone


class Faulty:
    """A cursor that is a little wrong."""

    def __init__(self, fault: str, cursor: EventCursor) -> None:
        self.fault = fault
        self.cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def read(self, limit: int) -> list[str]:
        texts = self.cursor.read(limit)
        if self.fault == "an event is left out":
            return [text for text in texts if '"t":"ev"' not in text or len(texts) < 2]
        if self.fault == "a batch is sent twice":
            return [again for text in texts for again in [text] * (2 if '"t":"ev"' in text else 1)]
        if self.fault == "the end is not told":
            return [text for text in texts if '"t":"end"' not in text]
        return [text.replace('"mode":"reset"', '"mode":"exact"') for text in texts]


@pytest.mark.parametrize(
    "fault", ["an event is left out", "a batch is sent twice", "the end is not told", "a reset is called exact"]
)
def test_the_machine_finds_a_planted_fault(fault) -> None:
    class FaultyMachine(LogMachine):
        def new_cursor(self, user: str, *, framed: bool) -> Any:
            return Faulty(fault, EventCursor(user, framed=True) if framed else EventCursor(user, framed=False))

    with pytest.raises((AssertionError, IndexError, KeyError, ExceptionGroup)):
        run_state_machine_as_test(
            FaultyMachine,
            settings=settings(settings.get_profile("short"), max_examples=200, phases=[Phase.generate]),
        )
