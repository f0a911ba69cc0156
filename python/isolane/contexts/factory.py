"""Making contexts where a factory is expected instead of the class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from isolane._core import UnifiedIDManager, UserExecutionContext


class UserContextFactory:
    """Makes contexts with generated ids where ids are left out."""

    @staticmethod
    def create_context(
        user_id: str,
        thread_id: str | None = None,
        run_id: str | None = None,
        request_id: str | None = None,
        websocket_client_id: str | None = None,
        agent_context: dict[str, Any] | None = None,
        audit_metadata: dict[str, Any] | None = None,
        *,
        permissions: Iterable[str] | None = None,
    ) -> UserExecutionContext:
        """Make a context; thread and run ids are generated when absent. Raises ``InvalidContextError``."""
        thread = thread_id or UnifiedIDManager.generate_thread_id()
        return UserExecutionContext.from_request(
            user_id,
            thread,
            run_id or UnifiedIDManager.generate_run_id(thread),
            request_id,
            None,
            websocket_client_id,
            agent_context,
            audit_metadata,
            permissions=permissions,
        )

    @staticmethod
    def create_with_session(
        user_id: str,
        thread_id: str,
        run_id: str,
        db_session: Any,
        request_id: str | None = None,
        websocket_client_id: str | None = None,
        *,
        permissions: Iterable[str] | None = None,
    ) -> UserExecutionContext:
        """Make a context with a database session. Raises ``InvalidContextError``."""
        context = UserExecutionContext.from_request(
            user_id, thread_id, run_id, request_id, None, websocket_client_id, permissions=permissions
        )
        return context.with_db_session(db_session)


def validate_user_context(context: object) -> UserExecutionContext:
    """Return the context if it is one and holds only what is its own.

    Raises ``TypeError`` for anything else and ``ContextIsolationError`` for a planted violation.
    """
    if not isinstance(context, UserExecutionContext):
        raise TypeError(
            f"Expected UserExecutionContext, got: {type(context).__name__}. Make one with from_request(...)"
        )
    context.verify_isolation()
    return context
