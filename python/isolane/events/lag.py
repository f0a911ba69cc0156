"""How late the event loop runs, and who held it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from isolane._core import LatencyHistogram, loop_blockers, metric
from isolane.events.ticker import Ticker

LAG = metric("isolane_loop_lag_seconds")

EVERY_SECONDS = 0.1
LATE_SECONDS = 0.05
"""A timer that fires later than this is looked into. A step of an agent that takes longer is a block."""
KEPT = 64
"""Late timers that are kept one by one."""
RECENT = 50
"""Timers over which ``recent`` looks: 5 s."""
_SLACK = timedelta(milliseconds=5)
"""The end of a step and the timer are read from clocks one after the other."""


@dataclass(frozen=True, slots=True)
class LoopLag:
    """A timer that fired more than 50 ms late.

    Attributes:
        at: when it fired, aware UTC.
        seconds: how late.
        blockers: the steps of agents of more than 50 ms that ended while it was due, as ``isolane.loop_blockers()`` has
            them, the longest first. Empty when the loop was held by something that isolane does not drive, or by many
            short steps.
    """

    at: datetime
    seconds: float
    blockers: tuple[Mapping[str, Any], ...]


class LoopLagMonitor:
    """Measures how late timers of an event loop fire: for so long everybody on the loop waited.

    One timer of 100 ms on the loop on which it is started; no thread and no task. ``setup`` starts one for the
    application's loop, and stops it at the end. Who blocked the loop is known from the accounts of all loops of the
    process: with several loops in several threads it may be a step on another one.
    """

    def __init__(self, every: float = EVERY_SECONDS) -> None:
        self._ticker = Ticker(every, self._fired)
        self._histogram = LatencyHistogram()
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._latest: deque[LoopLag] = deque(maxlen=KEPT)
        self._late = 0
        self._unnamed = 0

    def start(self) -> None:
        """Start on the running loop."""
        self._ticker.start()

    def stop(self) -> None:
        """Stop; what was measured stays."""
        self._ticker.stop()
        self._recent.clear()
        LAG.set(0.0)

    @property
    def is_running(self) -> bool:
        """Whether it measures."""
        return self._ticker.is_running

    @property
    def recent(self) -> float:
        """The longest lag of the latest 50 timers, in seconds; 0.0 before the first and after ``stop``."""
        return max(self._recent, default=0.0)

    @property
    def latest(self) -> list[LoopLag]:
        """The latest 64 timers that fired more than 50 ms late, the latest first."""
        return list(reversed(self._latest))

    def figures(self) -> dict[str, Any]:
        """Return what was measured, in seconds.

        ``count``, ``mean``, ``p50``, ``p95``, ``p99`` and ``longest`` of all timers, ``recent``; ``late``: how many
        were more than 50 ms late, and ``unnamed``: how many of these nobody was found for; ``latest``: these as
        dictionaries.
        """
        return {
            **self._histogram.figures(),
            "recent": self.recent,
            "late": self._late,
            "unnamed": self._unnamed,
            "latest": [{"at": lag.at, "seconds": lag.seconds, "blockers": list(lag.blockers)} for lag in self.latest],
        }

    def _fired(self, late: float) -> None:
        self._histogram.record(late)
        self._recent.append(late)
        # Of the latest timer alone a scrape would hardly ever see that the loop was held.
        LAG.set(self.recent)
        if late <= LATE_SECONDS:
            return
        now = datetime.now(UTC)
        due = now - timedelta(seconds=late) - _SLACK
        blockers = [block for block in loop_blockers() if block["at"] >= due]
        blockers.sort(key=lambda block: -block["wall"])
        self._late += 1
        self._unnamed += not blockers
        self._latest.append(LoopLag(now, late, tuple(blockers)))
