"""The one connection on which hints come: something may be new, go and look. Hints get lost; all look by themselves."""

from __future__ import annotations

import asyncio
import logging
import random

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from isolane.cluster.protocols import HintHandler
from isolane.cluster.redis.call import pack
from isolane.cluster.redis.line import CONNECT_SECONDS, FIRST_DELAY, LAST_DELAY, close_at_once, send
from isolane.cluster.redis.link import Link

logger = logging.getLogger("isolane.cluster")

PING_SECONDS = 2.0
DEAF_SECONDS = 6.0
"""A connection on which nothing was heard for so long, pings and all, is cut."""


class Subscriber:
    """Listens to channels, on a connection that is made again whenever it is lost.

    A handler gets the payload of a hint, or ``b""`` after a time in which hints may have been lost. It is called on the
    loop, and must not wait.
    """

    def __init__(self, link: Link) -> None:
        self.connections = 0
        self.heard = 0
        self._link = link
        self._handlers: dict[bytes, HintHandler] = {}
        self._changed = asyncio.Event()
        self._there: set[bytes] = set()
        self._failing: set[bytes] = set()
        self._last = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name="isolane redis hints")

    async def stop(self) -> None:
        """Cut the connection."""
        if ending := self.cancel():
            await asyncio.wait(ending)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cut the connection. Returns what comes to its end now."""
        task, self._task = self._task, None
        if task is None:
            return []
        task.cancel()
        return [task]

    def listen(self, channel: bytes, handler: HintHandler) -> None:
        """Call the handler with each hint of the channel."""
        if channel in self._handlers:
            raise ValueError(f"somebody listens to {channel.decode()} already")
        self._handlers[channel] = handler
        self._changed.set()

    def unlisten(self, channel: bytes) -> None:
        """Call it no more. Nothing happens when nobody listens."""
        self._handlers.pop(channel, None)
        self._changed.set()

    @property
    def channels(self) -> int:
        """How many channels are listened to."""
        return len(self._handlers)

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            connection: AbstractConnection | None = None
            try:
                connection = self._link.any_connection()
                async with asyncio.timeout(CONNECT_SECONDS):
                    await connection.connect()  # type: ignore[no-untyped-call]
                self.connections += 1
                delay = FIRST_DELAY
                await self._serve(connection)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next connection may do
                logger.debug("the connection for hints was lost: %s", error)
            finally:
                if connection is not None:
                    close_at_once(connection)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come at once
            delay = min(delay * 2, LAST_DELAY)

    async def _serve(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        self._there.clear()
        self._last = loop.time()
        pinged = loop.time()
        reader = asyncio.create_task(self._read(connection), name="isolane redis hints heard")
        reader.add_done_callback(lambda _: self._changed.set())
        try:
            while not reader.done():
                self._changed.clear()
                commands = self._differences()
                if loop.time() - pinged >= PING_SECONDS:
                    pinged = loop.time()
                    commands.append(("PING",))
                if commands:
                    async with asyncio.timeout(DEAF_SECONDS):
                        await send(connection, [pack(command) for command in commands])
                    continue
                timer = loop.call_later(max(0.01, pinged + PING_SECONDS - loop.time()), self._changed.set)
                await self._changed.wait()
                timer.cancel()
                if loop.time() - self._last > DEAF_SECONDS:
                    # The loop may have been held up: what has come is read first.
                    await asyncio.sleep(0.01)
                    if loop.time() - self._last > DEAF_SECONDS:
                        return
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    def _differences(self) -> list[tuple[bytes | str, ...]]:
        wanted = set(self._handlers)
        more, less = wanted - self._there, self._there - wanted
        self._there = wanted
        commands: list[tuple[bytes | str, ...]] = []
        if more:
            commands.append(("SUBSCRIBE", *more))
        if less:
            commands.append(("UNSUBSCRIBE", *less))
        return commands

    async def _read(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                message = await connection.read_response()
            except ResponseError as error:
                # Not allowed to, for one: everybody looks by itself.
                raise RedisError(str(error)) from None
            self._last = loop.time()
            if not isinstance(message, list) or len(message) != 3:  # noqa: PLR2004 - a kind, a channel, and what it says
                continue
            kind, channel, payload = message
            if kind == b"message":
                self.heard += 1
                self._tell(channel, payload)
            elif kind == b"subscribe":
                # From here on nothing is missed; before, something may have been.
                self._tell(channel, b"")

    def _tell(self, channel: bytes, payload: bytes) -> None:
        handler = self._handlers.get(channel)
        if handler is None:
            return
        try:
            handler(payload)
        except Exception:
            if channel not in self._failing:
                self._failing.add(channel)
                logger.exception("what listens to %s failed; it is not told of again", channel.decode())
