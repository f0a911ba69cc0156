"""What must come to its end although nobody may wait for it, and what was handed out and not given back yet."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from isolane.pools.accounts import Accounts
from isolane.pools.capacity import Sizes
from isolane.pools.lease import Lease

T = TypeVar("T")


class Held(Protocol):
    """Something handed out that can be ended by force."""

    def force(self) -> None:
        """Discard it."""


class Keeper:
    """Closes connections in the background, each for a bounded time, and ends by force what is left at the end."""

    def __init__(self, accounts: Accounts, close_timeout: float, open_timeout: float) -> None:
        self.close_timeout, self.open_timeout = close_timeout, open_timeout
        self._accounts, self._sizes = accounts, Sizes()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: weakref.WeakSet[Any] = weakref.WeakSet()

    def keep(self, held: Held) -> None:
        """Remember what was handed out. It is forgotten with its last reference."""
        self._held.add(held)

    def in_background(self, work: Coroutine[Any, Any, T], lease: Lease) -> asyncio.Task[T] | None:
        """Run what must end. Without a loop to run it on, the lease at least is returned."""
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            work.close()
            lease.release()
            return None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def compare(self, pool: str, owner: Any, size: int | None) -> None:
        """Warn, once, when the application's own pool is smaller than what is admitted to it."""
        self._sizes.compare(pool, self._accounts.pools[pool].limit, owner, size)

    async def close(self) -> None:
        """End by force what is still handed out, and wait for what is being closed."""
        for held in list(self._held):
            held.force()
        loop = asyncio.get_running_loop()
        tasks = {task for task in self._tasks if task.get_loop() is loop and task is not asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=self.close_timeout)
