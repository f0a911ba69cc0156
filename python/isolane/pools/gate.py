"""Asking for admission: health first, then the wait, and what is noted of both."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isolane._core import Permit, monotonic
from isolane.limits import LimitTimeout
from isolane.pools.accounts import Accounts
from isolane.pools.admission import Admission
from isolane.pools.errors import PoolUnavailableError
from isolane.pools.health import PoolHealthMonitor
from isolane.pools.lease import Lease

GROWS_OVER, SHRINKS_UNDER = 2.0, 1.0


class Gate:
    """Who may have a connection, over the limiter, the accounts and the health of the pools."""

    def __init__(
        self,
        admission: Admission,
        accounts: Accounts,
        health: PoolHealthMonitor,
        *,
        min_per_user: int,
        max_per_user: int,
        optimize_interval: float | None,
    ) -> None:
        self.admission, self.accounts, self.health = admission, accounts, health
        self.closed = False
        self._min_per_user, self._max_per_user = min_per_user, max_per_user
        self._optimize_interval = optimize_interval

    async def acquire(self, user_id: str, pools: tuple[str, ...], seconds: float, priority: int) -> Lease:
        """Wait for admission. See ``ResourcePoolManager.connection``."""
        began = self._ask(user_id, pools)
        try:
            grant = await self.admission.acquire(user_id, pools, seconds, priority)
        except BaseException as error:
            self.accounts.gave_up(user_id, pools, _how(error))
            raise
        return self._lease(grant, user_id, pools, began, seconds)

    def acquire_sync(self, user_id: str, pools: tuple[str, ...], seconds: float, priority: int) -> Lease:
        """Do the same in a thread."""
        began = self._ask(user_id, pools)
        try:
            grant = self.admission.acquire_sync(user_id, pools, seconds, priority)
        except BaseException as error:
            self.accounts.gave_up(user_id, pools, _how(error))
            raise
        return self._lease(grant, user_id, pools, began, seconds)

    def _ask(self, user_id: str, pools: tuple[str, ...]) -> float:
        for name in pools:
            try:
                if self.closed:
                    raise PoolUnavailableError.closed(name)
                self.health.admit(name)
            except PoolUnavailableError:
                self.forget(self.accounts.refused(user_id, name))
                raise
        self.forget(self.accounts.asked(user_id, pools))
        if self._optimize_interval is not None:
            self.optimize(user_id, not_before=self._optimize_interval)
        return monotonic()

    def _lease(self, grant: Permit, user_id: str, pools: tuple[str, ...], began: float, seconds: float) -> Lease:
        waited = monotonic() - began
        self.accounts.got(user_id, pools, waited)
        lease = Lease(self.accounts, grant, user_id, pools, waited=waited, deadline=began + seconds)
        if self.closed:
            # It was closed while this one waited.
            lease.release()
            raise PoolUnavailableError.closed(pools[0])
        return lease

    def optimize(self, user_id: str, *, not_before: float | None = None) -> int | None:
        """Fit the limit of one user to their use. Returns it if it changed."""
        average = self.accounts.average_of(user_id, not_before=not_before)
        if average is None:
            return None
        before = self.accounts.limit_of(user_id)
        after = before
        if average > min(GROWS_OVER, before):
            after = self.set_capacity(user_id, average, grow=True)
        elif average < SHRINKS_UNDER:
            after = self.set_capacity(user_id, average, grow=False)
        return None if after == before else after

    def set_capacity(self, user_id: str, capacity: float, *, grow: bool) -> int:
        """Raise or lower the limit of one user, within bounds. Returns what it is then."""
        if not capacity >= 0:
            raise ValueError(f"capacity is {capacity}: it must be a number of connections")
        before = self.accounts.limit_of(user_id)
        wanted = min(self._max_per_user, max(self._min_per_user, math.ceil(min(capacity, self._max_per_user))))
        after = max(before, wanted) if grow else min(before, wanted)
        if after != before:
            self.accounts.set_limit(user_id, after)
            self.admission.set_user_limit(user_id, after)
        return after

    def set_pool_size(self, pool: str, size: int) -> None:
        """Change the size of a shared pool."""
        self.check_name(pool)
        check_sizes({pool: size})
        self.accounts.set_pool_limit(pool, size)
        self.admission.set_pool_limit(pool, size)

    def forget(self, users: list[str]) -> None:
        """Drop what the limiter keeps for users that were forgotten."""
        for user_id in users:
            self.admission.forget(user_id)

    def check_name(self, pool: str) -> None:
        """Raise ``ValueError`` for a pool that there is not."""
        if pool not in self.accounts.pools:
            raise ValueError(f"there is no pool {pool!r}; there are: {', '.join(self.accounts.pools)}")


def check_sizes(pools: Mapping[str, int]) -> None:
    """Raise ``ValueError`` unless there are pools, each with a whole number of connections."""
    if not pools:
        raise ValueError("name at least one pool, such as pools={'database': 50}")
    for name, size in pools.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"the size of pool {name!r} is {size}: it must be a whole number of at least 1")


def _how(error: BaseException) -> str:
    if isinstance(error, LimitTimeout):
        return "timeouts"
    return "refused" if isinstance(error, Exception) else "cancelled"
