"""A client of `isolane.v1` for tests: it keeps the rule of the protocol, and records everything in a history.

It does no more than the rule asks for, so that a test may make it do less: leave acks out, read slowly, lie about its
position, or send what it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.support.event_history import History

ACK_EVENTS = 32


class FinalCloseError(Exception):
    """The server closed with a code after which nobody is to come back."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed for good with {code}")
        self.code = code


class FramedClient:
    """One tab of a user, over all of its connections.

    Args:
        port: of the server, or of a proxy before it.
        user: who it is.
        history: where it records.
        name: of the client; one for each tab.
        acks: whether it sends acks.
        read_pause: seconds between two frames.
        silence: after so long without a frame it takes the connection for dead.
        asks: whether it subscribes to what the welcome names.
        complete: whether the checker shall ask that it has seen everything.
        query: added to the address.
    """

    def __init__(
        self,
        port: int,
        user: str,
        history: History,
        name: str,
        *,
        acks: bool = True,
        read_pause: float = 0.0,
        silence: float = 5.0,
        asks: bool = True,
        complete: bool = True,
        query: str = "",
    ) -> None:
        self.url = f"ws://127.0.0.1:{port}/ws{query}"
        self.user = user
        self.name = name
        self.acks = acks
        self.read_pause = read_pause
        self.silence = silence
        self.asks = asks
        self.log = history.client(name, user, complete=complete)
        self.draw = random.Random(name)
        self.socket: ClientConnection | None = None
        self.positions: dict[str, tuple[str, int]] = {}
        self.messages: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.ended: dict[str, str] = {}
        self.gone: set[str] = set()
        self.modes: list[str] = []
        self.cancels: list[dict[str, Any]] = []
        self.byes: list[dict[str, Any]] = []
        self.codes: list[int | None] = []
        self.welcome: dict[str, Any] = {}
        self.connections = 0
        self.frames = 0
        self._asked_again: set[str] = set()
        self._unacked: dict[str, int] = {}
        self._unacked_events = 0

    # One connection.

    async def connect(self) -> None:
        """Open a connection."""
        self.socket = await connect(
            self.url,
            subprotocols=["isolane.v1", f"bearer.{self.user}"],
            compression=None,
            ping_interval=None,
            max_size=None,
            open_timeout=20,
            close_timeout=0.5,
            proxy=None,
        )
        self.connections += 1
        self._unacked, self._unacked_events = {}, 0
        self._asked_again.clear()
        self.log.opened()

    async def say(self, **frame: Any) -> None:
        """Send a frame and record it."""
        socket = self._socket()
        self.log.sent(frame)
        await socket.send(json.dumps(frame))

    async def subscribe(self, stream: str, epoch: Any = None, number: Any = None) -> None:
        """Ask for a stream, from a position if one is given."""
        await self.say(
            t="sub", s=stream, **({} if epoch is None else {"e": epoch}), **({} if number is None else {"n": number})
        )

    async def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """Take the next frame, and do what the rule says. Raises ``ConnectionClosed`` and ``TimeoutError``."""
        socket = self._socket()
        async with asyncio.timeout(self.silence if seconds is None else seconds):
            data = await socket.recv()
        text = data if isinstance(data, str) else zlib.decompress(data, wbits=-15).decode()
        frame: dict[str, Any] = json.loads(text)
        again = self._apply(frame)
        self.frames += 1
        self.log.got(text, self.positions)
        await self._answer(frame, again)
        return frame

    def _socket(self) -> ClientConnection:
        if self.socket is None:
            raise ConnectionError("there is no connection")
        return self.socket

    def drop(self) -> None:
        """Forget the connection without a word."""
        if self.socket is not None:
            self.socket.transport.abort()
            self.socket = None

    def reload(self) -> None:
        """Forget everything, as a page that is loaded again."""
        self.drop()
        self.log.forgot()
        for kept in (self.positions, self.messages, self.ended, self.gone):
            kept.clear()

    # All of them.

    async def follow(self, until: Callable[[FramedClient], bool], *, seconds: float = 30.0) -> None:
        """Read, and come back whenever the connection breaks, until the condition holds.

        Raises:
            TimeoutError: it does not within the time.
            FinalCloseError: the server does not want the client back.
        """
        async with asyncio.timeout(seconds):
            while not until(self):
                try:
                    if self.socket is None:
                        await self.connect()
                    while not until(self):
                        await self.receive()
                        if self.read_pause:
                            await asyncio.sleep(self.read_pause)
                except (websockets.WebSocketException, OSError, TimeoutError, EOFError) as error:
                    self._broken(error)
                    await asyncio.sleep(self.draw.uniform(0.005, 0.03))

    def _broken(self, error: Exception) -> None:
        code = None
        if isinstance(error, websockets.ConnectionClosed) and error.rcvd is not None:
            code = error.rcvd.code
        self.codes.append(code)
        self.drop()
        if code is not None and 4500 <= code < 5000:
            raise FinalCloseError(code) from error

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self.socket is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self.socket.close()
            self.drop()

    # The rule.

    def _apply(self, frame: dict[str, Any]) -> str | None:
        """Move the position. Returns the stream that must be subscribed to again, if any."""
        match frame["t"]:
            case "welcome":
                self.welcome = frame
            case "sub":
                self._subscribed(frame)
            case "ev":
                return self._events(frame)
            case "skip":
                epoch, known = self.positions.get(frame["s"], (None, 0))
                if epoch == frame["e"] and frame["n"] > known and frame["s"] not in self._asked_again:
                    if frame["f"] != known + 1:
                        return frame["s"]
                    self.positions[frame["s"]] = (frame["e"], frame["n"])
            case "snap":
                epoch, known = self.positions.get(frame["s"], (None, 0))
                if epoch == frame["e"] and frame["n"] <= known:
                    # It asked from further back than it was, or was sent more before the answer came.
                    return None
                self.positions[frame["s"]] = (frame["e"], frame["n"])
                self.messages[frame["s"]] = list(frame["b"])
            case "end":
                self.ended[frame["s"]] = frame["outcome"]
            case "cancel":
                self.cancels.append(frame)
            case "bye":
                self.byes.append(frame)
        return None

    def _subscribed(self, frame: dict[str, Any]) -> None:
        name, mode = frame["s"], frame["mode"]
        self.modes.append(mode)
        self._asked_again.discard(name)
        if mode == "gone":
            self.gone.add(name)
            self.positions.pop(name, None)
        elif mode == "exact" and self.positions.get(name, ("",))[0] != frame["e"]:
            self.positions[name] = (frame["e"], frame["n"])
        elif mode == "reset" or self.positions.get(name, ("",))[0] != frame["e"]:
            self.positions[name] = (frame["e"], 0)
            self.messages[name] = []
            self.ended.pop(name, None)

    def _events(self, frame: dict[str, Any]) -> str | None:
        name = frame["s"]
        for entry in frame["b"]:
            epoch, known = self.positions.get(name, (None, 0))
            if epoch != frame["e"] or entry["n"] <= known or name in self._asked_again:
                continue
            if entry["f"] != known + 1:
                return name
            self.positions[name] = (frame["e"], entry["n"])
            self.messages[name].append(entry["ev"])
        return None

    async def _answer(self, frame: dict[str, Any], again: str | None) -> None:
        if frame["t"] == "welcome" and self.asks:
            listed = [stream["s"] for stream in frame["streams"]]
            unfinished = [name for name in self.positions if name not in listed and name not in self.ended]
            for name in [*listed, *unfinished]:
                if name not in self.ended:
                    await self.subscribe(name, *self.positions.get(name, (None, None)))
        if frame["t"] == "ping":
            await self.say(t="pong")
        if again is not None:
            self._asked_again.add(again)
            await self.subscribe(again, *self.positions.get(again, (None, None)))
        await self._acknowledge(frame)

    async def _acknowledge(self, frame: dict[str, Any]) -> None:
        if not self.acks or frame["t"] not in {"ev", "snap", "skip"} or frame["s"] not in self.positions:
            return
        self._unacked[frame["s"]] = self.positions[frame["s"]][1]
        critical = frame["t"] == "snap" or any(entry["p"] == 1 for entry in frame.get("b", ()))
        self._unacked_events += len(frame.get("b", (1,)))
        if critical or self._unacked_events >= ACK_EVENTS:
            await self.say(t="ack", s=self._unacked)
            self._unacked, self._unacked_events = {}, 0
