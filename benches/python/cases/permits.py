"""Permits against `asyncio.Semaphore`."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from isolane import FairLimiter

from benches.python.measure import Case, Side, Timed, awaits
from benches.python.peers.semaphores import DeadlineSemaphore, NestedSemaphores

GROUP = "Permits"
USER = "user-7c21"
TASKS = 1000
LIMIT = 5
DEADLINE = 30.0

Slots = Callable[[int], AbstractAsyncContextManager[Any]]
"""The permit of the task with a number."""


async def _free_slot(loops: int) -> float:
    limiter = FairLimiter(50, 5)
    start = time.perf_counter()
    for _ in range(loops):
        async with limiter.slot(USER):
            pass
    return time.perf_counter() - start


async def _free_nested(loops: int) -> float:
    semaphores = NestedSemaphores(50, 5)
    start = time.perf_counter()
    for _ in range(loops):
        async with semaphores.users[USER], semaphores.total:
            pass
    return time.perf_counter() - start


def _contended(make: Callable[[], Slots]) -> Timed:
    """Rounds of tasks that all want a permit at once; an operation is one task."""

    async def once(slot: AbstractAsyncContextManager[Any]) -> None:
        async with slot:
            await asyncio.sleep(0)

    async def run(loops: int) -> float:
        rounds = -(-loops // TASKS)
        taken = 0.0
        for _ in range(rounds):
            slot = make()
            start = time.perf_counter()
            await asyncio.gather(*(once(slot(number)) for number in range(TASKS)))
            taken += time.perf_counter() - start
        return taken * loops / (rounds * TASKS)

    return awaits(run)


def _fair(users: int, timeout: float) -> Callable[[], Slots]:
    names = [f"user-{number % users}-7c21" for number in range(TASKS)]

    def make() -> Slots:
        limiter = FairLimiter(LIMIT, LIMIT, queue=TASKS, per_user_queue=TASKS, timeout=timeout)
        return lambda number: limiter.slot(names[number])

    return make


def _same(make: Callable[[], AbstractAsyncContextManager[Any]]) -> Callable[[], Slots]:
    """Every task uses one semaphore."""

    def slots() -> Slots:
        semaphore = make()
        return lambda _: semaphore

    return slots


def cases() -> list[Case]:
    """A free permit, and a queue of tasks with and without a deadline."""
    forever = float("inf")
    semaphore = Side("asyncio.Semaphore", _contended(_same(lambda: asyncio.Semaphore(LIMIT))))
    deadline = Side(
        "asyncio.Semaphore in asyncio.timeout", _contended(_same(lambda: DeadlineSemaphore(LIMIT, DEADLINE)))
    )
    slot = "isolane FairLimiter.slot"
    waiting = f"{TASKS} tasks, limit {LIMIT}, per task"
    return [
        Case(
            GROUP,
            "free permit, user and process limit",
            (Side(slot, awaits(_free_slot)), Side("two nested asyncio.Semaphore", awaits(_free_nested))),
        ),
        Case(GROUP, f"{waiting}: one user", (Side(slot, _contended(_fair(1, forever))), semaphore)),
        Case(GROUP, f"{waiting}: {TASKS} users", (Side(slot, _contended(_fair(TASKS, forever))), semaphore)),
        Case(GROUP, f"{waiting}: one user, 30 s deadline", (Side(slot, _contended(_fair(1, DEADLINE))), deadline)),
    ]
