"""Who hands out places of which a user has few over all workers: isolane, and two that are written in a minute."""

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import redis.asyncio
from isolane import FairLimiter
from isolane.cluster import Plane
from isolane.cluster.limits import ClusterLimits

from benches.scale.shape import TIMES, Holder

PLACES = 2
"""Of each user, over all workers; a lock has one."""
PREFIX = "bench"
PATIENCE = 1.0
"""Seconds that a call of isolane may take here: on a busy machine its default of 50 ms would turn Redis off."""


class Places(Protocol):
    """What is measured."""

    async def take(self, user: str) -> Any:
        """Wait for a place."""

    def give(self, taken: Any) -> Awaitable[Any] | None:
        """Give it back; what is returned has to be awaited."""


class LeasedPlaces:
    """A limiter that is shared. What comes back is for the same user for a quarter of a second, then for all."""

    def __init__(self, limiter: FairLimiter) -> None:
        self._limiter = limiter

    async def take(self, user: str) -> Any:
        return await self._limiter.acquire(user)

    def give(self, taken: Any) -> None:
        taken.release()


class LockPlaces:
    """redis-py's lock: `SET NX PX`, and a script that deletes it. One holder."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def take(self, user: str) -> Any:
        lock = self._client.lock(f"{PREFIX}:lock:{user}", timeout=30, blocking_timeout=TIMES)
        if not await lock.acquire():
            raise TimeoutError(f"no lock for {user}")
        return lock

    async def give(self, taken: Any) -> None:
        await taken.release()


class CounterPlaces:
    """`INCR`, and `DECR` when it is too many or over. Who dies in between keeps the place for ever."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def take(self, user: str) -> Any:
        key = f"{PREFIX}:counter:{user}"
        if await self._client.incr(key) > PLACES:
            await self._client.decr(key)
            raise TimeoutError(f"no place for {user}")
        return key

    async def give(self, taken: Any) -> None:
        await self._client.decr(taken)


async def make(holder: Holder, url: str, stack: AsyncExitStack) -> Places:
    """Connect. What was opened is closed with the stack."""
    if holder is Holder.ISOLANE:
        limiter = FairLimiter(100_000, PLACES, queue=100_000, per_user_queue=100_000, timeout=TIMES)
        limits = ClusterLimits(call_timeout=PATIENCE)
        limits.share(limiter, "bench", fail="closed")
        plane = Plane(url, prefix=PREFIX, call_timeout=PATIENCE)
        plane.add(limits)
        await plane.start()
        stack.push_async_callback(plane.stop)
        return LeasedPlaces(limiter)
    client = redis.asyncio.Redis.from_url(url)
    stack.push_async_callback(client.aclose)
    return LockPlaces(client) if holder is Holder.LOCK else CounterPlaces(client)
