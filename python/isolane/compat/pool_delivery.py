"""The way from a user's logs to a socket of the host's pool. Writing itself is ``isolane.fastapi.sockets.Delivery``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.websockets import WebSocketDisconnect

from isolane._core import _refusal, user_streams
from isolane.compat.protocols import ConnectionPool, PooledSocket
from isolane.compat.websocket_records import ConnectionStatus, WebSocketFactoryConfig
from isolane.fastapi.principal import Principal
from isolane.fastapi.settings import IsolaneSettings
from isolane.fastapi.sockets import RECENT_SECONDS, Delivery

logger = logging.getLogger("isolane.compat")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
MAX_POSITIONS = 512
"""Runs whose positions a socket remembers before those of expired logs are dropped."""


class SocketLostError(ConnectionError):
    """A socket takes no more messages."""


class Listener(Protocol):
    """Who wants to know what a socket was sent."""

    def delivered(self, run_id: str, number: int, event_id: str, retries: int) -> None:
        """A message was written to the socket."""

    def status_changed(self, link: SocketLink) -> None:
        """The delivery does better or worse."""


class _Known:
    """What a socket has been sent so far: by run, the epoch of the log and the latest number."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.positions: dict[str, tuple[str, int]] = {}


_sockets: weakref.WeakKeyDictionary[PooledSocket, _Known] = weakref.WeakKeyDictionary()
"""Positions live as long as the socket they are of: a second emitter on a socket does not send everything again."""


def _known(websocket: PooledSocket, user_id: str) -> _Known:
    try:
        known = _sockets.get(websocket)
        if known is None:
            known = _sockets[websocket] = _Known(user_id)
    except TypeError:
        # Neither hashable nor weakly referenced: such a socket is sent the recent logs with each link.
        return _Known(user_id)
    if known.user_id != user_id:
        raise _refusal(
            "the pool returned a socket that carries another user's events; a socket belongs to one user", "bind"
        )
    return known


def is_gone(websocket: Any) -> bool:
    """Return whether a socket says of itself that it is closed. One that has no such state is taken to be open."""
    states = (getattr(websocket, "client_state", None), getattr(websocket, "application_state", None))
    return any(getattr(state, "name", None) == "DISCONNECTED" for state in states)


