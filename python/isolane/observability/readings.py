"""Figures that are read from a window of the metrics, here and by Prometheus alike.

A figure says once which families it is made of. ``read`` computes it in this process; ``promql`` is the same for a file
of rules. So an alert in the process and the rule of the file cannot mean different things.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

BY = "job, instance"
"""What Prometheus keeps apart: alerts are about one process."""


def exposed(family: str, kind: str) -> str:
    """Return what a family is called in the text: counters end in ``_total`` there."""
    return f"{family}_total" if kind == "counter" and not family.endswith("_total") else family


@dataclass(frozen=True, slots=True)
class Histogram:
    """The buckets of a histogram, added up: bounds and how many were at most so much, ``count`` and ``sum``."""

    count: float
    sum: float
    buckets: tuple[tuple[float, float], ...]

    def minus(self, before: Histogram) -> Histogram:
        """Return what came since."""
        earlier = dict(before.buckets)
        return Histogram(
            self.count - before.count,
            self.sum - before.sum,
            tuple((bound, many - earlier.get(bound, 0.0)) for bound, many in self.buckets),
        )

    def plus(self, more: Histogram) -> Histogram:
        """Return both together."""
        added = dict(self.buckets)
        for bound, many in more.buckets:
            added[bound] = added.get(bound, 0.0) + many
        return Histogram(self.count + more.count, self.sum + more.sum, tuple(sorted(added.items())))

    def quantile(self, part: float) -> float | None:
        """Return an estimate as Prometheus makes it: a line within the bucket, the last bound above all bounds."""
        if self.count <= 0 or not self.buckets:
            return None
        rank = part * self.count
        below, bottom = 0.0, 0.0
        for bound, many in self.buckets:
            if many >= rank:
                if math.isinf(bound):
                    return bottom
                return bottom + (bound - bottom) * ((rank - below) / (many - below)) if many > below else bound
            below, bottom = many, bound if not math.isinf(bound) else bottom
        return bottom


NOTHING = Histogram(0.0, 0.0, ())


@dataclass(frozen=True)
class Selection:
    """Series of a family: those whose labels have one of the given values.

    Args:
        family: the name as the text has it, such as ``isolane_runs_total``.
        where: for each label that matters the value, or the values.
        kind: how the series become one number: ``counter`` and ``histogram`` are added up over time as well, of
            ``gauge`` there is what they are now.
    """

    family: str
    kind: Literal["counter", "gauge", "histogram"]
    where: Mapping[str, str | Collection[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = {
            label: frozenset((values,)) if isinstance(values, str) else frozenset(values)
            for label, values in self.where.items()
        }
        object.__setattr__(self, "_wanted", wanted)
        object.__setattr__(self, "_key", (self.family, self.kind, frozenset(wanted.items())))

    def __hash__(self) -> int:
        return hash(self.__dict__["_key"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.__dict__["_key"] == other.__dict__["_key"]

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series is one of them."""
        wanted: dict[str, frozenset[str]] = self.__dict__["_wanted"]
        return all(labels.get(label) in values for label, values in wanted.items())

    def total(self, series: Collection[Mapping[str, Any]]) -> float | Histogram | None:
        """Return the series of a snapshot's family as one number or histogram; ``None`` for a gauge without any."""
        chosen = [each for each in series if self.takes(each["labels"])]
        if self.kind == "gauge" and not chosen:
            return None
        if self.kind != "histogram":
            return float(sum(each["value"] for each in chosen))
        buckets: dict[float, float] = {}
        for each in chosen:
            for bound, many in each["buckets"]:
                buckets[bound] = buckets.get(bound, 0.0) + many
        count, total = (float(sum(each[figure] for each in chosen)) for figure in ("count", "sum"))
        return Histogram(count, total, tuple(sorted(buckets.items())))

    def promql(self, suffix: str = "") -> str:
        """Return the series as Prometheus selects them."""
        wanted: dict[str, frozenset[str]] = self.__dict__["_wanted"]
        matchers = [
            f"{label}={_quoted(next(iter(values)))}"
            if len(values) == 1
            else f"{label}=~{_quoted('|'.join(map(re.escape, sorted(values))))}"
            for label, values in sorted(wanted.items())
        ]
        return self.family + suffix + (f"{{{','.join(matchers)}}}" if matchers else "")


def _quoted(text: str) -> str:
    """Return a text as Prometheus reads it, whatever an application calls its agents."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class Window(Protocol):
    """The metrics of the last so many seconds, as ``MetricsManager.window`` returns them."""

    def increase(self, selection: Selection) -> float | None:
        """By how much a counter has risen; ``None`` before there are two samples."""

    def histogram(self, selection: Selection) -> Histogram | None:
        """What a histogram has counted; ``None`` before there are two samples."""

    def level(self, selection: Selection) -> float | None:
        """What a gauge is now; ``None`` before there is a sample."""


@runtime_checkable
class Figure(Protocol):
    """A number that is read from a window."""

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""

    def read(self, window: Window) -> float | None:
        """Return the number; ``None`` when there is none, as the average of nothing."""

    def promql(self, window: str) -> str:
        """Return the same for Prometheus, over a window such as ``5m``."""


def _rise(chosen: Selection, window: str) -> str:
    """Return a counter's rise. To Prometheus a series that begins with its first count has not risen; here it has."""
    series = chosen.promql()
    return f"sum by ({BY}) (({series} unless {series} offset {window}) or increase({series}[{window}]))"


