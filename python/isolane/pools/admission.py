"""The seam to the limiter: who may have a connection now, decided in one step for the user and all pools asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from isolane._core import FairLimiter, Permit, monotonic


class Admission:
    """One decision over the user's own limit and the shared pools."""

    def __init__(
        self, pools: Mapping[str, int], per_user: int, *, timeout: float, queue: int, per_user_queue: int
    ) -> None:
        self._per_user = per_user
        self._bounds: dict[str, Any] = {"queue": queue, "per_user_queue": per_user_queue, "timeout": timeout}
        self._pools = {name: FairLimiter(size, size, **self._bounds) for name, size in pools.items()}
        self._users: dict[str, FairLimiter] = {}

    async def acquire(self, user_id: str, pools: tuple[str, ...], seconds: float, priority: int) -> Grant:
        """Wait for the user's turn. Raises ``LimitRejected`` and ``LimitTimeout``; cancelled, it leaves nothing."""
        del priority
        deadline = monotonic() + seconds
        return Grant(
            [
                await limiter.acquire(user_id, timeout=max(0.0, deadline - monotonic()))
                for limiter in self._limiters(user_id, pools)
            ]
        )

    def acquire_sync(self, user_id: str, pools: tuple[str, ...], seconds: float, priority: int) -> Grant:
        """Do the same in a thread without an event loop."""
        return asyncio.run(self.acquire(user_id, pools, seconds, priority))

    def set_user_limit(self, user_id: str, per_user: int) -> None:
        """Change how many connections this user may have at once; none is taken back."""
        self._users[user_id] = FairLimiter(per_user, per_user, **self._bounds)

    def set_pool_limit(self, pool: str, limit: int) -> None:
        """Change the size of a shared pool; no connection is taken back."""
        self._pools[pool] = FairLimiter(limit, limit, **self._bounds)

    def forget(self, user_id: str) -> None:
        """Drop what is kept for a user who has nothing."""
        self._users.pop(user_id, None)

    def _limiters(self, user_id: str, pools: tuple[str, ...]) -> list[FairLimiter]:
        own = self._users.get(user_id)
        if own is None:
            own = self._users[user_id] = FairLimiter(self._per_user, self._per_user, **self._bounds)
        return [own, *(self._pools[name] for name in sorted(pools))]


class Grant:
    """What was granted, until it is released or dropped."""

    __slots__ = ("_permits",)

    def __init__(self, permits: list[Permit]) -> None:
        self._permits = permits

    def release(self) -> bool:
        """Return it. Returns whether it was still held."""
        return sum(permit.release() for permit in self._permits) > 0
