"""One connection to one server: what is asked goes out in order, and answers come back in that order.

One task writes and keeps the connection, one reads. A call that is not answered in time is given up, and its answer is
read all the same: no answer can reach another call. A connection from which nothing comes for a second is cut.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.redis.call import ASKING, Piece

if TYPE_CHECKING:
    from isolane.cluster.redis.link import Link

LineState = Literal["starting", "up", "down"]

CONNECT_SECONDS = 2.0
STALL_SECONDS = 1.0
"""A connection from which nothing comes for so long, though something is due, is cut."""
LOOK_SECONDS = 0.25
OPEN_SECONDS = 1.0
"""After three calls without an answer nothing is sent for so long; then one question is."""
MISSES = 3
FIRST_DELAY = 0.05
LAST_DELAY = 1.0
WRITE_COMMANDS = 256
"""What is packed at once: the loop gets a turn in between."""
MAX_UNANSWERED = 1024
"""Commands that are under way."""


def close_at_once(connection: AbstractConnection) -> None:
    """Close without waiting for anything, also when the other side takes nothing any more."""
    writer: Any = getattr(connection, "_writer", None)
    if writer is not None:
        with contextlib.suppress(Exception):
            writer.transport.abort()
    with contextlib.suppress(Exception):
        connection._close()  # type: ignore[no-untyped-call] # noqa: SLF001 - disconnect() waits for the other side


async def send(connection: AbstractConnection, packed: list[bytes]) -> None:
    """Send on a connection that is there. The client would make one that was cut again, without its beginning."""
    if not connection.is_connected:
        raise RedisError("the connection was cut")
    await connection.send_packed_command(packed, check_health=False)


class Line:
    """One connection, made again whenever it is lost.

    Args:
        link: what it belongs to; is told of its states.
        make: makes a connection that is not connected yet.
        name: for the log, such as a host and port.
    """

    def __init__(self, link: Link, make: Callable[[], AbstractConnection], name: str) -> None:
        self.name = name
        self.state: LineState = "starting"
        self.reason = ""
        self.tried = asyncio.Event()
        """Set when the first attempt to connect is over."""
        self.connections = 0
        self._link = link
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._outbox: collections.deque[Piece] = collections.deque()
        self._unanswered: collections.deque[tuple[Piece, int, float]] = collections.deque()
        self._wake = asyncio.Event()
        self._connection: AbstractConnection | None = None
        self._misses = 0
        self._probe_at = 0.0
        self._heard = 0.0
        self.answered_at = 0.0
        """When the last answer came."""
        self._watch: asyncio.TimerHandle | None = None
        self._next_probe: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name=f"isolane redis {self.name}")

    async def stop(self) -> None:
        """Cut the connection, and refuse what is left."""
        if ending := self.cancel():
            await asyncio.wait(ending)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cut the connection, and refuse what is left. Returns what comes to its end now."""
        task, self._task = self._task, None
        self._state("down", "stopped")
        self._refuse(self._outbox, "stopped", "the plane was stopped")
        self.cut()
        if task is None:
            return []
        task.cancel()
        return [task]

    def submit(self, piece: Piece) -> None:
        """Send it with what else there is, as soon as the loop has a moment."""
        piece.call.line = self
        if self.state == "down":
            self._link.dropped(piece, PlaneUnavailableError(f"Redis at {self.name} cannot be reached: {self.reason}"))
            return
        self._outbox.append(piece)
        self._wake.set()

    def missed(self) -> None:
        """Note that a call was not answered in time."""
        self._misses += 1
        if self._misses >= MISSES and self.state == "up":
            self._go_down(f"{MISSES} calls in a row were not answered in time")

    def cut(self) -> None:
        """Cut the connection; it is made again."""
        if self._connection is not None:
            close_at_once(self._connection)

    def reset(self, reason: str) -> None:
        """Make the connection again, since what is at its other end is no longer right."""
        if self.state == "up":
            self._state("down", reason)
        self.cut()

    # The connection.

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            connection: AbstractConnection | None = None
            try:
                connection = self._make()
                async with asyncio.timeout(CONNECT_SECONDS):
                    await connection.connect()  # type: ignore[no-untyped-call]
                    await self._link.greet(self, connection)
            except BaseException as error:
                if connection is not None:
                    close_at_once(connection)
                if not isinstance(error, Exception):
                    raise
                self._go_down(str(error) or type(error).__name__)
                self.tried.set()
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come at once
                delay = min(delay * 2, LAST_DELAY)
                continue
            self.connections += 1
            self._connection = connection
            self._heard = began = self._loop.time()
            self._misses = 0
            # It has answered; whether it does so in time is asked at once.
            self._probe_at = 0.0
            self._link.connected(self)
            try:
                self.reason = await self._serve(connection)
            finally:
                self._connection = None
                close_at_once(connection)
                self._lost()
            if self._loop.time() - began > LAST_DELAY:
                delay = FIRST_DELAY
            else:
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_DELAY)

    async def _serve(self, connection: AbstractConnection) -> str:
        """Write until the connection is lost. Returns why it was."""
        reader = asyncio.create_task(self._read(connection), name=f"isolane redis {self.name} answers")
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            while not reader.done():
                self._wake.clear()
                if self.state != "up":
                    self._probe()
                batch = self._take()
                if batch:
                    await self._write(connection, batch)
                    # Between two batches, and so that what this loop owes others is done.
                    await asyncio.sleep(0)
                    continue
                await self._wake.wait()
        except (RedisError, OSError) as error:
            return str(error)
        finally:
            for timer in (self._watch, self._next_probe):
                if timer is not None:
                    timer.cancel()
            self._watch = self._next_probe = None
            reader.cancel()
            await asyncio.wait([reader])
            end = None if reader.cancelled() else reader.exception()
        return "the connection was closed" if end is None else str(end)

    def _take(self) -> list[Piece]:
        """What is sent next. Whom nobody waits for any more is not sent at all."""
        batch: list[Piece] = []
        count = 0
        while self._outbox and count < WRITE_COMMANDS and len(self._unanswered) + count < MAX_UNANSWERED:
            piece = self._outbox.popleft()
            if piece.call.done:
                self._link.dropped(piece, None)
                continue
            batch.append(piece)
            count += len(piece.commands)
        return batch

    async def _write(self, connection: AbstractConnection, batch: list[Piece]) -> None:
        now = self._loop.time()
        packed: list[bytes] = []
        if not self._unanswered:
            self._heard = now
        for piece in batch:
            if piece.call.sent is None:
                piece.call.sent = now
            if piece.asking:
                for at, command in enumerate(piece.packed):
                    packed += (ASKING, command)
                    self._unanswered += ((piece, -1, now), (piece, at, now))
                continue
            packed += piece.packed
            self._unanswered.extend((piece, at, now) for at in range(len(piece.commands)))
        if self._watch is None:
            self._watch = self._loop.call_later(LOOK_SECONDS, self._look)
        await send(connection, packed)

    async def _read(self, connection: AbstractConnection) -> None:
        """Read answers until the connection is lost, also while none is due: its end is noticed at once."""
        while True:
            try:
                reply = await connection.read_response()
            except ResponseError as error:
                reply = error
            self._heard = self.answered_at = self._loop.time()
            if not self._unanswered:
                raise RedisError("an answer came that nobody asked for")
            piece, at, _ = self._unanswered.popleft()
            if len(self._unanswered) == MAX_UNANSWERED - 1:
                self._wake.set()
            if not piece.call.done:
                self._misses = 0
            if at >= 0:
                self._link.answered(self, piece, at, reply)

    # How it is.

    def _probe(self) -> None:
        """Ask a question, now and then, while the server is not believed to answer in time."""
        now = self._loop.time()
        if now >= self._probe_at:
            self._probe_at = now + OPEN_SECONDS
            self._outbox.appendleft(self._link.question(self._probed))
        if self._next_probe is not None:
            self._next_probe.cancel()
        self._next_probe = self._loop.call_later(self._probe_at - now, self._wake.set)

    def _probed(self, asked: asyncio.Future[Any]) -> None:
        self.tried.set()
        if asked.cancelled() or asked.exception() is not None or self._connection is None:
            return
        self._misses = 0
        self._state("up", "")

    def _look(self) -> None:
        self._watch = None
        if not self._unanswered or self._connection is None:
            return
        now = self._loop.time()
        if now - max(self._heard, self._unanswered[0][2]) > STALL_SECONDS:
            heard, connection = self._heard, self._connection
            # The loop may have been held up: what has come is read first.
            self._loop.call_later(0.01, self._cut_stalled, connection, heard)
            return
        self._watch = self._loop.call_later(LOOK_SECONDS, self._look)

    def _cut_stalled(self, connection: AbstractConnection, heard: float) -> None:
        if connection is not self._connection:
            return
        if heard == self._heard:
            self._go_down(f"nothing came from Redis for {STALL_SECONDS:g} s")
            close_at_once(connection)
        elif self._watch is None:
            self._watch = self._loop.call_later(LOOK_SECONDS, self._look)

    def _go_down(self, reason: str) -> None:
        self._probe_at = self._loop.time() + OPEN_SECONDS if self._connection is not None else 0.0
        self._state("down", reason)
        self._refuse(self._outbox, "down", f"Redis at {self.name} cannot be reached: {reason}")
        self._wake.set()

    def _lost(self) -> None:
        """What was sent may have been done. What was not yet waits for the next connection, or its deadline."""
        lost, self._unanswered = self._unanswered, collections.deque()
        told: set[int] = set()
        for piece, at, _ in lost:
            if at >= 0 and id(piece) not in told:
                told.add(id(piece))
                error = PlaneUnavailableError("the connection to Redis was lost before the answer", "lost", sent=True)
                self._link.dropped(piece, error)

    def _refuse(self, outbox: collections.deque[Piece], reason: str, text: str) -> None:
        while outbox:
            self._link.dropped(outbox.popleft(), PlaneUnavailableError(text, reason))

    def _state(self, state: LineState, reason: str) -> None:
        if state == "down":
            self.reason = reason
        if state != self.state:
            self.state = state
            self._link.changed(self)
