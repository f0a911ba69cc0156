"""What is measured, and what is asked of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from isolane.acceptance.results import Measure, TestResult

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Bound:
    """What is asked of a measure: at most, or at least.

    Attributes:
        target: what is asked for; missing it fails the test.
        alert: beyond this operation would be alarmed, which the report says.
        unit: of both.
        at_least: whether more is better.
    """

    target: float
    alert: float
    unit: str
    at_least: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value meets the target."""
        return value >= self.target if self.at_least else value <= self.target

    def alarms(self, value: float) -> bool:
        """Return whether a value is beyond the alert."""
        return value < self.alert if self.at_least else value > self.alert


@dataclass(frozen=True, slots=True)
class AcceptanceThresholds:
    """What is asked for. Each is a `Bound` of its own.

    Attributes:
        response: the mean time of a run, in seconds.
        concurrent: the time until as many runs at once as ``users`` says are all done, in seconds.
        users: users that are served at the same time.
        memory: what the process grew by, for each user with a run, in bytes.
        event: the 95th percentile of the time from an event's timestamp until it was received, in seconds.
        errors: the share of requests that the server failed at.
        available: the share of requests that were answered, during faults.
    """

    response: Bound = Bound(2.0, 2.5, "s")
    concurrent: Bound = Bound(3.0, 3.75, "s")
    users: Bound = Bound(10, 8, "users", at_least=True)
    memory: Bound = Bound(_GIB, 1.2 * _GIB, "bytes")
    event: Bound = Bound(0.05, 0.1, "s")
    errors: Bound = Bound(0.001, 0.005, "of requests")
    available: Bound = Bound(0.999, 0.995, "of requests", at_least=True)

    def bound(self, name: str) -> Bound:
        """Return a bound by its name."""
        found: Bound = getattr(self, name)
        return found


class MetricsValidator:
    """Holds measures against the thresholds, and shows that it would have noticed a bad one.

    Args:
        thresholds: what is asked for.
    """

    def __init__(self, thresholds: AcceptanceThresholds | None = None) -> None:
        self.thresholds = thresholds or AcceptanceThresholds()

    def measure(self, name: str, value: float | None) -> Measure:
        """Hold a value against its bound. What is not measured does not meet it."""
        bound = self.thresholds.bound(name)
        met = value is not None and math.isfinite(value) and bound.holds(value)
        return Measure(name, value, bound.target, bound.alert, bound.unit, met)

    def judge(self, name: str, value: float, result: TestResult, what: str) -> Measure:
        """Hold a value against its bound, and note it in a result."""
        measure = self.measure(name, value)
        result.measures.append(measure)
        result.add_check(f"{what} within its bound")
        if not measure.met:
            bound = self.thresholds.bound(name)
            order = "at least" if bound.at_least else "at most"
            alarm = " and is beyond the alert" if bound.alarms(value) else ""
            result.add_failure(
                f"{what} is {_shown(value, bound.unit)}{alarm}; asked for is {order} {_shown(bound.target, bound.unit)}"
            )
        return measure

    def average(self, name: str, values: Sequence[float], result: TestResult, what: str) -> None:
        """Judge the mean of some values, and show that one slow value among them would have been noticed."""
        if not values:
            result.add_check(f"{what} within its bound", 0)
            return
        self.judge(name, sum(values) / len(values), result, what)
        slow = self.thresholds.bound(name).target * (len(values) + 1)
        planted = [*values[:-1], slow]
        seen = not self.measure(name, sum(planted) / len(planted)).met
        result.add_control(f"{what}: a slow one among {len(values)}", seen=seen)

    def percentile(self, name: str, values: Sequence[float], result: TestResult, what: str) -> None:
        """Judge the 95th percentile of some values, and show that slow ones among them would have been noticed."""
        if not values:
            result.add_check(f"{what} within its bound", 0)
            return
        self.judge(name, percentile(values, 0.95), result, what)
        late = self.thresholds.bound(name).target * 2
        slow = max(1, math.ceil(len(values) * 0.06))
        seen = not self.measure(name, percentile([*values, *([late] * slow)], 0.95)).met
        result.add_control(f"{what}: late ones, {slow} beside {len(values)}", seen=seen)

    def single(self, name: str, value: float, result: TestResult, what: str) -> None:
        """Judge one value, and show that one beyond the bound would have been noticed."""
        self.judge(name, value, result, what)
        bound = self.thresholds.bound(name)
        bad = bound.target / 2 if bound.at_least else bound.target * 2 + 1
        if bound.unit == "of requests":
            # A share is never more than the whole.
            bad = min(bad, 1.0)
        result.add_control(f"{what}: a value of {_shown(bad, bound.unit)}", seen=not self.measure(name, bad).met)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of the values does not exceed: the nearest rank."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def _shown(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1024**2:.1f} MiB"
    if unit == "s":
        return f"{value * 1000:.1f} ms"
    if unit == "of requests":
        return f"{value:.2%} {unit}"
    return f"{value:g} {unit}"


def threshold_names() -> tuple[str, ...]:
    """Return the names of all thresholds."""
    return tuple(field.name for field in dataclasses.fields(AcceptanceThresholds))
