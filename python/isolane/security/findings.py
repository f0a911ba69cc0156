"""What the detector reports: where, of what kind and whose, and nothing of the data itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from isolane._core import Sighting

Verdict = Literal["clean", "contaminated", "inconclusive"]

BOUNDARIES = (
    *("ws_out", "http_out", "tool_in", "tool_out", "llm_in", "llm_out", "cache_get", "cache_put", "db_row"),
    *("audit", "log", "error", "metric_label"),
)
"""Where the detector can look: its scan points."""


class ScanMode(StrEnum):
    """What a scan point does."""

    OFF = "off"
    OBSERVE = "observe"
    """Report and count; the data passes."""
    ENFORCE = "enforce"
    """Withhold what is not the user's, and what could not be looked at."""


@dataclass(frozen=True, slots=True)
class ContaminationViolation:
    """Data of one user on its way to another.

    Attributes:
        tier: ``owner_tag``, ``canary`` or ``secret``.
        boundary: the scan point.
        owner_hash: the keyed hash of whose data it is.
        observer_hash: the keyed hash of who was to see it; empty when that was nobody in particular.
        path: where in the value, such as ``$[rows][0].note``. Keys that may be data are shown as numbers.
        offset: where in the text, in bytes.
        length: how many bytes it takes there.
        form: how it was written: ``plain``, ``folded``, ``escaped``, ``base64`` or ``hex``.
        first_seen: when this was first seen on its way to this user: Unix time in seconds.
        evidence_id: the keyed hash of what was found: the same canary or secret has the same.
    """

    tier: str
    boundary: str
    owner_hash: str
    observer_hash: str
    path: str
    offset: int
    length: int
    form: str
    first_seen: float
    evidence_id: str

    @classmethod
    def of(cls, sighting: Sighting, boundary: str, first_seen: float) -> ContaminationViolation:
        """Make the record of a sighting."""
        return cls(
            sighting.tier,
            boundary,
            sighting.owner_hash,
            sighting.observer_hash,
            sighting.path,
            sighting.offset,
            sighting.length,
            sighting.form,
            first_seen,
            sighting.evidence_id,
        )


@dataclass(frozen=True, slots=True)
class ScanCoverage:
    """What a report rests on.

    Attributes:
        planted: canaries made and secrets registered in this process.
        observed_own: canaries of the user that this scan saw.
        scan_points: the boundaries that look, with their modes.
        scanned_bytes: bytes of text that this scan looked at.
        complete: whether it saw all of the value; an iterator that it must not use up is not seen.
        controls: of each boundary of the report whether the detector, asked there, saw a canary that it should see.
        deliveries: deliveries that the busiest scan point of this detector has seen so far: the same data passes
            several.
    """

    planted: int
    observed_own: int
    scan_points: Mapping[str, str]
    scanned_bytes: int
    complete: bool
    controls: Mapping[str, bool]
    deliveries: int


@dataclass(frozen=True, slots=True)
class ContaminationReport:
    """The answer to one question: is there anything in this that is not the user's?

    Attributes:
        boundary: the scan point.
        violations: data of other users.
        prior_exposures: data of other users that this user had brought; reported once each, and no leak.
        suspects: texts that are merely alike. Always empty: similarity is not searched for.
        coverage: what the report rests on.
        leak_probability_upper_bound: how likely one delivery leaks at most, at 95 %, by all deliveries scanned so far.
            Never 0.
        withheld: whether the scan point enforces, so that the data must not be delivered.
        granted: sightings that a grant allows.
        error: why it could not be looked at: the name of the exception.
    """

    boundary: str
    violations: tuple[ContaminationViolation, ...]
    coverage: ScanCoverage
    leak_probability_upper_bound: float
    prior_exposures: tuple[ContaminationViolation, ...] = ()
    suspects: tuple[ContaminationViolation, ...] = ()
    withheld: bool = False
    granted: int = 0
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Nothing was found, and something would have been found if it had been there."""
        coverage = self.coverage
        looked = coverage.planted > 0 and coverage.scanned_bytes > 0 and coverage.complete and self.error is None
        controlled = bool(coverage.controls) and all(coverage.controls.values())
        return not self.violations and looked and controlled

    @property
    def verdict(self) -> Verdict:
        """``clean`` only when ``ok``: having seen nothing is ``inconclusive``, which tests count as a failure."""
        if self.violations:
            return "contaminated"
        return "clean" if self.ok else "inconclusive"

    def as_data(self) -> dict[str, Any]:
        """Return the report for the audit log: hashes and places, no data."""
        return {
            "boundary": self.boundary,
            "verdict": self.verdict,
            "withheld": self.withheld,
            "violations": [
                {
                    "tier": one.tier,
                    "owner_hash": one.owner_hash,
                    "observer_hash": one.observer_hash,
                    "path": one.path,
                    "offset": one.offset,
                    "length": one.length,
                    "form": one.form,
                    "evidence_id": one.evidence_id,
                }
                for one in self.violations
            ],
        }


@dataclass(slots=True)
class Collected:
    """What is known of one scan before it is judged."""

    sightings: list[Sighting] = field(default_factory=list)
    own: int = 0
    scanned_bytes: int = 0
    complete: bool = True
    error: str | None = None

    def add(self, seen: tuple[int, int, bool, list[Sighting]]) -> None:
        """Take in what one look saw."""
        own, scanned, complete, sightings = seen
        self.own += own
        self.scanned_bytes += scanned
        self.complete = self.complete and complete
        self.sightings += sightings
