"""The same for executions under watch: a task looks at each, and none may be left."""

from __future__ import annotations

import asyncio

from isolane.observability import AlertManager, PerformanceMonitoringIntegration

from tests.adversity.scenarios import uses
from tests.adversity.world import World, ticks


@uses(
    "PerformanceMonitoringIntegration.monitor_execution_performance",
    "PerformanceMonitoringIntegration.continuous_performance_monitoring",
)
async def an_execution_is_watched(world: World) -> None:
    integration = PerformanceMonitoringIntegration(AlertManager([], []), every=1e-6)
    context = world.context()

    async def work() -> int:
        await ticks(4)
        return 7

    try:
        assert await integration.monitor_execution_performance(context, work) == 7
        watch = asyncio.get_running_loop().create_task(integration.continuous_performance_monitoring(context))
        await context.cleanup()
        try:
            await watch
        finally:
            watch.cancel()
    finally:
        await context.cleanup()
        assert integration._peaks == {}
        # A watcher that was cancelled ends in the next turn.
        await ticks(2)


@uses(
    "PerformanceMonitoringIntegration.record_performance_metrics",
    "PerformanceMonitoringIntegration.validate_performance_thresholds",
    "PerformanceMonitoringIntegration.get_memory_usage",
    "PerformanceMonitoringIntegration.get_peak_memory_usage",
    "AlertManager.trigger_performance_alerts",
)
async def figures_are_recorded_by_hand(world: World) -> None:
    integration = PerformanceMonitoringIntegration(AlertManager([], []))
    context = world.context()
    try:
        await ticks(1)
        await integration.record_performance_metrics(context.user_id, 3000, 1, success=True)
        await ticks(1)
        assert len(await integration.validate_performance_thresholds(3000, 1)) == 1
        assert await integration.get_memory_usage(context.user_id) >= 0
        assert await integration.get_peak_memory_usage(context.user_id) >= 0
        missed = [{"metric": "response_time", "value": 3000, "threshold": 2000, "severity": "critical"}]
        assert await integration.alert_manager.trigger_performance_alerts(missed) == []
    finally:
        await context.cleanup()
