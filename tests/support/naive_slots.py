"""Execution slots as they are written at first: the positive control of the regression tests.

Two nested semaphores, a time-out around each wait, one ``finally`` for both. What is wrong with it is what the tests
are about, so nothing here is to be mended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)


class SlotTimeoutError(Exception):
    """A slot was not to be had in time."""


class TryingSemaphore(asyncio.Semaphore):
    """With the method that its callers expect."""

    def acquire_nowait(self) -> bool:
        if self.locked():
            return False
        self._value -= 1
        return True


class NaiveSlots:
    """Slots by user and in all. ``as_written`` uses a method that semaphores do not have."""

    def __init__(
        self, total: int = 10, per_user: int = 5, *, as_written: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.everybody: Any = asyncio.Semaphore(total) if as_written else TryingSemaphore(total)
        self.user_semaphores: dict[str, asyncio.Semaphore] = {}
        self.per_user = per_user
        self.clock = clock
        self.held_for: dict[str, list[float]] = {}

    @asynccontextmanager
    async def acquire_execution_slot(
        self,
        user_id: str,
        priority: int = 1,
        timeout: float = 2.0,  # noqa: ASYNC109 - so it is written
    ) -> AsyncIterator[None]:
        own = self.user_semaphores.setdefault(user_id, asyncio.Semaphore(self.per_user))
        began = self.clock()
        try:
            has_one_of_all = self.everybody.acquire_nowait()
            await asyncio.wait_for(own.acquire(), timeout)
            if not has_one_of_all:
                await asyncio.wait_for(self.everybody.acquire(), max(0.1, timeout - 0.1))
            yield
        except TimeoutError as error:
            raise SlotTimeoutError from error
        finally:
            try:
                own.release()
                self.everybody.release()
                self.held_for.setdefault(user_id, []).append(self.clock() - began)
            except Exception:
                logger.exception("could not release")

    def mean_hold(self, user_id: str) -> float:
        held = self.held_for[user_id]
        return sum(held) / len(held)


class NaiveRun:
    """A run that names its id in the handler of an error that may come before there is one."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    async def execute(self, start: Callable[[], str], work: Callable[[], Any]) -> Any:
        try:
            run_id = start()
            return await work()
        except Exception as error:
            self.failures.append((run_id, str(error)))
            raise
