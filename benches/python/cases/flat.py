"""The same operations for few and for many users: none may become dearer with the number of users."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from isolane import (
    FairLimiter,
    UserContextFactory,
    UserExecutionContext,
    WebSocketBridgeFactory,
    WebSocketConfig,
    sweep_lanes,
)

from benches.python.cases.data import PAYLOAD, PAYLOAD_BYTES
from benches.python.measure import Case, Run, Side, awaits, now
from benches.python.peers.queue_emitter import QueueEmitter, counted_ids
from benches.python.peers.semaphores import NestedSemaphores

GROUP = "Many users"
USERS = (10, 1_000, 10_000)
OPERATIONS = 8_000
WARM = 10
"""Events in each log before the measured ones. With them the logs of 10 users stay below the 1000 at which a log folds,
and the measured event of each of 10000 users is not the one at which an array doubles.
"""
ROUNDS = 9
CONTEXT = "context made"
PERMIT = "free permit"
PUBLISH = f"publish({PAYLOAD_BYTES}-byte dict)"
FEWEST = f"{USERS[0]} users"
MOST = f"{USERS[-1]} users"

NOTE = (
    "Each operation is for another user than the one before. In turn, the users come in the order in which they were "
    "made. Without pattern, little of what belongs to 10000 users is in the CPU's caches, whoever wrote it: the peers' "
    "growth says how much that alone costs, and the instructions below say whether more is done for many users than "
    "for few."
)
IN_TURN = "in turn"
SCATTERED = "without pattern"

Operation = Callable[[int, int, str], Awaitable[float]]
"""Takes the number of users and of operations, and their order; returns the time of all operations."""


def _picks(users: int, count: int, order_of_users: str) -> list[str]:
    """As many different string objects for few users as for many.

    Otherwise the caches would make few users look cheaper for reasons outside of isolane.
    """
    order = [number % users for number in range(max(users, count))]
    if order_of_users == SCATTERED:
        random.Random(users).shuffle(order)
    return [_name(number) for number in order[:count]]


def _name(number: int) -> str:
    return f"user-{number}-7c21"


@asynccontextmanager
async def _living(users: int) -> AsyncIterator[list[UserExecutionContext]]:
    """One context for each user, so that each has a lane."""
    contexts = [UserContextFactory.create_context(_name(number)) for number in range(users)]
    try:
        yield contexts
    finally:
        for context in contexts:
            await context.cleanup()
        sweep_lanes(idle_lanes=True)


async def _contexts(users: int, count: int, order: str) -> float:
    picks = _picks(users, count, order)
    async with _living(users):
        start = now()
        for user in picks:
            UserExecutionContext(user, "thread-5d0a", "run-93ab")
        return now() - start


async def _permits(users: int, count: int, order: str) -> float:
    picks = _picks(users, count, order)
    limiter = FairLimiter(50, 5)
    async with _living(users):
        for user in picks:
            async with limiter.slot(user):
                pass
        start = now()
        for user in picks:
            async with limiter.slot(user):
                pass
        return now() - start


async def _semaphores(users: int, count: int, order: str) -> float:
    picks = _picks(users, count, order)
    semaphores = NestedSemaphores(50, 5)
    for number in range(users):
        semaphores.users[_name(number)]
    start = now()
    for user in picks:
        async with semaphores.users[user], semaphores.total:
            pass
    return now() - start


async def _events(users: int, count: int, order: str, warm: int = WARM) -> float:
    bridge = WebSocketBridgeFactory(WebSocketConfig(retention_seconds=0))
    async with _living(users) as contexts:
        emitters = {}
        for context in contexts:
            emitter = await bridge.create_user_emitter(context.user_id, context)
            for _ in range(warm):
                emitter.publish("agent_progress", PAYLOAD)
            emitters[context.user_id] = emitter
        chosen = [emitters[user] for user in _picks(users, count, order)]
        start = now()
        for emitter in chosen:
            emitter.publish("agent_progress", PAYLOAD)
        taken = now() - start
        for emitter in emitters.values():
            await emitter.cleanup()
        return taken


async def _queues(users: int, count: int, order: str) -> float:
    emitters = {_name(number): QueueEmitter(counted_ids()) for number in range(users)}
    for emitter in emitters.values():
        for _ in range(WARM):
            emitter.publish("agent_progress", PAYLOAD)
    chosen = [emitters[user] for user in _picks(users, count, order)]
    start = now()
    for emitter in chosen:
        emitter.publish("agent_progress", PAYLOAD)
    return now() - start


def _timed(operation: Operation, users: int, order: str) -> Run:
    """All operations of a measurement at once."""

    async def run(loops: int) -> float:
        return await operation(users, OPERATIONS, order) * loops / OPERATIONS

    return awaits(run)


def _counted(operation: Operation, users: int) -> Run:
    """As many operations as wanted."""
    return awaits(lambda loops: operation(users, loops, SCATTERED))


def cases() -> list[Case]:
    """Contexts, permits and events, and what the peers of the latter two cost for many users."""
    operations: tuple[tuple[str, Operation, str], ...] = (
        (CONTEXT, _contexts, NOTE),
        (PERMIT, _permits, ""),
        ("the peer's: two nested asyncio.Semaphore", _semaphores, ""),
        (PUBLISH, _events, ""),
        ("the peer's: dataclass, json.dumps, PriorityQueue", _queues, ""),
    )
    return [
        Case(
            GROUP,
            f"{name}, {order}",
            tuple(Side(f"{users} users", _timed(operation, users, order)) for users in USERS),
            own=True,
            rounds=ROUNDS,
            note=note if order == IN_TURN else "",
        )
        for name, operation, note in operations
        for order in (IN_TURN, SCATTERED)
    ]


def counted_cases() -> list[Case]:
    """isolane's for the fewest and the most users, for counting instructions."""
    few, most = USERS[0], USERS[-1]
    operations = ((CONTEXT, _contexts), (PERMIT, _permits), (PUBLISH, partial(_events, warm=1)))
    return [
        Case(GROUP, name, (Side(FEWEST, _counted(operation, few)), Side(MOST, _counted(operation, most))), own=True)
        for name, operation in operations
    ]
