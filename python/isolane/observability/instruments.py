"""The core's metrics as observable instruments of OpenTelemetry.

They have the names that a scrape has, without ``_total``, so that rules and pictures are the same whichever way the
figures came. A histogram of the core is two counters here, ``…_count`` and ``…_sum``: OpenTelemetry has no observable
histogram.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from isolane import _core

_Callback = Callable[[CallbackOptions], Iterable[Observation]]

UNITS = {"seconds": "s", "bytes": "By", "percent": "%"}
"""Units of families as OpenTelemetry writes them."""


class _Figures:
    """One snapshot for all instruments of a collection.

    An instrument that asks a second time is in another collection, so the snapshot is taken anew.
    """

    def __init__(self) -> None:
        self.active = True
        self._lock = threading.Lock()
        self._serial = 0
        self._snapshot: dict[str, Any] = {}

    def take(self, seen: list[int], family: str) -> list[dict[str, Any]]:
        """Return the series of a family; ``seen`` is what its instrument had last."""
        if not self.active:
            return []
        with self._lock:
            if seen[0] == self._serial:
                self._snapshot = _core.metrics_snapshot()
                self._serial += 1
            seen[0] = self._serial
            held = self._snapshot.get(family)
        series: list[dict[str, Any]] = [] if held is None else held["series"]
        return series


_observed: weakref.WeakKeyDictionary[Any, _Figures] = weakref.WeakKeyDictionary()
"""What was registered with which provider: it cannot be taken back, and would be there twice."""


def observe(meter: Meter, provider: MeterProvider | None) -> Callable[[], None]:
    """Register the families of the core with a meter, or let those speak again that are. Returns what silences them."""
    owner = metrics.get_meter_provider() if provider is None else provider
    figures = _observed.get(owner)
    if figures is None:
        figures = _observed[owner] = _Figures()
        for family in _core.metric_families():
            _register(meter, figures, family)
    figures.active = True
    held = figures

    def silence() -> None:
        held.active = False

    return silence


def _register(meter: Meter, figures: _Figures, family: dict[str, Any]) -> None:
    bare, name, kind, text = family["name"], family["sample"], family["kind"], family["help"]
    unit = UNITS.get(family["unit"] or "", "")
    if kind == "counter":
        meter.create_observable_counter(bare, [_values(figures, name, "value")], unit, text)
    elif kind == "histogram":
        meter.create_observable_counter(f"{bare}_count", [_values(figures, name, "count")], "", f"{text} How many.")
        meter.create_observable_counter(f"{bare}_sum", [_values(figures, name, "sum")], unit, f"{text} The sum.")
    else:
        meter.create_observable_gauge(bare, [_values(figures, name, "value")], unit, text)


def _values(figures: _Figures, family: str, key: str) -> _Callback:
    seen = [0]

    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(each[key], each["labels"]) for each in figures.take(seen, family)]

    return callback
