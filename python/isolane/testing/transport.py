"""An ASGI application in this process, from its start to its end: requests and sockets without a server or a port."""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from isolane.testing.asgi import DEADLINE, App, AsyncWsClient, headers_of, scope_of


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application answered.

    Attributes:
        status: The status code.
        headers: The headers, with names in lower case; of several with one name the last.
        body: All of the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ``ValueError`` when it is none."""
        return json_module.loads(self.body)


class InMemoryTransport:
    """An application in this process, from its start to its end: ``async with InMemoryTransport(app) as transport``.

    Args:
        app: The ASGI application.
        timeout: Seconds that a request, the start and the end wait at most.
    """

    def __init__(self, app: App, *, timeout: float = 30.0) -> None:
        self._app = app
        self._timeout = timeout
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._state: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        """Start the application. Raises ``RuntimeError`` with what it says when it cannot start."""
        self._task = asyncio.create_task(self._live(), name="application")
        try:
            await self._told("startup")
        except BaseException:
            self._task.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        try:
            await self._told("shutdown")
        finally:
            if self._task is not None and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task}, timeout=self._timeout)

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._to_app.get, self._from_app.put)
        except Exception as error:  # noqa: BLE001 - an application without a lifespan raises whatever it likes
            self._from_app.put_nowait({"type": "lifespan.unsupported", "message": repr(error)})
        else:
            self._from_app.put_nowait({"type": "lifespan.ended"})

    async def _told(self, what: str) -> None:
        if self._task is not None and self._task.done() and what == "shutdown":
            # It knows nothing of a start and an end.
            return
        self._to_app.put_nowait({"type": f"lifespan.{what}"})
        async with asyncio.timeout(self._timeout):
            answer = await self._from_app.get()
        if answer["type"] == f"lifespan.{what}.failed":
            raise RuntimeError(f"the application's {what} failed: {answer.get('message', '')}")

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes = b"",
    ) -> Answer:
        """Make a request and wait for all of the answer.

        Args:
            method: Such as ``GET``.
            path: The path, with a query if there is one.
            headers: Request headers.
            json: A body as JSON.
            body: A body of bytes; not with `json`.

        Raises:
            TimeoutError: The answer is not whole in time.
        """
        fields = headers_of(headers)
        if json is not None:
            body = json_module.dumps(json).encode()
            fields.append((b"content-type", b"application/json"))
        fields.append((b"content-length", str(len(body)).encode()))
        scope = scope_of("http", path, fields, method=method.upper(), scheme="http", state=dict(self._state))
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])
        gone = asyncio.Event()
        start: dict[str, Any] = {"status": 500, "headers": []}
        received = bytearray()

        async def receive() -> dict[str, Any]:
            if (part := next(parts, None)) is not None:
                return part
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                received.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    gone.set()

        async with asyncio.timeout(self._timeout):
            await self._app(scope, receive, send)
        answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], answered, bytes(received))

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """``GET``."""
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, json: Any = None, *, headers: Mapping[str, str] | None = None) -> Answer:
        """``POST`` with a body as JSON."""
        return await self.request("POST", path, headers=headers, json=json)

    def websocket(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Iterable[str] = (),
        timeout: float = DEADLINE,
    ) -> AsyncWsClient:
        """A socket, to be opened by ``async with``."""
        return AsyncWsClient(self._app, path, headers=headers, subprotocols=subprotocols, timeout=timeout)
