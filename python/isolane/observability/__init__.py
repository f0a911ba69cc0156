"""Watching isolane run: metrics, traces, alerts, logs and the dashboard, each in a module of its own.

Engines and dispatchers import ``seams`` from here, so this file imports nothing. Its names are imported when they are
first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolane.observability.alerts import Alert, AlertManager, AlertReceiver, CallbackAlertSink
    from isolane.observability.logs import ContextLogFilter, LoguruPatcher, StructlogProcessor, current_ids
    from isolane.observability.performance import PerformanceMonitoringIntegration
    from isolane.observability.readings import AtLeast, Increase, Level, Mean, Quantile, Share, While
    from isolane.observability.rules import AlertRule, default_rules, prometheus_rules
    from isolane.observability.thresholds import PerformanceThresholds
    from isolane.observability.windows import DashboardStreamer, MetricsCollector, MetricsManager

_HOMES = {
    "alerts": ("Alert", "AlertManager", "AlertReceiver", "CallbackAlertSink"),
    "logs": ("ContextLogFilter", "LoguruPatcher", "StructlogProcessor", "current_ids"),
    "performance": ("PerformanceMonitoringIntegration",),
    "readings": ("AtLeast", "Increase", "Level", "Mean", "Quantile", "Share", "While"),
    "rules": ("AlertRule", "default_rules", "prometheus_rules"),
    "thresholds": ("PerformanceThresholds",),
    "windows": ("DashboardStreamer", "MetricsCollector", "MetricsManager"),
}
_NAMES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Alert",
    "AlertManager",
    "AlertReceiver",
    "AlertRule",
    "AtLeast",
    "CallbackAlertSink",
    "ContextLogFilter",
    "DashboardStreamer",
    "Increase",
    "Level",
    "LoguruPatcher",
    "Mean",
    "MetricsCollector",
    "MetricsManager",
    "PerformanceMonitoringIntegration",
    "PerformanceThresholds",
    "Quantile",
    "Share",
    "StructlogProcessor",
    "While",
    "current_ids",
    "default_rules",
    "prometheus_rules",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
