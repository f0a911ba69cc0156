"""The WebSocket route: a socket is a cursor into the streams of its user.

Written as a plain ASGI endpoint: messages go from the core to the server without a layer between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from isolane import _core
from isolane._core import SUBPROTOCOL, EventCursor, InvalidContextError
from isolane.fastapi.principal import Principal
from isolane.fastapi.scope import request_scope
from isolane.fastapi.settings import IsolaneSettings

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane

logger = logging.getLogger("isolane.fastapi")

PONG_SECONDS = 10.0
ACK_SECONDS = 15.0
"""How long an ack may be due before the socket is closed for resume."""
RECENT_SECONDS = 60.0
"""A plain client is sent the logs of runs that ended at most this long ago, unless it asks for more."""
MAX_INBOUND_CHARACTERS = 64 * 1024
_POSITION = re.compile(r"(?P<run>[^:]+)|(?P<known>.+):(?P<epoch>[^:]*):(?P<number>[0-9]{1,18})", re.DOTALL)
"""What a plain client names: a run, or a run and how far it has come."""
READ_EVENTS = 64
"""Most events that are written before other tasks get a turn."""

BATCHES = 16
"""Batches after which other tasks get a turn even when each was small."""

WRITE_BYTES = 64 * 1024
"""A message gets the write deadline once for each so many bytes: a large snapshot makes progress that nobody sees."""

RETRY_SECONDS = 0.05
"""Pause before a failed write is tried again; it doubles."""

COMPRESSION = "deflate-raw"
"""What a client asks for with the query parameter ``compress``."""

FINAL_CODES = 4500
"""Codes from here on are final: the client is not to come back."""
PROTOCOL_ERROR = 4500
NOT_AUTHENTICATED = 4501
TOO_MANY_COMMANDS = 4029
NO_PONG = 4012
SLOW = 4008
DRAINING = 4001

REASONS = {
    DRAINING: "draining",
    SLOW: "too slow",
    4010: "resync",
    NO_PONG: "no pong",
    TOO_MANY_COMMANDS: "too many commands",
    PROTOCOL_ERROR: "protocol error",
    NOT_AUTHENTICATED: "unauthenticated",
    4503: "forbidden",
    4504: "replaced by a newer connection",
}
"""What a close code says to a person who looks at the network panel."""

FIRST_RETRY_MS = 500
LAST_RETRY_MS = 10_000


def retry_ms(code: int, sockets: int) -> int:
    """Return when a client is to come back: not all of them at once."""
    spread = max(1000, 5 * sockets)
    # Who gave too many commands waits until as many are allowed again.
    first = 2000 if code == TOO_MANY_COMMANDS else FIRST_RETRY_MS
    return min(LAST_RETRY_MS, first + round(random.random() * spread))  # noqa: S311 - spreads, and hides nothing


class Delivery:
    """Writes a user's events to one socket, and takes what its client says.

    Args:
        settings: its deadlines, and what is agreed with the client.
        principal: the user.
        framed: frames of ``isolane.v1``, or bare messages.
        compresses: the client has asked for compressed frames.
        isolane: cancels the runs that the client wants to end, and knows how many sockets there are.
        retries: try a failed write again, as the settings say; ``False`` where ``send`` does that itself.
    """

    def __init__(
        self,
        settings: IsolaneSettings,
        principal: Principal,
        *,
        framed: bool,
        compresses: bool = False,
        isolane: Isolane | None = None,
        retries: bool = True,
    ) -> None:
        self.cursor = EventCursor(
            principal.user_id,
            framed=framed,
            max_connections=settings.max_connections_per_user,
            acks=framed,
            defers=settings.websocket_enable_batching,
            batching=settings.websocket_enable_batching,
            compresses=compresses and settings.websocket_enable_compression,
        )
        self.framed = framed
        self._isolane = isolane
        self._idle_seconds = settings.websocket_heartbeat_interval / 2
        self._write_seconds = settings.websocket_delivery_timeout
        self._retries = settings.websocket_delivery_retries if retries else None
        self.last_heard = time.monotonic()
        self._asked_at: float | None = None
        self._writer: asyncio.Task[Any] | None = None
        self._writing_since: float | None = None
        self._writing: dict[str, Any] = {}
        self._stuck = False
        self._timer: asyncio.TimerHandle | None = None
        if framed:
            self.cursor.welcome(
                round(self._idle_seconds * 1000), reconnect_attempts=settings.websocket_max_reconnect_attempts
            )

    # -- the client ------------------------------------------------------------------------------------------------

    def heard(self) -> None:
        """The client said something."""
        self.last_heard = time.monotonic()
        self._asked_at = None

    def take(self, text: str) -> bool:
        """Take a text that the client sent. Returns whether it was a frame of ``isolane.v1`` that isolane knows.

        For an application that reads its own socket: what is no such frame is the application's.
        """
        self.heard()
        try:
            return self._handle(text) != "ignored"
        except ValueError:
            return False

    def take_or_close(self, text: str | None) -> bool:
        """Take what the client sent, and close the socket for what breaks the protocol. Returns whether to read on."""
        self.heard()
        if not self.framed:
            return True
        if text is None or len(text) > MAX_INBOUND_CHARACTERS:
            self.cursor.close(PROTOCOL_ERROR)
            return False
        try:
            return self._handle(text) != "refused"
        except ValueError:
            self.cursor.close(PROTOCOL_ERROR)
            return False

    def _handle(self, text: str) -> str:
        said = self.cursor.handle(text)
        if isinstance(said, str):
            return said
        run_id, cid = said
        state = self._isolane.cancel_run(self.cursor.user_id, run_id) if self._isolane is not None else "gone"
        self.cursor.answer_cancel(run_id, cid, state)
        return "cancel"

    # -- writing ---------------------------------------------------------------------------------------------------

    async def write(self, send: Send) -> None:
        """Write until the cursor is closed or the socket is gone. A client that stops reading is closed for resume."""
        cursor = self.cursor
        self._writer = asyncio.current_task()
        self._watch()
        batches, is_written = 0, True
        try:
            while (code := cursor.close_code) is None:
                messages = cursor.read_asgi(READ_EVENTS)
                if not messages:
                    await cursor.wait()
                    continue
                is_written = await self._write_batch(send, messages)
                if not is_written:
                    cursor.close(SLOW)
                batches += 1
                # One client with a full log must not keep the others waiting, nor one that is published to for ever.
                if len(messages) >= READ_EVENTS or batches % BATCHES == 0:
                    await asyncio.sleep(0)
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if is_written:
            cursor.written()
        await self._goodbye(send, code)

    async def _write_batch(self, send: Send, messages: list[dict[str, Any]]) -> bool:
        """Write the messages. Returns whether the client took each of them in time."""
        try:
            for message in messages:
                self._writing = message
                self._writing_since = time.monotonic()
                try:
                    await send(message)
                except (OSError, WebSocketDisconnect):
                    raise
                except Exception as error:
                    if self._retries is None:
                        raise
                    if not await self._write_again(send, message, error, self._retries):
                        return False
        except asyncio.CancelledError:
            # As `asyncio.timeout` does it: a cancellation from elsewhere goes on.
            if self._stuck and self._writer is not None and self._writer.uncancel() == 0:
                return False
            raise
        finally:
            self._writing_since = None
        return True

    async def _write_again(self, send: Send, message: dict[str, Any], error: Exception, retries: int) -> bool:
        """Try a write again that failed, and not because the client is gone. Returns whether it succeeded."""
        for attempt in range(retries):
            self._writing_since = None
            await asyncio.sleep(RETRY_SECONDS * 2**attempt)
            self._writing_since = time.monotonic()
            try:
                await send(message)
            except (OSError, WebSocketDisconnect):
                raise
            except Exception as again:  # noqa: BLE001 - whatever a server raises
                error = again
            else:
                return True
        logger.warning("a socket took no message in %d tries: %s", retries + 1, type(error).__name__)
        return False

    def _watch(self) -> None:
        """Look after the socket: one timer for all of its deadlines, instead of one for each write and each wait."""
        now = time.monotonic()
        looks = [now + self._write_seconds]
        if self._writing_since is not None:
            late = self._writing_since + self._write_seconds * (1 + _size(self._writing) // WRITE_BYTES)
            if now >= late and self._writer is not None:
                self._stuck = True
                self._writer.cancel()
            else:
                looks.append(late)
        if self.framed:
            # The server's own protocol pings find dead sockets of plain clients; those answer nothing else.
            looks.append(self._look_for_pong(now))
            looks.append(self._look_for_ack(now))
        self._timer = asyncio.get_running_loop().call_later(max(0.001, min(looks) - now), self._watch)

    def _look_for_pong(self, now: float) -> float:
        """Ask a silent client whether it is there, or give it up. Returns when to look again."""
        if self._asked_at is None and now - self.last_heard >= self._idle_seconds:
            self._asked_at = now
            self.cursor.ping()
        if self._asked_at is None:
            return self.last_heard + self._idle_seconds
        if now - self._asked_at >= PONG_SECONDS:
            self.cursor.close(NO_PONG)
            return now + self._write_seconds
        return self._asked_at + PONG_SECONDS

    def _look_for_ack(self, now: float) -> float:
        """Give a client up that reads and does not acknowledge. Returns when to look again."""
        overdue = self.cursor.ack_overdue()
        if overdue is None:
            return now + self._write_seconds
        if overdue >= ACK_SECONDS:
            self.cursor.close(SLOW)
            return now + self._write_seconds
        return now + ACK_SECONDS - overdue

    async def _goodbye(self, send: Send, code: int) -> None:
        sockets = len(self._isolane.deliveries) if self._isolane is not None else 1
        # The client may be gone already.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                if self.framed and code < FINAL_CODES:
                    bye = _core.bye_frame(code, retry_ms(code, sockets))
                    await send({"type": "websocket.send", "text": bye})
                await send({"type": "websocket.close", "code": code, "reason": REASONS.get(code, "")})

    def close(self) -> None:
        """Free the cursor, and nothing else."""
        self.cursor.detach()


class EventSocket:
    """The ASGI endpoint of the event stream."""

    def __init__(self, isolane: Isolane) -> None:
        self.isolane = isolane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket until it closes."""
        conn = HTTPConnection(scope)
        principal = await request_scope(conn).principal(conn)
        if (await receive())["type"] != "websocket.connect":
            return
        framed, chosen = _negotiate(scope, conn.query_params)
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        if principal is None:
            # After accepting: a browser shows a script the close code, but not the status of a refused handshake.
            await send({"type": "websocket.close", "code": NOT_AUTHENTICATED, "reason": "unauthenticated"})
            return
        if self.isolane.draining:
            if framed:
                bye = _core.bye_frame(DRAINING, retry_ms(DRAINING, len(self.isolane.deliveries)))
                await send({"type": "websocket.send", "text": bye})
            await send({"type": "websocket.close", "code": DRAINING, "reason": "draining"})
            return
        try:
            compresses = conn.query_params.get("compress") == COMPRESSION
            delivery = Delivery(
                self.isolane.settings, principal, framed=framed, compresses=compresses, isolane=self.isolane
            )
        except InvalidContextError:
            await send({"type": "websocket.close", "code": NOT_AUTHENTICATED, "reason": "invalid user"})
            return
        self.isolane.deliveries.add(delivery)
        try:
            if not framed and (wrong := _subscribe_plain(delivery.cursor, conn.query_params)) is not None:
                await send({"type": "websocket.close", "code": PROTOCOL_ERROR, "reason": wrong})
                return
            await self._serve(delivery, receive, send)
        finally:
            self.isolane.deliveries.discard(delivery)
            delivery.close()

    async def _serve(self, delivery: Delivery, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(delivery.write(send), name="isolane socket writer")
        reader = asyncio.create_task(_read(delivery, receive), name="isolane socket reader")
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and delivery.cursor.close_code is not None:
                # The reader has found a reason to close, which the writer tells the client.
                await asyncio.wait({writer}, timeout=2.0)
        finally:
            for task in (writer, reader):
                task.cancel()
            # Waiting for them does not take on their cancellation, nor lose our own.
            await asyncio.wait({writer, reader})
        for task in (writer, reader):
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, OSError):
                # A socket that goes away while it is written to is no error of ours.
                logger.debug("a socket ended: %s", type(error).__name__)


