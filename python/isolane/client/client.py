"""The client: it keeps a connection, and hands out what came over it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, cast

from isolane.client.pace import Pace, asked_wait, backoff
from isolane.client.reader import Broken, Bye, Cancelled, Effect, Expiring, Frame, Send, StreamReader, Welcomed
from isolane.client.records import CancelState, Position, Record, Replaced, StateChanged
from isolane.client.sockets import ABNORMAL, MAX_BYTES, Socket, SocketClosedError

WELCOME_SECONDS = 20.0
PONG_SECONDS = 10.0
CLOSE_SECONDS = 3.0
PENDING_CANCELS = 64
STOP_READING = 1024
"""So many records over the buffer the socket is not read any more. A server that minds acks stops before."""
FINAL_CODES = range(4500, 5000)
_REASONS = {
    4501: "not signed in, or the sign-in has expired",
    4503: "forbidden",
    4504: "replaced by a newer connection of the user",
}

OpenSocket = Callable[[], Awaitable[Socket]]
Provider = str | Callable[[], str | Awaitable[str]]
Renew = Callable[[], Awaitable[Frame | None]]


class _Link:
    """One socket, and what waits to be sent on it."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.wake = asyncio.Event()
        self.replies: deque[Frame] = deque()
        self.commands: deque[Frame] = deque()
        self.welcomed = False
        self.silence = WELCOME_SECONDS
        self.retry: float | None = None
        self.renewing: asyncio.Task[None] | None = None

    def command(self, frame: Frame) -> None:
        self.commands.append(frame)
        self.wake.set()


