"""The figures that a service is held to: what it aims at, and where somebody is told."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from isolane.memory.limits import MB


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceThresholds:
    """Targets and alert figures, under the names of the seed's dictionary.

    ``thresholds["max_response_time_ms"]`` works as ``thresholds.max_response_time_ms`` does. A megabyte is 1 048 576
    bytes.

    Attributes:
        max_response_time_ms: no execution takes longer. Default: 2000.
        avg_response_time_ms: what they take on average. Default: 1500.
        concurrent_users: so many users are served at once. Default: 10.
        memory_usage_per_user_mb: what a user holds while an execution runs. Default: 256.
        max_memory_per_user_mb: no user holds more, whatever runs. Default: 1024.
        websocket_event_latency_ms: from being published to being handed to a socket. Default: 50.
        error_rate_percent: of the executions. Default: 0.1.
        availability_percent: of the looks at the readiness route. Default: 99.9.
        isolation_violations: how many are borne. Default: 0.
        alert_response_time_ms: an alert above it, on average. Default: 2500.
        alert_concurrent_users: an alert when fewer users are served while others wait. Default: 8.
        alert_memory_per_user_mb: an alert above it. Default: 1228.8, which is 1.2 GB.
        alert_event_latency_ms: an alert when one event of a hundred takes longer. Default: 100.
        alert_error_rate_percent: an alert above it. Default: 0.5.
        alert_availability_percent: an alert below it. Default: 99.5.

    Raises:
        ValueError: a figure is negative or no number, or an alert is on the good side of its target.
        TypeError: a figure is no number.
    """

    max_response_time_ms: float = 2000.0
    avg_response_time_ms: float = 1500.0
    concurrent_users: float = 10
    memory_usage_per_user_mb: float = 256.0
    max_memory_per_user_mb: float = 1024.0
    websocket_event_latency_ms: float = 50.0
    error_rate_percent: float = 0.1
    availability_percent: float = 99.9
    isolation_violations: float = 0
    alert_response_time_ms: float = 2500.0
    alert_concurrent_users: float = 8
    alert_memory_per_user_mb: float = 1.2 * 1024
    alert_event_latency_ms: float = 100.0
    alert_error_rate_percent: float = 0.5
    alert_availability_percent: float = 99.5

    def __post_init__(self) -> None:
        for name, value in self.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is a number, got {type(value).__name__}")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value}")
            if name.endswith("_percent") and value > 100:  # noqa: PLR2004 - per cent
                raise ValueError(f"{name} is at most 100 per cent, got {value}")
        for alert, target in HIGHER_IS_WORSE.items():
            if self[alert] < self[target]:
                raise ValueError(
                    f"{alert} ({self[alert]:g}) is below the target {target} ({self[target]:g}): it would be an alert "
                    "while all is well"
                )
        for alert, target in LOWER_IS_WORSE.items():
            if self[alert] > self[target]:
                raise ValueError(
                    f"{alert} ({self[alert]:g}) is above the target {target} ({self[target]:g}): it would be an alert "
                    "while all is well"
                )

    @classmethod
    def of(cls, given: Self | Mapping[str, float] | None) -> Self:
        """Return thresholds from a mapping with some of the names, such as the seed's; the others keep their default.

        Raises:
            ValueError: a name is unknown, or a figure is none.
        """
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise TypeError(f"thresholds are a PerformanceThresholds or a mapping, got {type(given).__name__}")
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(known)}"
                raise ValueError(f"unknown threshold {name!r}; {hint}")
        return cls(**given)

    @property
    def alert_memory_bytes(self) -> float:
        """``alert_memory_per_user_mb`` in bytes."""
        return self.alert_memory_per_user_mb * MB

    def items(self) -> Iterator[tuple[str, float]]:
        """Return names and figures."""
        return iter(asdict(self).items())

    def __getitem__(self, name: str) -> float:
        if name.startswith("_") or name not in self.__dataclass_fields__:
            raise KeyError(name)
        figure: float = getattr(self, name)
        return figure


HIGHER_IS_WORSE = {
    "alert_response_time_ms": "avg_response_time_ms",
    "alert_memory_per_user_mb": "memory_usage_per_user_mb",
    "alert_event_latency_ms": "websocket_event_latency_ms",
    "alert_error_rate_percent": "error_rate_percent",
}
LOWER_IS_WORSE = {
    "alert_concurrent_users": "concurrent_users",
    "alert_availability_percent": "availability_percent",
}
