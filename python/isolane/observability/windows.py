"""``MetricsManager``: the metrics of the last minutes, from samples of the registry."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from isolane._core import LatencyHistogram, metrics_snapshot, monotonic
from isolane.observability.readings import NOTHING, Figure, Histogram, Selection, exposed
from isolane.observability.thresholds import PerformanceThresholds

KEEP_SECONDS = 1800.0
"""The longest window."""
MAX_SAMPLES = 400
"""Samples that are kept: half an hour of one each 5 s."""
MAX_SELECTIONS = 200
"""Numbers that one sample has."""
CANCELLED = "CancelledError"
"""What the error of an execution is called that was cancelled, which is no failure."""
MAX_EXECUTIONS = 1000
"""Executions and events over which the figures of ``update_execution_metrics`` look."""

Snapshot = Mapping[str, Mapping[str, Any]]
Source = Callable[[set[str]], Snapshot]


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution that was recorded by ``update_execution_metrics``."""

    at: float
    seconds: float
    memory_mb: float
    success: bool
    error_type: str | None = None


class MetricsManager:
    """Takes samples of the metrics, and computes rates, means and quantiles over the last seconds.

    A sample has one number for each selection that was asked for by ``watch``, so what is kept does not grow with the
    labels: at most 400 samples of at most 200 selections. Of samples that come more often than each 4.5 s older ones
    are let go in between. A counter that begins again at zero, because the metrics were switched off and on, goes on
    where it was. Time is the core's monotonic clock. It may be used from any thread.

    Args:
        source: returns the metrics of the given names, or more, as the core's ``metrics_snapshot`` does. Default: that.
        keep_seconds: the longest window. Default: 1800.
    """

    def __init__(self, source: Source | None = None, *, keep_seconds: float = KEEP_SECONDS) -> None:
        if not (0 < keep_seconds <= KEEP_SECONDS):
            raise ValueError(f"keep_seconds must be more than 0 and at most {KEEP_SECONDS:g}, got {keep_seconds}")
        self.keep_seconds = keep_seconds
        self._source: Source = source if source is not None else metrics_snapshot
        self._lock = threading.Lock()
        # Held while a sample is taken: of two at once the earlier would be kept last, and look like a new beginning.
        self._sampling = threading.Lock()
        self._raw: dict[Selection, float | Histogram] = {}
        self._sums: dict[Selection, float | Histogram] = {}
        self._watched: dict[Selection, None] = {}
        self._times: deque[float] = deque()
        self._samples: deque[dict[Selection, float | Histogram]] = deque()
        self._executions: deque[Execution] = deque(maxlen=MAX_EXECUTIONS)
        self._events: deque[tuple[float, float]] = deque(maxlen=MAX_EXECUTIONS)

    # -- the registry ----------------------------------------------------------------------------------------------

    def watch(self, *figures: Figure | Selection) -> None:
        """Have what the figures are made of in each sample from now on.

        Raises:
            ValueError: more than 200 selections.
        """
        wanted: list[Selection] = []
        for figure in figures:
            wanted += [figure] if isinstance(figure, Selection) else figure.selections()
        with self._lock:
            watched = {**self._watched, **dict.fromkeys(wanted)}
            if len(watched) > MAX_SELECTIONS:
                raise ValueError(
                    f"at most {MAX_SELECTIONS} selections are watched; watch fewer, or use a second manager"
                )
            self._watched = watched

    def sample(self) -> None:
        """Take a sample now."""
        with self._sampling:
            self._sample()

    def _sample(self) -> None:
        now = monotonic()
        with self._lock:
            watched = tuple(self._watched)
        # Outside that lock: the registry asks all rooms for what they hold.
        names = {each.family for each in watched}
        told = self._source(names)
        families = {exposed(name, str(family["kind"])): family["series"] for name, family in told.items()}
        with self._lock:
            sample = {}
            for each in watched:
                value = self._continued(each, families.get(each.family, ()))
                if value is not None:
                    sample[each] = value
            self._make_room()
            self._times.append(now)
            self._samples.append(sample)
            while len(self._times) > 1 and self._times[1] <= now - self.keep_seconds:
                self._times.popleft()
                self._samples.popleft()

    def _make_room(self) -> None:
        """Let one of too many samples go: the oldest with close neighbours, so that all the time stays covered."""
        times = self._times
        if len(times) < MAX_SAMPLES:
            return
        close = 2 * self.keep_seconds / MAX_SAMPLES
        inner = range(1, len(times) - 1)
        gone = next((at for at in inner if times[at + 1] - times[at - 1] < close), 0)
        del times[gone], self._samples[gone]

    def window(self, seconds: float) -> SampledWindow:
        """Return the last ``seconds``: from the sample at their beginning, or the oldest one, to the latest.

        Raises:
            ValueError: the window is longer than what is kept, or no window.
        """
        if not (0 < seconds <= self.keep_seconds):
            raise ValueError(f"a window is more than 0 and at most {self.keep_seconds:g} seconds, got {seconds}")
        with self._lock:
            if not self._times:
                return SampledWindow({}, {}, 0.0)
            times = list(self._times)
            begin = max(bisect_right(times, monotonic() - seconds) - 1, 0)
            last = len(times) - 1
            return SampledWindow(self._samples[begin], self._samples[last], times[last] - times[begin])

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self._times)

    def _continued(self, selection: Selection, series: Collection[Mapping[str, Any]]) -> float | Histogram | None:
        """Return the selection's number; of what only rises the sum of its rises since it was looked at first."""
        now = selection.total(series)
        if now is None or selection.kind == "gauge":
            return now
        before = self._raw.get(selection)
        self._raw[selection] = now
        so_far = self._sums.get(selection)
        if before is None or so_far is None:
            # Samples from before it was watched have no number of it: to them it was zero as well.
            total: float | Histogram = NOTHING if isinstance(now, Histogram) else 0.0
        elif isinstance(now, Histogram):
            assert isinstance(before, Histogram)  # noqa: S101 - one selection has one kind
            assert isinstance(so_far, Histogram)  # noqa: S101 - the same
            total = so_far.plus(now if now.count < before.count else now.minus(before))
        else:
            assert isinstance(before, float)  # noqa: S101 - the same
            assert isinstance(so_far, float)  # noqa: S101 - the same
            total = so_far + (now if now < before else now - before)
        self._sums[selection] = total
        return total

    # -- the seed's -------------------------------------------------------------------------------------------------

    def update_execution_metrics(
        self,
        execution_time_ms: float,
        memory_peak_mb: float = 0.0,
        *,
        success: bool = True,
        error_type: str | None = None,
    ) -> None:
        """Record an execution that isolane does not drive itself. The latest 1000 are kept.

        One with the ``error_type`` ``CancelledError`` has not failed.
        """
        self._executions.append(
            Execution(monotonic(), _positive(execution_time_ms) / 1000, _positive(memory_peak_mb), success, error_type)
        )

    def update_event_metrics(self, latency_ms: float) -> None:
        """Record how long an event took that isolane does not deliver itself. The latest 1000 are kept."""
        self._events.append((monotonic(), _positive(latency_ms) / 1000))

    @property
    def executions(self) -> tuple[Execution, ...]:
        """The latest 1000 that were recorded, the oldest first."""
        return tuple(self._executions)

    def calculate_response_time(self, seconds: float = 300.0) -> float | None:
        """Return the mean of the recorded executions of the last ``seconds`` in milliseconds; ``None`` without any."""
        mean = self.summary(seconds)["avg_response_time_ms"]
        return None if mean is None else float(mean)

    def summary(self, seconds: float = 300.0) -> dict[str, float | int | None]:
        """Return figures of what was recorded in the last ``seconds``; ``None`` where nothing was."""
        begin = monotonic() - seconds
        executions = [each for each in tuple(self._executions) if each.at >= begin]
        events = [latency for at, latency in tuple(self._events) if at >= begin]
        times, latencies = LatencyHistogram(), LatencyHistogram()
        for each in executions:
            times.record(each.seconds)
        for latency in events:
            latencies.record(latency)
        failed = sum(not each.success and each.error_type != CANCELLED for each in executions)
        return {
            "executions": len(executions),
            "failed": failed,
            "error_rate_percent": 100 * failed / len(executions) if executions else None,
            "avg_response_time_ms": _mean_ms(each.seconds for each in executions),
            "p95_response_time_ms": _ms(times.figures()["p95"]),
            "max_response_time_ms": _ms(max((each.seconds for each in executions), default=None)),
            "memory_peak_mb": max((each.memory_mb for each in executions), default=None),
            "events": len(events),
            "p99_event_latency_ms": _ms(latencies.figures()["p99"]),
        }

    def check_metric_thresholds(
        self, thresholds: PerformanceThresholds | None = None, seconds: float = 300.0
    ) -> list[dict[str, Any]]:
        """Return what was recorded in the last ``seconds`` and misses a target, as the seed's violations."""
        limits = thresholds if thresholds is not None else PerformanceThresholds()
        figures = self.summary(seconds)
        checks = (
            ("avg_response_time", "avg_response_time_ms", "avg_response_time_ms", "warning"),
            ("websocket_event_latency", "p99_event_latency_ms", "websocket_event_latency_ms", "warning"),
            ("error_rate", "error_rate_percent", "error_rate_percent", "high"),
        )
        return [
            {"metric": metric, "value": value, "threshold": limits[threshold], "severity": severity}
            for metric, figure, threshold, severity in checks
            if (value := figures[figure]) is not None and value > limits[threshold]
        ]


