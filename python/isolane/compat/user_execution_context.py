"""The host's ``user_execution_context``: contexts, their checks, and the block that closes them."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import AsyncIterator

from isolane._core import ContextIsolationError, InvalidContextError, UserExecutionContext
from isolane.compat.context_manager import UserContextManager
from isolane.compat.shared_objects import (
    _SHARED_OBJECT_REGISTRY,
    clear_shared_object_registry,
    register_shared_object,
)
from isolane.contexts.factory import UserContextFactory, validate_user_context

__all__ = [
    "_SHARED_OBJECT_REGISTRY",
    "ContextIsolationError",
    "InvalidContextError",
    "UserContextFactory",
    "UserContextManager",
    "UserExecutionContext",
    "UserExecutionContextFactory",
    "clear_shared_object_registry",
    "managed_user_context",
    "register_shared_object",
    "validate_user_context",
]

logger = logging.getLogger("isolane.compat")

UserExecutionContextFactory = UserContextFactory
"""The host's later name for the same class."""


async def _close_session(context: UserExecutionContext) -> None:
    session = context.db_session
    close = getattr(session, "close", None) if session is not None else None
    if close is None:
        return
    try:
        result = close()
        if inspect.isawaitable(result):
            await result
    except Exception:
        # Whatever the session raises, the error of the block must stay the one that is seen.
        logger.warning("closing the database session of %s failed", context.get_correlation_id(), exc_info=True)


@contextlib.asynccontextmanager
async def managed_user_context(
    context: UserExecutionContext, cleanup_db_session: bool = True
) -> AsyncIterator[UserExecutionContext]:
    """Yield the context, and end it with the block: its callbacks run, then its database session is closed.

    Args:
        context: the context of the request.
        cleanup_db_session: whether ``context.db_session`` is closed. Default: it is. What closing raises is logged.

    What the block raises is logged and raised again. Raises ``TypeError`` and ``ContextIsolationError`` as
    ``validate_user_context`` does, before the block begins.
    """
    validate_user_context(context)
    try:
        yield context
    except Exception:
        logger.exception("the block of %s failed", context.get_correlation_id())
        raise
    finally:
        try:
            for error in await context.cleanup():
                logger.error("a clean-up callback of %s failed", context.get_correlation_id(), exc_info=error)
        finally:
            # Even if the clean-up was cancelled: a session left open holds a connection of the pool.
            if cleanup_db_session:
                await _close_session(context)
