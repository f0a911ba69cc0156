"""The dependencies of path operations, as annotated types."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from isolane._core import UserExecutionContext, UserWebSocketEmitter
from isolane.engines.engine import UserExecutionEngine
from isolane.fastapi.connection import UserConnection
from isolane.fastapi.scope import request_scope

ON_A_SOCKET = (
    "{name} belongs to one run, and a WebSocket has many: use `connection: Connection` and "
    "`run = await connection.start_run(thread_id=...)` for each message"
)


def _only_http(conn: HTTPConnection, name: str) -> None:
    if conn.scope["type"] != "http":
        raise RuntimeError(ON_A_SOCKET.format(name=name))


async def get_context(conn: HTTPConnection) -> UserExecutionContext:
    """The run context of the request: made on first use, closed when the response is finished."""
    _only_http(conn, "Ctx")
    return await request_scope(conn).context(conn)


async def get_optional_context(conn: HTTPConnection) -> UserExecutionContext | None:
    """The run context of the request, or ``None`` when nobody is signed in."""
    _only_http(conn, "OptionalCtx")
    scope = request_scope(conn)
    return None if await scope.principal(conn) is None else await scope.context(conn)


async def get_engine(conn: HTTPConnection) -> UserExecutionEngine:
    """An engine for the run context; ended when the response is finished unless the context was detached."""
    _only_http(conn, "Engine")
    scope = request_scope(conn)
    return await scope.engine(await scope.context(conn))


async def get_emitter(conn: HTTPConnection) -> UserWebSocketEmitter:
    """The emitter of the run context."""
    _only_http(conn, "Emitter")
    return (await request_scope(conn).context(conn)).get_websocket_emitter()


async def get_connection(conn: HTTPConnection) -> UserConnection:
    """The authenticated connection, on HTTP and WebSocket."""
    scope = request_scope(conn)
    return UserConnection(await scope.require_principal(conn), scope, conn)


Ctx = Annotated[UserExecutionContext, Depends(get_context)]
OptionalCtx = Annotated[UserExecutionContext | None, Depends(get_optional_context)]
Engine = Annotated[UserExecutionEngine, Depends(get_engine)]
Emitter = Annotated[UserWebSocketEmitter, Depends(get_emitter)]
Connection = Annotated[UserConnection, Depends(get_connection)]
