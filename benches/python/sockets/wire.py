"""The bytes of a WebSocket, as a client reads and writes them."""

import base64
import os
import struct

TEXT = 0x1
CLOSE = 0x8
PING = 0x9
PONG = 0xA

Frame = tuple[int, bytes]
"""Its opcode and its payload."""


def handshake(target: str, subprotocol: str = "") -> bytes:
    """The request that opens a socket. No compression is offered."""
    request = [
        f"GET {target} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
    ]
    return "\r\n".join([*request, "", ""]).encode()


def accepted(received: bytes) -> bytes | None:
    """What follows the server's answer to the handshake; none while that is not complete.

    Raises `ConnectionError` when the server refused."""
    if b"\r\n\r\n" not in received:
        return None
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(head.decode(errors="replace"))
    return rest


def complete(received: bytes) -> tuple[list[Frame], bytes]:
    """The frames that are complete, and the bytes after them."""
    end = len(received)
    at = 0
    frames: list[Frame] = []
    while end - at >= 2:
        size, start = received[at + 1], at + 2
        if size == 126:
            if end - at < 4:
                break
            size, start = (received[at + 2] << 8) | received[at + 3], at + 4
        elif size == 127:
            if end - at < 10:
                break
            (size,) = struct.unpack_from("!Q", received, at + 2)
            start = at + 10
        if end - start < size:
            break
        frames.append((received[at] & 0x0F, received[start : start + size]))
        at = start + size
    return frames, received[at:]


def masked(data: bytes, kind: int = TEXT) -> bytes:
    """A frame of a client. The mask is of zeros: the server takes it off, and nobody has to put it on."""
    if len(data) < 126:
        head = bytes([0x80 | kind, 0x80 | len(data)])
    else:
        head = bytes([0x80 | kind, 0x80 | 126]) + struct.pack("!H", len(data))
    return head + b"\0\0\0\0" + data
