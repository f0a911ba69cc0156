"""What one HTTP request or WebSocket has of isolane: made on first use, closed by the middleware."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.types import Scope

from isolane._core import UnifiedIDManager, UserExecutionContext, bind_event_bounds
from isolane.engines.engine import UserExecutionEngine
from isolane.fastapi.principal import NotAuthenticatedError, Principal
from isolane.observability import seams

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane

logger = logging.getLogger("isolane.fastapi")

STATE_KEY = "isolane"


class RequestScope:
    """Belongs to one connection. Authenticates at most once; makes the run context and the engine on first use."""

    def __init__(self, isolane: Isolane) -> None:
        self.isolane = isolane
        self._principal: Principal | None = None
        self._authenticated = False
        self._context: UserExecutionContext | None = None
        self._owned: list[UserExecutionContext] = []
        self._engines: list[UserExecutionEngine] = []
        self.overhead = 0.0
        """Seconds that making contexts and engines took, without what the application was asked."""

    @property
    def used(self) -> bool:
        """Whether there is anything to close."""
        return bool(self._owned or self._engines)

    async def principal(self, conn: HTTPConnection, *, by_ticket: bool = False) -> Principal | None:
        """Ask the application who this is, once. ``by_ticket`` for event streams, which may sign in as sockets do.

        Raises:
            AccessRefusedError: the credential does not count, or a socket must not be opened.
        """
        if not self._authenticated:
            gate = self.isolane.gate
            if conn.scope["type"] == "websocket":
                self._principal = await gate.of_socket(conn)
            else:
                self._principal = await (gate.of_stream(conn) if by_ticket else gate.of_request(conn))
            self._authenticated = True
        return self._principal

    @property
    def known_user(self) -> str | None:
        """Who is signed in, if that was asked already."""
        return None if self._principal is None else self._principal.user_id

    @property
    def run_context(self) -> UserExecutionContext | None:
        """The run context of the request, if it was made already."""
        return self._context

    async def user_of(self, connection: Scope) -> str | None:
        """Ask who is signed in on the connection that this belongs to, once."""
        principal = await self.principal(HTTPConnection(connection))
        return None if principal is None else principal.user_id

    async def require_principal(self, conn: HTTPConnection) -> Principal:
        """Return who this is, or raise ``NotAuthenticatedError``."""
        principal = await self.principal(conn)
        if principal is None:
            raise NotAuthenticatedError("sign in first")
        return principal

    async def context(self, conn: HTTPConnection) -> UserExecutionContext:
        """Return the run context of this HTTP request."""
        if self._context is None:
            principal = await self.require_principal(conn)
            self._context = await self.new_context(conn, principal)
        return self._context

    async def new_context(
        self, conn: HTTPConnection, principal: Principal, thread_id: str | None = None
    ) -> UserExecutionContext:
        """Make a run context that the middleware closes with this connection."""
        thread, run = await self._ids(conn, thread_id)
        began = time.perf_counter()
        # What roles of tools and resources are asked of.
        roles = principal.roles | principal.permissions
        context = UserExecutionContext.from_fastapi_request(conn, principal.user_id, thread, run, permissions=roles)
        if seams.tracing is not None and conn.scope["type"] == "http":
            # The handshake of a socket is the beginning of none of its runs.
            seams.tracing.continued(context, conn.headers)
        # Whoever opens the stream, an engine or an agent without one, it has the bounds of the settings.
        bind_event_bounds(context, **self.isolane.bridge.config.bounds())
        if self.isolane.factory.tool_dispatcher_factory is not None:
            context.bind_tool_dispatcher_factory(self.isolane.factory.tool_dispatcher_factory)
        if self.isolane.session_factory is not None:
            context.bind_session_factory(self.isolane.session_factory)
        self._owned.append(context)
        self.overhead += time.perf_counter() - began
        return context

    async def _ids(self, conn: HTTPConnection, thread_id: str | None) -> tuple[str, str]:
        run = None
        if thread_id is None and self.isolane.resolve_ids is not None:
            answer = self.isolane.resolve_ids(conn)
            if inspect.isawaitable(answer):
                answer = await answer
            if isinstance(answer, Mapping):
                thread_id, run = answer.get("thread_id"), answer.get("run_id")
            else:
                thread_id = answer
        if thread_id is None:
            thread_id = (
                conn.path_params.get("thread_id")
                or conn.query_params.get("thread_id")
                or conn.headers.get("x-thread-id")
                or UnifiedIDManager.generate_thread_id()
            )
        thread = str(thread_id)
        return thread, run or UnifiedIDManager.generate_run_id(thread)

    async def engine(self, context: UserExecutionContext) -> UserExecutionEngine:
        """Make an engine for a context of this connection."""
        began = time.perf_counter()
        engine = await self.isolane.factory.create_for_user(context)
        self._engines.append(engine)
        self.overhead += time.perf_counter() - began
        return engine

    def release(self, context: UserExecutionContext) -> None:
        """A context was closed by somebody else."""
        self._owned = [held for held in self._owned if held is not context]
        self._engines = [engine for engine in self._engines if engine.context is not context]

    async def close(self) -> None:
        """End the engines and contexts of this connection, but not the runs that were detached from it."""
        engines, self._engines = self._engines, []
        owned, self._owned = self._owned, []
        # A kept-alive connection keeps its scope: it must not keep the user's data with it.
        self._context = None
        kept = set()
        for engine in engines:
            if engine.context.is_detached and engine.is_active():
                kept.add(engine.context.request_id)
                continue
            await self.isolane.factory.cleanup_engine(engine)
            # Somebody else may be ending it, as who cancels the run does.
            await engine._until_closed()  # noqa: SLF001 - the engine's other half
        for context in owned:
            if context.request_id in kept:
                continue
            if context.is_detached and context.status.value != "cleaned":
                logger.warning("a detached context has no engine that would close it; it was closed with its request")
            for error in await context.cleanup():
                logger.error("a clean-up callback failed", exc_info=error)


def request_scope(conn: HTTPConnection) -> RequestScope:
    """Return what the middleware laid into the connection."""
    held = conn.scope.get("state", {}).get(STATE_KEY)
    if not isinstance(held, RequestScope):
        raise RuntimeError(  # noqa: TRY004 - the application is at fault, not a type
            "isolane is not set up: call isolane.fastapi.setup(app, authenticate=...) before it starts"
        )
    return held
