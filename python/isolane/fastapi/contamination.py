"""A look at the bodies of responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isolane._core import UnifiedIDManager
from isolane.fastapi.problems import PROBLEMS
from isolane.fastapi.scope import STATE_KEY, RequestScope
from isolane.security.contamination import ContaminationDetector
from isolane.security.errors import ResponseWithheldError
from isolane.security.findings import ScanMode

UserOfConnection = Callable[[HTTPConnection], str | None | Awaitable[str | None]]


class ContaminationMiddleware:
    """Looks at the bodies of HTTP responses, at the boundary ``http_out``. Pure ASGI.

    Put it inside the middleware that compresses: compressed bodies are opaque. A response is held back until its first
    piece was seen; when that, or a later one, must not pass where the boundary enforces, the client gets a problem
    document with the code ``response_withheld`` and status 500, or, once bytes were sent, the connection ends.

    Args:
        app: the application.
        detector: the detector.
        user: says whose connection it is. Default: the principal that ``isolane.fastapi`` found, if the request asked
            for one; a response to nobody may have nobody's data.
    """

    def __init__(self, app: ASGIApp, detector: ContaminationDetector, user: UserOfConnection | None = None) -> None:
        self.app = app
        self.detector = detector
        self._user = user if user is not None else _principal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or self.detector.mode("http_out") is ScanMode.OFF:
            await self.app(scope, receive, send)
            return
        response = _Response(self, scope, send)
        try:
            await self.app(scope, receive, response.send)
        except ResponseWithheldError:
            if response.started:
                # The server ends the connection, which a client takes for what it is: an incomplete response.
                raise
            await response.refuse()
        finally:
            response.close()

    async def whose(self, scope: Scope) -> str | None:
        """Return the user of a connection."""
        answer = self._user(HTTPConnection(scope))
        return await answer if isinstance(answer, Awaitable) else answer


class _Response:
    """One response on its way out."""

    def __init__(self, middleware: ContaminationMiddleware, scope: Scope, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._send = send
        self._held: Message | None = None
        self._guard: Any = None
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._held = message
            return
        if message["type"] == "http.response.body":
            if self._guard is None:
                user = await self._middleware.whose(self._scope)
                self._guard = self._middleware.detector.stream(user, "http_out")
                headers = [(self._held or {}).get("headers", [])]
                self._guard.look({"headers": [[bytes(part) for part in pair] for pairs in headers for pair in pairs]})
            self._guard.feed(bytes(message.get("body", b"")))
            if self._held is not None:
                held, self._held = self._held, None
                self.started = True
                await self._send(held)
        await self._send(message)

    async def refuse(self) -> None:
        problem = PROBLEMS[ResponseWithheldError](ResponseWithheldError("http_out"))
        response = problem.response(UnifiedIDManager.generate_request_id())
        await response({**self._scope, "method": self._scope.get("method", "GET")}, _nothing, self._send)

    def close(self) -> None:
        if self._guard is not None:
            self._guard.close()


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _principal(conn: HTTPConnection) -> str | None:
    held = conn.scope.get("state", {}).get(STATE_KEY)
    if not isinstance(held, RequestScope):
        return None
    principal = await held.principal(conn)
    return principal.user_id if principal is not None else None
