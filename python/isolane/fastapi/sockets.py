"""What a socket is written with: a cursor into the streams of its user.

Messages go from the core to the server without a layer between.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import Send
from starlette.websockets import WebSocketDisconnect

from isolane import _core
from isolane._core import EventCursor
from isolane.fastapi.gate import bearer_of
from isolane.fastapi.principal import Principal
from isolane.fastapi.settings import IsolaneSettings
from isolane.security.authentication.errors import AccessRefusedError

if TYPE_CHECKING:
    from isolane.cluster.logs import ClusterLogs
    from isolane.fastapi.application import Isolane

logger = logging.getLogger("isolane.fastapi")

PONG_SECONDS = 10.0
ACK_SECONDS = 15.0
"""How long an ack may be due before the socket is closed for resume."""
RECENT_SECONDS = 60.0
"""A plain client is sent the logs of runs that ended at most this long ago, unless it asks for more."""
EXPIRING_SECONDS = 60.0
"""So long before its sign-in ends a client is told."""
NEVER_SECONDS = 1e9
"""A sign-in that lasts so long does not end by itself."""
MAX_INBOUND_CHARACTERS = 64 * 1024
READ_EVENTS = 64
"""Most events that are written before other tasks get a turn."""

BATCHES = 16
"""Batches after which other tasks get a turn even when each was small."""

WRITE_BYTES = 64 * 1024
"""A message gets the write deadline once for each so many bytes: a large snapshot makes progress that nobody sees."""

RETRY_SECONDS = 0.05
"""Pause before a failed write is tried again; it doubles."""

FINAL_CODES = 4500
"""Codes from here on are final: the client is not to come back."""
PROTOCOL_ERROR = 4500
NOT_AUTHENTICATED = 4501
TOO_MANY_COMMANDS = 4029
NO_PONG = 4012
RESYNC = 4010
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

Reauthenticate = Callable[[Mapping[str, Any]], Awaitable[Principal | None]]

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
        reauthenticate: says who sends a token over the open socket; ``None`` where nobody is asked for one.

    Attributes:
        principal: the user, as signed in now.
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
        reauthenticate: Reauthenticate | None = None,
    ) -> None:
        self.principal = principal
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
        self._reauthenticate = reauthenticate
        self._refreshing: asyncio.Task[None] | None = None
        self._told_of_expiry = False
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
        isolane = self._isolane
        if isolane is not None and isolane.logs is not None and self._asks_later(isolane.logs, text):
            return "sub"
        said = self.cursor.handle(text)
        if said == "auth_refresh":
            self._begin_refresh(json.loads(text))
        if isinstance(said, str):
            return said
        run_id, cid = said
        state = "gone"
        if isolane is not None and isolane.may_command(self.principal, "cancel", run_id):
            state = isolane.cancel_run(self.cursor.user_id, run_id)
            if state == "gone" and isolane.logs is not None:
                # Another worker may have it, of which this one was not told yet.
                work = self._cancel_anywhere(isolane, run_id, cid)
                isolane.keep(asyncio.create_task(work, name="isolane socket cancel"))
                return "cancel"
        self.cursor.answer_cancel(run_id, cid, state)
        return "cancel"

    def _asks_later(self, logs: ClusterLogs, text: str) -> bool:
        """Whether the client asks for a run of which nobody can say now whether it is gone: it is answered later."""
        user_id = self.cursor.user_id
        if logs.is_sure(user_id):
            return False
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return False
        run_id = message.get("s") if isinstance(message, dict) and message.get("t") == "sub" else None
        if not isinstance(run_id, str) or _core.stream_state(user_id, run_id) != "gone":
            return False

        def gone() -> None:
            if self.cursor.close_code is None:
                self.cursor.handle(text)

        # Before the run is there: else it would be sent from its beginning.
        return logs.ask(user_id, run_id, functools.partial(self.cursor.close, RESYNC), gone)

    async def _cancel_anywhere(self, isolane: Isolane, run_id: str, cid: str | None) -> None:
        state = "gone"
        with contextlib.suppress(ConnectionError):
            state = await isolane.cancel_run_anywhere(self.cursor.user_id, run_id)
        self.cursor.answer_cancel(run_id, cid, state)

    def _begin_refresh(self, message: Mapping[str, Any]) -> None:
        """Ask who sends this. One at a time: what comes meanwhile is not looked at."""
        if self._reauthenticate is None or self._isolane is None or self._refreshing is not None:
            return
        self._refreshing = asyncio.create_task(
            self._refresh(self._reauthenticate, message), name="isolane socket refresh"
        )
        self._isolane.keep(self._refreshing)

    async def _refresh(self, reauthenticate: Reauthenticate, message: Mapping[str, Any]) -> None:
        """Go on with the sign-in that the client sends, if it is the same user's. Anything else ends the socket."""
        principal = None
        try:
            principal = await reauthenticate(message)
            code = NOT_AUTHENTICATED
        except AccessRefusedError:
            code = NOT_AUTHENTICATED
        except Exception:
            # The application could not tell: the client is to come back, and sign in then.
            logger.exception("signing in again on a socket failed")
            code = RESYNC
        finally:
            self._refreshing = None
        if principal is None or not self._is_same(principal):
            self.cursor.close(code)
            return
        if self.cursor.close_code is None:
            self.principal = principal
            self._told_of_expiry = False
            left = self._seconds_left()
            self.cursor.auth_refreshed(None if left is None else max(0, round(left * 1000)))
            if self._timer is not None:
                self._timer.cancel()
                self._watch()

    def _is_same(self, principal: Principal) -> bool:
        same = principal.user_id == self.principal.user_id
        if not same and self._isolane is not None:
            self._isolane.gate.note_stranger(self.principal)
        return same

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
        looks.append(self._look_for_expiry(now))
        if self.framed:
            # The server's own protocol pings find dead sockets of plain clients; those answer nothing else.
            looks.append(self._look_for_pong(now))
            looks.append(self._look_for_ack(now))
        self._timer = asyncio.get_running_loop().call_later(max(0.001, min(looks) - now), self._watch)

    def _seconds_left(self) -> float | None:
        """How long the sign-in counts; ``None`` when it does not end by itself."""
        expires_at = self.principal.expires_at
        left = math.inf if expires_at is None else expires_at - _core.unix_time()
        return left if left < NEVER_SECONDS else None

    def _look_for_expiry(self, now: float) -> float:
        """Tell the client that its sign-in ends soon, and end the socket with it. Returns when to look again."""
        left = self._seconds_left()
        if left is None:
            return now + self._write_seconds
        if left <= 0:
            if self.cursor.close_code is None and self._isolane is not None:
                self._isolane.gate.note_expired(self.principal, "expired_on_socket")
            self.cursor.close(NOT_AUTHENTICATED)
            return now + self._write_seconds
        if self.framed and not self._told_of_expiry:
            if left > EXPIRING_SECONDS:
                return now + left - EXPIRING_SECONDS
            self._told_of_expiry = True
            self.cursor.auth_expiring(round(left * 1000))
        return now + left

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
        if self._refreshing is not None:
            self._refreshing.cancel()
        self.cursor.detach()


def _size(message: dict[str, Any]) -> int:
    return len(message.get("text") or message.get("bytes") or "")


__all__ = ["Delivery", "bearer_of", "retry_ms"]
