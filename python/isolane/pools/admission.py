"""The seam to the limiter: who may have a connection now, decided in one step for the user and all pools asked for."""

from __future__ import annotations

from collections.abc import Mapping

from isolane._core import FairLimiter, Permit


class Admission:
    """One limiter: a permit is a connection of the user, and each shared pool is a named resource of it.

    No context is given to it: what a run holds is not lent to its children, because a connection that is in use by one
    cannot be used by the other.
    """

    def __init__(
        self,
        pools: Mapping[str, int],
        per_user: int,
        *,
        timeout: float,
        queue: int,
        per_user_queue: int,
        max_users: int,
        idle: float,
    ) -> None:
        self._per_user = per_user
        self._sizes = dict(pools)
        self._total = sum(pools.values())
        self._limiter = FairLimiter(  # noqa: SLF001 - its own
            self._total,
            per_user,
            queue=queue,
            per_user_queue=per_user_queue,
            timeout=timeout,
            resources=self._sizes,
            max_users=max_users,
            idle=idle,
        )._unmetered()

    @property
    def limiter(self) -> FairLimiter:
        """What decides."""
        return self._limiter

    async def acquire(self, user_id: str, pools: tuple[str, ...], seconds: float, priority: int) -> Permit:
        """Wait for the user's turn. Raises ``LimitRejected`` and ``LimitTimeout``; cancelled, it leaves nothing."""
        return await self._limiter.acquire(user_id, timeout=seconds, priority=priority, resources=pools)

    def acquire_sync(self, user_id: str, pools: tuple[str, ...], seconds: float, priority: int) -> Permit:
        """Do the same in a thread."""
        return self._limiter.acquire_sync(user_id, timeout=seconds, priority=priority, resources=pools)

    def set_user_limit(self, user_id: str, per_user: int) -> None:
        """Change how many connections this user may have at once; none is taken back."""
        if per_user == self._per_user:
            self._limiter.reset_user(user_id)
        else:
            self._limiter.set_limit(user=user_id, per_user=per_user)

    def set_pool_limit(self, pool: str, limit: int) -> None:
        """Change the size of a shared pool; no connection is taken back."""
        self._sizes[pool] = limit
        # Each permit takes a connection of some pool, so a total that is never below their sum refuses nobody. It does
        # not shrink: what is still held of a pool that did would count against the others. Of one pool it is the size,
        # also for other workers.
        total = sum(self._sizes.values())
        self._total = total if len(self._sizes) == 1 else max(self._total, total)
        self._limiter.set_limit(total=self._total)
        self._limiter.set_limit(resource=pool, limit=limit)

    def forget(self, user_id: str) -> None:
        """Drop what was set for a user who has nothing."""
        self._limiter.reset_user(user_id)
