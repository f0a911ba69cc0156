"""Who changed the flags, when and why: kept in the document itself, so that no change is without its line."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

KEPT = 100
"""Changes that a document keeps: the latest."""
MOST_CHARACTERS = 500
"""Of each text of a line."""


@dataclass(frozen=True, slots=True)
class FlagChange:
    """One change of a document of flags.

    Attributes:
        revision: the revision that it made.
        at: when, aware UTC.
        actor: who.
        action: ``set``, ``kill``, ``rollback`` or ``resume``.
        flag: which; empty for the switch of all flags.
        summary: what became of it, for a person.
        reason: why.
    """

    revision: int
    at: datetime
    actor: str
    action: str
    flag: str
    summary: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        return asdict(self) | {"at": self.at.isoformat()}


def note(document: dict[str, Any], change: FlagChange) -> None:
    """Write a change into its document, with a hash of everything else in it."""
    held = document.get("history")
    lines = held if isinstance(held, list) else []
    values = {name: _cut(value) for name, value in change.to_dict().items()}
    document["history"] = [*lines[1 - KEPT :], values | {"digest": _digest(document)}]


def changes_of(document: Mapping[str, Any]) -> list[FlagChange]:
    """Return the changes that a document names, the latest first; lines that are none are left out."""
    held = document.get("history")
    found = []
    for line in reversed(held if isinstance(held, list) else []):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            at = datetime.fromisoformat(line["at"])
            texts = {name: str(line[name]) for name in ("actor", "action", "flag", "summary", "reason")}
            found.append(FlagChange(int(line["revision"]), at if at.tzinfo else at.replace(tzinfo=UTC), **texts))
    return found


def is_edited(document: Mapping[str, Any]) -> bool:
    """Whether somebody changed the document by other means since its last change was written into it."""
    held = document.get("history")
    last = held[-1] if isinstance(held, list) and held else None
    return isinstance(last, Mapping) and last.get("digest") != _digest(document)


def _digest(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != "history"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:32]


def _cut(value: Any) -> Any:
    return value[:MOST_CHARACTERS] if isinstance(value, str) else value
