"""Limits as `asyncio.Semaphore`s."""

import asyncio
from collections import defaultdict
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