class SocketLink:
    """Writes one user's events to one connection of the pool, from the user's logs.

    A write that fails is tried again on the same socket. When the socket is lost, the pool is asked for the connection
    again, and delivery goes on where it stopped. What could not be written stays in the logs.
    """

    def __init__(
        self,
        user_id: str,
        connection_id: str,
        pool: ConnectionPool,
        config: WebSocketFactoryConfig,
        settings: IsolaneSettings,
    ) -> None:
        self.user_id = user_id
        self.connection_id = connection_id
        self.status = ConnectionStatus.INITIALIZING
        self.reconnect_attempts = 0
        self.last_write: datetime | None = None
        self._pool = pool
        self._config = config
        self._settings = settings
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._websocket: PooledSocket | None = None
        self._known = _Known(user_id)
        self._delivery: Delivery | None = None
        self._task: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether events are being delivered, or the socket is being looked for."""
        return self._task is not None and not self._task.done()

    @property
    def is_used(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    # -- who listens -----------------------------------------------------------------------------------------------

    async def attach(self, websocket: PooledSocket) -> None:
        """Begin to deliver to a socket, unless that is what is going on already."""
        known = _known(websocket, self.user_id)
        while not (self.is_running and websocket is self._websocket):
            if self._task is None:
                self._begin(websocket, known)
            else:
                # Another call may have begun while this one waited.
                await self.close()

    def begin(self, websocket: PooledSocket) -> None:
        """Begin to deliver, at once, with a link that delivers nothing yet. Raises as ``attach`` does."""
        if self._task is not None:
            raise RuntimeError("this link delivers already; use attach")
        self._begin(websocket, _known(websocket, self.user_id))

    def _begin(self, websocket: PooledSocket, known: _Known) -> None:
        self._use(websocket, known)
        self._delivery = Delivery(self._settings, Principal(self.user_id), framed=False, retries=False)
        self._subscribe(self._delivery)
        self._task = asyncio.create_task(self._run(self._delivery), name="isolane pool delivery")
        self._set(ConnectionStatus.HEALTHY)

    def listen(self, listener: Listener, forgotten: Callable[[], None]) -> None:
        """Tell ``listener`` what is delivered; ``forgotten`` is called when it is collected without ``unlisten``."""
        self._listeners.add(listener)
        loop = asyncio.get_running_loop()

        def tell() -> None:
            # Collected by whatever thread; an ended loop has nothing left to close.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(forgotten)

        weakref.finalize(listener, tell).atexit = False

    def unlisten(self, listener: Listener) -> None:
        """Tell ``listener`` no more."""
        self._listeners.discard(listener)

    async def drain(self, heads: Mapping[str, tuple[str, int]], seconds: float) -> bool:
        """Wait until the socket was sent each run up to its epoch and number in ``heads``. Returns whether it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.is_running and not self._has_sent(heads):
                    self._progress.clear()
                    await self._progress.wait()
        return self._has_sent(heads)

    def _has_sent(self, heads: Mapping[str, tuple[str, int]]) -> bool:
        return all(self._has(run, *head) for run, head in heads.items())

    def _has(self, run_id: str, epoch: str, head: int) -> bool:
        known, number = self._known.positions.get(run_id, (epoch, 0))
        return known == epoch and number >= head

    def stop(self) -> asyncio.Task[None] | None:
        """Stop delivering, at once. Returns the task that is being cancelled, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._set(ConnectionStatus.CLOSED)
        if self._delivery is not None:
            self._delivery.close()
            self._delivery = None
        return task

    async def close(self) -> None:
        """Stop delivering, and wait until that is so. The socket stays as it is."""
        task = self.stop()
        if task is not None:
            # Waiting does not take on the task's cancellation, nor lose our own.
            await asyncio.wait({task})

    # -- delivering ------------------------------------------------------------------------------------------------

    def _use(self, websocket: PooledSocket, known: _Known) -> None:
        self._websocket = websocket
        self._known = known

    def _set(self, status: ConnectionStatus) -> None:
        self.status = status
        for listener in list(self._listeners):
            listener.status_changed(self)
        self._progress.set()

    def _subscribe(self, delivery: Delivery) -> None:
        """Go on where the socket is; a new one is sent the live runs and those that ended a short time ago."""
        for stream in user_streams(self.user_id):
            epoch, number = self._known.positions.get(stream["run_id"], ("", 0))
            if epoch == stream["epoch"]:
                delivery.cursor.subscribe(stream["run_id"], epoch, number)
            elif stream["ended_seconds_ago"] is None or stream["ended_seconds_ago"] <= RECENT_SECONDS:
                delivery.cursor.subscribe(stream["run_id"])

    async def _run(self, delivery: Delivery) -> None:
        try:
            while True:
                try:
                    await delivery.write(self._send)
                except SocketLostError as error:
                    logger.warning("a socket of the pool takes no messages: %s", error)
                    if not await self._find_again():
                        break
                    self._subscribe(delivery)
                else:
                    # Closed for a reason that the client was told: it was too slow, or replaced by a newer socket.
                    break
        except Exception:
            logger.exception("delivering to a socket of the pool ended with an error")
        delivery.close()
        self._set(ConnectionStatus.FAILED)

    async def _find_again(self) -> bool:
        """Ask the pool for the connection. A new socket is sent what any new socket is sent."""
        for attempt in range(self._config.max_reconnect_attempts):
            self.reconnect_attempts += 1
            self._set(ConnectionStatus.UNHEALTHY)
            await asyncio.sleep(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE))
            connection = await self._pool.get_connection(self.connection_id, self.user_id)
            websocket = getattr(connection, "websocket", None)
            if websocket is not None and not is_gone(websocket):
                self._use(websocket, _known(websocket, self.user_id))
                return True
        return False

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        """Write one ASGI message to the host's socket."""
        websocket = self._websocket
        if websocket is None:
            raise SocketLostError("the pool has no socket for this connection")
        if message["type"] != "websocket.send":
            await websocket.close(message["code"])
            return
        text: str = message["text"]
        retries = 0
        while True:
            try:
                await _write(websocket, text)
            except (OSError, WebSocketDisconnect) as error:
                if retries >= self._config.delivery_retries or is_gone(websocket):
                    raise SocketLostError(f"{type(error).__name__} after {retries + 1} tries") from error
            except RuntimeError as error:
                # Starlette's word for a socket that is closed already; any other is a programming error.
                if not is_gone(websocket):
                    raise
                raise SocketLostError("it is closed") from error
            else:
                break
            self._set(ConnectionStatus.UNHEALTHY)
            await asyncio.sleep(min(FIRST_PAUSE * 2**retries, LONGEST_PAUSE))
            retries += 1
        self._note(text, retries)

    def _note(self, text: str, retries: int) -> None:
        event = json.loads(text)
        run, number, event_id = event["run_id"], event["seq"], event["event_id"]
        self._known.positions[run] = (self._epoch(run, event_id), number)
        if len(self._known.positions) > MAX_POSITIONS:
            kept = {stream["run_id"] for stream in user_streams(self.user_id)}
            self._known.positions = {run: at for run, at in self._known.positions.items() if run in kept}
        self.last_write = datetime.now(UTC)
        for listener in list(self._listeners):
            listener.delivered(run, number, event_id, retries)
        if self.status is not ConnectionStatus.HEALTHY:
            self._set(ConnectionStatus.HEALTHY)
        self._progress.set()

    def _epoch(self, run: str, event_id: str) -> str:
        """Return the incarnation of the log that an event is of: part of its id, unless its producer chose that."""
        if event_id.startswith("evt_") and event_id.count("_") == 2:  # noqa: PLR2004 - `evt_{epoch}_{number}`
            return event_id.split("_")[1]
        streams = {stream["run_id"]: stream["epoch"] for stream in user_streams(self.user_id)}
        return streams.get(run) or self._known.positions.get(run, ("", 0))[0]


async def _write(websocket: PooledSocket, text: str) -> None:
    send_text = getattr(websocket, "send_text", None)
    if send_text is not None:
        await send_text(text)
    else:
        await websocket.send_json(json.loads(text))  # type: ignore[attr-defined]
