"""prometheus_client with the same families and series as the core has: the peer of metrics."""

from collections.abc import Callable
from typing import Any

from isolane import _core

try:
    import prometheus_client
    from prometheus_client import exposition
    from prometheus_client.openmetrics import exposition as openmetrics
except ImportError:
    MISSING = "prometheus_client is not installed"
else:
    MISSING = ""

_KINDS = {"counter": "Counter", "gauge": "Gauge", "histogram": "Histogram"}


def _bounds(series: list[dict[str, Any]]) -> dict[str, Any]:
    """Nothing but for a histogram."""
    pairs = series[0].get("buckets")
    return {} if pairs is None else {"buckets": [bound for bound, _ in pairs]}


def _fill(family: Any, one: dict[str, Any]) -> None:
    child = family.labels(**one["labels"]) if one["labels"] else family
    if "value" in one:
        if hasattr(child, "set"):
            child.set(one["value"])
        else:
            child.inc(one["value"])
        return
    before = 0
    for bound, until_here in one["buckets"]:
        for _ in range(min(3, until_here - before)):
            child.observe(bound)
        before = until_here


def same_series() -> Any:
    """A registry of prometheus_client with every series that the core has now.

    Without the times at which series were made, which the core does not write either.
    """
    prometheus_client.disable_created_metrics()
    registry = prometheus_client.CollectorRegistry()
    for name, found in _core.metrics_snapshot().items():
        series = found["series"]
        make = getattr(prometheus_client, _KINDS[found["kind"]])
        family = make(name, found["help"], list(series[0]["labels"]), registry=registry, **_bounds(series))
        for one in series:
            _fill(family, one)
    return registry


def generate(text_format: str) -> Callable[[Any], bytes]:
    """What writes a registry as text, ``prometheus`` or ``openmetrics``."""
    made: Callable[[Any], bytes] = (
        openmetrics.generate_latest if text_format == "openmetrics" else exposition.generate_latest
    )
    return made


def counter(labels: tuple[str, ...] = ()) -> Any:
    """A counter of a registry of its own."""
    return prometheus_client.Counter("bench", "A counter.", labels, registry=prometheus_client.CollectorRegistry())


def histogram(bounds: list[float]) -> Any:
    """A histogram of a registry of its own."""
    registry = prometheus_client.CollectorRegistry()
    return prometheus_client.Histogram("bench_seconds", "A histogram.", buckets=bounds, registry=registry)
