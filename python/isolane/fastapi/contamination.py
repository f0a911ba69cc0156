"""A look at the bodies of responses."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Iterator

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


HELD_KEY = "isolane.contamination"
"""Where in the scope the look is that is under way."""
UNLOOKED = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
"""Ways in which a server sends a file that nobody here sees; an application that is not offered them sends bytes."""
MAX_PIECE = 64 << 10
MAX_GROWTH = 64 << 20
"""Bytes of a compressed body that are read beyond a hundred times what it has."""


class ContaminationMiddleware:
    """Looks at the headers and bodies of HTTP responses, at the boundary ``http_out``. Pure ASGI.

    ``setup(app, ..., contamination=detector)`` adds it. Add another one where it is to be inside of what compresses: of
    several with one detector the innermost looks. Bodies in ``gzip`` and ``deflate`` are read; one in another encoding
    could not be looked at, and is withheld where the boundary enforces. A response is held back until its first piece
    was seen; when that, or a later one, must not pass, the client gets a problem document with the code
    ``response_withheld`` and status 500, or, once bytes were sent, the connection ends.

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
        outer = scope.get(HELD_KEY)
        if isinstance(outer, _Response):
            outer.leave_to(self.detector)
        response = _Response(self.detector, self._whose, scope, send)
        # In place: what is inside says in the scope who the user is.
        extensions = scope.get("extensions") or {}
        scope["extensions"] = {name: each for name, each in extensions.items() if name not in UNLOOKED}
        scope[HELD_KEY] = response
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
        self._reader: _Reader | None = None
        self._refused = False
        self._left = False

    def leave_to(self, detector: ContaminationDetector) -> None:
        """Look no more: the same detector looks further inside, before anything is compressed."""
        self._left = self._left or detector is self._detector

    async def send(self, message: Message) -> None:
        """Pass a message on, or nothing from the first on that must not pass: the application need not know."""
        if self._refused:
            return
        if self._left:
            await self._send(message)
            return
        if message["type"] == "http.response.start":
            self._reader = _Reader(_header(message, b"content-encoding"))
            if _header(message, b"content-type").startswith(b"text/event-stream"):
                # Its client waits for the beginning, and its events are looked at where they are read.
                await self._send(message)
            else:
                self._held = message
            return
        if message["type"] in ("http.response.body", "http.response.trailers"):
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
            self._look_at_headers(self._guard, self._held or {})
        self._look_at_headers(self._guard, message)
        body = bytes(message.get("body", b""))
        if self._reader is None or self._reader.is_plain:
            self._guard.feed(body)
            return
        try:
            for piece in self._reader.read(body):
                self._guard.feed(piece)
        except (zlib.error, _OpaqueError) as error:
            self._guard.miss(error)

    @staticmethod
    def _look_at_headers(guard: StreamGuard, message: Message) -> None:
        for name, value in message.get("headers", ()):
            guard.feed(bytes(name) + b": " + bytes(value) + b"\n")

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


class _OpaqueError(Exception):
    """A body that cannot be read here."""


class _Reader:
    """Reads what a body says under its encoding."""

    def __init__(self, encoding: bytes) -> None:
        name = encoding.strip().lower()
        self.is_plain = name in (b"", b"identity")
        # Both have a header that says which one it is.
        self._unpack = zlib.decompressobj(32 + zlib.MAX_WBITS) if name in (b"gzip", b"x-gzip", b"deflate") else None
        self._left = MAX_GROWTH

    def read(self, body: bytes) -> Iterator[bytes]:
        """Yield what a piece of the body says. Raises ``_OpaqueError`` or ``zlib.error`` where it cannot be told."""
        if not body:
            return
        if self._unpack is None:
            raise _OpaqueError
        self._left += 100 * len(body)
        while body:
            piece = self._unpack.decompress(body, MAX_PIECE)
            yield piece
            self._left -= len(piece)
            body = self._unpack.unconsumed_tail
            if self._left < 0:
                raise _OpaqueError
            if self._unpack.eof and self._unpack.unused_data:
                body, self._unpack = self._unpack.unused_data, zlib.decompressobj(32 + zlib.MAX_WBITS)


def _header(message: Message, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in message.get("headers", ()) if name.lower() == wanted), b"")


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
