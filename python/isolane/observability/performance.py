"""``PerformanceMonitoringIntegration``: one execution under watch, as the seed has it."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from isolane._core import UserExecutionContext, lane_usage
from isolane.memory.limits import MB
from isolane.observability.alerts import AlertManager
from isolane.observability.thresholds import PerformanceThresholds
from isolane.observability.windows import MetricsManager

logger = logging.getLogger("isolane.alerts")

LOOK_SECONDS = 0.25
MAX_WATCHED = 1000
"""Executions that are looked at while they run. What is beyond is measured at its end only, and counted."""


class PerformanceMonitoringIntegration:
    """Measures executions that it is handed, and raises an alert when one takes too long or too much.

    Agents that an engine runs are measured without it: the rules of an ``AlertManager`` look at the metrics of all of
    them. This is for code that is to be watched call by call, under the seed's names.

    Args:
        alerts: raises the alerts. Default: one of its own, which nobody looks at rules with.
        metrics: keeps the figures of the executions. Default: that of ``alerts``.
        thresholds: default: those of ``alerts``.
        every: seconds between two looks at an execution that runs. Default: 0.25.

    Attributes:
        metrics_collector: the ``MetricsManager``.
        alert_manager: the ``AlertManager``.
        dashboard_streamer: the same ``MetricsManager``: a dashboard reads what it keeps.
        thresholds: the figures, also by name in brackets.
        unwatched: executions that began while 1000 were looked at.
    """

    def __init__(
        self,
        alerts: AlertManager | None = None,
        *,
        metrics: MetricsManager | None = None,
        thresholds: PerformanceThresholds | Mapping[str, float] | None = None,
        every: float = LOOK_SECONDS,
    ) -> None:
        if not every > 0:
            raise ValueError(f"every must be more than 0 seconds, got {every}")
        self.alert_manager = alerts if alerts is not None else AlertManager(metrics=metrics)
        self.metrics_collector = metrics if metrics is not None else self.alert_manager.metrics
        self.dashboard_streamer = self.metrics_collector
        self.thresholds = self.alert_manager.thresholds if thresholds is None else PerformanceThresholds.of(thresholds)
        self.unwatched = 0
        self._every = every
        self._peaks: dict[str, _Peak] = {}
        self._watched = 0

    async def monitor_execution_performance(
        self,
        context: UserExecutionContext,
        execution_func: Callable[..., Awaitable[Any]],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Await ``execution_func(*args, **kwargs)``, measure it, and return what it returns.

        While it runs a task looks at its time and its user's memory: an alert is raised while a slow execution goes on,
        not when it is over. What it raises is recorded and raised on; so is a cancellation. No failure of the
        measurement is an execution's.
        """
        user_id = context.user_id
        peak = self._peaks.get(user_id)
        if peak is None:
            peak = self._peaks[user_id] = _Peak()
        peak.watchers += 1
        began = time.monotonic()
        watcher: asyncio.Task[None] | None = None
        try:
            peak.see(_held(user_id))
            if self._watched < MAX_WATCHED:
                self._watched += 1
                watcher = asyncio.create_task(self.continuous_performance_monitoring(context), name="isolane watch")
                watcher.add_done_callback(self._forget)
            else:
                self.unwatched += 1
            error: str | None = None
            try:
                return await execution_func(*args, **kwargs)
            except BaseException as failure:
                error = type(failure).__name__
                raise
            finally:
                elapsed = (time.monotonic() - began) * 1000
                peak.see(_held(user_id))
                if watcher is not None:
                    watcher.cancel()
                self._finish(elapsed, peak.bytes / MB, error)
        finally:
            peak.watchers -= 1
            if not peak.watchers:
                self._peaks.pop(user_id, None)

    async def continuous_performance_monitoring(self, context: UserExecutionContext) -> None:
        """Look at a run every so often until it is cancelled, the context is cleaned up, or nobody holds it.

        Notes the most memory that its user held, and raises an alert once when the time or the memory passes its
        threshold. ``monitor_execution_performance`` starts and cancels it.
        """
        user_id = context.user_id
        reference = weakref.ref(context)
        del context
        began = time.monotonic()
        told: set[str] = set()
        while True:
            await asyncio.sleep(self._every)
            held = _held(user_id)
            peak = self._peaks.get(user_id)
            if peak is not None:
                peak.see(held)
            missed = self._violations((time.monotonic() - began) * 1000, held / MB)
            news = [each for each in missed if each["metric"] not in told]
            told.update(each["metric"] for each in news)
            self.alert_manager.trigger(news)
            alive = reference()
            if alive is None or alive.status.value == "cleaned":
                return
            del alive

    async def record_performance_metrics(
        self,
        user_id: str,  # noqa: ARG002 - the seed's signature; figures have no user in them
        execution_time_ms: float,
        memory_peak_mb: float,
        success: bool,
        error_type: str | None = None,
    ) -> None:
        """Record an execution. Nothing is waited for; the user is not kept."""
        self.metrics_collector.update_execution_metrics(
            execution_time_ms, memory_peak_mb, success=success, error_type=error_type
        )

    async def validate_performance_thresholds(
        self, execution_time_ms: float, memory_peak_mb: float
    ) -> list[dict[str, Any]]:
        """Compare an execution with the thresholds, and raise an alert for each that it misses. Returns those.

        Nothing is waited for.
        """
        violations = self._violations(execution_time_ms, memory_peak_mb)
        self.alert_manager.trigger(violations)
        return violations

    async def get_memory_usage(self, user_id: str) -> float:
        """Return the megabytes that the user holds now."""
        return _held(user_id) / MB

    async def get_peak_memory_usage(self, user_id: str) -> float:
        """Return the most megabytes that the user was seen to hold since the oldest execution that runs began."""
        peak = self._peaks.get(user_id)
        return max(_held(user_id), peak.bytes if peak is not None else 0) / MB

    def get_performance_summary(self, seconds: float = 300.0) -> dict[str, float | int | None]:
        """Return the figures of the executions of the last ``seconds``: see ``MetricsManager.summary``."""
        return self.metrics_collector.summary(seconds)

    def _violations(self, execution_time_ms: float, memory_peak_mb: float) -> list[dict[str, Any]]:
        checks = (
            ("response_time", execution_time_ms, self.thresholds.max_response_time_ms, "critical"),
            ("memory_usage", memory_peak_mb, self.thresholds.memory_usage_per_user_mb, "high"),
        )
        return [
            {"metric": metric, "value": value, "threshold": threshold, "severity": severity}
            for metric, value, threshold, severity in checks
            if value > threshold
        ]

    def _finish(self, elapsed: float, memory_mb: float, error: str | None) -> None:
        try:
            self.metrics_collector.update_execution_metrics(elapsed, memory_mb, success=error is None, error_type=error)
            self.alert_manager.trigger(self._violations(elapsed, memory_mb))
        except Exception:
            logger.exception("an execution could not be measured")

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._watched -= 1
        if not task.cancelled() and task.exception() is not None:
            logger.error("an execution could not be watched", exc_info=task.exception())


class _Peak:
    """The most that a user was seen to hold while executions of the user run."""

    __slots__ = ("bytes", "watchers")

    def __init__(self) -> None:
        self.bytes = 0
        self.watchers = 0

    def see(self, held: int) -> None:
        self.bytes = max(self.bytes, held)


def _held(user_id: str) -> int:
    usage = lane_usage(user_id)
    return int(usage["bytes"]) if usage is not None else 0
