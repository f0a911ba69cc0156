"""A look at the bodies of responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isolane._core import UnifiedIDManager
from isolane.fastapi.problems import PROBLEMS
from isolane.fastapi.scope import STATE_KEY, RequestScope
from isolane.security.contamination import ContaminationDetector
from isolane.security.errors import ResponseWithheldError
from isolane.security.findings import ScanMode
from isolane.security.streams import StreamGuard

UserOfConnection = Callable[[HTTPConnection], str | Awaitable[str | None] | None]


class ContaminationMiddleware:
    """Looks at the bodies of HTTP responses, at the boundary ``http_out``. Pure ASGI.

    Put it inside the middleware that compresses: compressed bodies are opaque. A response is held back until its first
    piece was seen; when that, or a later one, must not pass where the boundary enforces, the client gets a problem
    document with the code ``response_withheld`` and status 500, or, once bytes were sent, the connection ends.

    Args:
        app: the application.
        detector: the detector.
        user: says whose connection it is. Default: what ``setup``'s ``authenticate`` says, which is asked once for a
            connection; a response to nobody may have nobody's data.
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
        response = _Response(self.detector, self._whose, scope, send)
        try:
            await self.app(scope, receive, response.send)
        finally:
            response.close()
        await response.refuse()

    async def _whose(self, scope: Scope) -> str | None:
        """Return the user of a connection."""
        answer = self._user(HTTPConnection(scope))
        return await answer if isinstance(answer, Awaitable) else answer


class _Response:
    """One response on its way out."""

    def __init__(
        self,
        detector: ContaminationDetector,
        whose: Callable[[Scope], Awaitable[str | None]],
        scope: Scope,
        send: Send,
    ) -> None:
        self._detector = detector
        self._whose = whose
        self._scope = scope
        self._send = send
        self._held: Message | None = None
        self._guard: StreamGuard | None = None
        self._refused = False

    async def send(self, message: Message) -> None:
        """Pass a message on, or nothing from the first on that must not pass: the application need not know."""
        if self._refused:
            return
        if message["type"] == "http.response.start":
            if _type_of(message).startswith(b"text/event-stream"):
                # Its client waits for the beginning, and its events are looked at where they are read.
                await self._send(message)
            else:
                self._held = message
            return
        if message["type"] == "http.response.body":
            try:
                await self._look(message)
            except ResponseWithheldError:
                self._refused = True
                return
        if self._held is not None:
            held, self._held = self._held, None
            await self._send(held)
        await self._send(message)

    async def _look(self, message: Message) -> None:
        if self._guard is None:
            user = await self._whose(self._scope)
            self._guard = self._detector.stream(user, "http_out")
            for name, value in (self._held or {}).get("headers", ()):
                self._guard.feed(bytes(name) + b": " + bytes(value) + b"\n")
        self._guard.feed(bytes(message.get("body", b"")))

    async def refuse(self) -> None:
        """Say that it was withheld, in place of what was."""
        if not self._refused:
            return
        error = ResponseWithheldError("http_out")
        if self._held is None:
            # Bytes were sent: the server ends the connection, which a client takes for an incomplete response.
            raise error
        response = PROBLEMS[ResponseWithheldError](error).response(UnifiedIDManager.generate_request_id())
        await response(self._scope, _nothing, self._send)

    def close(self) -> None:
        """Report on what was seen."""
        if self._guard is not None:
            self._guard.close()


def _type_of(message: Message) -> bytes:
    return next((bytes(value) for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _principal(conn: HTTPConnection) -> str | None:
    held = conn.scope.get("state", {}).get(STATE_KEY)
    if not isinstance(held, RequestScope):
        return None
    try:
        principal = await held.principal(conn)
    except Exception:  # noqa: BLE001 - an application may refuse by raising; that makes it nobody's response
        return None
    return principal.user_id if principal is not None else None
