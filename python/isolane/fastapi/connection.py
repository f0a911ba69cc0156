"""``Connection``: what a socket has instead of a run context. It knows a user, and starts runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from isolane._core import UserExecutionContext, UserWebSocketEmitter, lane_usage
from isolane.engines.engine import UserExecutionEngine
from isolane.fastapi.principal import Principal
from isolane.fastapi.scope import RequestScope

if TYPE_CHECKING:
    from isolane.fastapi.sockets import Delivery


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was started on a connection.

    Attributes:
        context: its context.
        engine: runs its agents.
        emitter: publishes its events.
    """

    context: UserExecutionContext
    engine: UserExecutionEngine
    emitter: UserWebSocketEmitter


class UserConnection:
    """The authenticated user of a connection, and a way to start runs on it.

    Attributes:
        principal: who it is.
    """

    def __init__(self, principal: Principal, scope: RequestScope, conn: HTTPConnection) -> None:
        self.principal = principal
        self._scope = scope
        self._conn = conn

    async def start_run(self, thread_id: str | None = None, *, detached: bool = True) -> Run:
        """Start a run: a context, an engine and an emitter of its own.

        A run outlives the connection unless ``detached=False``; it ends with its engine, which ends when a pipeline
        that was started with ``engine.start_agent_pipeline`` is done, or when its lifetime is over.
        Raises ``EngineLimitError`` at the user's limit.
        """
        context = await self._scope.new_context(self._conn, self.principal, thread_id)
        if detached:
            context.detach()
        try:
            engine = await self._scope.engine(context)
        except BaseException:
            self._scope.release(context)
            await context.cleanup()
            raise
        if detached:
            # The factory ends it with its engine: a socket that lives for hours must not hold each run it started.
            self._scope.release(context)
        return Run(context, engine, context.get_websocket_emitter())

    @property
    def cursors(self) -> int:
        """How many sockets of the user are attached in this process."""
        usage: Mapping[str, int] = lane_usage(self.principal.user_id) or {}
        return usage.get("connections", 0)

    def cancel_run(self, run_id: str) -> str:
        """Begin to cancel a run of the user, whichever connection started it.

        Returns ``accepted``, ``ended`` for a run that has ended already, or ``gone`` for one that is unknown or another
        user's. Calling it again does nothing more.
        """
        return self._scope.isolane.cancel_run(self.principal.user_id, run_id)

    @contextlib.asynccontextmanager
    async def delivering(self, websocket: WebSocket, *, framed: bool = False) -> AsyncIterator[Delivery]:
        """Send the user's events on an accepted socket of the application's own, for the length of a block.

        Plain messages by default. The application goes on to receive and may send messages of its own between them.
        With ``framed=True`` it hands what the client sends to ``take`` of what the block gets, so that acks, pongs and
        commands arrive; what ``take`` returns ``False`` for is the application's own.
        """
        from isolane.fastapi.sockets import Delivery  # noqa: PLC0415 - the route module imports this one

        isolane = self._scope.isolane
        await isolane.arrive(self.principal)
        try:
            delivery = Delivery(
                isolane.settings,
                self.principal,
                framed=framed,
                isolane=isolane,
                reauthenticate=functools.partial(isolane.gate.of_message, self._conn),
            )
            isolane.deliveries.add(delivery)
            writer = asyncio.create_task(delivery.write(websocket.send), name="isolane socket writer")
            try:
                yield delivery
            finally:
                isolane.deliveries.discard(delivery)
                delivery.close()
                writer.cancel()
                # Waiting does not take on the writer's cancellation or error, nor lose our own.
                await asyncio.wait({writer})
                if not writer.cancelled():
                    writer.exception()
        finally:
            isolane.depart(self.principal)

    def __repr__(self) -> str:
        return f"<UserConnection {self.cursors} sockets>"
