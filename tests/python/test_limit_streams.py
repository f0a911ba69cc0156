"""Permits of streamed responses, on a real server: released when the response is over, whatever becomes of its body."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from isolane import FairLimiter
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from tests.support.server import serving


class Service:
    """An application with streams under permits, and what happened in it."""

    def __init__(self) -> None:
        self.limiter = FairLimiter(400, 400)
        self.bodies = self.handlers = 0
        self.naive = 0
        """What a counter says that the body's ``finally`` lowers."""
        self.app = FastAPI()
        self.app.add_middleware(BaseHTTPMiddleware, dispatch=self.replace)
        self.app.api_route("/stream", methods=["GET", "HEAD"])(self.stream)
        self.app.get("/whole")(self.whole)

    async def body(self, parts: int, fails: bool, pause: float) -> AsyncIterator[bytes]:
        self.bodies += 1
        try:
            for at in range(parts):
                if fails and at == 2:
                    raise OSError("planted in the body")
                yield b"part\n" * 100
                await asyncio.sleep(pause)
        finally:
            self.naive -= 1

    async def stream(self, parts: int = 3, fails: bool = False, pause: float = 0.0, delay: float = 0.0) -> Any:
        async with self.limiter.slot("ann-of-streams") as permit:
            self.handlers += 1
            self.naive += 1
            if delay:
                # Cancelling is off, as in a handler that does not look.
                time.sleep(delay)  # noqa: ASYNC251
            return permit.bind(StreamingResponse(self.body(parts, fails, pause), media_type="text/plain"))

    async def whole(self) -> Any:
        async with self.limiter.slot("ann-of-streams") as permit:
            return permit.bind(PlainTextResponse("whole"))

    async def replace(self, request: Request, call_next: Any) -> Response:
        """Put another response in the place of the handler's, as a middleware for maintenance does."""
        response = await call_next(request)
        if "replace" in request.query_params:
            return PlainTextResponse("replaced", 503)
        return response

    def left(self) -> int:
        """Permits in use, when those that are on their way back have come."""
        end = time.monotonic() + 20
        while self.limiter.stats()["running"] and time.monotonic() < end:
            time.sleep(0.01)
        return self.limiter.stats()["running"]


@pytest.fixture
def service() -> Iterator[tuple[Service, int]]:
    service = Service()
    with serving(service.app) as port:
        yield service, port


def send(port: int, path: str, method: str = "GET") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


def reset(sock: socket.socket) -> None:
    """Close with a reset, as a client that is gone does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        with contextlib.suppress(http.client.IncompleteRead):
            return answer.status, answer.read()
        return answer.status, b"cut off"


def test_a_stream_holds_its_permit_to_its_last_byte_and_no_longer(service):
    service, port = service
    sock = send(port, "/stream?parts=1000&pause=0.01")
    with contextlib.closing(sock):
        assert sock.recv(100)
        # The handler's block has ended and the headers are sent; the body runs.
        assert service.limiter.stats()["running"] == 1
        reset(sock)
    assert service.left() == 0
    assert ask(port, "/stream") == (200, b"part\n" * 300)
    assert ask(port, "/whole") == (200, b"whole")
    assert service.left() == 0
    stats = service.limiter.stats()
    assert (stats["granted"], stats["released"], stats["leaked"]) == (3, 3, 0)


def test_two_hundred_aborted_connections_leave_no_permit(service):
    """Some are gone before the first byte, when a body never starts and its ``finally`` never runs."""
    service, port = service
    for round_ in range(4):
        sockets = [send(port, "/stream?parts=1000000&pause=0.001&delay=0.001") for _ in range(50)]
        if round_ % 2:
            time.sleep(0.1)
        for sock in sockets:
            reset(sock)
    assert service.left() == 0
    assert service.limiter.stats()["leaked"] == 0
    assert ask(port, "/whole") == (200, b"whole")


def test_a_head_request_runs_no_body_and_leaves_no_permit(service):
    service, port = service
    assert ask(port, "/stream", "HEAD")[0] == 200
    assert service.left() == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_the_body_returns_the_permit(service):
    service, port = service
    with contextlib.suppress(http.client.HTTPException, OSError):
        ask(port, "/stream?fails=1&parts=5")
    assert service.left() == 0
    assert service.bodies == 1


def test_a_response_that_a_middleware_replaces_returns_the_permit(service):
    service, port = service
    for _ in range(20):
        assert ask(port, "/stream?replace=1&parts=100000") == (503, b"replaced")
    assert service.left() == 0
    assert service.handlers == 20


async def test_a_body_that_never_starts_is_where_a_finally_fails():
    """The positive control: without ``bind``, what the generator's ``finally`` returns is never returned."""
    service = Service()

    async def gone() -> None:
        raise ConnectionResetError

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        await gone()

    response = await service.stream()
    assert (service.naive, service.limiter.stats()["running"]) == (1, 1)
    with pytest.raises((ConnectionResetError, ExceptionGroup, Exception)):
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    assert service.bodies == 0
    assert service.naive == 1, "the body's finally has run, so this shows nothing"
    assert service.limiter.stats()["running"] == 0


async def test_a_response_that_is_never_called_returns_the_permit_when_it_is_dropped():
    service = Service()
    response = await service.stream()
    assert service.limiter.stats()["running"] == 1
    del response
    assert service.limiter.stats()["running"] == 0
    assert service.limiter.stats()["leaked"] == 0


# -- whatever can be called --------------------------------------------------------------------------------------------


class Plain:
    """An ASGI application."""

    calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        type(self).calls += 1


class RefusesAttributes(Plain):
    def __setattr__(self, name: str, value: Any) -> None:
        if name != "__class__":
            raise AttributeError(name)
        super().__setattr__(name, value)


class RefusesChange(Plain):
    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("it never changes")


class RefusesHeirs(Plain):
    def __init_subclass__(cls) -> None:
        raise ValueError("nobody derives from it")


class HasSlots:
    """An ASGI application without room for attributes."""

    __slots__ = ()
    calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        HasSlots.calls += 1


def function() -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        application.calls += 1

    application.calls = 0  # type: ignore[attr-defined]
    return application


@pytest.mark.parametrize("make", [Plain, RefusesAttributes, RefusesChange, RefusesHeirs, HasSlots, function])
async def test_a_permit_is_bound_to_whatever_can_be_called(make):
    limiter = FairLimiter(2, 2)
    application = make()
    before, kind = application.calls, type(application)
    bound = limiter.slot_nowait("ann-of-streams").bind(application)
    assert limiter.slot_nowait("ann-of-streams").bind(bound) is bound
    if bound is not application:
        # It was left as it was.
        assert type(application) is kind
        assert "_isolane_permits" not in getattr(application, "__dict__", {})
    assert limiter.stats()["running"] == 2
    await bound({}, None, None)
    assert bound is application or make is not Plain
    assert (application.calls, limiter.stats()["running"]) == (before + 1, 0)


@pytest.mark.parametrize("make", [Plain, RefusesAttributes, RefusesChange, RefusesHeirs, HasSlots, function])
async def test_what_is_bound_and_dropped_gives_its_permit_back(make):
    limiter = FairLimiter(1, 1)
    bound = limiter.slot_nowait("ann-of-streams").bind(make())
    assert limiter.stats()["running"] == 1
    del bound
    assert limiter.stats()["running"] == 0
