"""Permits against `asyncio.Semaphore`."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from isolane import FairLimiter, Permit

from benches.python.measure import Case, Run, Side, awaits, now
from benches.python.peers.semaphores import DeadlineSemaphore, NestedSemaphores, SlotManager

GROUP = "Permits"
USER = "user-7c21"
TASKS = 1000
LIMIT = 5
DEADLINE = 30.0
CANCEL_ROUNDS = 5

Slots = Callable[[int], AbstractAsyncContextManager[Any]]
"""The permit of the task with a number."""


async def free_slot(loops: int) -> float:
    """Permits that nobody else wants."""
    limiter = FairLimiter(50, 5)
    start = now()
    for _ in range(loops):
        async with limiter.slot(USER):
            pass
    return now() - start


async def _free_asked(loops: int) -> float:
    limiter = FairLimiter(50, 5)
    start = now()
    for _ in range(loops):
        async with limiter.slot(USER, priority=1, timeout=2.0):
            pass
    return now() - start


async def _free_managed(loops: int) -> float:
    manager = SlotManager(50, 5)
    start = now()
    for _ in range(loops):
        async with manager.slot(USER, timeout=2.0):
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


WAITERS = 5000


def _cancelled(order: str, *, own: bool) -> Run:
    """Many tasks wait for one permit and are cancelled in an order; an operation is one of them, its task included."""

    async def waits(slot: AbstractAsyncContextManager[Any]) -> None:
        async with slot:
            pass

    async def run(loops: int) -> float:
        rounds = -(-loops // WAITERS)
        taken = 0.0
        for number in range(rounds):
            held: Permit | None = None
            semaphore = asyncio.Semaphore(1)
            limiter = FairLimiter(1, 1, queue=WAITERS, per_user_queue=WAITERS, timeout=float("inf"))
            if own:
                held = limiter.slot_nowait(USER)
                tasks = [asyncio.ensure_future(waits(limiter.slot(USER))) for _ in range(WAITERS)]
            else:
                await semaphore.acquire()
                tasks = [asyncio.ensure_future(waits(semaphore)) for _ in range(WAITERS)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            to_cancel = list(tasks)
            if order == LAST_FIRST:
                to_cancel.reverse()
            elif order == SHUFFLED:
                random.Random(number).shuffle(to_cancel)
            start = now()
            for task in to_cancel:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            taken += now() - start
            if held is not None:
                held.release()
        return taken * loops / (rounds * WAITERS)

    return awaits(run)


def _same(make: Callable[[], AbstractAsyncContextManager[Any]]) -> Callable[[], Slots]:
    """Every task uses one semaphore."""

    def slots() -> Slots:
        semaphore = make()
        return lambda _: semaphore

    return slots


FREE = "free permit, user and process limit"
ASKED = "free permit, with priority, deadline and statistics"
CANCELLED = f"one of {WAITERS} waiters cancelled"
FIRST_FIRST = "first come first"
LAST_FIRST = "last come first"
SHUFFLED = "in any order"
_WAITING = f"{TASKS} tasks, limit {LIMIT}, per task"
ONE_USER = f"{_WAITING}: one user"
MANY_USERS = f"{_WAITING}: {TASKS} users"
WITH_DEADLINE = f"{_WAITING}: one user, 30 s deadline"

OWN = "isolane FairLimiter.slot"
NESTED = "two nested asyncio.Semaphore"
SEMAPHORE = "asyncio.Semaphore"
MANAGED = "generator with wait_for around two asyncio.Semaphore"


def cancelling(order: str) -> str:
    """The name of isolane's side for an order of cancellations."""
    return f"{OWN}, {order}"


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
        Case(GROUP, FREE, (Side(OWN, awaits(free_slot)), Side(NESTED, awaits(_free_nested))), note=note),
        Case(
            GROUP,
            ASKED,
            (
                Side(OWN, awaits(_free_asked)),
                Side(NESTED, awaits(_free_nested)),
                Side(MANAGED, awaits(_free_managed)),
            ),
        ),
        Case(
            GROUP,
            CANCELLED,
            (
                *(
                    Side(cancelling(order), _cancelled(order, own=True))
                    for order in (FIRST_FIRST, LAST_FIRST, SHUFFLED)
                ),
                Side(f"{SEMAPHORE}, {LAST_FIRST}", _cancelled(LAST_FIRST, own=False)),
            ),
            rounds=CANCEL_ROUNDS,
            note="The whole task is measured: it is woken with the cancellation, leaves the queue, and ends.",
        ),
        Case(GROUP, ONE_USER, (Side(OWN, _contended(_fair(1, forever))), semaphore)),
        Case(GROUP, MANY_USERS, (Side(OWN, _contended(_fair(TASKS, forever))), semaphore)),
        Case(GROUP, WITH_DEADLINE, (Side(OWN, _contended(_fair(1, DEADLINE))), deadline)),
    ]
