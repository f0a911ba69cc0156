"""Finds WebSocket frames in a stream of bytes."""

from __future__ import annotations


class FrameScanner:
    """Finds the ends of WebSocket frames in what a server sends, the HTTP answer before them included."""

    def __init__(self) -> None:
        self.frames = 0
        self._head = bytearray()
        self._in_frames = False
        self._body = 0

    def feed(self, data: bytes) -> list[int]:
        """Return the offsets in ``data`` just after which a frame ends."""
        ends = []
        for offset, byte in enumerate(data):
            if self._body:
                self._body -= 1
                ended = not self._body
            else:
                self._head.append(byte)
                ended = self._take_head()
            if ended:
                self.frames += 1
                ends.append(offset + 1)
        return ends

    def _take_head(self) -> bool:
        """Look at the head gathered so far. Returns whether it was that of a frame without a body."""
        if not self._in_frames:
            if self._head.endswith(b"\r\n\r\n"):
                self._in_frames = True
                self._head.clear()
            return False
        if len(self._head) < 2:
            return False
        length = self._head[1] & 0x7F
        extended = {126: 2, 127: 8}.get(length, 0)
        if len(self._head) < 2 + extended:
            return False
        if extended:
            length = int.from_bytes(self._head[2:], "big")
        self._head.clear()
        self._body = length
        return length == 0
