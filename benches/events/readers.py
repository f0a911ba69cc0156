"""Clients of the three ways: what they have read, and the sockets over which they read it.

All parse every message as JSON and hold the numbers against each other, so that none of them is spared a client's work.
"""

import asyncio
import json
import time
from array import array
from typing import Any, cast

from isolane import SUBPROTOCOL

from benches.events.shape import EVENT, Way
from benches.python.sockets import wire
from benches.python.sockets.client import ACK_EVENTS

CRITICAL = 1
"""The class of events that are acknowledged with their frame."""


class BrokenDeliveryError(Exception):
    """An event was lost, came twice or out of order, or the server gave up: nothing can be measured."""


class Reader:
    """A user's client, over all of its sockets."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.read = 0
        self.positions: dict[str, tuple[str, int]] = {}
        """Of each stream its epoch and number, where the way has positions."""
        self.published = array("q")
        self.latencies = array("q")
        self.delays = array("q")
        """From when the event was due, which is before it was published when the server is late."""
        self.wanted = 0
        self.complete: asyncio.Future[int] | None = None

    def copy(self) -> "Reader":
        """Another client with the same position, such as a second tab."""
        other = Reader(self.user)
        other.read, other.positions = self.read, dict(self.positions)
        return other

    def until(self, wanted: int) -> "asyncio.Future[int]":
        """Done when so many events were read, with the clock of that moment."""
        self.wanted = wanted
        self.complete = asyncio.get_running_loop().create_future()
        if self.read >= wanted:
            self.complete.set_result(time.monotonic_ns())
        return self.complete

    def event(self, payload: dict[str, Any], now: int) -> None:
        """The next event was read."""
        if payload["number"] != self.read + 1:
            raise BrokenDeliveryError(f"{self.user} read event {payload['number']} after event {self.read}")
        self.read += 1
        self.published.append(payload["at"])
        self.latencies.append(now - payload["at"])
        self.delays.append(now - payload["due"])
        if self.read == self.wanted and self.complete is not None and not self.complete.done():
            self.complete.set_result(now)

    def failed(self, error: BaseException) -> None:
        """No more will be read."""
        if self.complete is not None and not self.complete.done():
            self.complete.set_exception(error)


class Socket(asyncio.Protocol):
    """A WebSocket. The clock is read when the bytes arrive, before anything is done with them."""

    subprotocol = ""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rest = b""
        self.open = False
        self.dropped = False
        self.transport: asyncio.Transport | None = None

    def target(self) -> str:
        """The path and the query."""
        return f"/ws?user={self.reader.user}"

    def opened(self) -> None:
        """The handshake is done."""

    def heard(self, text: bytes, now: int) -> None:
        """A text was read."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its type.
        self.transport = cast("asyncio.Transport", transport)
        self._write(wire.handshake(self.target(), self.subprotocol))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        try:
            self._received(self.rest + data, now)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits for this socket has to know
            self._failed(error)
            self.drop()

    def _received(self, data: bytes, now: int) -> None:
        if not self.open:
            rest = wire.accepted(data)
            if rest is None:
                self.rest = data
                return
            self.open = True
            data = rest
            self.opened()
        frames, self.rest = wire.complete(data)
        for kind, payload in frames:
            if kind == wire.TEXT:
                self.heard(payload, now)
            elif kind == wire.PING:
                self._write(wire.masked(payload, wire.PONG))
            elif kind == wire.CLOSE:
                raise BrokenDeliveryError(f"{self.reader.user} was closed with {payload!r}")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.dropped:
            self._failed(error or BrokenDeliveryError(f"the socket of {self.reader.user} ended"))

    def _failed(self, error: BaseException) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        self.reader.failed(error)

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def say(self, text: str) -> None:
        """Send a text."""
        self._write(wire.masked(text.encode()))

    def is_ready(self) -> None:
        """Events can come."""
        if not self.ready.done():
            self.ready.set_result(None)

    def drop(self) -> None:
        """As a network that goes away: without a goodbye."""
        self.dropped = True
        if self.transport is not None:
            self.transport.abort()