class SampledWindow:
    """Two samples and the seconds between them. See ``isolane.observability.readings.Window``."""

    def __init__(
        self,
        first: Mapping[Selection, float | Histogram],
        last: Mapping[Selection, float | Histogram],
        seconds: float,
    ) -> None:
        self._first = first
        self._last = last
        self.seconds = seconds
        """Between the samples; 0.0 while there is one only."""

    def increase(self, selection: Selection) -> float | None:
        """By how much a counter has risen."""
        now = self._last.get(selection)
        if not isinstance(now, float) or not self.seconds:
            return None
        before = self._first.get(selection)
        return now - (before if isinstance(before, float) else 0.0)

    def histogram(self, selection: Selection) -> Histogram | None:
        """What a histogram has counted."""
        now = self._last.get(selection)
        if not isinstance(now, Histogram) or not self.seconds:
            return None
        before = self._first.get(selection)
        return now.minus(before if isinstance(before, Histogram) else NOTHING)

    def level(self, selection: Selection) -> float | None:
        """What a gauge is now."""
        now = self._last.get(selection)
        return now if isinstance(now, float) else None

    def rate(self, selection: Selection) -> float | None:
        """By how much a counter has risen in a second, on average."""
        risen = self.increase(selection)
        return None if risen is None else risen / self.seconds


def _positive(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"a measure must be a number of at least 0, got {value}")
    return float(value)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _mean_ms(seconds: Iterable[float]) -> float | None:
    values = list(seconds)
    return 1000 * sum(values) / len(values) if values else None


MetricsCollector = MetricsManager
DashboardStreamer = MetricsManager
"""The seed's names: what collects figures is what a dashboard reads them from."""
