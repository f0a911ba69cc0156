"""The one middleware: pure ASGI, so that it works the same for HTTP, streaming responses and WebSockets."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from isolane._core import metric
from isolane.contexts.caller import Caller, current_caller
from isolane.fastapi.scope import STATE_KEY, RequestScope

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane

logger = logging.getLogger("isolane.fastapi")

OVERHEAD = metric("isolane_overhead_seconds")
FORCED = metric("isolane_forced_cleanups_total")

CLOSE_SECONDS = 5.0
"""How long the end of a request waits for the clean-up; it goes on in the background after that."""


class IsolaneMiddleware:
    """Lays a ``RequestScope`` into each connection and always closes it: on success, error, cancellation, disconnect.

    A request that uses nothing of isolane costs one small object.
    """

    def __init__(self, app: ASGIApp, isolane: Isolane) -> None:
        self.app = app
        self.isolane = isolane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        held = RequestScope(self.isolane)
        # A dictionary of this request alone, whatever the server passes to others.
        scope["state"] = {**(scope.get("state") or {}), STATE_KEY: held}
        caller = Caller(held, scope)
        token = current_caller.set(caller)
        try:
            await self.app(scope, receive, send)
        finally:
            current_caller.reset(token)
            caller.close()
            if held.used:
                began = time.perf_counter()
                await self._close(held)
                OVERHEAD.observe(held.overhead + time.perf_counter() - began)
            elif held.overhead and scope["type"] == "http":
                # Its run goes on without it. A socket is no request: it starts many over hours.
                OVERHEAD.observe(held.overhead)

    async def _close(self, held: RequestScope) -> None:
        """Close in a task of its own: a cancelled request is closed as well."""
        task = asyncio.create_task(held.close(), name="isolane close request")
        self.isolane.keep(task)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(task)
        except TimeoutError:
            self.isolane.forced_closes += 1
            FORCED.inc()
            logger.warning("closing a request takes longer than %.0f s; it goes on in the background", CLOSE_SECONDS)
