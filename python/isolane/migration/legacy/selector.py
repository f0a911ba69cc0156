"""``BridgeSelector``: each run by the bridge of its mode."""

from __future__ import annotations

from typing import Literal, Protocol

from isolane._core import UserExecutionContext, UserWebSocketEmitter
from isolane.migration.legacy.hybrid import HybridBridge, OlderBridge
from isolane.migration.legacy.modern import ModernWebSocketBridge
from isolane.security.events import AuditSink


class FlagsOfBridges(Protocol):
    """Says by which bridge a user's runs go, as ``MigrationFeatureFlags`` does."""

    def bridge_mode(self, user: str | UserExecutionContext, /) -> Literal["legacy", "hybrid", "modern"]:
        """Return the mode. For a context it is the one that was decided when the context was made."""


class BridgeSelector:
    """Gives each run the bridge of its mode, which does not change while the run lives.

    Args:
        flags: decides, as ``MigrationFeatureFlags``.
        legacy: the service's own bridge, as it is.
        modern: the modern one. Default: one of its own.
        audit: records each refusal. Default: nobody.
    """

    def __init__(
        self,
        flags: FlagsOfBridges,
        legacy: OlderBridge,
        modern: ModernWebSocketBridge | None = None,
        *,
        audit: AuditSink | None = None,
    ) -> None:
        self.flags = flags
        self.legacy = legacy
        self.modern = modern if modern is not None else ModernWebSocketBridge(audit=audit)
        self.hybrid = HybridBridge(legacy, self.modern.factory, audit=audit)

    def bridge_of(self, context: UserExecutionContext) -> OlderBridge | HybridBridge | ModernWebSocketBridge:
        """Return the bridge for a run. A mode that is not known is taken for ``legacy``."""
        mode = self.flags.bridge_mode(context)
        if mode == "modern":
            return self.modern
        return self.hybrid if mode == "hybrid" else self.legacy

    async def create_user_emitter(self, user_id: str, context: UserExecutionContext) -> UserWebSocketEmitter | None:
        """Return an emitter for a run by its bridge; ``None`` where the older bridge alone serves it.

        Raises ``ContextIsolationError`` for a context of another user.
        """
        bridge = self.bridge_of(context)
        if isinstance(bridge, ModernWebSocketBridge):
            return await bridge.create_user_emitter(user_id, context)
        return None
