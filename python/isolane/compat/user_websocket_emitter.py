"""The host's ``services.user_websocket_emitter``: the emitter of a context."""

from __future__ import annotations

from typing import Any

from isolane._core import UserExecutionContext
from isolane.compat.agent_instance_factory import UserWebSocketEmitter as RunEmitter
from isolane.contexts.factory import validate_user_context
from isolane.events.bridge import WebSocketBridgeFactory

__all__ = ["UserWebSocketEmitter"]


class UserWebSocketEmitter(RunEmitter):
    """Publishes the agent events of a context's run into its log. Each method returns ``True`` when the log has it.

    Whose it is, is what the context said when it was made.

    Args:
        context: the run's.
        router: the host's; kept, and not called: every socket of the user is sent the log.
        connection_id: kept; see ``router``.

    Raises:
        TypeError: it is no context.
    """

    def __init__(self, context: UserExecutionContext, router: Any = None, connection_id: str | None = None) -> None:
        validate_user_context(context)
        super().__init__(context.user_id, context.thread_id, context.run_id, WebSocketBridgeFactory())
        self.context = context
        self.router = router
        self.connection_id = connection_id
