"""``CleanupScheduler``: when memory is cleaned without anybody asking."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from isolane._core import monotonic

logger = logging.getLogger("isolane.memory")


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What a cleaning returned.

    Attributes:
        entries: entries of caches.
        bytes: bytes that the accounts got back.
        users: how many users were cleaned beyond what had expired.
    """

    entries: int = 0
    bytes: int = 0
    users: int = 0


class CleanupScheduler:
    """Runs a cleaning now, when it is due, or again and again.

    Args:
        clean: what cleans and reports.
        interval: seconds between cleanings of ``start``. Default: 60.
        due_after: seconds after which ``run_if_due`` cleans again. Default: 5.
    """

    def __init__(self, clean: Callable[[], CleanupReport], *, interval: float = 60.0, due_after: float = 5.0) -> None:
        if not interval > 0:
            raise ValueError(f"interval must be more than 0 seconds, got {interval!r}")
        self._clean = clean
        self.interval = interval
        self.due_after = due_after
        self._last: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def run_immediate_cleanup(self) -> CleanupReport:
        """Clean now: expired entries and logs of all users. Looks at every lane."""
        return self.run()

    def run(self) -> CleanupReport:
        """Do what ``run_immediate_cleanup`` does."""
        self._last = monotonic()
        return self._clean()

    def run_if_due(self) -> CleanupReport:
        """Clean unless that was done in the last ``due_after`` seconds: what is on the way of every run."""
        if self._last is not None and monotonic() - self._last < self.due_after:
            return CleanupReport()
        return self.run()

    def start(self) -> None:
        """Clean every ``interval`` seconds in the running loop, until ``stop``."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._forever(), name="isolane-memory-cleanup")

    async def stop(self) -> None:
        """Stop what ``start`` began."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # Unlike awaiting the task, this does not take one's own cancellation for the task's.
            await asyncio.wait({task})

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            try:
                self.run()
            except Exception:
                logger.exception("a cleaning of memory failed")
