"""Event streams (server-sent events): the events of one run over HTTP, for clients that cannot speak WebSocket."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.responses import StreamingResponse

from isolane._core import EventCursor, InvalidContextError, unix_time, user_streams
from isolane.fastapi.principal import NotAuthenticatedError, Principal
from isolane.fastapi.scope import request_scope
from isolane.fastapi.settings import IsolaneSettings
from isolane.fastapi.sockets import DRAINING, FINAL_CODES, NOT_AUTHENTICATED, READ_EVENTS, retry_ms
from isolane.security.authentication.errors import AccessRefusedError

ServerSentEvent: Any
EventSourceResponse: Any
try:
    from fastapi.sse import EventSourceResponse, ServerSentEvent
except ImportError:
    # Before FastAPI 0.135.
    ServerSentEvent = EventSourceResponse = None

PING_SECONDS = 10.0
"""After so long without an event a comment is sent, so that nothing between server and client takes it for dead."""

FINAL_RETRY_MS = 60_000
"""An `EventSource` comes back even after a code that means not to: then not before this."""

Record = tuple[str, str, str | None, int | None]
"""Type, data, id and the time after which to reconnect, in milliseconds."""


class EventStream:
    """The events of one run, for one client. Counts among the user's connections.

    Args:
        settings: how many connections a user has, and whether what is not urgent waits.
        principal: the user.
        run_id: the run.
        last_event_id: the id of the last record that the client has; empty for all of them.

    Attributes:
        principal: the user.
        cursor: where the client is; ``None`` when there is nothing to read.
        mode: ``exact``, ``snapshot``, ``reset`` or ``gone``; ``None`` for a client that was told the end already.
    """

    def __init__(self, settings: IsolaneSettings, principal: Principal, run_id: str, last_event_id: str = "") -> None:
        self.principal = principal
        self.cursor: EventCursor | None = None
        self.mode: str | None = "gone"
        self._is_over = False
        # Before it counts among the user's connections: it may take the place of another.
        known = next((stream for stream in user_streams(principal.user_id) if stream["run_id"] == run_id), None)
        if known is None:
            # Raises for what is no user.
            EventCursor(principal.user_id, max_connections=1 << 30).detach()
        else:
            told_all = known["outcome"] is not None and last_event_id == f"{run_id}:{known['epoch']}:end"
            self.mode = None
            if not told_all:
                self.cursor = EventCursor(
                    principal.user_id,
                    max_connections=settings.max_connections_per_user,
                    defers=settings.websocket_enable_batching,
                    records=True,
                )
                self.mode = self.cursor.subscribe_after(run_id, last_event_id)
        self._says_reset = self.mode == "reset"

    async def records(self) -> list[Record | None]:
        """Return what to send next; ``None`` among it is a sign of life. Nothing once all is told."""
        cursor = self.cursor
        if cursor is None:
            return []
        if self._says_reset:
            self._says_reset = False
            return [("isolane.reset", "{}", None, None)]
        while not self._is_over:
            left = self._seconds_left()
            if left <= 0:
                cursor.close(NOT_AUTHENTICATED)
            code = cursor.close_code
            if code is not None:
                self._is_over = True
                # An `EventSource` comes back by itself, whatever the code: when, it can be told.
                after = retry_ms(code, 1) if code < FINAL_CODES else FINAL_RETRY_MS
                return [("isolane.bye", json.dumps({"code": code, "retry_ms": after}), None, after)]
            records = cursor.read_records(READ_EVENTS)
            if records:
                self._is_over = records[-1][0] == "isolane.end"
                return [(event, data, event_id, None) for event, data, event_id in records]
            try:
                async with asyncio.timeout(min(PING_SECONDS, left)):
                    await cursor.wait()
            except TimeoutError:
                if left > PING_SECONDS:
                    return [None]
        cursor.written()
        return []

    def _seconds_left(self) -> float:
        """How long the sign-in counts."""
        expires_at = self.principal.expires_at
        return math.inf if expires_at is None else expires_at - unix_time()

    def close(self) -> None:
        """Free the cursor, and nothing else. The stream is not used after that."""
        if self.cursor is not None:
            self.cursor.detach()
        # A generator that was left in the middle may hold the stream for some turns of the loop.
        self.cursor = None


class _Leaving:
    """What a client is told while the service is shutting down: an `EventSource` never comes back after a 503."""

    def __init__(self) -> None:
        self._is_over = False

    async def records(self) -> list[Record | None]:
        """Return that it is to come back later, once."""
        if self._is_over:
            return []
        self._is_over = True
        after = retry_ms(DRAINING, 1)
        return [("isolane.bye", json.dumps({"code": DRAINING, "retry_ms": after}), None, after)]


def encode(record: Record | None) -> bytes:
    """Return a record as it is sent, or the comment that is sent without one."""
    if record is None:
        return b": ping\n\n"
    event, data, event_id, retry = record
    lines = [f"event: {event}", f"data: {data}"]
    if event_id is not None:
        lines.append(f"id: {event_id}")
    if retry is not None:
        lines.append(f"retry: {retry}")
    return "\n".join([*lines, "", ""]).encode()


async def open_stream(request: Request, run_id: str) -> AsyncIterator[EventStream | _Leaving]:
    """The stream that a request asks for, until its response is over."""
    scope = request_scope(request)
    try:
        principal = await scope.principal(request, by_ticket=True)
    except AccessRefusedError as error:
        # Whatever the application does with isolane's exceptions, the stream is not opened.
        raise HTTPException(error.status_code, str(error), {"WWW-Authenticate": "Bearer"}) from None
    if principal is None:
        raise HTTPException(401, "Sign in first", {"WWW-Authenticate": "Bearer"})
    if scope.isolane.draining:
        yield _Leaving()
        return
    try:
        await scope.isolane.arrive(principal)
    except NotAuthenticatedError as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None
    try:
        after = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")
        try:
            stream = EventStream(scope.isolane.settings, principal, run_id, after)
        except InvalidContextError:
            raise HTTPException(401, "Not a valid user") from None
        if stream.mode is None:
            # Tells an `EventSource` not to come back.
            raise HTTPException(204)
        if stream.mode == "gone":
            stream.close()
            logs = scope.isolane.logs
            if logs is not None and not logs.is_sure(principal.user_id):
                # Another worker may have it, and cannot be asked now.
                yield _Leaving()
                return
            raise HTTPException(404, "Not found")
        scope.isolane.deliveries.add(stream)
        try:
            yield stream
        finally:
            scope.isolane.deliveries.discard(stream)
            stream.close()
    finally:
        scope.isolane.depart(principal)


OpenStream = Annotated[EventStream | _Leaving, Depends(open_stream)]


async def stream_events(stream: OpenStream) -> AsyncIterator[Any]:
    """The route, by FastAPI's own support of event streams."""
    while records := await stream.records():
        for record in records:
            if record is None:
                yield ServerSentEvent(comment="ping")
            else:
                event, data, event_id, retry = record
                yield ServerSentEvent(event=event, raw_data=data, id=event_id, retry=retry)


async def stream_bytes(stream: OpenStream) -> StreamingResponse:
    """The route without that support: the same bytes."""

    async def body() -> AsyncIterator[bytes]:
        while records := await stream.records():
            yield b"".join(encode(record) for record in records)

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


def add_event_streams(app: FastAPI, prefix: str) -> None:
    """Add the route of event streams to an application. Without a prefix there is none."""
    if not prefix:
        return
    path = f"{prefix.rstrip('/')}/{{run_id}}"
    name = "isolane_event_stream"
    if EventSourceResponse is not None:
        route: Any = stream_events
        app.add_api_route(path, route, response_class=EventSourceResponse, name=name, include_in_schema=False)
    else:
        app.add_api_route(path, stream_bytes, response_model=None, name=name, include_in_schema=False)
