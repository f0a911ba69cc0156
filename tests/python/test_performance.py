"""``PerformanceMonitoringIntegration``: what it measures, what it tells, and that it never gets in the way."""

from __future__ import annotations

import asyncio
import gc

import pytest
from isolane import UserExecutionContext
from isolane.memory import charge
from isolane.observability import (
    AlertManager,
    CallbackAlertSink,
    DashboardStreamer,
    MetricsCollector,
    MetricsManager,
    PerformanceMonitoringIntegration,
    PerformanceThresholds,
)
from isolane.observability import performance as module

from tests.support.metric_names import reserve

reserve("response_time", "memory_usage", label="rule")

MB = 1024 * 1024


@pytest.fixture
async def context():
    context = UserExecutionContext("ann-01", "thread-1", "run-1")
    yield context
    await context.cleanup()


def watched(every: float = 0.01, **thresholds: float) -> tuple[PerformanceMonitoringIntegration, list[str]]:
    told: list[str] = []
    alerts = AlertManager(
        [], [CallbackAlertSink(lambda alert: told.append(f"{alert.rule} {alert.state}"))], thresholds=thresholds
    )
    return PerformanceMonitoringIntegration(alerts, every=every), told


def test_the_seeds_names_and_figures_are_there():
    integration = PerformanceMonitoringIntegration()
    assert isinstance(integration.metrics_collector, MetricsCollector)
    assert isinstance(integration.dashboard_streamer, DashboardStreamer)
    assert isinstance(integration.alert_manager, AlertManager)
    assert integration.thresholds["max_response_time_ms"] == 2000
    own = PerformanceMonitoringIntegration(thresholds={"max_response_time_ms": 3000})
    assert own.thresholds == PerformanceThresholds(max_response_time_ms=3000)
    with pytest.raises(ValueError, match="every"):
        PerformanceMonitoringIntegration(every=0)


async def test_what_the_function_returns_is_returned_and_measured(context):
    integration, told = watched()

    async def work(first: int, *, second: int) -> int:
        with charge(context, 5 * MB):
            await asyncio.sleep(0.05)
        return first + second

    assert await integration.monitor_execution_performance(context, work, 1, second=2) == 3
    figures = integration.get_performance_summary()
    assert (figures["executions"], figures["failed"]) == (1, 0)
    assert figures["avg_response_time_ms"] >= 50
    assert figures["memory_peak_mb"] >= 5, "what was freed before the end counts"
    assert told == []
    assert await integration.get_memory_usage("ann-01") < 5


async def test_an_alert_is_raised_while_a_slow_execution_goes_on(context):
    integration, told = watched(max_response_time_ms=20)
    seen: list[list[str]] = []

    async def work() -> None:
        for _ in range(300):
            await asyncio.sleep(0.01)
            if told:
                break
        seen.append(list(told))

    await integration.monitor_execution_performance(context, work)
    assert seen == [["response_time firing"]]
    assert told == ["response_time firing"]


async def test_memory_above_the_threshold_is_an_alert_and_just_below_is_none(context):
    integration, told = watched(memory_usage_per_user_mb=8)

    async def hold(megabytes: int) -> None:
        with charge(context, megabytes * MB):
            await asyncio.sleep(0.03)

    await integration.monitor_execution_performance(context, hold, 7)
    assert told == []
    await integration.monitor_execution_performance(context, hold, 9)
    assert told == ["memory_usage firing"]


async def test_a_failure_and_a_cancellation_are_recorded_and_raised_and_only_the_first_is_an_error(context):
    integration, _ = watched()

    async def fail() -> None:
        raise KeyError("no such thing")

    async def stay() -> None:
        await asyncio.sleep(60)

    with pytest.raises(KeyError, match="no such thing"):
        await integration.monitor_execution_performance(context, fail)
    task = asyncio.get_running_loop().create_task(integration.monitor_execution_performance(context, stay))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    figures = integration.get_performance_summary()
    assert (figures["executions"], figures["failed"], figures["error_rate_percent"]) == (2, 1, 50)
    assert [each.error_type for each in integration.metrics_collector.executions] == ["KeyError", "CancelledError"]


async def test_nothing_is_left_when_executions_are_over(context):
    integration, _ = watched()

    async def work() -> None:
        await asyncio.sleep(0.01)

    await asyncio.gather(*(integration.monitor_execution_performance(context, work) for _ in range(20)))
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "isolane watch"] == []
    assert (integration._peaks, integration._watched) == ({}, 0)


async def test_executions_beyond_the_bound_are_measured_at_their_end_only(context, monkeypatch):
    monkeypatch.setattr(module, "MAX_WATCHED", 2)
    integration, told = watched(max_response_time_ms=20)

    async def work() -> None:
        await asyncio.sleep(0.05)

    await asyncio.gather(*(integration.monitor_execution_performance(context, work) for _ in range(5)))
    assert integration.unwatched == 3
    assert integration.get_performance_summary()["executions"] == 5
    assert told == ["response_time firing"]


async def test_a_measurement_that_fails_is_nobodys_failure(context, monkeypatch, caplog):
    integration, _ = watched()

    def broken(*_: object, **__: object) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(integration.metrics_collector, "update_execution_metrics", broken)

    async def work() -> str:
        return "done"

    assert await integration.monitor_execution_performance(context, work) == "done"
    assert "could not be measured" in caplog.text


async def test_the_watch_ends_with_its_context():
    integration, _ = watched()
    context = UserExecutionContext("ann-01", "thread-1", "run-1")
    cleaned = asyncio.get_running_loop().create_task(integration.continuous_performance_monitoring(context))
    await asyncio.sleep(0.03)
    assert not cleaned.done()
    await context.cleanup()
    await asyncio.wait_for(cleaned, 5)
    dropped = UserExecutionContext("ann-01", "thread-1", "run-2")
    task = asyncio.get_running_loop().create_task(integration.continuous_performance_monitoring(dropped))
    await asyncio.sleep(0.03)
    del dropped
    gc.collect()
    await asyncio.wait_for(task, 5)


async def test_thresholds_are_validated_as_the_seed_does(context):
    integration, told = watched()
    assert await integration.validate_performance_thresholds(execution_time_ms=2000, memory_peak_mb=256) == []
    missed = await integration.validate_performance_thresholds(execution_time_ms=2001, memory_peak_mb=257)
    assert [(each["metric"], each["value"], each["threshold"], each["severity"]) for each in missed] == [
        ("response_time", 2001, 2000, "critical"),
        ("memory_usage", 257, 256, "high"),
    ]
    assert told == ["response_time firing", "memory_usage firing"]


async def test_records_make_a_summary_and_its_misses(context):
    integration, _ = watched()
    await integration.record_performance_metrics("ann-01", 1000, 10, success=True)
    await integration.record_performance_metrics("ann-01", 3000, 20, success=False, error_type="KeyError")
    manager = integration.metrics_collector
    manager.update_event_metrics(80)
    assert manager.calculate_response_time() == 2000
    assert {each["metric"] for each in manager.check_metric_thresholds(integration.thresholds)} == {
        "avg_response_time",
        "websocket_event_latency",
        "error_rate",
    }
    with pytest.raises(ValueError, match="at least 0"):
        manager.update_event_metrics(float("nan"))
    assert MetricsManager().calculate_response_time() is None
