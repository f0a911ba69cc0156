"""Pieces of the views: what the core counts, and flags without the ids of users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isolane._core import metrics_snapshot
from isolane.migration.flags.sources import EnvironmentSource, FileSource
from isolane.migration.flags.sources.history import changes_of as changes_in
from isolane.migration.flags.sources.writer import FlagWriter
from isolane.security.crossings import crossings, latest_violation, positive_controls, refused_attempts
from isolane.security.crossings import violations as count_violations

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane
    from isolane.migration.guard import RolloutGuard

__all__ = [
    "changes_of",
    "crossings",
    "flag_view",
    "gauge",
    "iso",
    "positive_controls",
    "refused_attempts",
    "violations",
    "writer_of",
]

SHOWN_CHANGES = 20
WHOLE = 1_000
"""Parts of a rollout in one per cent."""


def iso(moment: datetime | None) -> str | None:
    """Return a time as text."""
    return None if moment is None else moment.isoformat()


def violations() -> dict[str, Any]:
    """Violations of isolation since the process began, in all and by boundary, and when the last one was found."""
    by_boundary = {name: found.violated for name, found in crossings().items() if found.violated}
    return {"total": count_violations(), "last_at": iso(latest_violation()), "by_boundary": by_boundary}


def gauge(name: str) -> int | None:
    """Return what a gauge of the core says, over all its series; ``None`` while the metrics are off."""
    family = metrics_snapshot().get(name)
    return None if family is None else int(sum(series["value"] for series in family["series"]))


def writer_of(isolane: Isolane) -> FlagWriter | None:
    """Return what writes where all processes read the flags: nothing without a file, or one in TOML."""
    rollout = isolane.rollout
    if rollout is None:
        return None
    source = rollout.flags.source
    held = source.file if isinstance(source, EnvironmentSource) else source
    path = held.path if isinstance(held, FileSource) else None
    return FlagWriter(path) if path is not None and Path(path).suffix.lower() != ".toml" else None


def changes_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the latest changes that a document names, the latest first."""
    return [change.to_dict() for change in changes_in(document)[:SHOWN_CHANGES]]


def flag_view(name: str, flag: Mapping[str, Any], record: str | None, guard: RolloutGuard | None) -> dict[str, Any]:
    """Return a flag without the users that it names."""
    state = str(flag.get("state", "on"))
    percent = flag.get("rollout", 0) / WHOLE
    is_back = record is not None
    on = 0.0 if is_back or state != "on" else percent
    return {
        "flag": name,
        "on": state == "on" and not is_back,
        "state": state,
        "percent": percent,
        "rolled_back": is_back,
        "rollback": _record(record),
        "stage": flag.get("stage"),
        "variants": {"on": on, "off": round(100 - on, 3)},
        "rules": [
            {"if": dict(rule.get("if", {})), "percent": rule.get("rollout", 0) / WHOLE}
            for rule in flag.get("rules", [])
            if isinstance(rule, Mapping)
        ],
        "allowed_users": len(flag.get("allow", [])),
        "denied_users": len(flag.get("deny", [])),
        "requires": list(flag.get("requires", [])),
        "guard": _guard(guard) if guard is not None and guard.flag == name else None,
    }


def _record(text: str | None) -> dict[str, Any] | None:
    """Return why a flag was rolled back, as far as its record says."""
    if text is None:
        return None
    try:
        held = json.loads(text)
    except ValueError:
        held = {"reason": text}
    if not isinstance(held, Mapping):
        held = {"reason": str(held)}
    names = ("metric", "measured", "threshold", "n", "e_value", "stage", "at", "mode", "actor", "reason")
    shown = {name: held[name] for name in names if name in held}
    if isinstance(shown.get("at"), int):
        # A guard of this process keeps it in microseconds.
        shown["at"] = datetime.fromtimestamp(shown["at"] / 1e6, UTC).isoformat()
    return shown


def _guard(guard: RolloutGuard) -> dict[str, Any]:
    status = guard.status().to_dict()
    metrics = []
    for name, held in status.pop("metrics").items():
        # Of what one observation proves there is no evidence to weigh.
        alpha = None if held["e_value"] is None else guard.alpha
        enough = None if alpha is None else 1 / alpha
        metrics.append({**held, "name": name, "alpha": alpha, "threshold": enough, "n": held["seen"]})
    # Why it was rolled back stands with the flag.
    status.pop("record")
    return {**status, "stage": status["state"], "metrics": metrics}