class Client:
    """Follows all runs of a user. Made by `connect`; used as ``async with``.

    One task of its own reads the socket, answers pings and reconnects, whether or not events are being read. What
    comes is buffered. When more than ``buffer`` records wait, the client stops acknowledging, and the server stops
    sending; nothing is lost, it comes when it is read.
    """

    def __init__(
        self,
        open_socket: OpenSocket,
        *,
        buffer: int,
        positions: Mapping[str, Position] | None,
        renew: Renew | None = None,
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer is {buffer}: it takes at least one record")
        self._open_socket = open_socket
        self._renew = renew
        self._buffer = buffer
        self._reader = StreamReader()
        for run_id, position in (positions or {}).items():
            self._reader.restore(run_id, position)
        self._records: deque[Record] = deque()
        self._waiting = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._retry_now = asyncio.Event()
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._finished = False
        self._attempts_allowed = 0
        self._attempts = 0
        self._failures = 0
        self._cancels: dict[str, tuple[str, asyncio.Future[CancelState]]] = {}
        self._last_cid = 0

    async def __aenter__(self) -> Self:
        """Begin to connect. It does not wait for the connection: `StateChanged` tells of it."""
        if self._task is not None:
            raise RuntimeError("a client is entered once: make another with isolane.client.connect")
        self._task = asyncio.create_task(self._run(), name="isolane client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection. Runs go on."""
        task = self._task
        if task is None:
            return
        task.cancel()
        # Waiting for it does not take on its cancellation, nor lose our own.
        await asyncio.wait({task})
        if not task.cancelled() and (failure := task.exception()) is not None:
            raise failure

    async def events(self) -> AsyncIterator[Record]:
        """Yield what comes, in order, until the connection is closed for good or the client is left.

        Yields:
            `Event`, `Skipped`, `Replaced`, `Ended` and `StateChanged`.
        """
        while True:
            while not self._records:
                if self._finished:
                    return
                self._ready.clear()
                await self._ready.wait()
            record = self._records.popleft()
            self._waiting -= _weight(record)
            if self._waiting * 2 <= self._buffer and not self._room.is_set():
                self._room.set()
                if self._link is not None:
                    self._link.wake.set()
            yield record

    async def cancel(self, run_id: str) -> CancelState:
        """Cancel a run of the user, whoever started it and from wherever.

        It may be called again, and after a lost connection it is asked again by itself.

        Args:
            run_id: The run.

        Returns:
            ``accepted``, ``ended`` when it was over already, or ``gone`` when the user has no such run.

        Raises:
            ConnectionError: The client is closed, was not entered, or 64 cancels wait for their answers.
        """
        pending = self._cancels.get(run_id)
        if pending is None:
            if self._finished or self._task is None:
                raise ConnectionError("the client is closed: call cancel within `async with connect(...)`")
            if len(self._cancels) >= PENDING_CANCELS:
                raise ConnectionError(f"{PENDING_CANCELS} cancels wait for their answers: await some of them first")
            self._last_cid += 1
            pending = (str(self._last_cid), asyncio.get_running_loop().create_future())
            self._cancels[run_id] = pending
            if self._link is not None and self._link.welcomed:
                self._link.command(_cancel_frame(run_id, pending[0]))
        # Who stops waiting does not take back what was asked.
        return await asyncio.shield(pending[1])

    def subscribe(self, run_id: str) -> None:
        """Follow a run that the server may not have named. The answer is its events, or `Ended` with ``lost``."""
        self._reader.follow(run_id)
        if self._link is not None and self._link.welcomed:
            frame = self._reader.subscribe(run_id)
            if frame is not None:
                self._link.command(frame)

    def position(self, run_id: str) -> Position | None:
        """Return up to where a run was received, or ``None`` when nothing is known of it.

        Records that wait in the buffer count as received. To go on later from what was dealt with, keep the ``epoch``
        and ``number`` of the latest `Event`, and give them to `connect` as ``positions``.
        """
        return self._reader.position(run_id)

    def reconnect(self) -> None:
        """Try again at once, also after the attempts were used up. Without effect while connected."""
        self._attempts = self._failures = 0
        self._retry_now.set()

    # -- the connection ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                code, reason, retry = await self._connection()
                if code in FINAL_CODES:
                    self._put(StateChanged("closed", code, reason or _REASONS.get(code, ""), final=True))
                    return
                await self._pause(code, reason, retry)
        finally:
            self._finished = True
            self._ready.set()
            self._refuse_cancels("the client is closed")

    async def _pause(self, code: int, reason: str, retry: float | None) -> None:
        """Wait until it is time to connect again."""
        self._retry_now.clear()
        if self._attempts_allowed and self._attempts >= self._attempts_allowed:
            self._refuse_cancels("the connection is lost")
            self._put(StateChanged("closed", code, f"gave up after {self._attempts} attempts"))
            await self._retry_now.wait()
        else:
            delay = backoff(self._failures) if retry is None else asked_wait(retry)
            self._put(StateChanged("waiting", code, reason, delay=delay))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retry_now.wait(), delay)
        # What is not read yet would only grow.
        while self._waiting >= self._buffer:
            self._room.clear()
            await self._room.wait()
        self._attempts += 1
        self._failures += 1

    async def _connection(self) -> tuple[int, str, float | None]:
        """Serve one connection until it is over. Returns the code, the reason, and the seconds to wait if given."""
        self._put(StateChanged("connecting"))
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                socket = await self._open_socket()
        except SocketClosedError as error:
            return error.code, error.reason, None
        except OSError as error:
            # No answer in time, or the function that gives the token has no network.
            return ABNORMAL, str(error) or "the server did not answer", None
        link = self._link = _Link(socket)
        self._reader.connected()
        writer = asyncio.create_task(self._write(link), name="isolane client writer")
        try:
            await self._read(link)
        except SocketClosedError as error:
            return error.code, error.reason, link.retry
        finally:
            self._link = None
            tasks = {task for task in (writer, link.renewing) if task is not None}
            for task in tasks:
                task.cancel()
            with contextlib.suppress(TimeoutError, SocketClosedError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await socket.close()
            await asyncio.wait(tasks)
        raise AssertionError("a socket is read until it is closed")

    async def _read(self, link: _Link) -> None:
        while True:
            while self._waiting >= self._buffer + STOP_READING:
                self._room.clear()
                await self._room.wait()
            try:
                async with asyncio.timeout(link.silence):
                    data = await link.socket.receive()
            except TimeoutError:
                raise SocketClosedError(ABNORMAL, "nothing was heard of the server") from None
            try:
                for effect in self._reader.receive(_decode(data)):
                    self._perform(link, effect)
            except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
                raise SocketClosedError(ABNORMAL, f"a frame cannot be read: {error!r}") from error
            if self._waiting >= self._buffer:
                self._room.clear()
            if self._reader.ack_due:
                link.wake.set()

    async def _write(self, link: _Link) -> None:
        pace = Pace()
        with contextlib.suppress(SocketClosedError):
            while True:
                await link.wake.wait()
                link.wake.clear()
                await self._answer(link)
                while link.commands:
                    # Answers do not wait behind commands that have to.
                    wait = pace.take()
                    if wait:
                        await asyncio.sleep(wait)
                        await self._answer(link)
                    await link.socket.send(_encode(link.commands.popleft()))

    async def _answer(self, link: _Link) -> None:
        while link.replies:
            await link.socket.send(_encode(link.replies.popleft()))
        if self._reader.ack_due and self._room.is_set():
            await link.socket.send(_encode(self._reader.take_ack()))

    def _perform(self, link: _Link, effect: Effect) -> None:
        match effect:
            case Send(frame):
                (link.commands if frame["t"] == "sub" else link.replies).append(frame)
                link.wake.set()
            case Welcomed(attempts, ping_seconds):
                link.welcomed = True
                link.silence = 2 * ping_seconds + PONG_SECONDS
                self._attempts_allowed = attempts
                self._attempts = self._failures = 0
                for run_id, (cid, _) in self._cancels.items():
                    link.command(_cancel_frame(run_id, cid))
                self._put(StateChanged("open"))
            case Cancelled(run_id, cid, state):
                pending = self._cancels.get(run_id)
                if pending is not None and cid in {None, pending[0]}:
                    del self._cancels[run_id]
                    if not pending[1].done():
                        pending[1].set_result(cast("CancelState", state))
            case Expiring():
                self._begin_renewal(link)
            case Bye(retry):
                link.retry = retry
            case Broken(reason):
                raise SocketClosedError(ABNORMAL, reason)
            case _:
                self._put(effect)

    def _begin_renewal(self, link: _Link) -> None:
        if self._renew is not None and (link.renewing is None or link.renewing.done()):
            link.renewing = asyncio.create_task(self._sign_in_again(link, self._renew), name="isolane client renewal")

    async def _sign_in_again(self, link: _Link, renew: Renew) -> None:
        """Send a new credential on the open socket. Without one in time the server closes it for good."""
        failures = 0
        while True:
            try:
                frame = await renew()
            except OSError:
                # No network: there is still time.
                await asyncio.sleep(backoff(failures))
                failures += 1
                continue
            if frame is not None:
                link.command(frame)
            return

    def _put(self, record: Record) -> None:
        self._records.append(record)
        self._waiting += _weight(record)
        self._ready.set()

    def _refuse_cancels(self, why: str) -> None:
        for _, future in self._cancels.values():
            if not future.done():
                future.set_exception(ConnectionError(why))
                # Nobody may be waiting for it any more.
                future.exception()
        self._cancels.clear()


def _weight(record: Record) -> int:
    return max(1, len(record.messages)) if isinstance(record, Replaced) else 1


def _cancel_frame(run_id: str, cid: str) -> Frame:
    return {"t": "cancel", "s": run_id, "cid": cid}


def _encode(frame: Frame) -> str:
    return json.dumps(frame, separators=(",", ":"))


def _decode(data: str | bytes) -> Frame:
    if isinstance(data, bytes):
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        data = inflate.decompress(data, MAX_BYTES).decode()
        if not inflate.eof:
            raise ValueError(f"a compressed frame is cut off, or has over {MAX_BYTES} bytes")
    frame = json.loads(data)
    if not isinstance(frame, dict):
        raise TypeError("a frame is a JSON object")
    return frame


async def value_of(provider: Provider | None) -> str | None:
    """Return a token or ticket. One that is a function is asked for anew."""
    value: Any = provider() if callable(provider) else provider
    if inspect.isawaitable(value):
        value = await value
    return value or None


async def headers_of(token: Provider | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of a handshake."""
    value = await value_of(token)
    return {**(headers or {}), **({"Authorization": f"Bearer {value}"} if value else {})}


async def renewal_of(token: Provider | None, ticket: Provider | None) -> Frame | None:
    """Return the frame that signs in again, or ``None`` where there is no function to ask."""
    if callable(ticket):
        value = await value_of(ticket)
        return {"t": "auth_refresh", "ticket": value} if value else None
    value = await value_of(token) if callable(token) else None
    return {"t": "auth_refresh", "token": value} if value else None
