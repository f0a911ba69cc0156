"""Clients of redis-py on one connection, which never carries an answer or a state over to another user."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from typing import TYPE_CHECKING, Any

from redis.asyncio import ConnectionPool, Redis

from isolane.pools.adapters.policy import BetweenUsers, check_policy
from isolane.pools.bound import BoundResource
from isolane.pools.capacity import of_redis

if TYPE_CHECKING:
    from isolane.pools.keeper import Keeper
    from isolane.pools.lease import Leasing

OWNERS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""Who had each connection last."""


def bind_redis(
    keeper: Keeper, leasing: Leasing, client: Any, pool: str, between_users: BetweenUsers
) -> BoundResource[Redis]:
    """Return what opens clients on one connection each."""
    check_policy(between_users)
    if not isinstance(client, (Redis, ConnectionPool)):
        raise TypeError(f"{type(client).__name__} is no Redis or ConnectionPool of redis.asyncio")
    connections = client if isinstance(client, ConnectionPool) else client.connection_pool
    keeper.compare(pool, connections, of_redis(connections))
    kind = type(client) if isinstance(client, Redis) else Redis
    return BoundResource(keeper, leasing, _Clients(kind, connections, between_users, keeper.open_timeout))


class _OneConnection:
    """Looks to a client like its pool, and has one connection, which is used by one command or pipeline at a time."""

    def __init__(self, pool: ConnectionPool, connection: Any, patience: float) -> None:
        self._pool, self._connection, self._patience = pool, connection, patience
        self._free = asyncio.Semaphore(1)
        self._open = True

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """Hand out the connection when it is free."""
        self._check_open()
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            raise RuntimeError(
                "the one connection of this block is in use by another command, pipeline or subscription: take a block "
                "for each of them"
            ) from None
        try:
            self._check_open()
            await self._pool.ensure_connection(self._connection)
        except BaseException:
            self._free.release()
            raise
        return self._connection

    async def release(self, connection: Any) -> None:
        """Take it back from a command."""
        if connection.should_reconnect():
            await connection.disconnect()
        self._free.release()

    async def disconnect(self, *_: Any, **__: Any) -> None:
        """Disconnect the one connection; the application's pool stays as it is."""
        await self._connection.disconnect()

    async def aclose(self) -> None:
        """Close nothing: the block does."""

    def end(self) -> None:
        """Hand out nothing more."""
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("this client belongs to a block that has ended: take a new one")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class _Clients:
    def __init__(self, kind: Any, pool: ConnectionPool, between_users: BetweenUsers, patience: float) -> None:
        self._kind, self._pool, self._between_users, self._patience = kind, pool, between_users, patience

    async def open(self, user_id: str) -> Redis:
        pool: Any = self._pool  # its methods are not annotated
        connection = await pool.get_connection()
        one = _OneConnection(self._pool, connection, self._patience)
        client: Redis = self._kind(connection_pool=one)
        try:
            if OWNERS.get(connection, user_id) != user_id:
                if self._between_users == "reconnect":
                    await connection.disconnect()
                    await connection.connect()
                elif callable(self._between_users):
                    done = self._between_users(client)
                    if inspect.isawaitable(done):
                        await done
            OWNERS[connection] = user_id
        except BaseException:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)
            raise
        return client

    async def close(self, thing: Redis, *, broken: bool) -> None:
        one: Any = thing.connection_pool
        one.end()
        connection = one._connection  # noqa: SLF001 - made here
        if broken or one._free.locked():  # noqa: SLF001
            # An answer may still be on its way: the next one to read would get it.
            await connection.disconnect(nowait=True)
        if one._free.locked():  # noqa: SLF001
            # A subscription that was left would come back with each reconnect: it stays behind with the connection.
            pool: Any = self._pool
            in_use = pool._in_use_connections  # noqa: SLF001
            in_use.remove(connection)
            connection = pool.make_connection()
            in_use.add(connection)
        await self._pool.release(connection)

    def discard(self, thing: Redis) -> None:
        one: Any = thing.connection_pool
        one.end()
        connection = one._connection  # noqa: SLF001
        connection._close()  # noqa: SLF001 - the only way to close it without waiting
        in_use = self._pool._in_use_connections  # noqa: SLF001
        if connection in in_use:
            in_use.remove(connection)
