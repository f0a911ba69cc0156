"""A socket of an ASGI application in this process, without a server, a port or a client library."""

from __future__ import annotations

import asyncio
import json as json_module
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

App = Callable[..., Any]
"""An ASGI application."""

DEADLINE = 2.0
"""Seconds that one receive waits at most, unless it is told otherwise."""

MAX_TRANSCRIPT = 10_000
"""Messages of a socket that are remembered; the first ones go."""


class NoMessageError(TimeoutError):
    """Nothing came in time. The text has what came last."""


class SocketEndedError(Exception):
    """The application closed the socket, or refused it.

    Attributes:
        code: The close code; 1006 where the application ended without one.
        reason: What it said.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the socket was closed with {code}{f': {reason}' if reason else ''}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a socket.

    Attributes:
        sent_by: ``client`` or ``app``.
        data: The text or bytes.
    """

    sent_by: Literal["client", "app"]
    data: str | bytes


def headers_of(given: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (given or {}).items()]


def scope_of(kind: str, path: str, headers: list[tuple[bytes, bytes]], **more: Any) -> dict[str, Any]:
    """The scope of a connection as ASGI has it."""
    parts = urlsplit(path)
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "root_path": "",
        "query_string": parts.query.encode(),
        "headers": [(b"host", b"testserver"), *headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("testserver", 80),
        **more,
    }


class AsyncWsClient:
    """A WebSocket of an application in this process: ``async with AsyncWsClient(app, "/ws") as socket``.

    Every `receive` has a deadline, so a test that waits for what never comes fails by itself. What went both ways is in
    `transcript`. `drop` is a network that breaks, `stall` a client that reads nothing more.

    Args:
        app: The ASGI application. It is not started: `InMemoryTransport` does that.
        path: The path, with a query if there is one.
        headers: Request headers.
        subprotocols: What the client offers.
        timeout: Seconds that connecting, a receive and closing wait at most.

    Attributes:
        accepted_subprotocol: What the application chose.
        close_code: The code with which the application closed, once it did.
        transcript: The messages so far, the latest 10 000.
    """

    def __init__(
        self,
        app: App,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Iterable[str] = (),
        timeout: float = DEADLINE,
    ) -> None:
        self._app = app
        self._timeout = timeout
        offered = list(subprotocols)
        fields = headers_of(headers)
        if offered:
            fields.append((b"sec-websocket-protocol", ", ".join(offered).encode()))
        self._scope = scope_of("websocket", path, fields, scheme="ws", subprotocols=offered)
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_dropped = False
        self._drop_after: int | None = None
        self._stall_after: int | None = None
        self._on_fault: Callable[[], None] | None = None
        self._received = 0
        self._task: asyncio.Task[None] | None = None
        self.accepted_subprotocol: str | None = None
        self.close_code: int | None = None
        self.transcript: deque[Message] = deque(maxlen=MAX_TRANSCRIPT)

    async def __aenter__(self) -> Self:
        """Connect. Raises ``SocketEndedError`` when the application refuses."""
        self._to_app.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._serve(), name=f"socket {self._scope['path']}")
        try:
            message = await self._next(self._timeout)
            if message["type"] != "websocket.accept":
                raise self._ended(message)  # noqa: TRY301 - whatever goes wrong here ends it
        except BaseException:
            self.close(1006)
            await self._stop()
            raise
        self.accepted_subprotocol = message.get("subprotocol")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. An exception of the application's is raised, unless the block has raised one."""
        self.close()
        failure = await self._stop()
        if failure is not None and error is None:
            raise failure

    async def _serve(self) -> None:
        try:
            await self._app(self._scope, self._to_app.get, self._send)
        finally:
            self._from_app.put_nowait({"type": "websocket.ended"})

    async def _send(self, message: dict[str, Any]) -> None:
        if self._is_dropped:
            raise OSError("the connection is gone")
        await self._flowing.wait()
        if self._is_dropped:
            raise OSError("the connection is gone")
        self._from_app.put_nowait(message)

    async def _stop(self) -> BaseException | None:
        if self._task is None:
            return None
        self._flowing.set()
        try:
            await asyncio.wait({self._task}, timeout=self._timeout)
        finally:
            # Also when this is cancelled: nothing of the socket goes on after it.
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=self._timeout)
        if not self._task.done() or self._task.cancelled():
            return None
        failure = self._task.exception()
        return None if self._is_dropped and isinstance(failure, OSError) else failure

    async def _next(self, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109 - each receive has its own
        try:
            async with asyncio.timeout(timeout):
                return await self._from_app.get()
        except TimeoutError:
            last = [str(message.data)[:200] for message in list(self.transcript)[-3:]]
            raise NoMessageError(f"nothing came in {timeout} s; the last messages were {last}") from None

    def _ended(self, message: dict[str, Any]) -> SocketEndedError:
        if message["type"] == "websocket.close":
            self.close_code = message.get("code", 1000)
            return SocketEndedError(self.close_code or 1000, message.get("reason") or "")
        if message["type"] == "websocket.http.response.start":
            return SocketEndedError(1006, f"refused with the status {message['status']}")
        return SocketEndedError(self.close_code or 1006, "the application ended")

    async def receive(self, timeout: float | None = None) -> str | bytes:  # noqa: ASYNC109 - that of one message
        """Wait for the next message.

        Args:
            timeout: Seconds to wait at most; by default what the client was made with.

        Raises:
            NoMessageError: Nothing came in time.
            SocketEndedError: The application closed the socket.
        """
        message = await self._next(self._timeout if timeout is None else timeout)
        if message["type"] != "websocket.send":
            self._from_app.put_nowait({"type": "websocket.ended"})
            raise self._ended(message)
        data: str | bytes = message["text"] if message.get("text") is not None else message["bytes"]
        self.transcript.append(Message("app", data))
        self._received += 1
        if self._drop_after is not None and self._received >= self._drop_after:
            self._fault()
            self.drop()
        elif self._stall_after is not None and self._received >= self._stall_after:
            self._fault()
            self.stall()
        return data

    def _fault(self) -> None:
        self._drop_after = self._stall_after = None
        if self._on_fault is not None:
            self._on_fault()

    async def receive_json(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the same
        """Wait for the next message and read it as JSON. Raises what `receive` raises."""
        return json_module.loads(await self.receive(timeout))

    def send(self, data: str | bytes) -> None:
        """Send a message."""
        self.transcript.append(Message("client", data))
        key = "text" if isinstance(data, str) else "bytes"
        self._to_app.put_nowait({"type": "websocket.receive", key: data})

    def send_json(self, value: Any) -> None:
        """Send a value as JSON."""
        self.send(json_module.dumps(value))

    def close(self, code: int = 1000) -> None:
        """Say goodbye."""
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": code})

    def drop(self) -> None:
        """Break the connection: the application is told so without a goodbye, and what it writes fails."""
        self._is_dropped = True
        self._flowing.set()
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1006})

    def stall(self) -> None:
        """Read nothing more: what the application writes waits until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Read on."""
        self._flowing.set()
