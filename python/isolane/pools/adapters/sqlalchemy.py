"""Connections and sessions of SQLAlchemy, never handed on with what another user left on them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from isolane.pools.adapters.policy import BetweenUsers, check_policy
from isolane.pools.bound import BoundInThread, BoundResource
from isolane.pools.capacity import of_sqlalchemy

if TYPE_CHECKING:
    from isolane.pools.keeper import Keeper
    from isolane.pools.lease import Leasing

OWNER = "isolane.user"
"""Key in the ``info`` of a connection, which lives as long as the connection to the database: who had it last."""


def bind_sqlalchemy(
    keeper: Keeper, leasing: Leasing, source: Any, pool: str, between_users: BetweenUsers
) -> BoundResource[Any] | BoundInThread[Any]:
    """Return what opens connections of an engine, or sessions on one connection each."""
    check_policy(between_users)
    is_maker = isinstance(source, (async_sessionmaker, sessionmaker))
    engine = source.kw.get("bind") if is_maker else source
    if not isinstance(engine, (AsyncEngine, Engine)):
        raise TypeError(
            f"{type(source).__name__} is no AsyncEngine, Engine, async_sessionmaker or sessionmaker"
            + (" that is bound to an engine: make it with `bind=engine`" if is_maker else "")
        )
    if isinstance(engine.pool, StaticPool) and between_users == "reconnect":
        raise ValueError(
            "this engine has a StaticPool, as in-memory SQLite has: all users would share one connection. Use a file, "
            "or say between_users='keep' where there is only one user, as in a test"
        )
    keeper.compare(pool, engine.pool, of_sqlalchemy(engine.pool))
    if isinstance(engine, AsyncEngine):
        if isinstance(source, async_sessionmaker):
            return BoundResource(keeper, leasing, _AsyncSessions(engine, source, between_users))
        return BoundResource(keeper, leasing, _AsyncConnections(engine, between_users))
    if isinstance(source, sessionmaker):
        return BoundInThread(leasing, _Sessions(engine, source, between_users))
    return BoundInThread(leasing, _Connections(engine, between_users))


def _own(connection: Connection | None, user_id: str) -> None:
    """Note whose it is, and see to it that it stays so.

    After an invalidation in the middle of the block, SQLAlchemy takes another connection from the pool by itself, which
    may be one that somebody else had.
    """
    assert connection is not None  # noqa: S101 - an AsyncConnection that was started has one
    connection.info[OWNER] = user_id

    def check(begun: Connection) -> None:
        if begun.info.get(OWNER) != user_id:
            raise ResourceClosedError(_LOST)

    # Before anything is sent, SQLAlchemy begins a transaction, whatever the isolation level.
    event.listen(connection, "begin", check)


_LOST = (
    "the connection of this block was lost, and another one would take its place, which may have been another user's: "
    "leave the block and begin a new one"
)


class _AsyncConnections:
    def __init__(self, engine: AsyncEngine, between_users: BetweenUsers) -> None:
        self._engine, self._between_users = engine, between_users

    async def open(self, user_id: str) -> AsyncConnection:
        connection = await self._engine.connect()
        try:
            # Again, as what the engine gives out after an invalidation may be another one that somebody else had.
            while self._between_users == "reconnect" and connection.info.get(OWNER, user_id) != user_id:
                await connection.invalidate()
                await connection.get_raw_connection()
            if callable(self._between_users) and connection.info.get(OWNER, user_id) != user_id:
                done = self._between_users(connection)
                if inspect.isawaitable(done):
                    await done
            _own(connection.sync_connection, user_id)
        except BaseException:
            # What could not be cleaned is nobody's.
            await connection.invalidate()
            await connection.close()
            raise
        return connection

    async def close(self, thing: AsyncConnection, *, broken: bool) -> None:
        del broken  # a cancelled statement has invalidated the connection already; the rest is rolled back
        await thing.close()

    def discard(self, thing: AsyncConnection) -> None:
        connection = thing.sync_connection
        if connection is not None and not connection.closed and not connection.invalidated:
            connection.invalidate()


class _AsyncSessions:
    def __init__(
        self, engine: AsyncEngine, maker: async_sessionmaker[AsyncSession], between_users: BetweenUsers
    ) -> None:
        self._connections = _AsyncConnections(engine, between_users)
        self._maker = maker
        self._under: dict[int, AsyncConnection] = {}

    async def open(self, user_id: str) -> AsyncSession:
        connection = await self._connections.open(user_id)
        # One connection for the whole block, as one is admitted: bound to the engine, it would change at each commit.
        session = self._maker(bind=connection)
        self._under[id(session)] = connection
        return session

    async def close(self, thing: AsyncSession, *, broken: bool) -> None:
        connection = self._under[id(thing)]
        try:
            await thing.close()
        finally:
            await self._connections.close(connection, broken=broken)
        del self._under[id(thing)]

    def discard(self, thing: AsyncSession) -> None:
        self._connections.discard(self._under.pop(id(thing)))


class _Connections:
    def __init__(self, engine: Engine, between_users: BetweenUsers) -> None:
        self._engine, self._between_users = engine, between_users

    def open(self, user_id: str) -> Connection:
        connection = self._engine.connect()
        try:
            while self._between_users == "reconnect" and connection.info.get(OWNER, user_id) != user_id:
                connection.invalidate()
                _ = connection.connection
            if callable(self._between_users) and connection.info.get(OWNER, user_id) != user_id:
                self._between_users(connection)
            _own(connection, user_id)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def close(self, thing: Connection, *, broken: bool) -> None:
        del broken
        thing.close()


class _Sessions:
    def __init__(self, engine: Engine, maker: sessionmaker[Session], between_users: BetweenUsers) -> None:
        self._connections = _Connections(engine, between_users)
        self._maker = maker
        self._under: dict[int, Connection] = {}

    def open(self, user_id: str) -> Session:
        connection = self._connections.open(user_id)
        session = self._maker(bind=connection)
        self._under[id(session)] = connection
        return session

    def close(self, thing: Session, *, broken: bool) -> None:
        connection = self._under.pop(id(thing))
        try:
            thing.close()
        finally:
            self._connections.close(connection, broken=broken)
