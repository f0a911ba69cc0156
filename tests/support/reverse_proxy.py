"""A reverse proxy on the loopback that serves an application under a prefix, as nginx does with ``location /prefix/``.

It takes the prefix off, adds what such proxies add, and passes bodies on as they come, so that streams stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

MAX_HEAD = 64 * 1024
HOP_BY_HOP = {b"connection", b"keep-alive", b"upgrade"}


class ReverseProxy:
    """Serves what is at ``upstream`` under ``prefix``. ``upstream`` may be changed while it runs.

    Args:
        upstream: the port of the server.
        prefix: such as ``/tools/agents``; without a slash at its end.
        forwarded: whether it says for whom it asks (``X-Forwarded-*``).
        keep_host: whether the server is told the name that the client asked for, or its own.
    """

    def __init__(self, upstream: int, prefix: str, *, forwarded: bool = True, keep_host: bool = True) -> None:
        self.upstream = upstream
        self.prefix = prefix.encode()
        self.forwarded = forwarded
        self.keep_host = keep_host
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of a client, and its answer. Each connection carries one."""
        try:
            await self._serve(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            # The client went away.
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request, *headers = head[:-4].split(b"\r\n")
        method, path, version = request.split(b" ")
        if path != self.prefix and not path.startswith(self.prefix + b"/"):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        path = path.removeprefix(self.prefix) or b"/"
        await self._pass(reader, writer, b" ".join((method, path, version)), headers)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, headers: list[bytes]
    ) -> None:
        try:
            back, out = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        try:
            fields = [
                (name.strip().lower(), value.strip()) for name, _, value in (each.partition(b":") for each in headers)
            ]
            kept = [(name, value) for name, value in fields if name not in HOP_BY_HOP]
            host = dict(kept).get(b"host", b"")
            if not self.keep_host:
                kept = [pair for pair in kept if pair[0] != b"host"] + [(b"host", b"127.0.0.1:%d" % self.upstream)]
            if self.forwarded:
                peer = writer.get_extra_info("peername")[0].encode()
                kept += [(b"x-forwarded-for", peer), (b"x-forwarded-proto", b"http"), (b"x-forwarded-host", host)]
                kept.append((b"x-forwarded-prefix", self.prefix))
            kept.append((b"connection", b"close"))
            out.write(b"\r\n".join([request, *(name + b": " + value for name, value in kept)]) + b"\r\n\r\n")
            length = int(dict(kept).get(b"content-length", b"0"))
            if length:
                out.write(await reader.readexactly(length))
            await out.drain()
            while piece := await back.read(64 * 1024):
                writer.write(piece)
                await writer.drain()
        finally:
            out.close()
            with contextlib.suppress(ConnectionError):
                await out.wait_closed()


@contextlib.contextmanager
def proxied(upstream: int, prefix: str, **options: bool) -> Iterator[ReverseProxy]:
    """A proxy in a thread of its own for the length of a block; its ``port`` is a free one."""
    proxy = ReverseProxy(upstream, prefix, **options)
    ready = threading.Event()
    held: dict[str, Any] = {}

    async def run() -> None:
        held["loop"], held["over"] = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(proxy.serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=MAX_HEAD)
        proxy.port = server.sockets[0].getsockname()[1]
        ready.set()
        await held["over"].wait()
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the proxy did not start")
    try:
        yield proxy
    finally:
        held["loop"].call_soon_threadsafe(held["over"].set)
        thread.join(10)
