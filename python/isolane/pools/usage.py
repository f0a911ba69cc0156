"""Counting what a pool or a user has, and its average over time."""

from __future__ import annotations

import math
from collections import deque

from isolane.pools.statistics import PoolStatistics


class Usage:
    """Counts of one pool or one user. Not locked: ``Accounts`` does that."""

    __slots__ = (
        "_area",
        "_area_before",
        "_at",
        "_half",
        "_since",
        "_span_before",
        "cancelled",
        "collected",
        "granted",
        "in_use",
        "last_used",
        "limit",
        "optimized_at",
        "peak",
        "refused",
        "timeouts",
        "waiting",
        "waits",
    )

    def __init__(self, limit: int, window: float, keep: int, now: float) -> None:
        self.limit = limit
        self.in_use = self.waiting = self.peak = 0
        self.granted = self.timeouts = self.refused = self.cancelled = self.collected = 0
        self.waits: deque[float] = deque(maxlen=keep)
        self.last_used = self.optimized_at = now
        self._half = window / 2
        # Two halves of the window: the one before, closed, and the one that is being written.
        self._area = self._area_before = self._span_before = 0.0
        self._at = self._since = now

    @property
    def idle(self) -> bool:
        """Whether nothing is held and nothing waits."""
        return self.in_use == 0 and self.waiting == 0

    def change(self, now: float, *, in_use: int = 0, waiting: int = 0) -> None:
        """Note that the counts change now."""
        self._advance(now)
        self.in_use += in_use
        self.waiting += waiting
        self.peak = max(self.peak, self.in_use)
        self.last_used = now

    def average(self, now: float) -> float:
        """Connections held and asked for, averaged over the last window, or since the first use if that is shorter."""
        self._advance(now)
        span = self._span_before + (now - self._since)
        return (self._area_before + self._area) / span if span > 0 else float(self.in_use + self.waiting)

    def _advance(self, now: float) -> None:
        passed = now - self._at
        if passed <= 0:
            return
        level = self.in_use + self.waiting
        if passed > 2 * self._half:
            # Nothing older counts, and what it was in all that time is known.
            self._area_before, self._span_before = level * self._half, self._half
            self._area, self._since = 0.0, now
        else:
            self._area += level * passed
            if now - self._since >= self._half:
                self._area_before, self._span_before = self._area, now - self._since
                self._area, self._since = 0.0, now
        self._at = now

    def record(self, name: str, now: float) -> PoolStatistics:
        """Return the figures as of now."""
        waits = sorted(self.waits)
        return PoolStatistics(
            name=name,
            limit=self.limit,
            in_use=self.in_use,
            waiting=self.waiting,
            peak=self.peak,
            granted=self.granted,
            timeouts=self.timeouts,
            refused=self.refused,
            cancelled=self.cancelled,
            collected=self.collected,
            average_concurrent=self.average(now),
            wait_p50=_percentile(waits, 0.50),
            wait_p99=_percentile(waits, 0.99),
        )


def _percentile(ordered: list[float], part: float) -> float:
    """Nearest rank."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0
