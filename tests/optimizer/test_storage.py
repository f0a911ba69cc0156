"""The users' databases: a cancellation leaves nothing locked, whenever it comes."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from examples.optimizer.agents.data import _insert
from examples.optimizer.agents.step import IsolatedStep
from examples.optimizer.check.logs import make_log
from examples.optimizer.parsing import LogRows, UsageRow, inspect_log
from examples.optimizer.parsing.rows import RowBatch
from examples.optimizer.storage import UserDatabases, add_calls, call_totals, forget_calls, save_report
from examples.optimizer.storage.whole import done_whole

_TURNS = 60
_USER = "hugo"
_ROWS = [
    UsageRow(
        datetime(2026, 11, 2, tzinfo=UTC), has_clock=True, model="gpt-4o", input_tokens=5, output_tokens=6, requests=1
    )
] * 50

Work = Callable[[AsyncSession], Awaitable[object]]
WORK: dict[str, Work] = {
    "calls": lambda session: add_calls(session, "run", _ROWS),
    "totals": lambda session: call_totals(session, "run", ()),
    "report": lambda session: save_report(session, "run", "# Report", "<svg/>"),
    "forgotten": lambda session: forget_calls(session, "run"),
}


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[UserDatabases]:
    databases = UserDatabases(tmp_path)
    await databases.prepare(_USER)
    yield databases
    await databases.close()


def _write_lock_is_free(databases: UserDatabases) -> bool:
    """Asked by a connection that does not wait."""
    connection = sqlite3.connect(databases.folder(_USER) / "optimizer.sqlite3", timeout=0)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


async def _cancelled_after(turns: int, work: Awaitable[object]) -> BaseException | None:
    """Cancel the work after so many turns of the loop; gives what it ended with, traceback and all."""

    async def ending() -> BaseException | None:
        try:
            await work
        except BaseException as error:  # noqa: BLE001 - it is what is asked for
            return error
        return None

    task = asyncio.create_task(ending())
    for _ in range(turns):
        await asyncio.sleep(0)
    if turns >= _TURNS // 2:
        # The later turns are spread over the time that the database's thread takes.
        await asyncio.sleep((turns - _TURNS // 2) * 0.0002)
    task.cancel()
    return await task


@pytest.mark.parametrize("name", WORK)
async def test_a_cancelled_statement_leaves_no_lock_behind(databases: UserDatabases, name: str) -> None:
    """Cancelled at any turn: the next writer gets the lock, though everybody keeps the error."""
    kept = []
    for turns in range(1, _TURNS):
        session = databases.session(_USER)
        kept.append(await _cancelled_after(turns, WORK[name](session)))
        await session.close()
        assert _write_lock_is_free(databases), f"cancelled at turn {turns}"
    # Some were cancelled, or nothing was tested.
    assert any(isinstance(error, asyncio.CancelledError) for error in kept)


async def test_a_cancelled_run_closes_the_log_that_it_reads(databases: UserDatabases, tmp_path: Path) -> None:
    """Also while a thread is reading from it."""
    path = tmp_path / "long.csv"
    path.write_bytes(make_log("hugo", 20_000))
    layout = inspect_log(path)
    rows = LogRows(path, layout, layout.roles, None)
    opened = []

    class Watched:
        """The rows, and whether they were closed."""

        def __init__(self) -> None:
            self.path = path

        def batches(self, size: int) -> Iterator[RowBatch]:
            batches = rows.batches(size)
            opened.append(batches)
            return batches

    class Silent:
        async def send_custom_event(self, event_type: str, payload: dict[str, object], /) -> None:
            """Nobody listens."""

    for turns in range(1, _TURNS, 4):
        session = databases.session(_USER)
        step = IsolatedStep(_USER, "run", session, Silent())
        error = await _cancelled_after(turns, _insert(step, Watched()))
        assert isinstance(error, asyncio.CancelledError)
        await session.close()
    assert opened
    assert [batches.gi_frame for batches in opened] == [None] * len(opened)


async def test_the_work_is_done_though_it_was_cancelled(databases: UserDatabases) -> None:
    """A batch that has begun is in the database as a whole, and the cancellation still comes."""
    async with databases.session(_USER) as session:
        error = await _cancelled_after(3, add_calls(session, "run", _ROWS))
        assert isinstance(error, asyncio.CancelledError)
        (total,) = await call_totals(session, "run", ())
    assert total.requests == len(_ROWS)


async def test_whole_work_gives_what_it_gives() -> None:
    """Without a cancellation there is nothing to see: a result, or an error."""

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("the disk is full")

    assert await done_whole(answer()) == 42
    with pytest.raises(OSError, match="the disk is full"):
        await done_whole(fail())


async def test_a_second_cancellation_does_not_cut_it_either() -> None:
    """Who is impatient waits for the end all the same."""
    ended = asyncio.Event()

    async def slow() -> None:
        await asyncio.sleep(0.05)
        ended.set()

    task = asyncio.create_task(done_whole(slow()))
    for _ in range(3):
        await asyncio.sleep(0.005)
        task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert time.monotonic() - began < 5


async def test_a_cancellation_that_comes_with_the_end_is_not_lost() -> None:
    """Work and cancellation in the same turn: the caller is cancelled."""
    release = asyncio.Event()
    task = asyncio.create_task(done_whole(release.wait()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    release.set()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_cancels_itself_is_cancelled() -> None:
    """What the work itself raises is not taken for the caller's."""

    async def given_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await done_whole(given_up())
