"""``ResourcePoolManager``: who may use a connection of the application's pools, how many at once, in which order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Self

from isolane._core import FairLimiter, UserExecutionContext
from isolane.pools.accounts import Accounts
from isolane.pools.admission import Admission
from isolane.pools.connections import Connections, user_id_of
from isolane.pools.gate import Gate, check_sizes
from isolane.pools.health import HealthCheck, PoolHealth, PoolHealthMonitor
from isolane.pools.keeper import Keeper
from isolane.pools.statistics import PoolStatistics
from isolane.pools.user_pool import UserResourcePool

DEFAULT_POOLS: Mapping[str, int] = MappingProxyType({"database": 50, "redis": 20, "llm": 10, "http": 30})
"""Connections of the shared pools at once, over all users."""

SLICE = 500


class ResourcePoolManager(Connections):
    """Admits users to the application's own pools of connections: it owns no socket itself.

    Each user has ``per_user`` connections at once over all pools; each pool has a size for all users together. Both are
    decided in one step, and several pools at once are granted all or none. Whoever waits holds nothing, and users take
    turns. The connections come from the application's SQLAlchemy engine, redis or httpx client, through ``sqlalchemy``,
    ``redis``, ``httpx`` and ``bind``; ``connection`` only admits.

    It starts no task without use, and may be shared by threads and event loops.

    Args:
        pools: names and sizes of the shared pools.
        per_user: connections of one user at once, over all pools.
        min_per_user: the least that ``optimize_pool_sizes`` leaves a user.
        max_per_user: the most that it gives a user.
        connection_timeout: seconds that a request may take, in which the connection is opened as well.
        close_timeout: seconds that closing a connection may take; after that it is discarded.
        health_check_interval: seconds between the health checks of a pool that is used.
        health_retry: seconds until an unhealthy pool is tried again; at most ``health_check_interval``.
        optimize_interval: seconds after which a user who asks has their limit adjusted; ``None`` for never, then only
            ``optimize_pool_sizes`` does it.
        window: seconds over which the average of ``optimize_pool_sizes`` is taken.
        queue: requests of all users that may wait.
        per_user_queue: requests of one user that may wait.
        max_users: users that are remembered; the one idle longest is forgotten first. Who holds or waits never is.
        idle: seconds without use after which a user is forgotten.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        pools: Mapping[str, int] = DEFAULT_POOLS,
        per_user: int = 3,
        *,
        min_per_user: int = 1,
        max_per_user: int = 5,
        connection_timeout: float = 1.0,
        close_timeout: float = 5.0,
        health_check_interval: float = 30.0,
        health_retry: float = 5.0,
        optimize_interval: float | None = None,
        window: float = 60.0,
        queue: int = 1000,
        per_user_queue: int = 100,
        max_users: int = 10_000,
        idle: float = 300.0,
    ) -> None:
        check_sizes(pools)
        if not 1 <= min_per_user <= per_user <= max_per_user:
            raise ValueError(
                f"per_user is {per_user}: it must lie between min_per_user ({min_per_user}, at least 1) and "
                f"max_per_user ({max_per_user})"
            )
        for name, seconds in {
            "connection_timeout": connection_timeout,
            "close_timeout": close_timeout,
            "health_check_interval": health_check_interval,
            "health_retry": health_retry,
            "optimize_interval": optimize_interval if optimize_interval is not None else 1.0,
            "window": window,
        }.items():
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name} is {seconds}: it must be more than 0 seconds")
        if max_users < 1:
            raise ValueError(f"max_users is {max_users}: it must be at least 1")
        self.per_user, self.min_per_user, self.max_per_user = per_user, min_per_user, max_per_user
        self.connection_timeout, self.close_timeout = connection_timeout, close_timeout
        self.optimize_interval = optimize_interval
        accounts = Accounts(pools, per_user, window=window, max_users=max_users, idle=idle)
        self._gate = Gate(
            Admission(
                pools,
                per_user,
                timeout=connection_timeout,
                queue=queue,
                per_user_queue=per_user_queue,
                max_users=max_users,
                idle=idle,
            ),
            accounts,
            PoolHealthMonitor(health_check_interval, health_retry),
            min_per_user=min_per_user,
            max_per_user=max_per_user,
            optimize_interval=optimize_interval,
        )
        self._accounts, self._health = accounts, self._gate.health
        self._keeper = Keeper(accounts, close_timeout, connection_timeout)

    # -- users and sizes ----------------------------------------------------------------------------------------------

    async def get_user_pool(self, user_id: str | UserExecutionContext) -> UserResourcePool:
        """Return a view of the user's connections."""
        return UserResourcePool(self._gate, user_id_of(user_id), self.connection_timeout)

    async def optimize_pool_sizes(self) -> dict[str, int]:
        """Fit the users' limits to their use. Returns the limits that changed.

        By the average of connections held and asked for over ``window``: over 2 it grows to that number, rounded up, at
        most ``max_per_user``; under 1 it shrinks to ``min_per_user``. It grows as well when the average is over the
        user's limit.
        """
        changed = {}
        for index, user_id in enumerate(self._accounts.users()):
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            capacity = self._gate.optimize(user_id)
            if capacity is not None:
                changed[user_id] = capacity
        return changed

    def set_pool_size(self, pool: str, size: int) -> None:
        """Change the size of a shared pool. Nothing that is held is taken back; those that wait are let in.

        Raises:
            ValueError: an unknown pool, or a size under 1.
        """
        self._gate.set_pool_size(pool, size)

    def least_used(self, *pools: str) -> str:
        """Return which of some pools is the least used now and not unhealthy: for backends that do the same.

        By ``(in_use + waiting) / limit``; the first of equals. When all are unhealthy, the least used of them.
        """
        if not pools:
            raise ValueError("name the pools to choose from")
        for name in pools:
            self._gate.check_name(name)
        figures = self.statistics()
        sick = {name for name in pools if self._health.of(name).state in ("unhealthy", "probing")}
        among = [name for name in pools if name not in sick] or list(pools)
        return min(among, key=lambda name: (figures[name].in_use + figures[name].waiting) / figures[name].limit)

    def evict(self, idle: float = 0.0) -> int:
        """Forget users who had nothing for so many seconds. Returns how many. It happens by itself as well."""
        gone = self._accounts.evict(idle)
        self._gate.forget(gone)
        return len(gone)

    def limiter_to_share(self, *, total: bool) -> FairLimiter:
        """Return what ``isolane.cluster.limits`` shares with the other workers: connections of one user over all pools.

        Raises:
            ValueError: with ``total``, which shares the size of the pool as well, for a manager with several pools.
        """
        if total and len(self._accounts.pools) > 1:
            raise ValueError(
                f"the sizes of {len(self._accounts.pools)} pools cannot be shared together: make a ResourcePoolManager "
                "for each pool whose size counts over all workers, or share without total"
            )
        return self._gate.admission.limiter

    # -- figures and health -------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, PoolStatistics]:
        """Return the figures of the shared pools, by name."""
        return self._accounts.of_pools()

    def user_statistics(self, user_id: str | UserExecutionContext) -> PoolStatistics:
        """Return the figures of one user over all pools."""
        return self._accounts.of_user(user_id_of(user_id))

    def get_usage_patterns(self) -> dict[str, PoolStatistics]:
        """Return the figures of all users who are remembered, by id."""
        return {user_id: self._accounts.of_user(user_id) for user_id in self._accounts.users()}

    def register_health_check(self, pool: str, check: HealthCheck, *, failures: int = 3, timeout: float = 2.0) -> None:
        """Say how to find out whether what is behind a pool answers.

        Args:
            pool: the pool's name.
            check: an async function without arguments. It fails by raising, by returning ``False``, or by taking too
                long. It needs no admission, and should use a connection of its own.
            failures: checks that fail in a row until the pool refuses requests.
            timeout: seconds that a check may take.

        Raises:
            ValueError: an unknown pool, or a number out of its range.
        """
        self._gate.check_name(pool)
        if failures < 1 or not timeout > 0:
            raise ValueError(f"failures is {failures} and timeout {timeout}: at least 1, and more than 0 seconds")
        self._health.register(pool, check, failures=failures, timeout=timeout)

    async def check_health(self, pool: str | None = None) -> dict[str, PoolHealth]:
        """Run the health checks now, of one pool or of all. Returns what they say, by pool."""
        if pool is not None:
            self._gate.check_name(pool)
        names = [pool] if pool is not None else list(self._accounts.pools)
        return dict(zip(names, await asyncio.gather(*(self._health.check(name) for name in names)), strict=True))

    def health(self) -> dict[str, PoolHealth]:
        """Return what is known of the health of each pool, without running a check."""
        return {name: self._health.of(name) for name in self._accounts.pools}

    # -- the end ------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._gate.closed

    async def close(self, drain: float = 25.0) -> int:
        """Take no more requests, wait up to ``drain`` seconds for those that have something, then discard what is left.

        Idempotent. What was discarded is a connection that ``sqlalchemy``, ``redis`` or ``bind`` opened; of a bare
        lease and of a request of ``httpx``, only the holder can make an end.

        Returns:
            How many leases were still held at the end of ``drain``.
        """
        self._gate.closed = True
        limit = asyncio.get_running_loop().time() + drain
        # Leases end in other threads and on other loops as well, so nothing here could be set by all of them.
        while (left := self._accounts.in_use()) and asyncio.get_running_loop().time() < limit:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await self._health.close()
        await self._keeper.close()
        return left

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        pools = ", ".join(f"{name} {record.in_use}/{record.limit}" for name, record in self.statistics().items())
        return f"<ResourcePoolManager {pools}>"