async def _read(delivery: Delivery, receive: Receive) -> None:
    """Read what the client says until it is gone or breaks the protocol."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        if not delivery.take_or_close(message.get("text")):
            return


def _negotiate(scope: Scope, query: QueryParams) -> tuple[bool, str | None]:
    """Return whether frames are spoken, and the subprotocol to select: a browser wants one of those it offered."""
    offered: list[str] = scope.get("subprotocols") or []
    if query.get("protocol") != "events" and SUBPROTOCOL in offered:
        return True, SUBPROTOCOL
    return False, offered[0] if offered else None


def _size(message: dict[str, Any]) -> int:
    return len(message.get("text") or message.get("bytes") or "")


def _subscribe_plain(cursor: EventCursor, query: QueryParams) -> str | None:
    """Send a plain client the unexpired logs of its user: all live ones and the recent ones, or those it names.

    Returns what is wrong with the query, if anything is; nothing is sent then.
    """
    after = query.getlist("after")
    if after:
        positions = [match for position in after if (match := _POSITION.fullmatch(position)) is not None]
        if len(positions) < len(after):
            return "after: run, or run:epoch:seq, as in event_id"
        for position in positions:
            if (run := position["run"]) is not None:
                cursor.subscribe(run, None, None)
            else:
                cursor.subscribe(position["known"], position["epoch"] or None, int(position["number"]))
        return None
    try:
        since = float(query.get("since", RECENT_SECONDS))
    except ValueError:
        return "since: seconds, such as 300"
    for stream in _core.user_streams(cursor.user_id):
        ago = stream["ended_seconds_ago"]
        if ago is None or ago <= since:
            cursor.subscribe(stream["run_id"])
    return None


def bearer_of(headers: Headers) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header, or of a ``bearer.`` entry of the offered subprotocols.

    A browser cannot send headers with a WebSocket, and a token in the address would stand in every log.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    for entry in headers.get("sec-websocket-protocol", "").split(","):
        name, _, value = entry.strip().partition(".")
        if name == "bearer" and value:
            return value
    return None
