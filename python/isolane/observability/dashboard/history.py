"""The last five minutes, second by second, so that a page that is opened shows more than now."""

from __future__ import annotations

import time
from collections import deque

from isolane._core import Pace, lane_stats, run_counts
from isolane.events.ticker import Ticker
from isolane.fastapi.application import Isolane

KEPT = 300
"""Seconds that are kept."""
MINUTE = 60
SERIES = ("events_per_second", "runs_active", "event_p99", "lag", "waiting")


class History:
    """Samples an application once a second, on its loop. One timer, no thread and no task.

    Attributes:
        pace: in seconds, how long events were on their way in the last second (``recent_event_p99``) and in the last
            minute (``event_p50``, ``event_p99``), and how long runs of that minute took (``run_p50``, ``run_p95``);
            ``None`` where there was none.
        errors_per_minute: runs of the last minute that failed, in whole or in part, or were lost.
    """

    def __init__(self, isolane: Isolane) -> None:
        self._isolane = isolane
        self.pace: dict[str, float | None] = {}
        self.errors_per_minute = 0
        self._readings = Pace()
        self._ticker = Ticker(1.0, self._sample)
        self._t: deque[float] = deque(maxlen=KEPT)
        self._series: dict[str, deque[float | None]] = {name: deque(maxlen=KEPT) for name in SERIES}
        self._failed: deque[int] = deque(maxlen=MINUTE)
        self._published: tuple[float, int] = (time.monotonic(), lane_stats()["events_published"])

    def start(self) -> None:
        """Sample from now on, on the running loop. Starting again is nothing."""
        if not self._ticker.is_running:
            self._ticker.start()
            self._sample(0.0)

    def stop(self) -> None:
        """Sample no more; what was sampled stays."""
        self._ticker.stop()

    @property
    def events_per_second(self) -> float:
        """Events that were published in the last second."""
        rates = self._series["events_per_second"]
        return (rates[-1] if rates else None) or 0.0

    def series(self) -> dict[str, list[float | None]]:
        """Return ``t`` in Unix seconds, and a list of the same length for each series."""
        return {"t": [*self._t], **{name: [*values] for name, values in self._series.items()}}

    def _sample(self, _late: float) -> None:
        runs = run_counts()
        self.pace = self._readings.read()
        (before, former), (at, published) = self._published, (time.monotonic(), lane_stats()["events_published"])
        self._published = (at, published)
        failed = runs["failed"] + runs["partial"] + runs["lost"]
        self._failed.append(failed)
        # Over what was sampled, at most a minute: a single error in the first second is not sixty a minute.
        self.errors_per_minute = failed - self._failed[0]
        values = {
            "events_per_second": round((published - former) / max(1e-3, at - before), 2),
            "runs_active": float(runs["running"]),
            "event_p99": self.pace["recent_event_p99"],
            "lag": self._isolane.lag.recent,
            "waiting": float(self._isolane.limiter.stats()["queued"]),
        }
        self._t.append(round(time.time(), 3))
        for name, value in values.items():
            self._series[name].append(value)
