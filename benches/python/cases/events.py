"""Publishing against a dataclass, `json.dumps` and an `asyncio.PriorityQueue`."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from isolane import UserContextFactory, WebSocketBridgeFactory, WebSocketConfig, sweep_lanes

from benches.python.cases.data import PAYLOAD, PAYLOAD_BYTES
from benches.python.measure import Case, Side, Timed, awaits
from benches.python.peers.queue_emitter import QueueEmitter, counted_ids, random_ids

GROUP = "Events"
ROOM = 900
"""Events that fit into a log and a queue of 1000 without folding or dropping."""
FULL = 1200

Emitters = Callable[[], Any]
Work = Callable[[Any, int], Awaitable[None]]


@asynccontextmanager
async def isolane_emitter() -> AsyncIterator[Any]:
    """An emitter of a run that an agent has begun. Its log is dropped when it ends."""
    context = UserContextFactory.create_context("user-7c21")
    bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))
    emitter = await bridge.create_user_emitter(context.user_id, context)
    await emitter.notify_agent_started("bench")
    try:
        yield emitter
    finally:
        await emitter.cleanup()
        await context.cleanup()
        sweep_lanes()


def queue_emitter(ids: Callable[[], Callable[[int], str]]) -> Emitters:
    """A peer's emitter."""

    @asynccontextmanager
    async def make() -> AsyncIterator[Any]:
        yield QueueEmitter(ids())

    return make


async def _publish(emitter: Any, events: int) -> None:
    for _ in range(events):
        emitter.publish("agent_progress", PAYLOAD)


async def _notify(emitter: Any, events: int) -> None:
    for _ in range(events // 2):
        await emitter.notify_tool_executing("pricer", PAYLOAD)
        await emitter.notify_tool_completed("pricer", PAYLOAD)


def _with_room(make: Emitters, work: Work) -> Timed:
    """A new emitter before the log or queue is full."""

    async def run(loops: int) -> float:
        taken = 0.0
        done = 0
        while done < loops:
            events = min(ROOM, max(2, loops - done))
            async with make() as emitter:
                start = time.perf_counter()
                await work(emitter, events)
                taken += time.perf_counter() - start
            done += events
        return taken * loops / done

    return awaits(run)


def _full(make: Emitters, work: Work) -> Timed:
    """One emitter whose log or queue is full from the first measured event."""

    async def run(loops: int) -> float:
        events = max(2, loops)
        async with make() as emitter:
            await work(emitter, FULL)
            start = time.perf_counter()
            await work(emitter, events)
            return (time.perf_counter() - start) * loops / events

    return awaits(run)


def cases() -> list[Case]:
    """Synchronous and awaited, in a log with room and in a full one."""
    sides: tuple[tuple[str, Emitters], ...] = (
        ("isolane emitter", isolane_emitter),
        ("dataclass, json.dumps, PriorityQueue", queue_emitter(counted_ids)),
        ("the same with a uuid4 per event", queue_emitter(random_ids)),
    )
    kinds: tuple[tuple[str, Work], ...] = (
        (f"publish({PAYLOAD_BYTES}-byte dict)", _publish),
        ("await notify_tool_executing / _completed, per event", _notify),
    )
    fills: tuple[tuple[str, Callable[[Emitters, Work], Timed]], ...] = (
        ("log with room", _with_room),
        ("full log: isolane folds, the peer drops", _full),
    )
    return [
        Case(GROUP, f"{what}; {fill}", tuple(Side(name, timed(make, work)) for name, make in sides))
        for what, work in kinds
        for fill, timed in fills
    ]
