"""Publishing against a dataclass, `json.dumps` and an `asyncio.PriorityQueue`, and awaiting against publishing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from isolane import UserContextFactory, WebSocketBridgeFactory, WebSocketConfig, sweep_lanes

from benches.python.cases.data import PAYLOAD, PAYLOAD_BYTES
from benches.python.measure import Case, Run, Side, awaits, now
from benches.python.peers import orjson_message
from benches.python.peers.queue_emitter import QueueEmitter, counted_ids, random_ids

GROUP = "Events"
ROOM = 900
"""Events that fit into a log and a queue of 1000 without folding or dropping."""
FULL = 1200
OPEN_TOOLS = 50
"""Tool calls that are open at once when their ends are timed."""

PUBLISH = f"publish({PAYLOAD_BYTES}-byte dict); log with room"
AWAIT = f"the await of a {PAYLOAD_BYTES}-byte event; log with room"
OWN = "isolane emitter"
QUEUE = "dataclass, json.dumps, PriorityQueue"
ORJSON = "message built in Python, orjson"
SYNC = "publish"
AWAITED = "await send_custom_event"
AWAITED_TOOL = "await notify_tool_completed"

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


def peer_emitter(make: Callable[[], Any]) -> Emitters:
    """A peer's emitter."""

    @asynccontextmanager
    async def emitter() -> AsyncIterator[Any]:
        yield make()

    return emitter


async def publish_dicts(emitter: Any, events: int) -> None:
    """Publish the payload of all cases as often."""
    publish = emitter.publish
    for _ in range(events):
        publish("agent_progress", PAYLOAD)


async def _send(emitter: Any, events: int) -> None:
    send = emitter.send_custom_event
    for _ in range(events):
        await send("agent_progress", PAYLOAD)


async def _notify(emitter: Any, events: int) -> None:
    executing, completed = emitter.notify_tool_executing, emitter.notify_tool_completed
    for _ in range(events // 2):
        await executing("pricer", PAYLOAD)
        await completed("pricer", PAYLOAD)


def with_room(make: Emitters, work: Work) -> Run:
    """A new emitter before the log or queue is full."""

    async def run(loops: int) -> float:
        taken = 0.0
        done = 0
        while done < loops:
            events = min(ROOM, max(2, loops - done))
            async with make() as emitter:
                start = now()
                await work(emitter, events)
                taken += now() - start
            done += events
        return taken * loops / done

    return awaits(run)


def _completed_with_room(make: Emitters) -> Run:
    """Only the ends of tool calls, each some at a time after their beginnings."""

    async def run(loops: int) -> float:
        taken = 0.0
        done = 0
        while done < loops:
            async with make() as emitter:
                for _ in range(ROOM // (2 * OPEN_TOOLS)):
                    ends = min(OPEN_TOOLS, loops - done)
                    taken += await _complete(emitter, ends)
                    done += ends
        return taken

    return awaits(run)


async def _complete(emitter: Any, ends: int) -> float:
    for _ in range(ends):
        await emitter.notify_tool_executing("pricer", PAYLOAD)
    completed = emitter.notify_tool_completed
    start = now()
    for _ in range(ends):
        await completed("pricer", PAYLOAD)
    return now() - start


def _full(make: Emitters, work: Work) -> Run:
    """One emitter whose log or queue is full from the first measured event."""

    async def run(loops: int) -> float:
        events = max(2, loops)
        async with make() as emitter:
            await work(emitter, FULL)
            start = now()
            await work(emitter, events)
            return (now() - start) * loops / events

    return awaits(run)


def cases() -> list[Case]:
    """Synchronous and awaited, in a log with room and in a full one."""
    full = "full log: isolane folds, the peer drops"
    notify = "await notify_tool_executing / _completed, per event"
    queues: tuple[tuple[str, Emitters], ...] = (
        (OWN, isolane_emitter),
        (QUEUE, peer_emitter(lambda: QueueEmitter(counted_ids()))),
        ("the same with a uuid4 per event", peer_emitter(lambda: QueueEmitter(random_ids()))),
    )
    orjson = () if orjson_message.MISSING else ((ORJSON, peer_emitter(orjson_message.OrjsonEmitter)),)
    own = isolane_emitter

    def against(name: str, timed: Callable[[Emitters, Work], Run], work: Work, sides: Any, note: str = "") -> Case:
        return Case(GROUP, name, tuple(Side(side, timed(make, work)) for side, make in sides), note=note)

    return [
        against(
            *(PUBLISH, with_room, publish_dicts, (*queues, *orjson)),
            note=orjson_message.MISSING or "orjson: no log, no queue and no check of the payload's depth and size.",
        ),
        against(f"publish({PAYLOAD_BYTES}-byte dict); {full}", _full, publish_dicts, queues),
        against(f"{notify}; log with room", with_room, _notify, queues),
        against(f"{notify}; {full}", _full, _notify, queues),
        Case(
            GROUP,
            AWAIT,
            (
                Side(SYNC, with_room(own, publish_dicts)),
                Side(AWAITED, with_room(own, _send)),
                Side(AWAITED_TOOL, _completed_with_room(own)),
            ),
            own=True,
            note="`send_custom_event` is the awaited form of `publish` itself. `notify_tool_completed` also closes the "
            "tool call and writes the name of the tool, its status and how long it took.",
        ),
    ]
