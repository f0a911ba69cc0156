"""Statistics of permits under the names of the semaphore managers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isolane._core import FairLimiter

RECENT = 64
"""Waits that are kept one by one."""

_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def _ms(durations: Mapping[str, Any]) -> dict[str, float]:
    """Return a limiter's durations in milliseconds, without those that are not known."""
    return {name: value * 1000 for name, value in durations.items() if name != "count" and value is not None}


def _nearest_rank(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


@dataclass(slots=True)
class SemaphoreStats:
    """What a semaphore has given and to what end.

    A manager hands out copies of what its limiter counted; recording into a copy changes the copy only. One that is
    made by its constructor begins at zero and can be recorded into.

    Attributes:
        total_acquisitions: permits given.
        current_holders: permits in use; what is nested shares one.
        avg_hold_time_ms: mean time from grant to return. The wait is not part of it.
        timeout_count: waits that ended without a permit.
        success_rate: permits given of all that were asked for; 1 when none was.
        recent_wait_times: the last 64 waits in seconds, the latest last.
        waiting: who waits now.
        rejected_count: requests refused at once.
        cancelled_count: waits that were given up.
        leaked_count: permits that were collected without being returned.
    """

    total_acquisitions: int = 0
    current_holders: int = 0
    avg_hold_time_ms: float = 0.0
    timeout_count: int = 0
    success_rate: float = 1.0
    recent_wait_times: list[float] = field(default_factory=list)
    waiting: int = 0
    rejected_count: int = 0
    cancelled_count: int = 0
    leaked_count: int = 0
    _released: int = field(default=0, repr=False)
    _wait_ms: dict[str, float] | None = field(default=None, repr=False)
    _hold_ms: dict[str, float] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, limiter: FairLimiter, user_id: str) -> SemaphoreStats:
        """Return what the limiter counted of a user. A user that the limiter has forgotten begins at zero again."""
        counts = limiter.stats(user_id)
        return cls(
            total_acquisitions=counts["granted"],
            current_holders=counts["running"],
            avg_hold_time_ms=counts["hold"]["avg"] * 1000,
            timeout_count=counts["timed_out"],
            success_rate=counts["success_rate"],
            recent_wait_times=list(counts["recent_waits"]),
            waiting=counts["queued"],
            rejected_count=counts["refused"],
            cancelled_count=counts["cancelled"],
            leaked_count=counts["leaked"],
            _released=counts["released"],
            _wait_ms=_ms(counts["wait"]),
            _hold_ms=_ms(counts["hold"]),
        )

    def record_acquisition(self, wait_time: float) -> None:
        """Count a permit that was given after ``wait_time`` seconds."""
        self.total_acquisitions += 1
        self.current_holders += 1
        self.recent_wait_times.append(wait_time)
        del self.recent_wait_times[:-RECENT]
        self._wait_ms = None
        self._rate()

    def record_release(self, hold_time: float) -> None:
        """Count a permit that was returned after ``hold_time`` seconds. Without one in use nothing is counted."""
        if self.current_holders == 0:
            return
        self.current_holders -= 1
        self._released += 1
        self.avg_hold_time_ms += (hold_time * 1000 - self.avg_hold_time_ms) / self._released
        self._hold_ms = None

    def record_timeout(self) -> None:
        """Count a wait that ended without a permit."""
        self.timeout_count += 1
        self._rate()

    def _rate(self) -> None:
        asked = self.total_acquisitions + self.timeout_count + self.rejected_count
        self.success_rate = self.total_acquisitions / asked

    def get_performance_metrics(self) -> dict[str, float]:
        """Return the figures by name. Times are in milliseconds.

        ``avg_wait_ms``, ``p50_wait_ms``, ``p95_wait_ms``, ``p99_wait_ms`` and the same of ``hold``, as far as they are
        known: the limiter's, or of what was recorded here the percentiles of the last 64 waits by nearest rank.
        """
        waits = self._wait_ms
        recent = self.recent_wait_times
        if waits is None:
            waits = {"avg": sum(recent) / len(recent) * 1000} if recent else {}
            waits |= {name: _nearest_rank(recent, share) * 1000 for name, share in _PERCENTILES.items() if recent}
        holds = {"avg": self.avg_hold_time_ms} if self._hold_ms is None else self._hold_ms
        return {
            "total_acquisitions": float(self.total_acquisitions),
            "current_holders": float(self.current_holders),
            "timeout_count": float(self.timeout_count),
            "success_rate": self.success_rate,
            **{f"{name}_wait_ms": value for name, value in waits.items()},
            **{f"{name}_hold_ms": value for name, value in holds.items()},
        }


@dataclass(frozen=True, slots=True)
class SemaphoreStatsCollector:
    """What a manager's limiter has counted over all users, at the moment it was asked.

    Attributes:
        total_acquisitions: permits given.
        current_holders: units in use.
        peak_holders: most units in use at the same time.
        waiting: who waits now.
        timeout_count: waits that ended without a permit.
        rejected_count: requests refused at once.
        cancelled_count: waits that were given up.
        leaked_count: permits that were collected without being returned.
        success_rate: permits given of all that were asked for; 1 when none was.
        users: users that are remembered.
        wait_ms: ``avg``, ``p50``, ``p95`` and ``p99`` from request to grant.
        hold_ms: the same from grant to return.
    """

    total_acquisitions: int
    current_holders: int
    peak_holders: int
    waiting: int
    timeout_count: int
    rejected_count: int
    cancelled_count: int
    leaked_count: int
    success_rate: float
    users: int
    wait_ms: Mapping[str, float]
    hold_ms: Mapping[str, float]

    @classmethod
    def of(cls, limiter: FairLimiter) -> SemaphoreStatsCollector:
        """Return what the limiter has counted."""
        counts = limiter.stats()
        return cls(
            total_acquisitions=counts["granted"],
            current_holders=counts["running"],
            peak_holders=counts["peak"],
            waiting=counts["queued"],
            timeout_count=counts["timed_out"],
            rejected_count=counts["refused"],
            cancelled_count=counts["cancelled"],
            leaked_count=counts["leaked"],
            success_rate=counts["success_rate"],
            users=counts["users"],
            wait_ms=_ms(counts["wait"]),
            hold_ms=_ms(counts["hold"]),
        )

    def get_performance_metrics(self) -> dict[str, float]:
        """Return the figures by name, as ``SemaphoreStats`` does."""
        return {
            "total_acquisitions": float(self.total_acquisitions),
            "current_holders": float(self.current_holders),
            "timeout_count": float(self.timeout_count),
            "success_rate": self.success_rate,
            **{f"{name}_wait_ms": value for name, value in self.wait_ms.items()},
            **{f"{name}_hold_ms": value for name, value in self.hold_ms.items()},
        }
