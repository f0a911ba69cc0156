"""Limits as `asyncio.Semaphore`s."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType


class NestedSemaphores:
    """A limit per user and one for the process: `async with semaphores.users[user_id], semaphores.total: ...`.

    What most services write. It is neither fair over users nor atomic: a waiter may hold one of the two.
    """

    def __init__(self, total: int, per_user: int) -> None:
        self.total = asyncio.Semaphore(total)
        self.users: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_user))


class DeadlineSemaphore:
    """A semaphore whose wait has a deadline."""

    def __init__(self, permits: int, seconds: float) -> None:
        self.semaphore = asyncio.Semaphore(permits)
        self.seconds = seconds

    async def __aenter__(self) -> None:
        async with asyncio.timeout(self.seconds):
            await self.semaphore.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.semaphore.release()


class SlotManager:
    """Two semaphores with deadlines and counts, in the shape in which services write it: a generator as a context
    manager, ``wait_for`` around each semaphore, a clock before and after, and what was counted in dictionaries.

    Without the faults that this shape usually has: it returns what it took, and only that.
    """

    def __init__(self, total: int, per_user: int) -> None:
        self.total = asyncio.Semaphore(total)
        self.users: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_user))
        self.waits: dict[str, float] = {}
        self.holds: dict[str, float] = {}

    @asynccontextmanager
    async def slot(self, user_id: str, timeout: float = 2.0) -> AsyncIterator[None]:  # noqa: ASYNC109 - the shape
        user = self.users[user_id]
        start = time.monotonic()
        await asyncio.wait_for(user.acquire(), timeout)
        try:
            left = max(0.1, timeout - (time.monotonic() - start))
            await asyncio.wait_for(self.total.acquire(), left)
            try:
                granted = time.monotonic()
                self.waits[user_id] = granted - start
                try:
                    yield
                finally:
                    self.holds[user_id] = time.monotonic() - granted
            finally:
                self.total.release()
        finally:
            user.release()
