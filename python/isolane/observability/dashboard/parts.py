"""Pieces of the views: what the core counts, and flags without the ids of users."""

from __future__ import annotations

import json
import math
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
    "is_rollback_written",
    "iso",
    "positive_controls",
    "refused_attempts",
    "to_json",
    "violations",
    "writer_of",
]

SHOWN_CHANGES = 20
SHOWN_VALUES = 8
"""Of one condition of a rule."""
NAMING = frozenset({"user_id", "user", "username", "email", "mail", "sub", "id", "name", "phone"})
"""Attributes that say who a user is."""
WHOLE = 1_000
"""Parts of a rollout in one per cent."""


def to_json(value: Any) -> str:
    """Return a value as JSON that a browser reads: a figure that is none, such as infinity, is ``null``."""
    try:
        return json.dumps(value, separators=(",", ":"), default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


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


def is_rollback_written(document: str, flag: str) -> bool:
    """Whether a document says that a flag was rolled back; a latch of the process is forgotten with it."""
    return _is_rolled_back(json.loads(document).get("flags", {}).get(flag, {}))


def _is_rolled_back(flag: Mapping[str, Any]) -> bool:
    return bool(flag.get("rollback"))


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
        "is_written": _is_rolled_back(flag) if is_back else None,
        "stage": flag.get("stage"),
        "variants": {"on": on, "off": round(100 - on, 3)},
        "rules": [
            {"if": _conditions(rule.get("if", {})), "percent": rule.get("rollout", 0) / WHOLE}
            for rule in flag.get("rules", [])
            if isinstance(rule, Mapping)
        ],
        "allowed_users": len(flag.get("allow", [])),
        "denied_users": len(flag.get("deny", [])),
        "requires": list(flag.get("requires", [])),
        "guard": _guard(guard) if guard is not None and guard.flag == name else None,
    }


def _conditions(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a rule looks at. Who somebody is, and what a long list says of many, is a number."""
    shown: dict[str, Any] = {}
    for name, asked in conditions.items():
        values = [asked] if isinstance(asked, str) else list(asked)
        is_shown = len(values) <= SHOWN_VALUES and name.lower() not in NAMING
        shown[name] = asked if is_shown else f"one of {len(values)}"
    return shown


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
