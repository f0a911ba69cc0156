"""What all workers have measured, as one text: any of them answers a scrape with it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from isolane._core import metric_families, metrics_snapshot, render_metrics
from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.tally import Tally

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

TELL_SECONDS = 5.0
SEPARATOR = "\x1f"
MAX_SERIES = 2_000
"""Of one family: names beyond are counted as ``_other``."""
OTHER = "_other"
HIGHEST = frozenset(
    {
        "isolane_build_info",
        "isolane_cluster_processes",
        "isolane_loop_lag_seconds",
        "isolane_rollout_percent",
        "isolane_user_memory_max_bytes",
    }
)
"""Gauges of which the highest of all workers counts: their sum would mean nothing."""

Series = dict[str, Any]
"""Values by those of the labels: a number, or of a histogram its sum and its buckets, each with those before it."""
Families = dict[str, list[Any]]
"""By the name of the samples: the kind, the bounds of buckets, and the series."""


class Measured:
    """What this process has measured, so that no number falls that others were told."""

    def __init__(self) -> None:
        self._families = metric_families()
        self._capped = {
            family["sample"]: [isinstance(values, int) for values in family["labels"].values()]
            for family in self._families
        }
        self._shown: dict[str, Any] = {}
        self._last: dict[tuple[str, str], Any] = {}
        self._carried: dict[tuple[str, str], Any] = {}

    def own(self) -> str:
        """Return what was measured, without what is zero."""
        found: Families = {}
        for name, family in metrics_snapshot().items():
            series: Series = {}
            bounds: list[float] | None = None
            for each in family["series"]:
                if family["kind"] == "histogram":
                    bounds = [bound for bound, _ in each["buckets"]]
                    value: Any = [each["sum"], [many for _, many in each["buckets"]]]
                else:
                    value = each["value"]
                series[SEPARATOR.join(each["labels"].values())] = value
            if family["kind"] != "gauge":
                self._keep(name, series)
            series = {labels: value for labels, value in series.items() if not _is_zero(value)}
            if series:
                found[name] = [family["kind"], bounds and [str(bound) for bound in bounds], series]
        return json.dumps(found)

    def _keep(self, name: str, series: Series) -> None:
        """What counts anew goes on from where it was."""
        for labels, value in list(series.items()):
            key = (name, labels)
            last = self._last.get(key)
            if last is not None and _count(value) < _count(last):
                carried = self._carried.get(key)
                self._carried[key] = last if carried is None else _plus(carried, last)
            self._last[key] = value
            if key in self._carried:
                series[labels] = _plus(self._carried[key], value)

    def added(self, texts: Sequence[str]) -> str | None:
        """Return several together."""
        return json.dumps(self.together(map(json.loads, texts))) if texts else None

    def together(self, many: Iterable[Families]) -> Families:
        """Add up counters, histograms and gauges; of some gauges the highest counts."""
        whole: Families = {}
        for families in many:
            for name, (kind, bounds, series) in families.items():
                held = whole.setdefault(name, [kind, bounds, {}])
                if held[0] != kind or held[1] != bounds:
                    # Of another version, which cannot be added up.
                    continue
                for labels, value in series.items():
                    self._add(name, held[2], labels, value)
        return whole

    def _add(self, name: str, into: Series, labels: str, value: Any) -> None:
        if labels not in into and len(into) >= MAX_SERIES:
            values = labels.split(SEPARATOR)
            capped = self._capped.get(name, [])
            pairs = zip(values, capped, strict=False)
            labels = SEPARATOR.join(OTHER if is_capped else text for text, is_capped in pairs)
        held = into.get(labels)
        if held is None:
            into[labels] = value
        elif name in HIGHEST:
            into[labels] = max(held, value)
        else:
            into[labels] = _plus(held, value)

    def without(self, text: str, taken: str) -> str:
        """Return what came since it was taken."""
        families, before = json.loads(text), json.loads(taken)
        for name, (kind, _, series) in families.items():
            earlier = before.get(name, [kind, None, {}])[2]
            if kind != "gauge":
                for labels, value in earlier.items():
                    if labels in series:
                        series[labels] = _minus(series[labels], value)
        return json.dumps(families)

    def lasting(self, text: str) -> str:
        """Return it without gauges: they are over when their worker is."""
        return json.dumps(_lasting(json.loads(text)))

    # As text.

    def text(self, whole: Families, form: Literal["openmetrics", "prometheus"]) -> str:
        """Return it as the text of a scrape, with the zeros of this process."""
        lines: list[str] = []
        for family in self._families:
            name = family["sample"]
            kind, bounds, series = whole.get(name, (family["kind"], None, {}))
            own = self._zeros(name)
            if (own is None and not series) or kind != family["kind"]:
                continue
            head = family["name"] if form == "openmetrics" else name
            lines += [f"# HELP {head} {family['help']}", f"# TYPE {head} {kind}"]
            if form == "openmetrics" and family["unit"]:
                lines.append(f"# UNIT {head} {family['unit']}")
            if kind == "histogram":
                bounds = bounds or [str(bound) for bound in [*family["buckets"], math.inf]]
            names = list(family["labels"])
            for labels in dict.fromkeys([*(own or ()), *series]):
                value = series.get(labels)
                pairs = zip(names, labels.split(SEPARATOR), strict=False) if names else ()
                braces = ",".join(f'{label}="{_escaped(text)}"' for label, text in pairs)
                lines += _samples(family["name"], name, braces, kind, bounds, value)
        if form == "openmetrics":
            lines.append("# EOF")
        return "\n".join(lines) + "\n"

    def _zeros(self, name: str) -> list[str] | None:
        family = self._shown.get(name)
        return None if family is None else [SEPARATOR.join(each["labels"].values()) for each in family["series"]]

    def render(self, whole: Families, form: Literal["openmetrics", "prometheus"]) -> str:
        """Return it as the text of a scrape. A series that this process has, and nobody has counted in, is zero."""
        self._shown = metrics_snapshot()
        return self.text(whole, form)


class SharedMetrics:
    """The metrics of all workers, of which each says every 5 s, and when it is scraped, what it has measured.

    Args:
        plane: what the workers share.
    """

    def __init__(self, plane: Plane) -> None:
        self._measured = Measured()
        self._tally = Tally(plane, "metrics", self._measured, TELL_SECONDS)
        self._alone = 0

    async def start(self, plane: Plane) -> None:
        """Begin."""
        del plane
        self._tally.begin()

    async def stop(self) -> None:
        """Tell what was measured last."""
        await self._tally.leave()

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return {"scrapes_without_redis": self._alone, **self._tally.figures()}

    async def render(self, form: Literal["openmetrics", "prometheus"]) -> str:
        """Return what all workers have measured as the text of a scrape.

        While Redis is away: what this worker has measured, and what it knew of the others last, without their gauges.
        """
        try:
            found = await self._tally.read()
        except PlaneUnavailableError:
            self._alone += 1
            return self._of_before(form)
        texts = [*([found.kept] if found.kept is not None else []), *found.live.values()]
        dead = [_lasting(json.loads(text)) for text in found.dead.values()]
        return self._measured.render(self._measured.together([*map(json.loads, texts), *dead]), form)

    def _of_before(self, form: Literal["openmetrics", "prometheus"]) -> str:
        before = self._tally.whole
        if before is None:
            return render_metrics(form)
        others = [text for name, text in {**before.dead, **before.live}.items() if name != before.own]
        texts = [*([before.kept] if before.kept is not None else []), *others]
        mine = json.loads(self._tally.current())
        return self._measured.render(
            self._measured.together([*(_lasting(json.loads(text)) for text in texts), mine]), form
        )


def _lasting(families: Families) -> Families:
    return {name: family for name, family in families.items() if family[0] != "gauge"}


def _count(value: Any) -> float:
    return float(value[1][-1]) if isinstance(value, list) else value


def _is_zero(value: Any) -> bool:
    return not (value[1][-1] if isinstance(value, list) else value)


def _plus(one: Any, other: Any) -> Any:
    if isinstance(one, list):
        return [one[0] + other[0], [a + b for a, b in zip(one[1], other[1], strict=True)]]
    return one + other


def _minus(one: Any, other: Any) -> Any:
    if isinstance(one, list):
        return [max(0.0, one[0] - other[0]), [max(0, a - b) for a, b in zip(one[1], other[1], strict=True)]]
    return max(0, one - other)


def _number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    return repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _samples(name: str, sample: str, labels: str, kind: str, bounds: list[str] | None, value: Any) -> Iterator[str]:
    braces = f"{{{labels}}}" if labels else ""
    if kind != "histogram":
        empty: float = 0 if kind == "counter" else 0.0
        number = int(value or 0) if kind == "counter" else value or empty
        yield f"{sample}{braces} {_number(number)}"
        return
    assert bounds is not None  # noqa: S101 - a histogram has some
    total, buckets = value if value is not None else (0.0, [0] * len(bounds))
    comma = "," if labels else ""
    for bound, many in zip(bounds, buckets, strict=True):
        edge = "+Inf" if bound == "inf" else bound
        yield f'{name}_bucket{{{labels}{comma}le="{edge}"}} {many}'
    yield f"{name}_sum{braces} {_number(float(total))}"
    yield f"{name}_count{braces} {buckets[-1]}"