class BareSocket(Socket):
    """Each text is a message. The position is in the address."""

    def target(self) -> str:
        after = f"&after={self.reader.read}" if self.reader.read else ""
        return f"{super().target()}{after}"

    def opened(self) -> None:
        self.is_ready()

    def heard(self, text: bytes, now: int) -> None:
        self.reader.event(json.loads(text)["payload"], now)


class IdleSocket(BareSocket):
    """Reads nothing. Asks for the subprotocol, so that the server keeps the same header as of isolane's clients."""

    subprotocol = SUBPROTOCOL


class SocketIoSocket(Socket):
    """Engine.IO 4 over a WebSocket from the first moment, and Socket.IO 5 on top."""

    def target(self) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&user={self.reader.user}"

    def heard(self, text: bytes, now: int) -> None:
        if text.startswith(b"42"):
            name, message = json.loads(text[2:])
            if name == EVENT:
                self.reader.event(message["payload"], now)
        elif text == b"2":
            self.say("3")
        elif text.startswith(b"0"):
            self.say("40")
        elif text.startswith(b"40"):
            if self.reader.read:
                self.say(f'42["resume",{self.reader.read}]')
            self.is_ready()
        else:
            raise BrokenDeliveryError(f"{self.reader.user} got {text!r}")


class IsolaneSocket(Socket):
    """`isolane.v1`: subscribes from its positions and acknowledges as the protocol asks for."""

    subprotocol = SUBPROTOCOL

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        self.unacknowledged = 0

    def heard(self, text: bytes, now: int) -> None:
        frame = json.loads(text)
        match frame["t"]:
            case "ev":
                self._events(frame, now)
            case "welcome":
                self._welcome(frame)
            case "sub":
                self._subscribed(frame)
            case "ping":
                self.say('{"t":"pong"}')
            case "snap" | "skip" | "bye" | "end":
                raise BrokenDeliveryError(f"{self.reader.user} got {text[:200]!r}: nothing was to be left out")

    def _welcome(self, frame: dict[str, Any]) -> None:
        for stream in frame["streams"]:
            run = stream["s"]
            epoch, number = self.reader.positions.get(run, (stream["e"], 0))
            self.say(json.dumps({"t": "sub", "s": run, "e": epoch, "n": number}))
        self.is_ready()

    def _subscribed(self, frame: dict[str, Any]) -> None:
        # A run that began after the welcome is followed unasked, as a reset at 0.
        number = self.reader.positions.get(frame["s"], ("", 0))[1]
        if frame["n"] != number:
            raise BrokenDeliveryError(f"{self.reader.user} is at {number} and was answered {frame}")
        self.reader.positions[frame["s"]] = (frame["e"], number)

    def _events(self, frame: dict[str, Any], now: int) -> None:
        run, epoch = frame["s"], frame["e"]
        critical = False
        number = self.reader.positions[run][1]
        for item in frame["b"]:
            if item["n"] <= number:
                continue
            if item["f"] != number + 1:
                raise BrokenDeliveryError(f"{self.reader.user} is at {number} and got {item['f']} to {item['n']}")
            self.unacknowledged += item["n"] - number
            number = item["n"]
            critical = critical or item["p"] == CRITICAL
            self.reader.event(item["ev"]["payload"], now)
        self.reader.positions[run] = (epoch, number)
        if critical or self.unacknowledged >= ACK_EVENTS:
            self.unacknowledged = 0
            self.say(json.dumps({"t": "ack", "s": {run: number}}))


SOCKETS: dict[Way, type[Socket]] = {
    Way.ISOLANE: IsolaneSocket,
    Way.BARE: BareSocket,
    Way.UVICORN: IdleSocket,
    Way.FASTAPI: IdleSocket,
    Way.SOCKETIO: SocketIoSocket,
}
