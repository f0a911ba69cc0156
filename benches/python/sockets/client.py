"""A WebSocket client that reads and counts, and does as little else as it can: the server is what is measured."""

import json
import re
import socket
from types import TracebackType
from typing import Self

from isolane import SUBPROTOCOL

from benches.python.sockets import wire

CHUNK = 1 << 20
PATIENCE = 30.0
EVENT = b'"ev":{'
"""What each event has once in a frame of the subprotocol."""
STREAM = re.compile(rb'"t":"ev","s":"([^"]+)"')
NUMBER = b'{"n":'
"""What stands before the number of each event."""
ACK_EVENTS = 32
"""Events after which the server waits for an acknowledgement."""


class Client:
    """One socket."""

    def __init__(self, port: int, target: str, *, framed: bool) -> None:
        self.framed = framed
        self.read = 0
        self.acknowledged = 0
        self.latest: dict[str, int] = {}
        self.rest = b""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(wire.handshake(target, SUBPROTOCOL if framed else ""))
        while (rest := wire.accepted(self.rest)) is None:
            self._receive()
        self.rest = rest

    def _receive(self) -> None:
        chunk = self.socket.recv(CHUNK)
        if not chunk:
            raise ConnectionError(f"the server closed the socket after {self.read} messages")
        self.rest += chunk

    def frames(self) -> list[bytes]:
        """The payloads of the text frames that are there; waits for the next chunk when there is none."""
        texts = self._complete()
        if not texts:
            self._receive()
            texts = self._complete()
        return texts

    def _complete(self) -> list[bytes]:
        frames, self.rest = wire.complete(self.rest)
        for kind, payload in frames:
            if kind == wire.CLOSE:
                raise ConnectionError(f"the server closed with {payload!r} after {self.read} messages")
        return [payload for kind, payload in frames if kind == wire.TEXT]

    def read_until(self, messages: int) -> None:
        """Return when so many events were read, from the beginning."""
        while self.read < messages:
            texts = self.frames()
            if self.framed:
                self._count(texts)
            else:
                self.read += len(texts)
        if self.read > messages:
            raise ConnectionError(f"{self.read} messages were read, {messages} were to come")

    def _count(self, texts: list[bytes]) -> None:
        """Count the events of frames, and acknowledge them as the subprotocol asks for. Nothing is parsed for it."""
        for text in texts:
            events = text.count(EVENT)
            stream = STREAM.search(text, 0, 300)
            if events and stream is not None:
                self.read += events
                number = text[text.rindex(NUMBER) + len(NUMBER) :].partition(b",")[0]
                self.latest[stream[1].decode()] = int(number)
        if self.read - self.acknowledged >= ACK_EVENTS:
            self.acknowledged = self.read
            self.say(json.dumps({"t": "ack", "s": self.latest}))
            self.latest = {}

    def first_text(self) -> bytes:
        """The payload of the first text frame, after which the server waits for an answer."""
        while True:
            texts = self.frames()
            if texts:
                return texts[0]

    def say(self, text: str) -> None:
        self.socket.sendall(wire.masked(text.encode()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
