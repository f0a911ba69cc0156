"""Canaries of a test: data that proves whose it is, and a failure when it reaches somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isolane.security.contamination import ContaminationDetector
from isolane.security.findings import ContaminationReport
from isolane.testing.recording import user_id_of

MAX_CROSSINGS = 1_000
"""Crossings that are kept in full; the others are counted."""


_SHOWN = 10


class CanaryCrossedError(AssertionError):
    """Data of one user reached another."""


class CanaryKit:
    """Mints canaries and sees where they go.

    While it is installed isolane itself looks at events, caches, errors and calls of tools, and whatever is passed to
    `scan`. Nothing is withheld: a test is to see the leak.

    Attributes:
        crossings: What crossed, at most 1 000 reports.
        uncounted: What crossed beyond them.
        planted: How much crossed on purpose.
    """

    def __init__(self) -> None:
        self.detector = ContaminationDetector("observe", on_violation=self._crossed)
        self._canaries: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self.crossings: list[ContaminationReport] = []
        self.uncounted = 0
        self.planted = 0

    def _crossed(self, report: ContaminationReport) -> None:
        if len(self.crossings) < MAX_CROSSINGS:
            self.crossings.append(report)
        else:
            self.uncounted += 1

    def of(self, user: Any) -> str:
        """The canary of a user: put it into the user's data. It is the same each time."""
        user_id = user_id_of(user)
        if user_id not in self._canaries:
            canary = self._canaries[user_id] = self.detector.mint(user_id)
            # Reports have keyed hashes and no ids: of the users of a test they are told in clear.
            _, _, _, sightings = self.detector.scanner.scan(None, canary, "http_out", first=False)
            self._names[sightings[0].owner_hash] = user_id
        return self._canaries[user_id]

    def scan(self, reader: Any, value: Any) -> ContaminationReport:
        """Look into what a user was given. What is another's counts as a crossing."""
        return self.detector.check_sync(user_id_of(reader), value)

    def assert_clean(self, reader: Any, value: Any) -> None:
        """Look into what a user was given.

        Raises:
            CanaryCrossedError: It has another user's canary.
        """
        report = self.scan(reader, value)
        if report.violations:
            self.crossings = [crossing for crossing in self.crossings if crossing is not report]
            raise CanaryCrossedError(self._said([report]))

    @contextmanager
    def expected_crossing(self) -> Iterator[None]:
        """A block that plants a leak on purpose: crossings in it are no failure, and having none is one.

        Raises:
            CanaryCrossedError: Nothing crossed.
        """
        before, uncounted = len(self.crossings), self.uncounted
        with self.planting():
            yield
        if len(self.crossings) == before and self.uncounted == uncounted:
            raise CanaryCrossedError("a leak was planted, and no canary was seen to cross: nothing here can be trusted")
        del self.crossings[before:]
        self.uncounted = uncounted

    @contextmanager
    def planting(self) -> Iterator[None]:
        """A block whose crossings are planted: ``--isolane-strict`` does not hold them against the test."""
        before = self.detector.figures()["violations"]
        try:
            yield
        finally:
            self.planted += self.detector.figures()["violations"] - before

    def install(self) -> None:
        """Have isolane's own boundaries ask."""
        self.detector.install()

    def uninstall(self) -> None:
        """Have them ask nobody."""
        self.detector.uninstall()

    def verdict(self) -> str | None:
        """What crossed, in words, or None."""
        return self._said(self.crossings, self.uncounted) if self.crossings else None

    def told(self, reports: list[ContaminationReport]) -> list[str]:
        """What reports say, in words."""
        lines = []
        for report in reports:
            violation = report.violations[0]
            owner, reader = (self._names.get(key, key) for key in (violation.owner_hash, violation.observer_hash))
            lines.append(f"{violation.tier} of {owner} before {reader or 'nobody'}: {report.boundary} {violation.path}")
        return lines

    def _said(self, crossings: list[ContaminationReport], uncounted: int = 0) -> str:
        lines = self.told(crossings[:_SHOWN])
        more = len(crossings) - len(lines) + uncounted
        if more > 0:
            lines.append(f"and {more} more")
        return "\n  ".join(["data of one user reached another:", *lines])
