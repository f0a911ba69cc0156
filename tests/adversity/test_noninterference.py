"""Noninterference: what a user sees and is sent does not depend on whether others are there, and what they try.

A script of one user is run twice through the public API: alone, and beside nine others who do what they can, with the
ids of the first one as well. The limits have room for all of them, so nobody is refused. Both times everything that the
user observed, and every message that the user was sent, is written down without times and random ids. The two texts
must be the same. It needs no canary and knows nothing of how a leak would look.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import isolane
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isolane import (
    AgentInstanceFactory,
    AgentRegistry,
    BaseAgent,
    ContextIsolationError,
    ExecutionEngineFactory,
    FairLimiter,
    InvalidEvent,
    UserExecutionContext,
    WebSocketBridgeFactory,
)
from isolane._core import EventCursor, cancel_stream, stream_state
from isolane.testing import manual_clock

numbers = itertools.count(1)
HOSTILE = 9
RANDOM = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}")
TIMES = frozenset({"timestamp", "execution_time_ms", "duration_ms"})

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
KEYS = st.sampled_from(["a", "b", "costs"])
OPERATIONS = st.one_of(
    st.tuples(st.just("think"), TEXTS),
    st.tuples(st.just("tool"), KEYS, TEXTS),
    st.tuples(st.just("custom"), KEYS, TEXTS),
    st.tuples(st.just("text"), KEYS, TEXTS),
    st.tuples(st.just("progress"), KEYS, st.integers(0, 9)),
    st.tuples(st.just("cache"), KEYS, TEXTS),
    st.tuples(st.just("read"), KEYS),
    st.tuples(st.just("permit")),
    st.tuples(st.just("child"), TEXTS),
    st.tuples(st.just("remember"), KEYS, TEXTS),
    st.tuples(st.just("notice"), TEXTS),
    st.tuples(st.just("fail")),
)
HOSTILITIES = st.one_of(
    OPERATIONS,
    st.tuples(st.just("subscribe")),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("publish")),
    st.tuples(st.just("join")),
    st.tuples(st.just("engines")),
    st.tuples(st.just("sweep")),
)
SCRIPTS = st.lists(OPERATIONS, min_size=1, max_size=10)
OTHERS = st.lists(st.lists(HOSTILITIES, max_size=6), min_size=HOSTILE, max_size=HOSTILE)

Plant = Callable[["Place"], None]


class Worker(BaseAgent):
    """Does the operations of a script, and lets others have turns between."""

    name = "worker"

    async def execute_with_context(self, context, request, results) -> Any:
        user, script = request
        user.step = context
        for operation in script:
            await user.do(context, operation)
            await asyncio.sleep(0)
        return user.seen[-1:] and str(user.seen[-1])


class Place:
    """What all users share: engines, emitters and limits with room for all of them."""

    def __init__(self) -> None:
        self.limiter = FairLimiter(1_000, 100)
        self.bridge = WebSocketBridgeFactory()
        agents = AgentRegistry()
        agents.register(Worker)
        self.factory = ExecutionEngineFactory(
            self.bridge, max_engines_per_user=10, agent_factory=AgentInstanceFactory(agents), limiter=self.limiter
        )
        self.victim: User | None = None
        self.shared_cache: Any = None
        self.emitter_of: Callable[[UserExecutionContext], UserExecutionContext] = lambda context: context


class User:
    """One user with a run, a socket, and a record of all that the user sees."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.id = f"{name}-interference-{next(numbers)}"
        # The same thread and the same names for everybody: only the user differs.
        self.context = UserExecutionContext(self.id, "thread-1", f"run-of-{self.id}")
        self.cursor = EventCursor(self.id, framed=False)
        # Whoever is first has a run id, so the run is there before anybody tries to join it.
        self.context.get_websocket_emitter()
        self.step = self.context
        self.seen: list[Any] = []

    async def run(self, script: list[Any]) -> None:
        async with self.place.factory.user_execution_scope(self.context) as engine:
            result = await engine.execute_agent("worker", (self, script))
            self.seen.append((result.success, result.result, type(result.error).__name__))

    async def do(self, context: UserExecutionContext, operation: Any) -> None:
        name, *arguments = operation
        self.seen.append(await getattr(self, f"_{name}")(context, *arguments))

    # -- what any user does ----------------------------------------------------------------------------------------

    async def _think(self, context: Any, text: str) -> Any:
        return await self.place.emitter_of(context).get_websocket_emitter().notify_agent_thinking(text)

    async def _tool(self, context: Any, name: str, text: str) -> Any:
        emitter = context.get_websocket_emitter()
        await emitter.notify_tool_executing(tool_name=name, params={"text": text})
        return await emitter.notify_tool_completed(tool_name=name, result=text)

    async def _custom(self, context: Any, name: str, text: str) -> Any:
        return context.get_websocket_emitter().publish(name, {"text": text})

    async def _text(self, context: Any, name: str, text: str) -> Any:
        return await context.get_websocket_emitter().send_custom_event("text", {"delta": text}, message_id=name)

    async def _progress(self, context: Any, key: str, value: int) -> Any:
        return context.get_websocket_emitter().publish("progress", {"at": value}, priority=3, key=key)

    def _cache_of(self, context: Any) -> Any:
        return self.place.shared_cache if self.place.shared_cache is not None else context.context_cache

    async def _cache(self, context: Any, key: str, text: str) -> Any:
        self._cache_of(self.context)[key] = text
        return len(self._cache_of(self.context))

    async def _read(self, context: Any, key: str) -> Any:
        return self._cache_of(self.context).get(key)

    async def _permit(self, context: Any) -> Any:
        with await self.place.limiter.acquire(self.id, timeout=5):
            await asyncio.sleep(0)
            return "granted"

    async def _child(self, context: Any, text: str) -> Any:
        child = context.create_child_context("part", additional_agent_context={"text": text})
        return child.agent_context["text"], child.operation_depth

    async def _remember(self, context: Any, key: str, text: str) -> Any:
        self.context.agent_context.setdefault(key, []).append(text)
        return self.context.agent_context[key][:]

    async def _notice(self, context: Any, text: str) -> Any:
        return await self.place.bridge.broadcast_to_user(self.id, {"type": "notice", "payload": {"text": text}})

    async def _fail(self, context: Any) -> Any:
        raise LookupError("as planned")

    # -- what a hostile one tries with the ids of the first ----------------------------------------------------------

    def _of_victim(self) -> str:
        assert self.place.victim is not None
        return self.place.victim.context.run_id

    async def _subscribe(self, context: Any) -> Any:
        return self.cursor.subscribe(self._of_victim())

    async def _cancel(self, context: Any) -> Any:
        cancel_stream(self.id, self._of_victim(), "because")
        return stream_state(self.id, self._of_victim()), await self.place.factory.cancel_run(self.id, self._of_victim())

    async def _publish(self, context: Any) -> Any:
        with contextlib.suppress(InvalidEvent, ContextIsolationError):
            await context.get_websocket_emitter().notify_agent_thinking("hm", run_id=self._of_victim())

    async def _join(self, context: Any) -> Any:
        with contextlib.suppress(ContextIsolationError):
            UserExecutionContext(self.id, "thread-1", self._of_victim()).get_websocket_emitter()

    async def _engines(self, context: Any) -> Any:
        return await self.place.factory.cleanup_user_context(f"not-{self.id}")

    async def _sweep(self, context: Any) -> Any:
        isolane.sweep_lanes()

    # -- what the user was sent ------------------------------------------------------------------------------------

    def canonical(self) -> list[str]:
        """All that the user observed and was sent, without times and random ids."""
        lines = [f"saw {one!r}" for one in self.seen]
        while messages := self.cursor.read(1_000):
            lines += [json.dumps(_timeless(json.loads(text)), sort_keys=True) for text in messages]
        named: dict[str, str] = {}
        text = "\n".join(lines).replace(self.id, "the-user")
        return RANDOM.sub(lambda found: named.setdefault(found[0], f"id-{len(named)}"), text).split("\n")


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


