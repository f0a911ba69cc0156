"""The document of flags as a guard reads and changes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from isolane._core import FlagEngine

WHOLE = 100_000


class RolloutWriter(Protocol):
    """Writes changes where all processes read them, such as ``FlagWriter``. Its methods may wait for a disk."""

    def set_rollout(
        self, flag: str, percent: float, *, actor: str, reason: str = "", only_from: float | None = None
    ) -> object:
        """Let so many per cent of the users have a flag, if ``only_from`` per cent have it now or it is ``None``."""

    def roll_back(
        self, flag: str, record: Mapping[str, Any], *, actor: str, reason: str = "", create: bool = False
    ) -> object:
        """Take a flag from everybody until it is resumed; with ``create`` also one that only the environment has."""

    def resume(self, flag: str, *, ack: str, actor: str) -> object:
        """Let a flag be rolled out again, from 0 on."""


class RolloutDocument:
    """What a document says of one flag. Without a writer it is changed in this process alone."""

    def __init__(self, engine: FlagEngine, flag: str, writer: RolloutWriter | None) -> None:
        self.engine = engine
        self.flag = flag
        self.writer = writer
        self._known: tuple[str, dict[str, Any]] = ("", {})

    def of_flag(self) -> dict[str, Any]:
        """Return the part of the flag, or an empty one."""
        text = self.engine.document()
        if text != self._known[0]:
            flags = json.loads(text).get("flags", {})
            self._known = (text, flags.get(self.flag, {}))
        return self._known[1]

    @property
    def rollout(self) -> int:
        """The rollout in parts of 100 000; 0 for a flag that is unknown or off."""
        held = self.of_flag()
        return int(held.get("rollout", 0)) if held.get("state", "on") == "on" else 0

    def set_rollout(self, rollout: int, actor: str, reason: str, came_from: int) -> None:
        """Change the rollout, unless somebody else has changed it since. May wait for a disk."""
        if self.writer is not None:
            only_from = came_from / 1_000
            self.writer.set_rollout(self.flag, rollout / 1_000, actor=actor, reason=reason, only_from=only_from)
            return
        self._change({"rollout": rollout})

    def roll_back(self, record: Mapping[str, Any], actor: str, reason: str) -> None:
        """Write a rollback, where there is a writer. May wait for a disk."""
        if self.writer is not None:
            self.writer.roll_back(self.flag, record, actor=actor, reason=reason, create=True)

    def kill(self, actor: str, reason: str) -> None:
        """Turn every flag off for all, where the writer can do that. May wait for a disk."""
        kill = getattr(self.writer, "kill", None)
        if callable(kill):
            kill(actor=actor, reason=reason)

    def resume(self, ack: str, actor: str) -> None:
        """Clear a rollback: the rollout is 0 then. May wait for a disk."""
        if self.writer is not None:
            self.writer.resume(self.flag, ack=ack, actor=actor)
            return
        at = datetime.now(UTC).isoformat()
        self._change({"rollout": 0, "rules": [], "rollback": None, "resumed": {"ack": ack, "actor": actor, "at": at}})

    def _change(self, parts: Mapping[str, Any]) -> None:
        document = json.loads(self.engine.document())
        held = document.setdefault("flags", {}).setdefault(self.flag, {})
        for name, value in parts.items():
            if value is None:
                held.pop(name, None)
            elif name != "rules" or name in held:
                # A rule goes on to count with nobody.
                held[name] = value if name != "rules" else [{**rule, "rollout": 0} for rule in held[name]]
        document["schema"] = 1
        # Not a higher one: the next change of the source would be older than it, and be refused.
        document["revision"] = max(1, self.engine.revision)
        self.engine.load(json.dumps(document), self.engine.origin)
