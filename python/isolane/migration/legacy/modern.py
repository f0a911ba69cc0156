"""``ModernWebSocketBridge``: where a service arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isolane._core import ContextIsolationError, UserExecutionContext, UserWebSocketEmitter
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.events.event import WebSocketEvent
from isolane.migration.legacy.hub import LegacyHub
from isolane.migration.legacy.outcome import SendOutcome
from isolane.security.events import AuditSink


class ModernWebSocketBridge:
    """Emitters of contexts, and events into the lanes of their users.

    Args:
        factory: makes the emitters. Default: one of its own.
        audit: records each refusal. Default: nobody.
    """

    def __init__(self, factory: WebSocketBridgeFactory | None = None, *, audit: AuditSink | None = None) -> None:
        self._hub = LegacyHub(factory, audit=audit, broadcast="deny")

    @property
    def factory(self) -> WebSocketBridgeFactory:
        """What makes the emitters."""
        return self._hub.factory

    async def create_user_emitter(self, user_id: str, context: UserExecutionContext) -> UserWebSocketEmitter:
        """Return an emitter for the run of a context.

        Raises ``ContextIsolationError``, which is recorded, for another user's.
        """
        try:
            return await self.factory.create_user_emitter(user_id, context)
        except ContextIsolationError as error:
            self._hub.refusals.note(error, context.user_id, "create_user_emitter")
            raise

    async def notify_agent_event(self, user_id: str, event: WebSocketEvent | Mapping[str, Any]) -> SendOutcome:
        """Publish an event of a user: for whom the code runs, or who has a socket here where it runs for nobody.

        An event of an agent goes into the run that it names, or that of the bound context. Raises
        ``CrossUserSendError``, which is recorded, and ``InvalidEvent``.
        """
        return await self._hub.send(user_id, event, None, "notify_agent_event")

    async def cleanup_user_session(self, user_id: str) -> int:
        """End the emitters of a user, and what ``notify_agent_event`` opened. Returns how many emitters there were.

        Streams stay readable for their retention; sockets stay open. Raises ``CrossUserSendError`` where the code runs
        for another user.
        """
        bound = await self._hub.who(None)
        target = self._hub.check(user_id, bound, "cleanup_user_session") if bound is not None else user_id
        self._hub.runs.end(target)
        return await self.factory.cleanup_user_emitter(target)

    def get_stats(self) -> dict[str, Any]:
        """Return counts, and nobody's id."""
        return self._hub.stats()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.factory!r}>"
