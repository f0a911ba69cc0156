"""isolane's metrics in a registry of ``prometheus_client``, beside an application's own."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from isolane._core import metric_families, metrics_snapshot

__all__ = ["IsolaneCollector", "register", "unregister"]

logger = logging.getLogger("isolane.observability")

MULTIPROCESS = (
    "PROMETHEUS_MULTIPROC_DIR is set: what prometheus_client writes there has no custom collectors, so isolane's "
    "metrics are not in it. Serve them from each worker, with ISOLANE_METRICS_PATH=/metrics or "
    "isolane.observability.metrics.render()"
)

_KINDS = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


class IsolaneCollector(Collector):
    """Hands what isolane's core has measured to ``prometheus_client`` whenever its registry is read.

    Nothing is counted a second time: the numbers stay in the core.
    """

    def __init__(self) -> None:
        self._families = metric_families()

    def describe(self) -> Iterable[Metric]:
        """Yield all families without their series, by which a registry sees names that are taken."""
        for family in self._families:
            yield self._family(family)

    def collect(self) -> Iterable[Metric]:
        """Yield all families with their series."""
        snapshot = metrics_snapshot()
        for family in self._families:
            found = snapshot.get(family["sample"])
            if found is None:
                continue
            made = self._family(family)
            for series in found["series"]:
                values = [series["labels"][name] for name in family["labels"]]
                if family["kind"] == "histogram":
                    buckets = [(_bound(bound), float(many)) for bound, many in series["buckets"]]
                    made.add_metric(values, buckets=buckets, sum_value=series["sum"])
                else:
                    made.add_metric(values, series["value"])
            yield made

    @staticmethod
    def _family(family: dict[str, Any]) -> Any:
        return _KINDS[family["kind"]](
            family["name"], family["help"], labels=list(family["labels"]), unit=family["unit"] or ""
        )


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(float(bound))


_lock = threading.Lock()
_registered: WeakKeyDictionary[CollectorRegistry, IsolaneCollector] = WeakKeyDictionary()


def register(registry: CollectorRegistry = REGISTRY) -> IsolaneCollector:
    """Put isolane's metrics into a registry, and return their collector. Doing it again returns the same one.

    Warns where ``PROMETHEUS_MULTIPROC_DIR`` is set: custom collectors do not work there.

    Args:
        registry: default: that of the process.

    Raises:
        ValueError: the registry has other metrics of these names.
    """
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR") or os.environ.get("prometheus_multiproc_dir"):  # noqa: SIM112 - its own older name
        logger.warning(MULTIPROCESS)
        warnings.warn(MULTIPROCESS, RuntimeWarning, stacklevel=2)
    with _lock:
        collector = _registered.get(registry)
        if collector is None:
            collector = IsolaneCollector()
            registry.register(collector)
            _registered[registry] = collector
        return collector


def unregister(registry: CollectorRegistry = REGISTRY) -> bool:
    """Take isolane's metrics out of a registry. Returns whether they were in it."""
    with _lock:
        collector = _registered.pop(registry, None)
        if collector is None:
            return False
        registry.unregister(collector)
        return True
