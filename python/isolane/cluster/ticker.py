"""Something that is done again and again, and at once when it is asked for."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from isolane.cluster.errors import PlaneUnavailableError

logger = logging.getLogger("isolane.cluster")

JITTER = 0.1


class Ticker:
    """Calls a coroutine function every so many seconds, give or take a tenth; never twice at a time.

    What it raises is logged once, until it works again. ``PlaneUnavailableError`` is not: the plane says that itself.
    """

    def __init__(self, seconds: float, work: Callable[[], Awaitable[None]], name: str) -> None:
        self.name = name
        self.seconds = seconds
        self.failures = 0
        self._work = work
        self._failed = ""
        self._wake: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first time is at once."""
        if self._task is None:
            # Of the loop that it is started on: an application may be started again on another one.
            self._wake = asyncio.Event()
            self._task = asyncio.create_task(self._run(self._wake), name=f"isolane plane {self.name}")

    async def stop(self) -> None:
        """Cancel what is under way, and wait for its end."""
        ending = self.cancel()
        if ending and ending[0] is not asyncio.current_task():
            await asyncio.wait(ending)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel what is under way. Returns what comes to its end now."""
        task, self._task = self._task, None
        if task is None:
            return []
        task.cancel()
        return [task]

    def forget(self) -> None:
        """Leave alone what is the parent's, in a child of the process that started it."""
        self._task = None

    def wake(self, _: object = None) -> None:
        """Do it now, or once more when it is under way. Fits as a handler of hints."""
        if self._wake is not None:
            self._wake.set()

    async def _run(self, wake: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wake.clear()
            try:
                await self._work()
                self._failed = ""
            except PlaneUnavailableError:
                self.failures += 1
            except Exception as error:
                self.failures += 1
                if repr(error) != self._failed:
                    self._failed = repr(error)
                    logger.exception(
                        "%s failed; it is tried again, and logged again when it fails otherwise", self.name
                    )
            seconds = self.seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - so that not all come at once
            timer = loop.call_later(seconds, wake.set)
            try:
                await wake.wait()
            finally:
                timer.cancel()