@dataclass(frozen=True)
class Increase:
    """By how much a counter has risen."""

    family: str
    where: Mapping[str, str | Collection[str]] = field(default_factory=dict)

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""
        return (Selection(self.family, "counter", self.where),)

    def read(self, window: Window) -> float | None:
        """Return the rise."""
        return window.increase(self.selections()[0])

    def promql(self, window: str) -> str:
        """Return the same for Prometheus."""
        return _rise(self.selections()[0], window)


@dataclass(frozen=True)
class Mean:
    """The mean of what a histogram has counted."""

    family: str
    where: Mapping[str, str | Collection[str]] = field(default_factory=dict)

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""
        return (Selection(self.family, "histogram", self.where),)

    def read(self, window: Window) -> float | None:
        """Return the mean."""
        counted = window.histogram(self.selections()[0])
        return counted.sum / counted.count if counted is not None and counted.count > 0 else None

    def promql(self, window: str) -> str:
        """Return the same for Prometheus."""
        (chosen,) = self.selections()
        parts = [f"sum by ({BY}) (rate({chosen.promql(suffix)}[{window}]))" for suffix in ("_sum", "_count")]
        return " / ".join(parts)


@dataclass(frozen=True)
class Quantile:
    """A quantile of what a histogram has counted, such as 0.99."""

    part: float
    family: str
    where: Mapping[str, str | Collection[str]] = field(default_factory=dict)

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""
        return (Selection(self.family, "histogram", self.where),)

    def read(self, window: Window) -> float | None:
        """Return the quantile."""
        counted = window.histogram(self.selections()[0])
        return None if counted is None else counted.quantile(self.part)

    def promql(self, window: str) -> str:
        """Return the same for Prometheus."""
        (chosen,) = self.selections()
        return f"histogram_quantile({self.part:g}, sum by ({BY}, le) (rate({chosen.promql('_bucket')}[{window}])))"


@dataclass(frozen=True)
class Share:
    """So many per cent of a counter's rise are those of some series. ``None`` while there are fewer than ``least``."""

    family: str
    part: Mapping[str, str | Collection[str]]
    whole: Mapping[str, str | Collection[str]] = field(default_factory=dict)
    least: float = 1

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""
        return (Selection(self.family, "counter", self.part), Selection(self.family, "counter", self.whole))

    def read(self, window: Window) -> float | None:
        """Return the share in per cent."""
        part, whole = (window.increase(each) for each in self.selections())
        return None if part is None or whole is None or whole < self.least or not whole else 100 * part / whole

    def promql(self, window: str) -> str:
        """Return the same for Prometheus."""
        part, whole = (_rise(each, window) for each in self.selections())
        # Of a whole that rose by one Prometheus makes a little less or more: it computes towards the window's ends. A
        # part that was never counted is none of the whole.
        return f"100 * ({part} or 0 * {whole}) / ({whole} > {self.least * 0.5:g})"


@dataclass(frozen=True)
class Level:
    """What a gauge is now, added up over its series."""

    family: str
    where: Mapping[str, str | Collection[str]] = field(default_factory=dict)

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""
        return (Selection(self.family, "gauge", self.where),)

    def read(self, window: Window) -> float | None:
        """Return the level."""
        return window.level(self.selections()[0])

    def promql(self, window: str) -> str:  # noqa: ARG002 - what is now has no window
        """Return the same for Prometheus."""
        return f"sum by ({BY}) ({self.selections()[0].promql()})"


@dataclass(frozen=True)
class AtLeast:
    """Whether a figure is another one, or more."""

    figure: Figure
    least: Figure | float

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""
        return self.figure.selections() + (() if isinstance(self.least, int | float) else self.least.selections())

    def holds(self, window: Window) -> bool:
        """Return whether it is so; what is not known is not so."""
        least = self.least if isinstance(self.least, int | float) else self.least.read(window)
        figure = self.figure.read(window)
        return figure is not None and least is not None and figure >= least

    def promql(self, window: str) -> str:
        """Return the same for Prometheus."""
        least = f"{self.least:g}" if isinstance(self.least, int | float) else self.least.promql(window)
        return f"{self.figure.promql(window)} >= {least}"


@dataclass(frozen=True)
class While:
    """A figure that counts only while something is so; else there is none."""

    figure: Figure
    conditions: tuple[AtLeast, ...]

    def selections(self) -> tuple[Selection, ...]:
        """Return what it is made of."""
        return self.figure.selections() + tuple(chosen for each in self.conditions for chosen in each.selections())

    def read(self, window: Window) -> float | None:
        """Return the figure."""
        return self.figure.read(window) if all(each.holds(window) for each in self.conditions) else None

    def promql(self, window: str) -> str:
        """Return the same for Prometheus."""
        conditions = "".join(f" and on ({BY}) ({each.promql(window)})" for each in self.conditions)
        return f"{self.figure.promql(window)}{conditions}"
