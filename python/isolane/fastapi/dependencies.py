"""The dependencies of path operations, as annotated types."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from isolane._core import UserExecutionContext, UserWebSocketEmitter, metric
from isolane.engines.engine import UserExecutionEngine
from isolane.fastapi.connection import UserConnection
from isolane.fastapi.principal import Principal
from isolane.fastapi.scope import request_scope
from isolane.security.authentication.errors import MfaRequiredError, RoleRequiredError
from isolane.security.authentication.roles import MfaPolicy, check_mfa

ALLOWED = metric("isolane_permission_decisions_total").labels("allow", "permitted")

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


async def get_principal(conn: HTTPConnection) -> Principal:
    """Who is signed in. Raises ``NotAuthenticatedError`` for nobody."""
    return await request_scope(conn).require_principal(conn)


def require_roles(*roles: str) -> Callable[[HTTPConnection], Awaitable[Principal]]:
    """Make a dependency that lets users pass who have all of these roles, and gives the principal.

    Use it as ``Depends(require_roles("admin"))``. It raises ``RoleRequiredError``, which is answered with 403.

    Args:
        roles: one or more.

    Raises:
        ValueError: none was named.
    """
    return _require("roles", roles)


def require_permissions(*permissions: str) -> Callable[[HTTPConnection], Awaitable[Principal]]:
    """Make a dependency that lets users pass who have all of these permissions, and gives the principal.

    Args:
        permissions: one or more, as ``RolePermissions`` names them.

    Raises:
        ValueError: none was named.
    """
    return _require("permissions", permissions)


def _require(kind: str, names: tuple[str, ...]) -> Callable[[HTTPConnection], Awaitable[Principal]]:
    if not names:
        raise ValueError(f"name the {kind} that are needed")
    needed = frozenset(names)

    async def dependency(conn: HTTPConnection) -> Principal:
        principal = await request_scope(conn).require_principal(conn)
        if not needed <= getattr(principal, kind):
            request_scope(conn).isolane.gate.note_denied(principal, kind)
            raise RoleRequiredError
        ALLOWED.inc()
        return principal

    return dependency


async def require_mfa(conn: HTTPConnection) -> Principal:
    """A dependency that lets users pass who signed in with two factors, and gives the principal.

    Use it as ``Depends(require_mfa)``. It raises ``MfaRequiredError``, which is answered with 403.
    """
    principal = await request_scope(conn).require_principal(conn)
    with _noting_mfa(conn, principal):
        check_mfa(principal)
    return principal


@contextlib.contextmanager
def _noting_mfa(conn: HTTPConnection, principal: Principal) -> Iterator[None]:
    try:
        yield
    except MfaRequiredError:
        request_scope(conn).isolane.gate.note_denied(principal, "mfa")
        raise
    ALLOWED.inc()


def require_mfa_by(policy: MfaPolicy, action: str | None = None) -> Callable[[HTTPConnection], Awaitable[Principal]]:
    """Make a dependency that asks for a second factor from whom, and for what, the policy says.

    Args:
        policy: who needs it, and for which actions.
        action: what the path operation does. Default: nothing that the policy names.
    """

    async def dependency(conn: HTTPConnection) -> Principal:
        principal = await request_scope(conn).require_principal(conn)
        with _noting_mfa(conn, principal):
            policy.check(principal, action)
        return principal

    return dependency


Authenticated = Annotated[Principal, Depends(get_principal)]
