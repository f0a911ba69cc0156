"""Contexts of a request."""

import contextlib
import copy
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

FORBIDDEN = {"registry", "placeholder", "default", "temp", "none", "null", "undefined"}


class InvalidContextError(Exception):
    """A context has an id that names nobody."""


@dataclass(frozen=True)
class UserExecutionContext:
    user_id: str
    thread_id: str
    run_id: str
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    db_session: Any = None
    websocket_client_id: str | None = None
    agent_context: dict[str, Any] = field(default_factory=dict)
    audit_metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("user_id", "thread_id", "run_id", "request_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InvalidContextError(f"Required field '{name}' must be a non-empty string, got: {value!r}")
            if value.lower() in FORBIDDEN:
                raise InvalidContextError(f"Field '{name}' contains forbidden placeholder value: {value!r}")
        object.__setattr__(self, "agent_context", copy.deepcopy(self.agent_context))

    @classmethod
    def from_request(
        cls,
        user_id: str,
        thread_id: str,
        run_id: str,
        request_id: str | None = None,
        db_session: Any = None,
        websocket_client_id: str | None = None,
        agent_context: dict[str, Any] | None = None,
        audit_metadata: dict[str, Any] | None = None,
    ) -> "UserExecutionContext":
        request_id = request_id or str(uuid.uuid4())
        more = (db_session, websocket_client_id, agent_context or {}, audit_metadata or {})
        return cls(user_id, thread_id, run_id, request_id, *more)


@contextlib.asynccontextmanager
async def managed_user_context(
    context: UserExecutionContext, cleanup_db_session: bool = True
) -> AsyncIterator[UserExecutionContext]:
    try:
        yield context
    finally:
        if cleanup_db_session and context.db_session is not None:
            await context.db_session.close()
