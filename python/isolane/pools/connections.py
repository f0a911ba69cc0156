"""What a user is admitted to, and what is handed out with the admission."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, overload

from isolane._core import UserExecutionContext
from isolane.pools.bound import BoundInThread, BoundResource
from isolane.pools.gate import Gate
from isolane.pools.keeper import Keeper
from isolane.pools.lease import Leasing

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker

    from isolane.pools.adapters.policy import BetweenUsers

T = TypeVar("T")
Client = TypeVar("Client")


class Connections:
    """Admission to the pools, alone or with the real thing: the part of ``ResourcePoolManager`` that requests use."""

    connection_timeout: float
    _gate: Gate
    _keeper: Keeper

    def connection(
        self, user: str | UserExecutionContext, *pools: str, timeout: float | None = None, priority: int = 2
    ) -> Leasing:
        """Admit a user to one connection of each pool named; nothing is opened.

        ``async with pools.connection(ctx, "database") as lease`` for the length of a block;
        ``lease = await pools.connection(...)`` to release it yourself; ``with`` in a thread.

        Args:
            user: the user's id, or a context of the user.
            pools: one or more names. Several are granted together or not at all, and count once under the user's limit.
            timeout: seconds for the whole request, ``connection_timeout`` by default.
            priority: 1 to 4, 1 is the most urgent; among requests of the same user.

        Raises:
            ValueError: no pool, an unknown one, one twice, or a wrong time or priority.
            InvalidContextError: the id is none.
            LimitRejected: when it is used: a queue is full.
            LimitTimeout: when it is used: no connection came free in time. ``limit`` is ``user`` or ``global``.
            PoolUnavailableError: when it is used: a pool is unhealthy, or the manager is closed.
        """
        if not pools or len(set(pools)) < len(pools):
            raise ValueError("name one pool or several different ones: pools.connection(user, 'database')")
        for name in pools:
            self._gate.check_name(name)
        seconds = self.connection_timeout if timeout is None else timeout
        if not seconds >= 0:
            raise ValueError(f"timeout is {timeout}: it must be 0 or more seconds")
        if priority not in (1, 2, 3, 4):
            raise ValueError(f"priority is {priority}: it must be 1, 2, 3 or 4")
        return Leasing(self._gate, user_id_of(user), pools, seconds, priority)

    def bind(
        self,
        user: str | UserExecutionContext,
        pool: str,
        open: Callable[[], Awaitable[T]],  # noqa: A002 - what it does
        close: Callable[[T], Awaitable[object]],
        *,
        discard: Callable[[T], object] | None = None,
        timeout: float | None = None,
    ) -> BoundResource[T]:
        """Admit to a pool and open anything with it.

        Args:
            user: the user's id, or a context of the user.
            pool: the pool's name.
            open: takes a thing from the application's pool, or makes it.
            close: gives it back clean.
            discard: makes an end of it at once; for when closing fails or takes longer than ``close_timeout``.
            timeout: seconds for waiting and opening together.
        """
        from isolane.pools.adapters.anything import Anything  # noqa: PLC0415

        return BoundResource(self._keeper, self.connection(user, pool, timeout=timeout), Anything(open, close, discard))

    @overload
    def sqlalchemy(
        self,
        user: str | UserExecutionContext,
        engine: AsyncEngine,
        pool: str = ...,
        *,
        between_users: BetweenUsers = ...,
        timeout: float | None = ...,
    ) -> BoundResource[AsyncConnection]: ...

    @overload
    def sqlalchemy(
        self,
        user: str | UserExecutionContext,
        engine: async_sessionmaker[AsyncSession],
        pool: str = ...,
        *,
        between_users: BetweenUsers = ...,
        timeout: float | None = ...,
    ) -> BoundResource[AsyncSession]: ...

    @overload
    def sqlalchemy(
        self,
        user: str | UserExecutionContext,
        engine: Engine,
        pool: str = ...,
        *,
        between_users: BetweenUsers = ...,
        timeout: float | None = ...,
    ) -> BoundInThread[Connection]: ...

    @overload
    def sqlalchemy(
        self,
        user: str | UserExecutionContext,
        engine: sessionmaker[Session],
        pool: str = ...,
        *,
        between_users: BetweenUsers = ...,
        timeout: float | None = ...,
    ) -> BoundInThread[Session]: ...

    def sqlalchemy(
        self,
        user: str | UserExecutionContext,
        engine: AsyncEngine | async_sessionmaker[AsyncSession] | Engine | sessionmaker[Session],
        pool: str = "database",
        *,
        between_users: BetweenUsers = "reconnect",
        timeout: float | None = None,
    ) -> (
        BoundResource[AsyncConnection]
        | BoundResource[AsyncSession]
        | BoundInThread[Connection]
        | BoundInThread[Session]
    ):
        """Admit to a pool and hand out a connection, or a session on one connection, of the application's engine.

        Args:
            user: the user's id, or a context of the user.
            engine: an ``AsyncEngine`` for an ``AsyncConnection``; an ``async_sessionmaker`` for an ``AsyncSession``; an
                ``Engine`` or ``sessionmaker`` for their own, used ``with`` in a thread.
            pool: the pool's name.
            between_users: what happens to a connection that another user had before. ``reconnect``: it is closed, and
                a new one opened. ``keep``: nothing beyond the rollback of each return, for when nothing else can be
                left on it. Or a function of the connection that cleans it.
            timeout: seconds for waiting and opening together.

        Raises:
            TypeError: ``engine`` is none of these.
            ValueError: all users would share the one connection of its ``StaticPool``.
        """
        from isolane.pools.adapters.sqlalchemy import bind_sqlalchemy  # noqa: PLC0415 - an optional dependency

        return bind_sqlalchemy(self._keeper, self.connection(user, pool, timeout=timeout), engine, pool, between_users)

    def redis(
        self,
        user: str | UserExecutionContext,
        client: Redis | ConnectionPool,
        pool: str = "redis",
        *,
        between_users: BetweenUsers = "reconnect",
        timeout: float | None = None,
    ) -> BoundResource[Redis]:
        """Admit to a pool and hand out a client of ``redis.asyncio`` on one connection of the application's pool.

        All that the client does, pipelines and subscriptions too, goes through this connection, one at a time.

        Args:
            user: the user's id, or a context of the user.
            client: a ``redis.asyncio.Redis``, or its ``ConnectionPool``.
            pool: the pool's name.
            between_users: what happens to a connection that another user had before. ``reconnect``: it is closed, and
                opened again. ``keep``: nothing, for when all commands leave nothing on it. Or a function of the client
                that cleans it.
            timeout: seconds for waiting and opening together.

        Raises:
            TypeError: ``client`` is none of these.
        """
        from isolane.pools.adapters.redis import bind_redis  # noqa: PLC0415 - an optional dependency

        return bind_redis(self._keeper, self.connection(user, pool, timeout=timeout), client, pool, between_users)

    def httpx(
        self,
        user: str | UserExecutionContext,
        client: Client,
        pool: str = "http",
        *,
        timeout: float | None = None,
    ) -> Client:
        """Return a client of the same kind, over the same connections, whose every request is admitted to a pool.

        The admission is held until the response's body is read or closed. Cookies and default headers that are set on
        it, by responses too, are its own: make one for each user. Closing it closes nothing.

        Args:
            user: the user's id, or a context of the user.
            client: an ``httpx.AsyncClient``, or that of httpx2.
            pool: the pool's name.
            timeout: seconds that a request may wait for admission; httpx has its own for the rest.

        Raises:
            TypeError: ``client`` is none of these.
        """
        from isolane.pools.adapters.httpx import client_of  # noqa: PLC0415 - an optional dependency

        mine: Client = client_of(self._keeper, self.connection(user, pool, timeout=timeout), client, pool)
        return mine


def user_id_of(user: str | UserExecutionContext) -> str:
    """Return the id of a user, from a context or as it stands."""
    if isinstance(user, UserExecutionContext):
        return user.user_id
    # As a context trims it: one user is not two. What is no text is refused by the limiter.
    return user.strip() if isinstance(user, str) else user
