"""Reading a context."""

from typing import Any


def read_all(ctx: Any) -> tuple[Any, ...]:
    """Read every field, so that nothing is left to be made later."""
    return (
        ctx.user_id,
        ctx.thread_id,
        ctx.run_id,
        ctx.request_id,
        ctx.db_session,
        ctx.websocket_client_id,
        ctx.created_at,
        ctx.agent_context,
        ctx.audit_metadata,
        ctx.operation_depth,
        ctx.parent_request_id,
    )
