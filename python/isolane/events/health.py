"""``HealthMonitor``: whether events get through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from isolane._core import delivery_figures
from isolane.events.lag import LoopLagMonitor
from isolane.events.ticker import Ticker

INTERVAL_SECONDS = 5.0
MAX_LAG_SECONDS = 0.25
PONG_SECONDS = 3.0
"""A socket that owes an answer to a ping for longer is silent. After 10 s it is closed."""
MIN_SILENT = 3
"""Fewer silent sockets are tabs that were closed, and say nothing of the server."""
FULL = 0.9
"""From this part of a bound on the memory of events is full."""

HeartbeatStatus = Literal["unknown", "healthy", "unhealthy"]


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """What a look at the delivery of events has found.

    Attributes:
        healthy: whether there was no reason to worry.
        reasons: what is wrong, one sentence each; nobody's data is in it.
        checked_at: when, aware UTC.
        figures: what the reasons were found in: ``sockets``, ``framed``, ``silent`` (framed sockets that owe an answer
            to a ping for more than 3 s), ``unread`` (events that wait, of the socket with the most), ``streams``
            (that have not ended), ``full_logs``, ``event_memory`` (part of its bound, 0 to 1) and ``loop_lag``
            (seconds, or ``None`` while it is not measured).
    """

    healthy: bool
    reasons: tuple[str, ...] = ()
    checked_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    figures: Mapping[str, Any] = field(default_factory=dict)


class HealthMonitor:
    """Looks at the sockets, the logs and the loop every 5 s, and keeps what it found.

    ``setup`` starts one with the application, as ``bridge.health``. Unhealthy is:

    - at least half of the framed sockets, and no fewer than three, have not answered a ping for 3 s;
    - a log is full: its snapshot and its books fill it, so the next event of its run is refused;
    - the events of all users take 90 % of the memory they may take;
    - a timer of the loop fired more than 0.25 s late in the last 5 s.
    """

    def __init__(self, lag: LoopLagMonitor | None = None, *, interval: float = INTERVAL_SECONDS) -> None:
        self.lag = lag
        self._ticker = Ticker(interval, lambda _: self.check())
        self._status: HealthStatus | None = None

    def start(self) -> None:
        """Look now, and again and again on the running loop."""
        self._ticker.start()
        self.check()

    def stop(self) -> None:
        """Look no more."""
        self._ticker.stop()

    @property
    def is_running(self) -> bool:
        """Whether it looks by itself."""
        return self._ticker.is_running

    @property
    def status(self) -> HealthStatus | None:
        """What the last look has found; ``None`` before the first."""
        return self._status

    @property
    def heartbeat_status(self) -> HeartbeatStatus:
        """What the last look found of the sockets: ``unknown`` before the first, else ``healthy`` or ``unhealthy``."""
        if self._status is None:
            return "unknown"
        return "unhealthy" if _many_are_silent(self._status.figures) else "healthy"

    def check(self) -> HealthStatus:
        """Look now. Looks at every lane: about a microsecond for each user."""
        figures = delivery_figures(PONG_SECONDS, FULL)
        lag = self.lag.recent if self.lag is not None and self.lag.is_running else None
        figures["loop_lag"] = lag
        reasons = []
        if _many_are_silent(figures):
            reasons.append(
                f"{figures['silent']} of {figures['framed']} sockets have not answered a ping for {PONG_SECONDS:.0f} s"
            )
        if figures["full_logs"]:
            reasons.append(f"{figures['full_logs']} logs are full: what their runs publish next is refused")
        if figures["event_memory"] >= FULL:
            reasons.append(f"the events of all users take {figures['event_memory']:.0%} of the memory they may take")
        if lag is not None and lag > MAX_LAG_SECONDS:
            reasons.append(f"the event loop ran up to {lag:.2f} s late; isolane.loop_blockers() says who held it")
        self._status = HealthStatus(not reasons, tuple(reasons), datetime.now(UTC), figures)
        return self._status


def _many_are_silent(figures: Mapping[str, Any]) -> bool:
    silent: int = figures["silent"]
    return silent >= MIN_SILENT and 2 * silent >= figures["framed"]
