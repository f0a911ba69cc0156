"""Pools over real SQLAlchemy and SQLite: nothing is left, and nobody sees what another user left on a connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import threading

import pytest
from isolane import LimitTimeout, ResourcePoolManager, UserContextFactory
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError, ResourceClosedError, SAWarning
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from tests.integrations.pool_cancelling import cancel_everywhere, settled

SIZE = 2


@pytest.fixture
async def engine(tmp_path):
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/app.db", pool_size=SIZE, max_overflow=0, pool_timeout=5
    )
    async with engine.begin() as connection:
        await connection.execute(text("create table notes (owner text, body text)"))
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was not given back"
    await engine.dispose()


@pytest.fixture
async def pools():
    pools = ResourcePoolManager({"database": SIZE, "http": 2}, connection_timeout=5)
    yield pools
    await settled(pools)
    await pools.close(drain=0)


async def notes(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.execute(text("select body from notes"))).scalars())


async def leave_a_mess(connection) -> None:
    """Leave what SQLAlchemy's rollback does not take away, and an open transaction on top of it."""
    await connection.execute(text("create temp table secret (x)"))
    await connection.execute(text("insert into secret values ('of ann')"))
    await connection.execute(text("pragma cache_size = 77"))
    await connection.commit()
    await connection.execute(text("insert into notes values ('ann', 'not committed')"))


async def what_is_left(connection) -> set[str]:
    found = set()
    with contextlib.suppress(OperationalError):
        await connection.execute(text("select * from secret"))
        found.add("temp table")
    if (await connection.execute(text("pragma cache_size"))).scalar() == 77:
        found.add("variable")
    if (await connection.execute(text("select count(*) from notes"))).scalar():
        found.add("transaction")
    return found


# -- isolation ---------------------------------------------------------------------------------------------------------


async def test_without_the_pools_the_next_user_sees_what_the_last_one_left(engine):
    """The positive control: the mess is one."""
    await engine.dispose()
    async with engine.connect() as connection:
        await leave_a_mess(connection)
    async with engine.connect() as connection:
        assert await what_is_left(connection) == {"temp table", "variable"}


@pytest.mark.parametrize("how", ["ends", "raises", "is cancelled"])
async def test_nobody_sees_what_another_user_left(how, tmp_path, pools):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/one.db", pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.execute(text("create table notes (owner text, body text)"))

    async def use() -> None:
        async with pools.sqlalchemy("ann", engine) as connection:
            await leave_a_mess(connection)
            if how == "raises":
                raise KeyError
            if how == "is cancelled":
                asyncio.current_task().cancel()
                await connection.execute(text("select 1"))

    with contextlib.suppress(KeyError, asyncio.CancelledError):
        await asyncio.create_task(use())
    async with pools.sqlalchemy("ben", engine) as connection:
        assert await what_is_left(connection) == set()
    async with pools.sqlalchemy("ben", async_sessionmaker(engine)) as session:
        assert await what_is_left(session) == set()
    await settled(pools)
    await engine.dispose()


@pytest.mark.parametrize("turn", range(SIZE))
async def test_the_connection_that_takes_the_place_of_anothers_is_looked_at_too(turn, engine, pools):
    async with pools.sqlalchemy("ann", engine) as one, pools.sqlalchemy("ann", engine) as two:
        for connection in (one, two):
            await connection.execute(text("create temp table secret (x)"))
            await connection.commit()
    for _ in range(turn):
        async with pools.sqlalchemy("ann", engine):
            pass
    async with pools.sqlalchemy("ben", engine) as connection:
        assert await what_is_left(connection) == set()


async def test_the_same_user_finds_their_own_connection_again_without_a_reconnect(engine, pools):
    connected = []
    event.listen(engine.sync_engine, "connect", lambda *_: connected.append(1))
    await engine.dispose()
    for _ in range(5):
        async with pools.sqlalchemy("ann", engine) as connection:
            await connection.execute(text("select 1"))
    assert len(connected) == 1
    async with pools.sqlalchemy("ben", engine) as connection:
        await connection.execute(text("select 1"))
    assert len(connected) == 2


