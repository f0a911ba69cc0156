"""``BroadcastPolicy``: what a legacy broadcast may still do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

VARIABLE = "ISOLANE_LEGACY_BROADCAST"
ALLOW = "allow:"


@dataclass(frozen=True, slots=True)
class BroadcastPolicy:
    """What ``broadcast_message`` and its like do.

    Attributes:
        mode: ``context_user``: a broadcast goes to the bound user alone. ``deny``: every broadcast is refused.
            ``allow``: those of the listed types go to everybody who is connected, each into its own lane; others do
            what ``context_user`` does.
        types: the types of messages that are for everybody.
    """

    mode: Literal["context_user", "deny", "allow"] = "context_user"
    types: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> BroadcastPolicy:
        """Read ``context_user``, ``deny`` or ``allow:<type>,<type>``.

        Raises:
            ValueError: it is none of them, or the list is empty or names an agent event.
        """
        text = text.strip()
        if text in {"context_user", "deny"}:
            return cls("deny" if text == "deny" else "context_user")
        types = frozenset(part.strip() for part in text.removeprefix(ALLOW).split(",") if part.strip())
        if not text.startswith(ALLOW) or not types:
            raise ValueError(
                f"{VARIABLE} must be context_user, deny, or allow:<type>,<type> with the types of messages that are "
                "for "
                f"everybody, such as allow:system_notice; got {text!r:.80}"
            )
        agents = sorted(types & AGENT_EVENTS) or sorted(kind for kind in types if "*" in kind)
        if agents:
            raise ValueError(
                f"{VARIABLE} lists {agents[0]!r:.80}: the events of an agent belong to the user whose run it is, and "
                "are for nobody else; list the types of notices by their whole names"
            )
        return cls("allow", types)

    @classmethod
    def from_env(cls) -> BroadcastPolicy:
        """Read ``ISOLANE_LEGACY_BROADCAST``; ``context_user`` when it is not set. Raises as ``parse`` does."""
        return cls.parse(os.environ.get(VARIABLE) or "context_user")

    def is_for_all(self, kind: str) -> bool:
        """Return whether messages of a type go to everybody."""
        return self.mode == "allow" and kind in self.types


AGENT_EVENTS = frozenset(
    {"agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "agent_error"}
)
"""The six events of an agent's execution."""
