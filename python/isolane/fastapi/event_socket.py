"""The WebSocket route: a plain ASGI endpoint, which decides before it accepts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import re
from typing import TYPE_CHECKING

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from isolane import _core
from isolane._core import SUBPROTOCOL, EventCursor, InvalidContextError
from isolane.fastapi import problems
from isolane.fastapi.gate import TICKET, credentials_of
from isolane.fastapi.principal import NotAuthenticatedError, Principal
from isolane.fastapi.scope import request_scope
from isolane.fastapi.sockets import DRAINING, PROTOCOL_ERROR, RECENT_SECONDS, Delivery, retry_ms
from isolane.security.authentication.credentials import Method, is_credential
from isolane.security.authentication.errors import (
    AccessRefusedError,
    CredentialRefusedError,
    SignInLimitError,
    SubprotocolRefusedError,
)

if TYPE_CHECKING:
    from isolane.fastapi.application import Isolane

logger = logging.getLogger("isolane.fastapi")

_POSITION = re.compile(r"(?P<run>[^:]+)|(?P<known>.+):(?P<epoch>[^:]*):(?P<number>[0-9]{1,18})", re.DOTALL)
"""What a plain client names: a run, or a run and how far it has come."""

COMPRESSION = "deflate-raw"
"""What a client asks for with the query parameter ``compress``."""

FIRST_MESSAGE_SECONDS = 5.0
MAX_FIRST_MESSAGE = 16 * 1024
MAX_SILENT = 100
"""Sockets of nobody yet, which have still to send their first message."""

FAMILY = "isolane."
"""What the subprotocols of isolane begin with."""


class EventSocket:
    """The ASGI endpoint of the event stream."""

    def __init__(self, isolane: Isolane) -> None:
        self.isolane = isolane
        self._silent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket until it closes."""
        conn = HTTPConnection(scope)
        if (await receive())["type"] != "websocket.connect":
            return
        accepted = False
        delivery = None
        try:
            framed, chosen = negotiate(scope, conn.query_params)
            principal = await request_scope(conn).principal(conn)
            if principal is None and self._may_say_who(conn):
                await _accept(send, chosen)
                accepted = True
                principal = await self._first_message(conn, receive)
            if principal is None:
                raise NotAuthenticatedError("sign in first")  # noqa: TRY301 - one place refuses
            if not self.isolane.draining:
                # Before it is accepted: who signs out meanwhile is noticed.
                delivery = await self._deliver_all(conn, principal, framed=framed)
        except (AccessRefusedError, NotAuthenticatedError) as error:
            await self._refuse(scope, send, problems.problem_of(error), accepted=accepted)
            return
        if delivery is None:
            if not accepted:
                await _accept(send, chosen)
            await self._leave(send, framed=framed)
            return
        try:
            if not accepted:
                await _accept(send, chosen)
            if not framed and (wrong := _subscribe_plain(delivery.cursor, conn.query_params)) is not None:
                await send({"type": "websocket.close", "code": PROTOCOL_ERROR, "reason": wrong})
                return
            await self._serve(delivery, receive, send)
        finally:
            self.isolane.deliveries.discard(delivery)
            delivery.close()
            self.isolane.depart(delivery.principal)

    async def _deliver_all(self, conn: HTTPConnection, principal: Principal, *, framed: bool) -> Delivery | None:
        """Deliver also what the user's runs on other workers say. ``None`` when this one is to stop by now."""
        if self.isolane.logs is None:
            return self._deliver(conn, principal, framed=framed)
        await self.isolane.arrive(principal)
        delivery = None
        try:
            if not self.isolane.draining:
                delivery = self._deliver(conn, principal, framed=framed)
        finally:
            if delivery is None:
                self.isolane.depart(principal)
        return delivery

    def _deliver(self, conn: HTTPConnection, principal: Principal, *, framed: bool) -> Delivery:
        try:
            delivery = Delivery(
                self.isolane.settings,
                principal,
                framed=framed,
                compresses=conn.query_params.get("compress") == COMPRESSION,
                isolane=self.isolane,
                reauthenticate=functools.partial(self.isolane.gate.of_message, conn),
            )
        except InvalidContextError:
            raise NotAuthenticatedError("not a valid user") from None
        self.isolane.deliveries.add(delivery)
        return delivery

    def _may_say_who(self, conn: HTTPConnection) -> bool:
        """Whether the client shows no credential, and may send it as its first message."""
        shows = TICKET in conn.query_params or credentials_of(conn.headers)
        return self.isolane.gate.takes(Method.MESSAGE) and not shows

    async def _first_message(self, conn: HTTPConnection, receive: Receive) -> Principal | None:
        """Wait for ``{"t": "auth", "token": ...}``. Nothing else is taken before it."""
        if self._silent >= MAX_SILENT:
            raise SignInLimitError
        self._silent += 1
        try:
            async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
                text = (await receive()).get("text") or ""
        except TimeoutError:
            return None
        finally:
            self._silent -= 1
        try:
            message = json.loads(text) if len(text) <= MAX_FIRST_MESSAGE else None
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or message.get("t") != "auth":
            raise CredentialRefusedError('The first message is {"t": "auth", "token": ...}')
        return await self.isolane.gate.of_message(conn, message)

    async def _refuse(self, scope: Scope, send: Send, problem: problems.Problem, *, accepted: bool) -> None:
        """Say no: by an HTTP answer where the server can send one, else by a close code."""
        if not accepted and self.isolane.settings.websocket_accept_then_close:
            # A browser shows a script the close code, but not the status of a refused handshake.
            markers = [entry for entry in scope.get("subprotocols") or [] if not is_credential(entry)]
            await _accept(send, markers[0] if markers else None)
        elif not accepted and "websocket.http.response" in (scope.get("extensions") or {}):
            response = problem.response(problems.correlation_of(HTTPConnection(scope)))
            start = {"type": "websocket.http.response.start", "status": response.status_code}
            await send({**start, "headers": response.raw_headers})
            await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
            return
        # A client that was accepted may be gone again.
        with contextlib.suppress(OSError):
            await send({"type": "websocket.close", "code": problem.close_code, "reason": problem.code})

    async def _leave(self, send: Send, *, framed: bool) -> None:
        """Send the client to another instance: this one is shutting down."""
        if framed:
            bye = _core.bye_frame(DRAINING, retry_ms(DRAINING, len(self.isolane.deliveries)))
            await send({"type": "websocket.send", "text": bye})
        await send({"type": "websocket.close", "code": DRAINING, "reason": "draining"})

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


async def _accept(send: Send, chosen: str | None) -> None:
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})


def negotiate(scope: Scope, query: QueryParams) -> tuple[bool, str | None]:
    """Return whether frames are spoken, and the subprotocol to select: a browser wants one of those it offered.

    A credential is never selected, since the answer would carry it.

    Raises:
        SubprotocolRefusedError: nothing but a credential was offered, or a version of isolane's protocol that this is
            not.
    """
    offered: list[str] = scope.get("subprotocols") or []
    markers = [entry for entry in offered if not is_credential(entry)]
    if offered and not markers:
        raise SubprotocolRefusedError(
            f"Only a credential was offered as a subprotocol, which cannot be selected: offer {SUBPROTOCOL} beside it, "
            "or any other name for bare messages"
        )
    if SUBPROTOCOL in markers:
        return query.get("protocol") != "events", SUBPROTOCOL
    if any(entry.lower().startswith(FAMILY) for entry in markers):
        raise SubprotocolRefusedError(f"This server speaks {SUBPROTOCOL}, which was not offered")
    return False, markers[0] if markers else None


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
