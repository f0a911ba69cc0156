"""What a guard tells: why it rolled back, and how a rollout stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from isolane.migration.guard.policy import Mode

MetricState = Literal["off", "collecting", "healthy", "warning", "breached"]
GuardState = Literal["idle", "collecting", "healthy", "warning", "rolled_back"]
Health = Literal["healthy", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class RollbackRecord:
    """Why and when a rollout was rolled back.

    Attributes:
        flag: the flag.
        metric: what was too bad; ``manual`` for a rollback by hand, ``external`` for one without a record of a guard.
        measured: the part that was bad, 0 to 1; ``None`` when nothing was measured.
        threshold: the part that is accepted, 0 to 1.
        n: how many observations that rests on.
        e_value: the evidence; ``None`` where one observation is enough.
        stage: the rollout at that time, in parts of 100 000.
        revision: that of the document of flags at that time.
        at: when, aware, in UTC.
        mode: what becomes of runs that are under way.
        actor: ``guard``, or who did it by hand.
        reason: why, in a sentence.
    """

    flag: str
    metric: str
    measured: float | None
    threshold: float | None
    n: int
    e_value: float | None
    stage: int
    revision: int
    at: datetime
    mode: Mode
    actor: str
    reason: str

    @classmethod
    def parse(cls, text: str) -> RollbackRecord:
        """Read a record from its JSON."""
        fields: dict[str, Any] = json.loads(text)
        fields["at"] = datetime.fromtimestamp(fields["at"] / 1e6, UTC)
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Return it for a log: JSON-like, with ``at`` as ISO 8601."""
        return {**asdict(self), "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class MetricStatus:
    """How one metric stands at the present step.

    Attributes:
        state: ``off``, ``collecting`` (too little to say anything), ``healthy``, ``warning`` (something speaks against
            the rollout and is no proof), or ``breached``.
        bad: bad observations at this step.
        seen: observations at this step.
        bound: the part that may be bad at the moment.
        e_value: the evidence against the bound: 1 is none, 1 / alpha is enough.
        dry_run: whether it is only told.
        legacy_bad: bad observations of the legacy cohort.
        legacy_seen: observations of the legacy cohort.
    """

    state: MetricState
    bad: int
    seen: int
    bound: float
    e_value: float | None
    dry_run: bool
    legacy_bad: int
    legacy_seen: int


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """How a rollout stands.

    Attributes:
        flag: the flag.
        state: ``idle`` (at 0 %), ``collecting``, ``healthy``, ``warning`` or ``rolled_back``.
        rollout: in parts of 100 000.
        next: the next step of the ladder; ``None`` at the top.
        dwell_seconds: how long this step has lasted.
        paused: whether somebody keeps it from advancing.
        holds: why it does not advance by itself; empty when it may.
        metrics: each metric by name.
        record: why it was rolled back, while it is.
        is_written: whether the rollback stands where it survives this process; ``True`` without a writer.
        forgotten_runs: runs whose events could not be followed because there were too many.
    """

    flag: str
    state: GuardState
    rollout: int
    next: int | None
    dwell_seconds: float
    paused: bool
    holds: tuple[str, ...]
    metrics: Mapping[str, MetricStatus]
    record: RollbackRecord | None
    is_written: bool = True
    forgotten_runs: int = 0

    @property
    def health(self) -> Health:
        """``critical`` when it was rolled back, ``warning`` when something speaks against it, else ``healthy``."""
        if self.state == "rolled_back":
            return "critical"
        return "warning" if self.state == "warning" else "healthy"

    def to_dict(self) -> dict[str, Any]:
        """Return it for a dashboard: JSON-like, with ``health``, and no ids of users."""
        return {
            "flag": self.flag,
            "state": self.state,
            "health": self.health,
            "rollout_percent": self.rollout / 1_000,
            "next_percent": None if self.next is None else self.next / 1_000,
            "dwell_seconds": self.dwell_seconds,
            "paused": self.paused,
            "holds": list(self.holds),
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "record": None if self.record is None else self.record.to_dict(),
            "is_written": self.is_written,
            "forgotten_runs": self.forgotten_runs,
        }


def status_of(figures: dict[str, Any], *, is_written: bool, forgotten_runs: int) -> GuardStatus:
    """Make a status of what the core says."""
    return GuardStatus(
        flag=figures["flag"],
        state=figures["state"],
        rollout=figures["rollout"],
        next=figures["next"],
        dwell_seconds=figures["dwell"],
        paused=figures["paused"],
        holds=tuple(figures["holds"]),
        metrics={name: MetricStatus(**metric) for name, metric in figures["metrics"].items()},
        record=None if figures["record"] is None else RollbackRecord.parse(figures["record"]),
        is_written=is_written,
        forgotten_runs=forgotten_runs,
    )
