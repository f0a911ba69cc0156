"""Cancelling a coroutine exactly where it waits for the nth time, whatever it waits for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import isolane


class Cancelled:
    """Awaits something, and cancels its task when that waits for the ``at``th time.

    ``late``: not while it waits, but in the turn in which what it waits for is there: the cancellation and the result
    arrive together.
    """

    def __init__(self, work: Awaitable[Any], at: int, *, late: bool) -> None:
        self.work, self.at, self.late = work, at, late
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.work.__await__()
        step: Callable[[], Any] = lambda: inner.send(None)  # noqa: E731
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            task = asyncio.current_task()
            assert task is not None
            if self.waits == self.at:
                if self.late and waits_for is not None:
                    waits_for.add_done_callback(lambda _, task=task: task.cancel())
                else:
                    task.cancel()
            self.waits += 1
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001
                step = lambda error=error: inner.throw(error)  # noqa: E731
            else:
                step = lambda: inner.send(None)  # noqa: E731


async def cancel_everywhere(
    scenario: Callable[[], Awaitable[Any]], check: Callable[[str], Awaitable[None]], *, late: bool, least: int
) -> int:
    """Run it again and again, cancelled one wait later each time, until it comes to its end. Returns how often."""
    for at in range(500):
        cancelled = Cancelled(scenario(), at, late=late)

        async def run(cancelled: Cancelled = cancelled) -> None:
            await cancelled

        task = asyncio.create_task(run())
        done, _ = await asyncio.wait({task}, timeout=20)
        assert done, f"cancelled at wait {at}, it hangs"
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()
        waits = cancelled.waits
        # With the task goes its traceback, which holds the cursor of a cancelled statement.
        del task, done, cancelled, run
        gc.collect()
        await check(f"cancelled at wait {at}, late: {late}")
        if waits <= at:
            assert at >= least, f"it waits only {at} times: this test looks at nothing"
            return at
    raise AssertionError("it does not come to an end")


async def settled(pools: isolane.ResourcePoolManager) -> None:
    """Wait until nothing is held: what closes in the background has its time."""
    async with asyncio.timeout(10):
        while pools._accounts.in_use() or pools._keeper._tasks:
            await asyncio.sleep(0.001)
    stats = pools.statistics()
    assert all((record.in_use, record.waiting) == (0, 0) for record in stats.values()), stats
    for user, record in pools.get_usage_patterns().items():
        assert (record.in_use, record.waiting) == (0, 0), (user, record)
