"""The host's ``dependencies``, over those of ``isolane.fastapi``. Needs the extra ``fastapi``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

import isolane.fastapi  # noqa: F401 - the first import: it names the extra where that is missing
from isolane._core import UserExecutionContext
from isolane.engines import factory as engines
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.fastapi.dependencies import get_context, get_emitter, get_engine
from isolane.fastapi.scope import request_scope
from isolane.migration.legacy.factory_adapter import FactoryAdapter

__all__ = [
    "ExecutionEngineFactoryDep",
    "FactoryAdapterDep",
    "RequestScopedContextDep",
    "UserSessionContextDep",
    "WebSocketBridgeFactoryDep",
    "get_factory_adapter",
    "get_factory_execution_engine",
    "get_factory_websocket_emitter",
    "get_request_scoped_user_context",
    "get_user_session_context",
]

# The user is who has signed in: none of them takes an id.
get_request_scoped_user_context = get_context
get_user_session_context = get_context
get_factory_execution_engine = get_engine
get_factory_websocket_emitter = get_emitter

RequestScopedContextDep = Annotated[UserExecutionContext, Depends(get_context)]
"""The run context of the request: that of ``isolane.fastapi.Ctx``."""

UserSessionContextDep = Annotated[UserExecutionContext, Depends(get_context)]
"""The same."""


async def _engine_factory(conn: HTTPConnection) -> engines.ExecutionEngineFactory:
    return request_scope(conn).isolane.factory


async def _bridge_factory(conn: HTTPConnection) -> WebSocketBridgeFactory:
    return request_scope(conn).isolane.bridge


ExecutionEngineFactoryDep = Annotated[engines.ExecutionEngineFactory, Depends(_engine_factory)]
"""What makes the engines of the application."""

WebSocketBridgeFactoryDep = Annotated[WebSocketBridgeFactory, Depends(_bridge_factory)]
"""What makes the emitters of the application."""


async def get_factory_adapter(conn: HTTPConnection) -> FactoryAdapter:
    """Return the adapter of the application. Raises ``RuntimeError`` when ``app.state.factory_adapter`` is not set."""
    adapter = getattr(conn.app.state, "factory_adapter", None)
    if not isinstance(adapter, FactoryAdapter):
        raise RuntimeError(  # noqa: TRY004 - the application is at fault, not a type
            "the application has no adapter: set app.state.factory_adapter = FactoryAdapter(...) before it starts"
        )
    return adapter


FactoryAdapterDep = Annotated[FactoryAdapter, Depends(get_factory_adapter)]
"""The adapter of the application, in a path operation."""
