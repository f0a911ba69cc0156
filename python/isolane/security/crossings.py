"""What the boundaries of this process found: violations, which must stay 0, and attempts that were refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from isolane._core import _note_check, _note_control, _note_refused, _note_violation, crossing_figures


@dataclass(frozen=True, slots=True)
class BoundaryFigures:
    """What one boundary has found since the process began.

    Attributes:
        boundary: a crossing point, a scan point of the detector, ``data_access`` (queries) or ``legacy``.
        checks: how often it looked, whatever that came to.
        refused: attempts that it did not let through: nothing crossed.
        violations: data of one user that it found where another's is, by tier: ``owner_tag``, ``canary``, ``secret``,
            ``shared_container``, ``shared_session``, ``reserved_key``, ``foreign_object`` or ``foreign_run``.
    """

    boundary: str
    checks: int
    refused: int
    violations: Mapping[str, int]

    @property
    def violated(self) -> int:
        """Violations of all tiers."""
        return sum(self.violations.values())


def violation(boundary: str, tier: str) -> None:
    """Count a violation, once for each time that something found one.

    Raises:
        ValueError: there is no such boundary, or no such tier.
    """
    _note_violation(boundary, tier)


def checked(boundary: str) -> None:
    """Count a check, whatever it came to.

    Raises:
        ValueError: there is no such boundary.
    """
    _note_check(boundary)


def refused(boundary: str) -> None:
    """Count an attempt that was refused.

    Raises:
        ValueError: there is no such boundary.
    """
    _note_refused(boundary)


def controlled(caught: bool) -> None:
    """Count a positive control: a canary that must be caught, and was or was not."""
    _note_control(caught)


def crossings() -> dict[str, BoundaryFigures]:
    """Return what each boundary has found, by its name."""
    return {
        name: BoundaryFigures(name, found["checks"], found["refused"], MappingProxyType(found["violations"]))
        for name, found in crossing_figures()["boundaries"].items()
    }


def violations() -> int:
    """Return how many violations were found, at all boundaries. 0 while the defence works."""
    return int(crossing_figures()["violations"])


def latest_violation() -> datetime | None:
    """Return when the latest violation was found, in UTC; ``None`` when none was."""
    latest = crossing_figures()["latest"]
    return None if latest is None else datetime.fromtimestamp(latest, UTC)


def refused_attempts() -> int:
    """Return how many attempts were refused, at all boundaries."""
    return int(crossing_figures()["refused"])


def positive_controls() -> dict[str, int]:
    """Return how many positive controls were ``caught`` and ``missed``."""
    controls: dict[str, int] = crossing_figures()["controls"]
    return controls
