"""The codes of legacy calls. A code is never given to something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DOCUMENT: Final = "deprecations"
"""The page that has an anchor for each code."""


@dataclass(frozen=True, slots=True)
class DeprecationCode:
    """One kind of legacy call.

    Attributes:
        code: Such as ``ISO-D003``.
        title: What it is, in a few words.
        instead: What takes its place.
        rule: The rule of ``isolane migrate scan`` that finds it in source, or None.
    """

    code: str
    title: str
    instead: str
    rule: str | None = None

    @property
    def anchor(self) -> str:
        """Where the page has it: ``deprecations#iso-d003``."""
        return f"{DOCUMENT}#{self.code.lower()}"


_ALL = (
    DeprecationCode(
        "ISO-D001",
        "a `DeepAgentState` is given to an agent",
        "a `UserExecutionContext`: `agent.execute(request)` on a context of the run",
        "MIG001",
    ),
    DeprecationCode(
        "ISO-D002",
        "an agent has the signature `execute(state, run_id, stream_updates)`",
        "`execute(context)` with a `UserExecutionContext`",
        "MIG002",
    ),
    DeprecationCode(
        "ISO-D003",
        "a singleton is fetched: `get_websocket_manager` and its like",
        "what the run's context gives: `context.get_websocket_emitter()`, or a dependency of `isolane.fastapi`",
        "MIG003",
    ),
    DeprecationCode(
        "ISO-D004",
        "a `LegacyWebSocketBridge` or `CompatibilityAdapter` is made",
        "`ModernWebSocketBridge`, or `isolane.fastapi`",
        "MIG005",
    ),
    DeprecationCode(
        "ISO-D005",
        "`send_to_user` or `send_to_connection`",
        "the emitter of the run, whose owner is known: `emitter.send_custom_event(...)`",
        "MIG003",
    ),
    DeprecationCode(
        "ISO-D006",
        "`broadcast_message` or `broadcast_to_all`",
        "an event to the run's own user; `ISOLANE_LEGACY_BROADCAST` says what a broadcast does until then",
        "MIG006",
    ),
    DeprecationCode(
        "ISO-D007",
        "`add_connection` or `connect_user`: the caller says whose socket it is",
        "`EventSocket` of `isolane.fastapi`, which asks who signed in",
        None,
    ),
    DeprecationCode(
        "ISO-D008",
        "a legacy state is written after a context was made of it",
        "values that the context carries, or the agent's result",
        "MIG002",
    ),
    DeprecationCode(
        "ISO-D009",
        "`create_legacy_global`, or a dispatcher of tools that all users share",
        "a dispatcher of the run: `UnifiedToolDispatcherFactory(...).create_dispatcher(context)`",
        "MIG003",
    ),
    DeprecationCode(
        "ISO-D010",
        "`FactoryAdapter` takes the legacy route",
        "the modern route: raise the rollout of `modern_execution`",
        None,
    ),
    DeprecationCode(
        "ISO-D011",
        "`DeepAgentStateAdapter`",
        "a `UserExecutionContext` from the start",
        "MIG001",
    ),
    DeprecationCode(
        "ISO-D012",
        "`ProductionFeatureFlags`",
        "`MigrationFeatureFlags`",
        None,
    ),
)

CODES: Final[dict[str, DeprecationCode]] = {entry.code: entry for entry in _ALL}
"""All codes, by code."""
