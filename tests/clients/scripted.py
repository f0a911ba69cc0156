"""A WebSocket server that says what a test wants it to say, and writes down what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Frame = dict[str, Any]
PATIENCE = 60.0


def ev(*numbers: int, run: str = "r", epoch: str = "A", critical: bool = False, **more: Any) -> Frame:
    """A frame of events."""
    p = 1 if critical else 2
    entries = [{"n": n, "f": n, "p": p, "ts": n, "id": f"evt_{epoch}_{n}", "ev": {"seq": n, **more}} for n in numbers]
    return {"v": 1, "t": "ev", "s": run, "e": epoch, "b": entries}


def sub(mode: str = "exact", number: int = 0, head: int = 0, *, run: str = "r", epoch: str = "A") -> Frame:
    """The answer to a subscription."""
    return {"v": 1, "t": "sub", "s": run, "e": epoch, "mode": mode, "n": number, "head": head}


def end(number: int, outcome: str = "completed", *, run: str = "r", epoch: str = "A") -> Frame:
    return {"v": 1, "t": "end", "s": run, "e": epoch, "n": number, "outcome": outcome}


def deflated(frame: Frame) -> bytes:
    """Raw deflate, as the protocol has it."""
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(json.dumps(frame).encode()) + squeeze.flush()


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.request = connection.request
        self.heard: list[Frame] = []
        self._waiting: asyncio.Queue[Frame] = asyncio.Queue()
        self._acks: list[Frame] = []

    async def listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self.connection:
                frame = json.loads(text)
                self.heard.append(frame)
                self._waiting.put_nowait(frame)

    async def hears(self, kind: str) -> Frame:
        """The next frame of this kind; others before it are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = await self._waiting.get()
                if frame["t"] == kind:
                    return frame

    async def say(self, *frames: Frame) -> None:
        for frame in frames:
            await self.connection.send(json.dumps(frame))

    async def say_deflated(self, *frames: Frame) -> None:
        for frame in frames:
            await self.connection.send(deflated(frame))

    async def welcome(self, *runs: tuple[str, str], ping_ms: int = 15_000, **more: Any) -> None:
        streams = [{"s": run, "e": epoch, "n": 0, "state": "running", "thread_id": "t"} for run, epoch in runs]
        await self.say({"v": 1, "t": "welcome", "conn": "c", "streams": streams, "ping_ms": ping_ms, **more})

    async def bye(self, code: int, retry_ms: int) -> None:
        await self.say({"v": 1, "t": "bye", "code": code, "retry_ms": retry_ms})
        await self.connection.close(code)


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """Each connection gets the next script; the last one serves all further connections."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.peers: list[Peer] = []
        self.times: list[float] = []
        self.failures: list[BaseException] = []

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        """Serve; gives the address."""
        server = await serve(
            self._serve,
            "127.0.0.1",
            port,
            subprotocols=["isolane.v1"],
            compression=None,
            ping_interval=None,
            close_timeout=1,
        )
        async with server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        assert not self.failures, self.failures

    async def _serve(self, connection: ServerConnection) -> None:
        peer = Peer(connection)
        self.times.append(asyncio.get_running_loop().time())
        script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
        self.peers.append(peer)
        listening = asyncio.create_task(peer.listen())
        try:
            await script(peer)
            await listening
        except ConnectionClosed:
            pass
        except Exception as error:  # noqa: BLE001 - the test is told when the server ends
            self.failures.append(error)
        finally:
            listening.cancel()
            await asyncio.wait({listening})
