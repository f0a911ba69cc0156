"""A WebSocket client that reads and counts, and does as little else as it can: the server is what is measured."""

import base64
import os
import socket
import struct
from types import TracebackType
from typing import Self

from isolane import SUBPROTOCOL

TEXT = 0x1
CLOSE = 0x8
CHUNK = 1 << 20
PATIENCE = 30.0
EVENT = b'"ev":{'
"""What each event has once in a frame of the subprotocol."""


class Client:
    """One socket."""

    def __init__(self, port: int, target: str, *, framed: bool) -> None:
        self.framed = framed
        self.read = 0
        self.rest = b""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = [
            f"GET {target} HTTP/1.1",
            "Host: 127.0.0.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *([f"Sec-WebSocket-Protocol: {SUBPROTOCOL}"] if framed else []),
        ]
        self.socket.sendall("\r\n".join([*request, "", ""]).encode())
        while b"\r\n\r\n" not in self.rest:
            self._receive()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(head.decode(errors="replace"))

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
        rest = self.rest
        end = len(rest)
        at = 0
        texts = []
        while end - at >= 2:
            size, start = rest[at + 1], at + 2
            if size == 126:
                if end - at < 4:
                    break
                size, start = (rest[at + 2] << 8) | rest[at + 3], at + 4
            elif size == 127:
                if end - at < 10:
                    break
                (size,) = struct.unpack_from("!Q", rest, at + 2)
                start = at + 10
            if end - start < size:
                break
            kind = rest[at] & 0x0F
            if kind == TEXT:
                texts.append(rest[start : start + size])
            elif kind == CLOSE:
                raise ConnectionError(
                    f"the server closed with {rest[start : start + size]!r} after {self.read} messages"
                )
            at = start + size
        self.rest = rest[at:]
        return texts

    def read_until(self, messages: int) -> None:
        """Return when so many events were read, from the beginning."""
        while self.read < messages:
            texts = self.frames()
            self.read += sum(text.count(EVENT) for text in texts) if self.framed else len(texts)
        if self.read > messages:
            raise ConnectionError(f"{self.read} messages were read, {messages} were to come")

    def first_text(self) -> bytes:
        """The payload of the first text frame, after which the server waits for an answer."""
        while True:
            texts = self.frames()
            if texts:
                return texts[0]

    def say(self, text: str) -> None:
        data = text.encode()
        mask = b"\0\0\0\0"
        if len(data) < 126:
            head = bytes([0x80 | TEXT, 0x80 | len(data)])
        else:
            head = bytes([0x80 | TEXT, 0x80 | 126]) + struct.pack("!H", len(data))
        self.socket.sendall(head + mask + data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