async def history(script: list[Any], others: list[list[Any]], plant: Plant | None = None) -> list[str]:
    """Run a script beside others; return what its user saw."""
    place = Place()
    if plant is not None:
        plant(place)
    user = place.victim = User(place, "ann")
    beside = [User(place, f"eve{at}") for at in range(len(others))]
    everybody = [*beside[: len(beside) // 2], user, *beside[len(beside) // 2 :]]
    scripts = [*others[: len(others) // 2], script, *others[len(others) // 2 :]]
    try:
        await asyncio.gather(*(each.run(todo) for each, todo in zip(everybody, scripts, strict=True)))
        return user.canonical()
    finally:
        await place.factory.shutdown(drain=0)
        await place.bridge.shutdown()
        for each in everybody:
            each.cursor.detach()
            await each.context.cleanup()
        isolane.sweep_lanes(idle_lanes=True)


def both(script: list[Any], others: list[list[Any]], plant: Plant | None = None) -> tuple[list[str], list[str]]:
    """What the user sees alone, and beside the others."""
    with manual_clock() as clock:
        alone = asyncio.run(history(script, [], plant))
        clock.advance(1_000)
        beside = asyncio.run(history(script, others, plant))
        clock.advance(1_000)
        isolane.sweep_lanes(idle_lanes=True)
    return alone, beside


@settings(settings.get_profile("machines"))
@given(SCRIPTS, OTHERS)
def test_what_a_user_sees_does_not_depend_on_others(script, others) -> None:
    alone, beside = both(script, others)
    assert len(alone) >= 3, "at least a beginning, an end and a result"
    assert alone == beside


EVERYTHING: list[Any] = [
    *[("think", "x"), ("tool", "a", "x"), ("custom", "a", "x"), ("text", "a", "x"), ("progress", "a", 1)],
    *[("read", "a"), ("cache", "a", "x"), ("read", "a"), ("permit",), ("child", "x"), ("remember", "a", "x")],
    ("notice", "x"),
]
OTHERWISE: list[Any] = [tuple("y" if word == "x" else word for word in operation) for operation in EVERYTHING]
HOSTILITY: list[Any] = [("subscribe",), ("cancel",), ("publish",), ("join",), ("engines",), ("sweep",)]
MUCH: list[list[Any]] = [[*OTHERWISE, *HOSTILITY]] * HOSTILE


def test_everything_that_can_be_done_is_seen_and_does_not_interfere() -> None:
    alone, beside = both(EVERYTHING, MUCH)
    assert alone == beside
    kinds = {json.loads(line)["type"] for line in alone if not line.startswith("saw ")}
    assert {"agent_started", "agent_completed", "tool_completed", "text", "progress", "notice"} <= kinds


def one_cache_for_all(place: Place) -> None:
    place.shared_cache = {}


def an_emitter_of_the_first_user(place: Place) -> None:
    place.emitter_of = lambda _: place.victim.step  # type: ignore[union-attr]


def a_notice_to_everybody(place: Place) -> None:
    to_one = place.bridge.broadcast_to_user

    async def to_all(user_id: str, event: Any) -> bool:
        if place.victim is not None and place.victim.id != user_id:
            await to_one(place.victim.id, event)
        return await to_one(user_id, event)

    place.bridge.broadcast_to_user = to_all  # type: ignore[method-assign]


@pytest.mark.parametrize("plant", [one_cache_for_all, an_emitter_of_the_first_user, a_notice_to_everybody])
def test_a_planted_interference_is_seen(plant) -> None:
    """The positive control."""
    alone, beside = both(EVERYTHING, MUCH, plant)
    assert alone != beside