async def test_the_application_may_clean_by_itself_or_keep(tmp_path, pools):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/one.db", pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.execute(text("create table notes (owner text, body text)"))
    cleaned = []

    async def clean(connection) -> None:
        cleaned.append(connection)
        await connection.execute(text("drop table if exists secret"))
        await connection.commit()

    async with pools.sqlalchemy("ann", engine) as connection:
        await leave_a_mess(connection)
    async with pools.sqlalchemy("ben", engine, between_users=clean) as connection:
        assert await what_is_left(connection) == {"variable"}
    assert len(cleaned) == 1
    async with pools.sqlalchemy("cho", engine, between_users="keep") as connection:
        assert await what_is_left(connection) == {"variable"}

    def fails(connection) -> None:
        raise KeyError("cannot clean")

    with pytest.raises(KeyError):
        async with pools.sqlalchemy("dot", engine, between_users=fails):
            pass
    async with pools.sqlalchemy("dot", engine, between_users="keep") as connection:
        assert await what_is_left(connection) == set(), "what could not be cleaned was handed on"
    await engine.dispose()


@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_a_connection_that_is_lost_in_a_block_is_not_replaced_by_another_users(kind, engine, pools):
    async with pools.sqlalchemy("ann", engine) as ours, pools.sqlalchemy("ben", engine) as theirs:
        for connection in (ours, theirs):
            await connection.execute(text("create temp table secret (x)"))
            await connection.commit()
    source = engine if kind == "connection" else async_sessionmaker(engine)
    async with pools.sqlalchemy("ann", source) as it:
        connection = it if kind == "connection" else await it.connection()
        await connection.execute(text("select * from secret"))
        await it.rollback()
        connection = connection if kind == "connection" else await it.connection()
        await connection.invalidate()
        await it.rollback()
        with pytest.raises(ResourceClosedError, match="leave the block and begin a new one"):
            await it.execute(text("select * from secret"))
    async with pools.sqlalchemy("ann", source) as it:
        await it.execute(text("select 1"))


async def test_an_engine_with_one_connection_for_all_is_refused(pools):
    engine = create_async_engine("sqlite+aiosqlite:///:memory:")
    with pytest.raises(ValueError, match="all users would share one connection"):
        pools.sqlalchemy("ann", engine)
    async with pools.sqlalchemy("ann", engine, between_users="keep") as connection:
        assert (await connection.execute(text("select 1"))).scalar() == 1
    await engine.dispose()


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_a_session_keeps_its_one_connection_over_commits(engine, pools):
    maker = async_sessionmaker(engine, expire_on_commit=False)
    async with pools.sqlalchemy(UserContextFactory.create_context("ann-of-pools"), maker) as session:
        assert isinstance(session, AsyncSession)
        await session.execute(text("insert into notes values ('ann', 'kept')"))
        await session.commit()
        assert engine.pool.checkedout() == 1
        await session.execute(text("insert into notes values ('ann', 'dropped')"))
    assert await notes(engine) == ["kept"]


async def test_what_can_be_bound_is_said(engine, pools):
    for wrong in (object(), async_sessionmaker(), engine.sync_engine.pool):
        with pytest.raises(TypeError, match="no AsyncEngine, Engine, async_sessionmaker or sessionmaker"):
            pools.sqlalchemy("ann", wrong)
    with pytest.raises(ValueError, match="'reconnect', 'keep' or a function"):
        pools.sqlalchemy("ann", engine, between_users="reset")


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_cancelled_wherever_it_waits_it_leaves_nothing(kind, late, engine, pools):
    source = engine if kind == "connection" else async_sessionmaker(engine)
    users = itertools.cycle(["ann", "ben", "cho"])

    async def scenario() -> None:
        async with pools.sqlalchemy(next(users), source) as it:
            await it.execute(text("insert into notes values ('x', 'not committed')"))
            await it.execute(text("create temp table if not exists secret (x)"))
            await asyncio.sleep(0)
            await it.execute(text("select * from notes"))

    async def check(when: str) -> None:
        await settled(pools)
        assert engine.pool.checkedout() == 0, when
        # A transaction that was left would hold SQLite's lock, and a row that was left would be read.
        async with engine.begin() as connection:
            await connection.execute(text("insert into notes values ('y', 'z')"))
            assert (await connection.execute(text("delete from notes"))).rowcount == 1, when

    # Opening and closing are one wait each; the statements have several.
    assert await cancel_everywhere(scenario, check, late=late, least=6) >= 6
    threads = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
    assert len(threads) <= SIZE, threads


