"""Where the events of one user arrive: a WebSocket of isolane.v1, a plain one, or an event stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isolane.acceptance.app.http import EventStream, RecordedHttp
from isolane.acceptance.app.recorder import Recorder
from isolane.acceptance.app.steps import SocketConfig
from isolane.acceptance.app.tables import filled
from isolane.acceptance.events import MISSING, pointed
from isolane.acceptance.records import Channel
from isolane.acceptance.target import TargetError
from isolane.client.reader import Send, StreamReader, Welcomed
from isolane.client.records import Ended

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

OPEN_SECONDS = 20.0
MAX_BYTES = 32 * 1024 * 1024
_WORD = re.compile(r"[a-z][a-z_ -]{1,60}")


class SocketRefusedError(Exception):
    """The socket was refused: the server said so, or closed it."""


class UserSocket:
    """One connection of a user. What it receives is recorded.

    Args:
        config: how one connects.
        url: of the service, as ``http://...``.
        recorder: keeps what comes.
        number: which connection of the user's it is.
        reader: what knows the positions of isolane.v1, over all connections of a user.
    """

    def __init__(
        self, config: SocketConfig, url: str, recorder: Recorder, number: int, reader: StreamReader | None = None
    ) -> None:
        self.config = config
        self.welcomed = asyncio.Event()
        self._url = url
        self._recorder = recorder
        self._number = number
        self._reader = reader or StreamReader()
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self.channel: Channel | None = None
        self.closed = ""
        """The code with which the server closed it, and its reason where that is a plain word."""

    @property
    def is_open(self) -> bool:
        """Whether it still receives."""
        return self._task is not None and not self._task.done()

    async def open(
        self,
        values: dict[str, str],
        headers: Mapping[str, str],
        http: RecordedHttp,
        query: Mapping[str, str] | None = None,
    ) -> None:
        """Connect, and receive from then on.

        Raises:
            SocketRefusedError: the server refuses.
        """
        config = self.config
        sent = {**filled(headers, values), **filled(config.headers, values)}
        asked = filled({**config.query, **(query or {})}, values)
        if config.protocol == "sse":
            await self._open_stream(filled(config.path, values), sent, asked, http)
            return
        await self._open_socket(values, sent, asked)

    async def _open_socket(self, values: dict[str, str], headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        from urllib.parse import urlencode  # noqa: PLC0415 - beside the other import that is only needed here

        from websockets.asyncio.client import connect  # noqa: PLC0415 - an extra
        from websockets.exceptions import WebSocketException  # noqa: PLC0415 - the same
        from websockets.typing import Subprotocol  # noqa: PLC0415 - the same

        config = self.config
        base = self._url.replace("http", "ws", 1) + filled(config.path, values)
        address = f"{base}?{urlencode(query)}" if query else base
        offered = [Subprotocol(name) for name in filled(config.subprotocols, values)]
        try:
            self._socket = await connect(
                address,
                subprotocols=offered or None,
                additional_headers=dict(headers),
                open_timeout=OPEN_SECONDS,
                close_timeout=1.0,
                max_size=MAX_BYTES,
                proxy=None,
            )
        except (WebSocketException, OSError, TimeoutError) as error:
            raise SocketRefusedError(_refusal(error)) from error
        response = self._socket.response
        if response is not None:
            head = "\n".join(f"{name}: {value}" for name, value in response.headers.raw_items())
            self._recorder.add("header", self.config.path, head, self._number)
        self._reader.connected()
        for message in filled(config.first_send, values):
            await self._socket.send(message)
        self._task = asyncio.create_task(self._receive(self._socket, values), name="acceptance socket")
        if config.protocol == "isolane.v1" or config.first_save:
            await self._await_first()

    async def _await_first(self) -> None:
        waiting = asyncio.create_task(self.welcomed.wait())
        assert self._task is not None  # noqa: S101 - it was made just now
        try:
            await asyncio.wait({waiting, self._task}, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self.welcomed.is_set():
            await self.drop()
            raise SocketRefusedError("it was closed before its first message")

    async def _receive(self, socket: ClientConnection, values: dict[str, str]) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - an extra

        with contextlib.suppress(ConnectionClosed):
            async for data in socket:
                text = data if isinstance(data, str) else _inflated(data)
                receipt = self._recorder.add(self.channel or "frame", self.config.path, text, self._number)
                value = receipt.value
                if isinstance(value, dict):
                    self._first(value, values)
                    if self.config.protocol == "isolane.v1":
                        await self._follow(socket, value)
        # A reason is sent to the user as well.
        self._recorder.add("header", self.config.path, f"close: {socket.close_reason or ''}", self._number)
        word = socket.close_reason or ""
        self.closed = f"{socket.close_code}{f' {word}' if _WORD.fullmatch(word) else ''}"
        self._recorder.wake()

    def _first(self, value: Mapping[str, Any], values: dict[str, str]) -> None:
        if self.welcomed.is_set():
            return
        for name, pointer in self.config.first_save.items():
            found = pointed(value, pointer)
            if found is MISSING:
                return
            values[name] = str(found)
        if self.config.protocol != "isolane.v1":
            self.welcomed.set()

    async def _follow(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        """Do what the protocol asks for, so that the server goes on."""
        for effect in self._reader.receive(frame):
            match effect:
                case Send():
                    await socket.send(json.dumps(effect.frame))
                case Welcomed():
                    self.welcomed.set()
                case Ended():
                    self._recorder.ended[effect.run_id] = effect.outcome
                    self._recorder.wake()
                case _:
                    pass
        if self._reader.ack_due:
            await socket.send(json.dumps(self._reader.take_ack()))

    async def say(self, frame: Mapping[str, Any]) -> None:
        """Send a message of one's own."""
        if self._socket is not None:
            await self._socket.send(json.dumps(frame))

    async def _open_stream(
        self, path: str, headers: Mapping[str, str], query: Mapping[str, str], http: RecordedHttp
    ) -> None:
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(
            self._read_stream(http, path, headers, query, answered), name="acceptance stream"
        )
        both: set[asyncio.Future[Any]] = {answered, self._task}
        await asyncio.wait(both, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        status = answered.result() if answered.done() and not answered.cancelled() else 0
        if status != 200:  # noqa: PLR2004 - HTTP's
            await self.drop()
            raise SocketRefusedError(f"HTTP {status}" if status else "no answer")

    async def _read_stream(
        self,
        http: RecordedHttp,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        answered: asyncio.Future[int],
    ) -> None:
        async with http.stream(path, headers, query) as answer:
            if not answered.done():
                answered.set_result(answer.status_code)
            events = EventStream(self._recorder, self.config.path, self._number)
            try:
                async for chunk in answer.aiter_bytes():
                    events.feed(chunk)
            finally:
                events.end()

    async def drop(self) -> None:
        """Let go of the connection without a word."""
        if self._socket is not None:
            self._socket.transport.abort()
        await self._stop()

    async def close(self) -> None:
        """Close the connection as a client does."""
        if self._socket is not None:
            with contextlib.suppress(Exception):
                await self._socket.close()
        await self._stop()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                # What broke it off was recorded as far as it came.
                self._task.exception()


def _inflated(data: bytes) -> str | bytes:
    """Return a compressed frame as text; what is none stays as it is."""
    try:
        return zlib.decompress(data, wbits=-zlib.MAX_WBITS).decode()
    except (zlib.error, UnicodeDecodeError):
        return data


def _refusal(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if status else type(error).__name__


def require_websockets() -> None:
    """Raise ``TargetError`` that names the extra where websockets is missing."""
    try:
        import websockets  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise TargetError(
            "`isolane accept` needs websockets for [socket]: pip install 'isolane[acceptance]'"
        ) from error
