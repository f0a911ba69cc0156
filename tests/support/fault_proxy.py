"""A TCP proxy on the loopback that does to connections what networks do: cut, stall, swallow, slow down, refuse.

```python
async with FaultProxy(port_of_the_server) as proxy:
    connect(f"ws://127.0.0.1:{proxy.port}/ws")
    proxy.cut()
```

Faults act on what comes from the server, unless they say otherwise. Each connection draws from a generator of its own,
seeded by the proxy's seed and the number of the connection: what happens to one does not hang on the others.
All methods are called on the loop that runs the proxy; ``FaultProxy.threadsafe`` gives them to other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import random
import socket
import struct
import termios
from collections.abc import Callable, Coroutine
from typing import Any, Self

from tests.support.frame_scanner import FrameScanner

Carry = Callable[[socket.socket, socket.socket], Coroutine[Any, Any, None]]

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: closing sends a reset instead of an end."""
OUT_SECONDS = 1.0
"""How long a planned cut waits for the kernel to hand over the bytes before it."""


class Link:
    """One connection of a client, and the proxy's own to the server behind it."""

    def __init__(self, proxy: FaultProxy, number: int, client: socket.socket) -> None:
        self.proxy = proxy
        self.number = number
        self.client = client
        self.server: socket.socket | None = None
        self.draw = random.Random(f"{proxy.seed}:{number}")
        self.swallowing = False
        self.closed = False
        self.bytes_left: int | None = None
        self.frames_left: int | None = None
        self.inside = 0
        self.scanner: FrameScanner | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Carry bytes both ways until the connection is over."""
        loop = asyncio.get_running_loop()
        try:
            self.server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self.server.setblocking(False)
            # Small buffers, so that a client which stops reading is felt by the server soon.
            for sock, option in ((self.server, socket.SO_RCVBUF), (self.client, socket.SO_SNDBUF)):
                sock.setsockopt(socket.SOL_SOCKET, option, self.proxy.buffer_bytes)
            for sock in (self.server, self.client):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(self.server, ("127.0.0.1", self.proxy.upstream_port))
            self.tasks = [
                asyncio.create_task(self._guard(self._up, self.client, self.server), name=f"proxy {self.number} up"),
                asyncio.create_task(
                    self._guard(self._down, self.server, self.client), name=f"proxy {self.number} down"
                ),
            ]
            await asyncio.gather(*self.tasks)
        except OSError:
            # The server does not listen.
            self.close(reset=True)
        finally:
            self.close(reset=False)

    async def _guard(self, carry: Carry, source: socket.socket, sink: socket.socket) -> None:
        """Make a reset on one side a reset on the other; of a half-open connection neither hears of the other."""
        try:
            await carry(source, sink)
        except OSError:
            if not self.swallowing:
                self.close(reset=True)

    def close(self, *, reset: bool) -> None:
        """Close both sides, with a reset or an end."""
        if self.closed:
            return
        self.closed = True
        self.proxy.links.discard(self)
        here = asyncio.current_task()
        for task in self.tasks:
            if task is not here:
                task.cancel()
        loop = asyncio.get_running_loop()
        for sock in (self.client, self.server):
            if sock is None or sock.fileno() < 0:
                continue
            # Before the number of the descriptor belongs to another socket.
            loop.remove_reader(sock)
            loop.remove_writer(sock)
            with contextlib.suppress(OSError):
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()

    async def _up(self, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, CHUNK):
            if not self.swallowing:
                if self.proxy.delay_seconds:
                    await asyncio.sleep(self.proxy.delay_seconds)
                await loop.sock_sendall(sink, data)
        self._ended(sink)

    async def _down(self, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        proxy = self.proxy
        while True:
            await self.flowing.wait()
            rate = proxy.bytes_per_second
            # A slow link takes little at a time, or its sleep would come in lumps.
            data = await loop.sock_recv(source, max(64, int(rate / 20)) if rate else CHUNK)
            if not data:
                break
            await self.flowing.wait()
            if self.swallowing:
                continue
            if proxy.delay_seconds:
                await asyncio.sleep(proxy.delay_seconds)
            for piece in self._pieces(data):
                cut = self._cut_within(piece)
                sent = piece if cut is None else piece[:cut]
                if sent and not self.swallowing:
                    await loop.sock_sendall(sink, sent)
                    proxy.bytes_down += len(sent)
                if cut is not None:
                    await self._handed_over(sink)
                    proxy.cuts += 1
                    self.close(reset=True)
                    return
                if rate:
                    await asyncio.sleep(len(sent) / rate)
        self._ended(sink)

    def _pieces(self, data: bytes) -> list[bytes]:
        """What is written at once: everything, or pieces of drawn lengths."""
        longest = self.proxy.longest_piece
        if not longest:
            return [data]
        pieces, at = [], 0
        while at < len(data):
            length = self.draw.randint(1, longest)
            pieces.append(data[at : at + length])
            at += length
        return pieces

    def _cut_within(self, piece: bytes) -> int | None:
        """After how many bytes of the piece the connection is to be cut, if within it."""
        cuts = []
        if self.bytes_left is not None:
            if self.bytes_left <= len(piece):
                cuts.append(self.bytes_left)
            self.bytes_left -= len(piece)
        if self.proxy.bytes_left is not None:
            if self.proxy.bytes_left <= len(piece):
                cuts.append(self.proxy.bytes_left)
                self.proxy.bytes_left = None
            else:
                self.proxy.bytes_left -= len(piece)
        if self.scanner is not None and self.frames_left is not None:
            for end in self.scanner.feed(piece):
                self.frames_left -= 1
                if self.frames_left == 0:
                    # Into the next frame, should it be in this piece or a later one.
                    if end + self.inside <= len(piece):
                        cuts.append(end + self.inside)
                    else:
                        self.bytes_left = end + self.inside - len(piece)
        return min(cuts, default=None)

    async def _handed_over(self, sink: socket.socket) -> None:
        """Wait until the other kernel has what was written: a reset throws away the rest."""
        until = asyncio.get_running_loop().time() + OUT_SECONDS
        while asyncio.get_running_loop().time() < until:
            waiting = struct.unpack("i", fcntl.ioctl(sink.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
            if not waiting:
                return
            await asyncio.sleep(0.001)

    def _ended(self, sink: socket.socket) -> None:
        if not self.swallowing:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


class FaultProxy:
    """Forwards connections on the loopback to a server there, until it is told to do harm.

    Args:
        upstream_port: Where the server listens.
        seed: Of everything that is drawn.
        buffer_bytes: Of the kernel's buffers between proxy, server and client; the smaller, the sooner the server
            feels that nobody reads.
    """

    def __init__(self, upstream_port: int, *, seed: int = 0, buffer_bytes: int = 16 * 1024) -> None:
        self.upstream_port = upstream_port
        self.seed = seed
        self.buffer_bytes = buffer_bytes
        self.port = 0
        self.links: set[Link] = set()
        self.accepted = 0
        self.refused = 0
        self.cuts = 0
        self.bytes_down = 0
        self.bytes_per_second: float = 0
        self.delay_seconds = 0.0
        self.longest_piece = 0
        self.bytes_left: int | None = None
        self._refusing = False
        self._paused = False
        self._lives: tuple[int, int] | None = None
        self._frames: tuple[int, int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        # No task: one that is cancelled between two steps would lose the connection that it has just been given.
        self._loop.add_reader(self._listener, self._accept, self._listener)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._listener is not None and self._loop is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        self._close(reset=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Faults that act on the connections that are open.

    def cut(self) -> int:
        """Reset every open connection, on both sides. Returns how many there were."""
        return self._close(reset=True)

    def hang_up(self) -> int:
        """End every open connection, on both sides, without a reset. Returns how many there were."""
        return self._close(reset=False)

    def half_open(self) -> int:
        """Swallow both ways from now on, with the open sockets left open: nobody is told. New connections work."""
        for link in self.links:
            link.swallowing = True
        return len(self.links)

    def pause(self) -> None:
        """Stop reading from the server, for open and new connections: its writes fill the buffers, then wait."""
        self._paused = True
        for link in self.links:
            link.flowing.clear()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        for link in self.links:
            link.flowing.set()

    # Plans: when a connection will be cut.

    def cut_after(self, count: int) -> None:
        """Cut, once, the connection over which the server's ``count``-th byte from now comes, just after that byte."""
        self.bytes_left = count

    def cut_after_frames(self, frames: int, *, inside: int = 0) -> None:
        """Cut the next connection after so many WebSocket frames from the server, or ``inside`` bytes into the next."""
        self._frames = (frames, inside)

    def cut_each(self, low: int, high: int) -> None:
        """Cut each new connection after a number of bytes that is drawn from the range; ``cut_each(0, 0)`` stops it."""
        self._lives = (low, high) if high else None

    # What holds for all connections from now on.

    def throttle(self, bytes_per_second: float) -> None:
        """Let so much through from the server on each connection; 0 is without a limit."""
        self.bytes_per_second = bytes_per_second

    def delay(self, seconds: float) -> None:
        """Hold back what is forwarded, both ways, for so long."""
        self.delay_seconds = seconds

    def chop(self, longest: int) -> None:
        """Forward what the server sends in pieces of drawn lengths, up to ``longest`` bytes; 0 is as it comes."""
        self.longest_piece = longest

    def refuse(self) -> None:
        """Reset new connections as soon as they are made. Open ones stay."""
        self._refusing = True

    def accept(self) -> None:
        """Take new connections again."""
        self._refusing = False

    def heal(self) -> None:
        """Take back everything that was planned or holds for all connections. What was swallowed stays lost."""
        self.accept()
        self.resume()
        self.throttle(0)
        self.delay(0)
        self.chop(0)
        self.bytes_left = self._frames = self._lives = None

    @property
    def open(self) -> int:
        """How many connections are open, half-open ones included."""
        return len(self.links)

    def threadsafe(self, method: Callable[..., Any], *arguments: Any, timeout: float = 10.0) -> Any:
        """Call one of the methods from another thread than the loop's, and wait for what it returns."""
        if self._loop is None:
            raise RuntimeError("the proxy has not been started: use it as `async with FaultProxy(port)`")

        async def call() -> Any:
            return method(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout)

    def _close(self, *, reset: bool) -> int:
        links = list(self.links)
        for link in links:
            link.close(reset=reset)
        self.cuts += len(links)
        return len(links)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            # Gone already.
            return
        client.setblocking(False)
        if self._refusing:
            self.refused += 1
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        self.accepted += 1
        link = Link(self, self.accepted, client)
        if self._paused:
            link.flowing.clear()
        if self._lives is not None:
            link.bytes_left = link.draw.randint(*self._lives)
        if self._frames is not None:
            link.frames_left, link.inside = self._frames
            link.scanner = FrameScanner()
            self._frames = None
        self.links.add(link)
        task = asyncio.create_task(link.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
