"""What was measured: as the text of a scrape, as a dictionary, and as what changed since somebody asked last."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isolane._core import metrics_enabled, metrics_snapshot, render_metrics, set_metrics_enabled

__all__ = [
    "CONTENT_TYPES",
    "MetricChange",
    "MetricDrain",
    "content_type",
    "drain",
    "metrics_enabled",
    "render",
    "set_metrics_enabled",
    "snapshot",
]

Format = Literal["openmetrics", "prometheus"]
"""OpenMetrics 1.0, or the text format 0.0.4 of Prometheus."""

CONTENT_TYPES: Mapping[Format, str] = {
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "prometheus": "text/plain; version=0.0.4; charset=utf-8",
}
"""What an answer with each format says of itself."""


def render(format: Format = "openmetrics") -> str:  # noqa: A002 - the word that the contract has
    """Return all that was measured in this process as the text of a scrape.

    Raises:
        ValueError: ``format`` is neither ``openmetrics`` nor ``prometheus``.
    """
    return render_metrics(format)


def snapshot() -> dict[str, dict[str, Any]]:
    """Return all that was measured in this process, by the name of its samples.

    Each has ``kind``, ``help`` and ``series``: a list of ``labels`` with ``value``, or of a histogram with ``count``,
    ``sum`` and ``buckets``, pairs of an upper bound and how many values it is not below.
    """
    return metrics_snapshot()


@dataclass(frozen=True, slots=True)
class MetricChange:
    """A series that changed.

    Attributes:
        name: of its samples, such as ``isolane_runs_total``.
        kind: ``counter``, ``gauge`` or ``histogram``.
        labels: by name. No label has a user in it.
        value: of a counter how much it grew, of a gauge what it is, of a histogram the sum of what came.
        count: of a histogram how many values came; else 0.
        buckets: of a histogram the upper bounds of its buckets, each with how many values came that it is not below.
    """

    name: str
    kind: str
    labels: Mapping[str, str]
    value: float
    count: int = 0
    buckets: Sequence[tuple[float, int]] = ()


_Seen = tuple[float, int, tuple[tuple[float, int], ...]]
_NOTHING: _Seen = (0.0, 0, ())


class MetricDrain:
    """Tells what changed since it was asked last, for exporters that push. Each drain has a memory of its own.

    Nothing is kept between two questions but the latest value of each series, of which there is a bounded number:
    however seldom it is asked, it does not grow. The first answer has all that was measured before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, tuple[str, ...]], _Seen] = {}

    def drain(self) -> list[MetricChange]:
        """Return the series that changed since the last call, and what came to each."""
        with self._lock:
            changes: list[MetricChange] = []
            for name, family in metrics_snapshot().items():
                for series in family["series"]:
                    change = self._change(name, family["kind"], series)
                    if change is not None:
                        changes.append(change)
            return changes

    def _change(self, name: str, kind: str, series: dict[str, Any]) -> MetricChange | None:
        labels: dict[str, str] = series["labels"]
        key = (name, tuple(labels.values()))
        before = self._seen.get(key)
        if kind == "gauge":
            now: _Seen = (series["value"], 0, ())
            self._seen[key] = now
            return None if now == before else MetricChange(name, kind, labels, now[0])
        if kind == "counter":
            now = (series["value"], 0, ())
        else:
            now = (series["sum"], series["count"], tuple((bound, many) for bound, many in series["buckets"]))
        self._seen[key] = now
        before = before or _NOTHING
        if now[0] < before[0] or now[1] < before[1]:
            # Counted anew, as in the child of a fork.
            before = _NOTHING
        if now[:2] == before[:2]:
            return None
        earlier = before[2] or tuple((bound, 0) for bound, _ in now[2])
        buckets = tuple((bound, many - was) for (bound, many), (_, was) in zip(now[2], earlier, strict=True))
        return MetricChange(name, kind, labels, now[0] - before[0], now[1] - before[1], buckets)


_drain = MetricDrain()


def drain() -> list[MetricChange]:
    """Return what changed since this function was called last, anywhere in the process.

    Two exporters that push each need a ``MetricDrain`` of their own.
    """
    return _drain.drain()


def content_type(accept: str | None) -> Format:
    """Return the format that a header ``Accept`` asks for: OpenMetrics where it is wanted as much as plain text.

    What asks for neither, as a browser does, gets plain text.
    """
    best: dict[Format, float] = {}
    for entry in (accept or "").split(","):
        media, *parameters = [part.strip().lower() for part in entry.split(";")]
        given = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        quality = _quality(given.get("q"))
        if media == "application/openmetrics-text" and given.get("version", "1.0.0").strip('"') in {"1.0.0", "0.0.1"}:
            best["openmetrics"] = max(best.get("openmetrics", 0.0), quality)
        elif media in {"text/plain", "text/*", "*/*"}:
            best["prometheus"] = max(best.get("prometheus", 0.0), quality)
    wanted = best.get("openmetrics", 0.0)
    return "openmetrics" if wanted > 0 and wanted >= best.get("prometheus", 0.0) else "prometheus"


def _quality(text: str | None) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        return 0.0
