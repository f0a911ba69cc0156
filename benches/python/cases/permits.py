"""Permits against `asyncio.Semaphore`."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from isolane import FairLimiter

from benches.python.measure import Case, Run, Side, awaits, now
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
    start = now()
    for _ in range(loops):
        async with limiter.slot(USER):
            pass
    return now() - start


async def _free_nested(loops: int) -> float:
    semaphores = NestedSemaphores(50, 5)
    start = now()
    for _ in range(loops):
        async with semaphores.users[USER], semaphores.total:
            pass
    return now() - start


def _contended(make: Callable[[], Slots]) -> Run:
    """Rounds of tasks that all want a permit at once; an operation is one task."""

    async def once(slot: AbstractAsyncContextManager[Any]) -> None:
        async with slot:
            await asyncio.sleep(0)

    async def run(loops: int) -> float:
        rounds = -(-loops // TASKS)
        taken = 0.0
        for _ in range(rounds):
            slot = make()
            start = now()
            await asyncio.gather(*(once(slot(number)) for number in range(TASKS)))
            taken += now() - start
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


FREE = "free permit, user and process limit"
_WAITING = f"{TASKS} tasks, limit {LIMIT}, per task"
ONE_USER = f"{_WAITING}: one user"
MANY_USERS = f"{_WAITING}: {TASKS} users"
WITH_DEADLINE = f"{_WAITING}: one user, 30 s deadline"

OWN = "isolane FairLimiter.slot"
NESTED = "two nested asyncio.Semaphore"
SEMAPHORE = "asyncio.Semaphore"


def cases() -> list[Case]:
    """A free permit, and a queue of tasks with and without a deadline."""
    forever = float("inf")
    semaphore = Side(SEMAPHORE, _contended(_same(lambda: asyncio.Semaphore(LIMIT))))
    deadline = Side(
        "asyncio.Semaphore in asyncio.timeout", _contended(_same(lambda: DeadlineSemaphore(LIMIT, DEADLINE)))
    )
    note = (
        "The nested semaphores are what most services write: neither fair over users nor atomic. Tasks in a queue are "
        "timed with their creation and one turn of the loop while they hold the permit, on both sides."
    )
    return [
        Case(GROUP, FREE, (Side(OWN, awaits(_free_slot)), Side(NESTED, awaits(_free_nested))), note=note),
        Case(GROUP, ONE_USER, (Side(OWN, _contended(_fair(1, forever))), semaphore)),
        Case(GROUP, MANY_USERS, (Side(OWN, _contended(_fair(TASKS, forever))), semaphore)),
        Case(GROUP, WITH_DEADLINE, (Side(OWN, _contended(_fair(1, DEADLINE))), deadline)),
    ]