async def test_cancelled_while_it_opens_the_connection_is_closed_and_the_admission_returned(tmp_path, pools):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/slow.db", pool_size=1, max_overflow=0)
    opening, go = asyncio.Event(), asyncio.Event()

    class Slow(type(pools.sqlalchemy("ann", engine)._resource)):
        async def open(self, user_id):
            connection = await super().open(user_id)
            opening.set()
            await go.wait()
            return connection

    bound = pools.sqlalchemy("ann", engine)
    bound._resource = Slow(engine, "reconnect")
    task = asyncio.create_task(bound.__aenter__())
    await opening.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The connection is the engine's still, so nobody else is admitted to it yet.
    assert pools.statistics()["database"].in_use == 1
    go.set()
    await settled(pools)
    assert engine.pool.checkedout() == 0
    await engine.dispose()


async def test_cancelled_again_while_it_closes_the_connection_comes_back(engine, pools):
    async def use() -> None:
        async with pools.sqlalchemy("ann", engine) as connection:
            await connection.execute(text("insert into notes values ('ann', 'not committed')"))

    for turns in range(6):
        task = asyncio.create_task(use())
        while not pools._keeper._tasks and not task.done():
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await settled(pools)
        assert engine.pool.checkedout() == 0
    assert await notes(engine) == []


async def test_a_block_that_the_collector_ends_gives_its_connection_back(engine, pools):
    async def use() -> None:
        async with pools.sqlalchemy("ann", engine) as connection:
            await connection.execute(text("insert into notes values ('ann', 'not committed')"))
            await asyncio.get_running_loop().create_future()

    coroutine = use()
    waits_for = [coroutine.send(None)]  # driven by hand up to its end, which never comes
    while True:
        try:
            async with asyncio.timeout(0.2):
                while not waits_for[-1].done():
                    await asyncio.sleep(0)
        except TimeoutError:
            break
        waits_for[-1]._asyncio_future_blocking = False
        waits_for.append(coroutine.send(None))
    assert pools.statistics()["database"].in_use == 1
    del coroutine, waits_for
    gc.collect()
    await settled(pools)
    assert engine.pool.checkedout() == 0
    assert await notes(engine) == []


async def test_a_block_that_is_never_entered_takes_nothing(engine, pools):
    pools.sqlalchemy("ann", engine)
    coroutine = pools.sqlalchemy("ann", engine).__aenter__()
    coroutine.close()
    gc.collect()
    assert pools.statistics()["database"].granted == 0
    assert engine.pool.checkedout() == 0


async def test_what_is_dropped_unreleased_comes_back(engine, pools):
    bound = pools.sqlalchemy("ann", engine)
    await bound.__aenter__()
    with pytest.warns((ResourceWarning, SAWarning)):  # noqa: PT031
        del bound
        gc.collect()
    await settled(pools)
    assert pools.statistics()["database"].collected == 1
    await engine.dispose()
    # The driver ends a connection that was collected in its own thread, which tells this loop.
    for _ in range(500):
        drivers = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
        if engine.pool.checkedout() == 0 and not drivers:
            break
        await asyncio.sleep(0.01)
    assert (engine.pool.checkedout(), drivers) == (0, [])


# -- deadlines and limits ----------------------------------------------------------------------------------------------


