"""Threads for synchronous tools: a bounded number for the process, of which no user has more than a share."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from isolane._core import FairLimiter, Permit

DEFAULT_THREADS = 32
"""Threads of the process, unless said otherwise."""


class ToolThreads:
    """Runs synchronous tools beside the event loop. Threads are started when they are needed.

    A tool that is cancelled, or whose time is over, cannot be stopped: its thread runs on, and counts against the share
    of its user until the tool returns.

    Args:
        threads: how many of them.
        per_user: how many one user may have at a time. Default: half of them. Users wait their turn fairly.
    """

    def __init__(self, threads: int = DEFAULT_THREADS, per_user: int | None = None) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads!r}")
        share = max(1, threads // 2) if per_user is None else per_user
        if not 1 <= share <= threads:
            raise ValueError(f"per_user must be from 1 to {threads}, got {share!r}")
        self.threads = threads
        self.per_user = share
        self._limiter = FairLimiter(threads, share)._unmetered()  # noqa: SLF001 - its own
        self._executor: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    async def acquire(self, user_id: str, timeout: float) -> Permit:  # noqa: ASYNC109 - the limiter's own
        """Wait for a thread. Raises ``LimitTimeout`` or ``LimitRejected`` when none is free in time."""
        return await self._limiter.acquire(user_id, timeout=timeout)

    async def run(self, permit: Permit, call: Callable[[], Any]) -> Any:
        """Run a call in a thread, in a copy of the caller's context variables. Raises what the call raises.

        The permit comes back when the call returns, whoever still waits for it then.
        """
        variables = contextvars.copy_context()
        outcome: list[Any] = []

        def work() -> None:
            # An exception is handed over as a value: a future refuses some, and would never be done.
            try:
                outcome.append((True, variables.run(call)))
            except BaseException as error:  # noqa: BLE001 - raised again on the loop
                outcome.append((False, error))

        try:
            future = self._threads().submit(work)
        except BaseException:
            permit.release()
            raise
        # By the thread and not by who waits for it: that may have gone while the thread still runs.
        future.add_done_callback(lambda _: permit.release())
        await asyncio.wrap_future(future)
        returned, value = outcome.pop()
        if returned:
            return value
        if isinstance(value, Exception):
            raise value
        # On the loop a cancellation or an exit would end more than this call.
        raise RuntimeError(f"the call raised {type(value).__name__}") from value

    def _threads(self) -> ThreadPoolExecutor:
        if self._executor is None or self._process != os.getpid():
            # The threads of a parent are not in its child.
            self._process = os.getpid()
            self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="isolane-tool")
        return self._executor

    def stats(self) -> dict[str, Any]:
        """Return the permits of the threads: running, waiting and waiting times."""
        return self._limiter.stats()

    def __repr__(self) -> str:
        return f"<ToolThreads {self.threads}, {self.per_user} a user>"


class _Process:
    """What the factories of a process share."""

    threads: ToolThreads | None = None
    pid = 0


def threads_of_process() -> ToolThreads:
    """Return the threads that factories share unless they are given their own."""
    if _Process.threads is None or _Process.pid != os.getpid():
        _Process.threads, _Process.pid = ToolThreads(), os.getpid()
    return _Process.threads
