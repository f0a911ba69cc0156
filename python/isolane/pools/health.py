"""Whether the resources behind the pools answer: checks of the application, at most every so often, and a breaker."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from isolane._core import monotonic
from isolane.pools.errors import PoolUnavailableError

logger = logging.getLogger("isolane.pools")

HealthCheck = Callable[[], Awaitable[object]]
"""Returns when the resource answers; fails by raising, or by returning ``False``."""


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """What the health checks of one pool say.

    Attributes:
        pool: the pool's name.
        state: ``unchecked`` without a check or before its first run; ``healthy``; ``unhealthy``, when requests are
            refused; ``probing``, the same while a check runs that may end it.
        failures: checks that failed in a row.
        checks: checks that have ended.
        last_error: the type of the last failure, or ``None``.
        age: seconds since the last check ended, or ``None``.
        took: seconds that the last check took, or ``None``.
    """

    pool: str
    state: Literal["unchecked", "healthy", "unhealthy", "probing"] = "unchecked"
    failures: int = 0
    checks: int = 0
    last_error: str | None = None
    age: float | None = None
    took: float | None = None


@dataclass(slots=True)
class _Checked:
    check: HealthCheck
    threshold: int
    timeout: float
    failures: int = 0
    checks: int = 0
    last_error: str | None = None
    ended_at: float | None = None
    took: float | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def open(self) -> bool:
        return self.failures >= self.threshold

    @property
    def running(self) -> bool:
        # One that was left on a loop that is closed never ends.
        return self.task is not None and not self.task.done() and not self.task.get_loop().is_closed()


class PoolHealthMonitor:
    """Runs the checks that are registered, and refuses requests to pools whose checks fail.

    A check runs when its pool is used and the last one is older than ``interval``, in the background: no request waits
    for it. Without use nothing runs. While a pool is refused, a request that comes ``retry`` seconds after the last
    check starts the next one, and is itself still refused.
    """

    def __init__(self, interval: float, retry: float) -> None:
        self._interval, self._retry = interval, min(retry, interval)
        self._pools: dict[str, _Checked] = {}

    def register(self, pool: str, check: HealthCheck, *, failures: int, timeout: float) -> None:
        """Take a check, in place of an earlier one."""
        before = self._pools.get(pool)
        if before is not None and before.running and before.task is not None:
            before.task.cancel()
        self._pools[pool] = _Checked(check, failures, timeout)

    def admit(self, pool: str) -> None:
        """Refuse if the pool is unhealthy; start a check if one is due."""
        checked = self._pools.get(pool)
        if checked is None:
            return
        wait = self._retry if checked.open else self._interval
        due_in = 0.0 if checked.ended_at is None else checked.ended_at + wait - monotonic()
        if due_in <= 0 and not checked.running:
            self._start(pool, checked)
        if checked.open:
            raise PoolUnavailableError.unhealthy(pool, checked.failures, max(1, math.ceil(due_in)))

    async def check(self, pool: str) -> PoolHealth:
        """Run the check of a pool now, or wait for the one that runs."""
        checked = self._pools.get(pool)
        if checked is not None:
            task = checked.task
            if task is None or not checked.running:
                task = self._start(pool, checked)
            if task is not None:
                # Whoever asked may be cancelled; others may wait for the same check.
                await asyncio.wait({task})
        return self.of(pool)

    def of(self, pool: str) -> PoolHealth:
        """Return what is known of a pool."""
        checked = self._pools.get(pool)
        if checked is None or (checked.ended_at is None):
            return PoolHealth(pool)
        state: Literal["healthy", "unhealthy", "probing"] = "healthy"
        if checked.open:
            state = "probing" if checked.running else "unhealthy"
        return PoolHealth(
            pool,
            state,
            checked.failures,
            checked.checks,
            checked.last_error,
            monotonic() - checked.ended_at,
            checked.took,
        )

    async def close(self) -> None:
        """Cancel the checks that run, and wait for their end."""
        loop = asyncio.get_running_loop()
        tasks = {
            checked.task
            for checked in self._pools.values()
            if checked.task is not None and not checked.task.done() and checked.task.get_loop() is loop
        }
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @staticmethod
    def _start(pool: str, checked: _Checked) -> asyncio.Task[None] | None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # A thread without a loop has nothing to run it on.
            return None
        checked.task = loop.create_task(_run(pool, checked), name=f"isolane-health-{pool}")
        return checked.task


async def _run(pool: str, checked: _Checked) -> None:
    began = monotonic()
    error: str | None = None
    try:
        async with asyncio.timeout(checked.timeout):
            if await checked.check() is False:
                error = "returned False"
    except Exception as failure:  # noqa: BLE001 - whatever a check raises is its answer
        error = type(failure).__name__
    was_open = checked.open
    checked.ended_at = monotonic()
    checked.took = checked.ended_at - began
    checked.checks += 1
    if error is None:
        checked.failures, checked.last_error = 0, None
        if was_open:
            logger.warning("pool %r is healthy again", pool)
        return
    checked.failures += 1
    checked.last_error = error
    if checked.open and not was_open:
        logger.error(
            "pool %r is unhealthy: its health check failed %d times in a row, the last time with %s",
            pool,
            checked.failures,
            error,
        )
