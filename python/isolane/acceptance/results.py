"""What the suite comes to: what was checked, how often, what was wrong, and whether it would have been seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a test came to."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    """Nothing was found, and nothing shows that it would have been found: counts as a failure."""
    SKIPPED = "skipped"
    """The configuration says why it is left out."""


@dataclass(frozen=True, slots=True)
class Control:
    """A fault that was planted into a copy of what was received, and whether it was reported."""

    planted: str
    seen: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that was measured, and the bound it is held against.

    Attributes:
        name: such as ``response_seconds``.
        value: as measured; ``None`` where it could not be.
        target: what is asked for.
        alert: what would raise an alarm in operation.
        unit: of all three.
        met: whether the target is met.
    """

    name: str
    value: float | None
    target: float
    alert: float
    unit: str
    met: bool


@dataclass(slots=True)
class TestResult:
    """The result of one test.

    It passes only when something was checked, nothing was wrong, and each planted fault was reported.

    Attributes:
        name: of the test.
        checks: what was checked, and how often.
        failures: what was wrong, in words.
        controls: what was planted, and whether it was reported.
        measures: what was measured.
        notes: what was not checked, and why.
        seconds: how long the test took.
    """

    __test__ = False  # the name is not that of a test class, whatever pytest thinks

    name: str
    checks: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summary: str = ""
    skipped: str = ""
    seconds: float = 0.0

    def add_check(self, what: str, count: int = 1) -> None:
        """Note that something was checked so many times."""
        self.checks[what] = self.checks.get(what, 0) + count

    def add_failure(self, text: str) -> None:
        """Note what was wrong."""
        if text not in self.failures:
            self.failures.append(text)

    def add_control(self, planted: str, *, seen: bool) -> None:
        """Note a fault that was planted."""
        self.controls.append(Control(planted, seen))

    def add_note(self, text: str) -> None:
        """Note what was not checked."""
        if text not in self.notes:
            self.notes.append(text)

    def set_success(self, text: str) -> None:
        """Say in words what a pass means. It does not make the test pass."""
        self.summary = text

    @property
    def verdict(self) -> Verdict:
        """What the test came to."""
        if self.skipped:
            return Verdict.SKIPPED
        if self.failures:
            return Verdict.FAILED
        if not self.doubts():
            return Verdict.PASSED
        return Verdict.INCONCLUSIVE

    @property
    def success(self) -> bool:
        """Whether the test passed, or is left out by the configuration."""
        return self.verdict in {Verdict.PASSED, Verdict.SKIPPED}

    def doubts(self) -> list[str]:
        """Return why a pass would prove nothing."""
        doubts = [f"not reported though it was planted: {one.planted}" for one in self.controls if not one.seen]
        if not self.controls:
            doubts.append("nothing was planted")
        doubts += [f"there was nothing to check: {what}" for what, count in self.checks.items() if not count]
        if not self.checks:
            doubts.append("nothing was checked")
        return doubts

    def problems(self) -> list[str]:
        """Return why the test does not pass, in words; empty when it does."""
        if self.verdict is Verdict.INCONCLUSIVE:
            return [f"inconclusive: {doubt}" for doubt in self.doubts()]
        return list(self.failures) if self.verdict is Verdict.FAILED else []

    def as_data(self) -> dict[str, Any]:
        """Return the result as JSON can hold it."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "seconds": round(self.seconds, 3),
            "checks": dict(self.checks),
            "failures": list(self.failures),
            "doubts": [] if self.skipped else self.doubts(),
            "controls": [{"planted": one.planted, "seen": one.seen} for one in self.controls],
            "measures": [
                {
                    "name": one.name,
                    "value": one.value,
                    "target": one.target,
                    "alert": one.alert,
                    "unit": one.unit,
                    "met": one.met,
                }
                for one in self.measures
            ],
            "notes": list(self.notes),
            "skipped": self.skipped or None,
            "summary": self.summary,
        }


@dataclass(slots=True)
class AcceptanceTestResult:
    """The results of all tests.

    Attributes:
        target: what was tested.
        seed: makes the same users and the same order again.
        results: by the names of the tests.
    """

    target: str = ""
    seed: int = 0
    results: dict[str, TestResult] = field(default_factory=dict)

    def add_test_result(self, name: str, result: TestResult) -> None:
        """Take in the result of a test."""
        self.results[name] = result

    @property
    def success(self) -> bool:
        """Whether tests ran, and all of them passed or are left out by the configuration."""
        ran = [one for one in self.results.values() if one.verdict is not Verdict.SKIPPED]
        return bool(ran) and all(one.success for one in ran)

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield the name of a test and what was wrong."""
        for name, result in self.results.items():
            for problem in result.problems():
                yield name, problem

    def as_data(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {
            "schema": 1,
            "target": self.target,
            "seed": self.seed,
            "success": self.success,
            "tests": {name: result.as_data() for name, result in self.results.items()},
        }