async def test_the_time_covers_the_applications_own_pool(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/one.db", pool_size=1, max_overflow=0, pool_timeout=9)
    pools = ResourcePoolManager({"database": 5}, connection_timeout=5)
    async with engine.connect():
        with pytest.raises(LimitTimeout, match="the application's own pool gave no connection in time") as caught:
            async with pools.sqlalchemy("ann", engine, timeout=0.05):
                pass
        assert (caught.value.limit, caught.value.retry_after) == ("global", 1)
    await settled(pools)
    assert engine.pool.checkedout() == 0
    await engine.dispose()


async def test_a_pool_that_is_smaller_than_its_limit_is_told_once(tmp_path, caplog):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/one.db", pool_size=2, max_overflow=1)
    large = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/two.db", pool_size=2, max_overflow=2)
    unbounded = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/two.db", pool_size=1, max_overflow=-1)
    pools = ResourcePoolManager({"database": 4})
    with caplog.at_level(logging.WARNING, "isolane.pools"):
        for _ in range(3):
            for each in (engine, async_sessionmaker(engine), large, unbounded):
                pools.sqlalchemy("ann", each)
    assert len(caplog.records) == 1
    assert "at most 3 connections at once, and 4 are admitted" in caplog.text


async def test_twenty_users_hammer_two_connections_and_nothing_is_left(engine):
    pools = ResourcePoolManager({"database": SIZE}, connection_timeout=30)
    most, wrong = [], []

    async def user(name: str) -> None:
        for turn in range(6):
            try:
                async with asyncio.timeout(0.004 if turn % 3 == 2 else 30):
                    async with pools.sqlalchemy(name, engine) as connection:
                        most.append(engine.pool.checkedout())
                        seen = await what_is_left(connection)
                        wrong.extend(seen - {"temp table", "variable"})
                        owner = connection.info["isolane.user"]
                        if owner != name:
                            wrong.append(owner)
                        await connection.execute(text("create temp table if not exists mine (x)"))
                        rows = (await connection.execute(text("select x from mine"))).scalars().all()
                        wrong.extend(row for row in rows if row != name)
                        await connection.execute(text("insert into mine values (:x)"), {"x": name})
                        await connection.commit()
            except TimeoutError:
                pass

    await asyncio.gather(*(user(f"user-{number}") for number in range(20)))
    await settled(pools)
    assert wrong == []
    assert max(most) == SIZE
    stats = pools.statistics()["database"]
    assert stats.peak == SIZE
    assert stats.granted >= 20 * 4
    await pools.close(drain=0)


async def test_closing_waits_and_then_ends_by_force(engine):
    pools = ResourcePoolManager({"database": SIZE})
    bound = pools.sqlalchemy("ann", engine)
    connection = await bound.__aenter__()
    await connection.execute(text("insert into notes values ('ann', 'not committed')"))
    assert await pools.close(drain=0.05) == 1
    assert pools.statistics()["database"].in_use == 0
    assert engine.pool.checkedout() == 0
    await bound.__aexit__(None, None, None)
    assert await notes(engine) == []


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_engines_that_block_are_used_in_threads(kind, tmp_path, pools):
    engine = create_engine(f"sqlite:///{tmp_path}/app.db", pool_size=SIZE, max_overflow=0)
    source = engine if kind == "connection" else sessionmaker(engine)
    with engine.begin() as connection:
        connection.execute(text("create table notes (owner text, body text)"))

    def use(user: str) -> list[str]:
        with pools.sqlalchemy(user, source) as it:
            seen = list(it.execute(text("select name from sqlite_temp_master")).scalars())
            it.execute(text("create temp table secret (x)"))
            it.execute(text("insert into notes values ('x', 'not committed')"))
            return seen

    assert await asyncio.to_thread(use, "ann") == []
    assert await asyncio.to_thread(use, "ben") == []
    results = await asyncio.gather(*(asyncio.to_thread(use, f"user-{number}") for number in range(10)))
    assert results == [[]] * 10
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from notes")).scalar() == 0
    assert engine.pool.checkedout() == 0
    with pytest.raises(TypeError, match="blocks the event loop"):
        async with pools.sqlalchemy("ann", source):
            pass
    with pytest.raises(RuntimeError, match="would stop the event loop"):
        pools.sqlalchemy("ann", source).__enter__()
    engine.dispose()
