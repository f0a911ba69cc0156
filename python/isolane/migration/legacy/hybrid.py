"""``HybridBridge``: the modern log is the source, and the older bridge is told each event for the sockets it has."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Protocol

from isolane._core import EventCursor, UserExecutionContext, UserWebSocketEmitter, user_streams
from isolane.compat.run_spans import stream_head
from isolane.events.bridge import WebSocketBridgeFactory
from isolane.events.event import WebSocketEvent
from isolane.migration.legacy.face import LegacyManagers
from isolane.migration.legacy.identity import Bound
from isolane.migration.legacy.messages import LegacyMessage
from isolane.migration.legacy.modern import ModernWebSocketBridge
from isolane.migration.legacy.outcome import SendOutcome
from isolane.security.events import AuditSink

logger = logging.getLogger("isolane.migration")

REPLACED = 4504
NO_DISPLACING = 1 << 16
"""The bridge reads beside the sockets of a user and takes the place of none."""
READ_EVENTS = 64
LOOKED_AT = 4
"""Users who are looked at, whether anything of theirs is to come, when another one begins to be read."""
OTHER_LOOP_SECONDS = 0.02
"""How often the progress of a reader in another event loop is looked at."""
MAX_RUNS = 64
"""Runs of a user that are read before those whose logs are gone are forgotten."""


class OlderBridge(Protocol):
    """The service's own manager. ``send_to_user`` may be a plain function or a coroutine function."""

    def send_to_user(self, user_id: str, message: dict[str, Any]) -> Any:
        """Send a message to the sockets of a user that it has."""


class HybridBridge(ModernWebSocketBridge):
    """Publishes into the log, and hands each event of its runs to the older bridge as well, once and in order.

    A message has the same ``event_id`` on both ways: a client that has sockets on both drops what it knows. The older
    bridge is handed an event after it is in the log, and is waited for by nobody: while it is slow, the log keeps what
    is to come. An event that it fails to take is counted and not tried again, since its sockets may have it.

    Args:
        legacy: the service's own bridge or manager, with ``send_to_user(user_id, message)``.
        factory: makes the emitters. Default: one of its own.
        audit: records each refusal. Default: nobody.
        send_seconds: how long the older bridge may take for one message. Default: 5.

    Raises:
        TypeError: ``legacy`` has no ``send_to_user``, or is one of isolane's, whose sockets read the log themselves.
    """

    def __init__(
        self,
        legacy: OlderBridge,
        factory: WebSocketBridgeFactory | None = None,
        *,
        audit: AuditSink | None = None,
        send_seconds: float = 5.0,
    ) -> None:
        if isinstance(legacy, (LegacyManagers, ModernWebSocketBridge)):
            raise TypeError(
                "legacy must be the service's own manager: the sockets of one of isolane's read the log themselves; "
                "use ModernWebSocketBridge for those"
            )
        if not callable(getattr(legacy, "send_to_user", None)):
            raise TypeError(f"legacy needs send_to_user(user_id, message); {type(legacy).__name__} has none")
        super().__init__(factory, audit=audit)
        self.legacy = legacy
        self._send_seconds = send_seconds
        self._forwarding: dict[str, list[_Forwarding]] = {}
        self._forwarded = 0
        self._failed = 0

    async def create_user_emitter(self, user_id: str, context: UserExecutionContext) -> UserWebSocketEmitter:
        """Return an emitter for the run of a context; the older bridge is handed its events until it is cleaned up."""
        emitter = await super().create_user_emitter(user_id, context)
        self.follow(context)
        return emitter

    def follow(self, context: UserExecutionContext) -> None:
        """Hand the events of a context's run to the older bridge, from its beginning until the context is cleaned up.

        Calling it again does nothing.
        """
        user_id, run_id = context.user_id, context.run_id
        # Its stream is there from here on.
        context.get_websocket_emitter()
        if not self._read(user_id, run_id):
            return

        async def let_go() -> None:
            forwarding = self._reader_of(user_id, run_id)
            if forwarding is None:
                return
            try:
                await forwarding.drain(run_id, stream_head(user_id, run_id)[1], self._send_seconds)
            finally:
                self._failed += max(0, stream_head(user_id, run_id)[1] - forwarding.handed(run_id))
                if forwarding.discard(run_id):
                    self._drop(forwarding)

        context.register_cleanup_callback(let_go, timeout=self._send_seconds + 1.0)

    async def notify_agent_event(self, user_id: str, event: WebSocketEvent | Mapping[str, Any]) -> SendOutcome:
        """As ``ModernWebSocketBridge.notify_agent_event``; the older bridge is handed the event as well."""
        hub, call = self._hub, "notify_agent_event"
        bound = await hub.who(None)
        target = hub.check(user_id, bound, call)
        message = hub.read(event, target, bound, call)
        if message.event_id is None:
            # By it a client with sockets on both sides knows that they are the same.
            message = replace(message, event_id=f"evt_{uuid.uuid4().hex}")
        outcome, run_id = hub.place(target, message, bound, call)
        if run_id is None or (self._is_modern(bound, run_id) and not self._is_followed(target, run_id)):
            # It is in no log that the older bridge is handed.
            await self._hand_over(target, _as_dictionary(message))
        else:
            self._read(target, run_id)
        return outcome

    @staticmethod
    def _is_modern(bound: Bound | None, run_id: str) -> bool:
        """Whether a run is that of a context, which is handed over from its beginning or not at all."""
        return bound is not None and bound.context is not None and bound.context.run_id == run_id

    def _read(self, user_id: str, run_id: str) -> bool:
        """Read a run for the older bridge, in the loop that runs. Returns whether it was not read before."""
        reader = self._reader_of(user_id, run_id)
        if reader is not None and reader.is_working:
            return False
        return self._forwarding_of(user_id).add(run_id)

    def _forwarding_of(self, user_id: str) -> _Forwarding:
        """Return what reads for a user in the loop that runs. It goes on where those of loops that ended were."""
        loop = asyncio.get_running_loop()
        all_of_user = self._forwarding.get(user_id, [])
        ended = [one for one in all_of_user if not one.is_working]
        working = [one for one in all_of_user if one.is_working]
        found = next((one for one in working if one.loop is loop), None)
        if found is None:
            self._end_idle()
            found = _Forwarding(self, user_id)
            working.append(found)
        self._forwarding[user_id] = working
        for one in ended:
            one.stop()
            found.take_over(one)
        return found

    def _reader_of(self, user_id: str, run_id: str | None) -> _Forwarding | None:
        return next((one for one in self._forwarding.get(user_id, ()) if one.has(run_id)), None)

    def _is_followed(self, user_id: str, run_id: str | None) -> bool:
        return self._reader_of(user_id, run_id) is not None

    def _drop(self, forwarding: _Forwarding) -> None:
        left = [one for one in self._forwarding.get(forwarding.user_id, ()) if one is not forwarding]
        if left:
            self._forwarding[forwarding.user_id] = left
        else:
            self._forwarding.pop(forwarding.user_id, None)

    def _end_idle(self) -> None:
        """Stop reading for users of whom nothing is to come: of a few, those looked at longest ago."""
        for user_id in list(islice(self._forwarding, LOOKED_AT)):
            readers = self._forwarding.pop(user_id)
            streams = {stream["run_id"]: stream for stream in user_streams(user_id)}
            for reader in readers:
                if reader.is_idle(streams):
                    reader.stop()
            left = [reader for reader in readers if not reader.is_idle(streams)]
            if left:
                self._forwarding[user_id] = left

    async def cleanup_user_session(self, user_id: str) -> int:
        """As ``ModernWebSocketBridge.cleanup_user_session``; the older bridge is handed nothing more of the user's."""
        ended = await super().cleanup_user_session(user_id)
        for forwarding in self._forwarding.pop(user_id, ()):
            forwarding.stop()
        return ended

    async def close(self) -> None:
        """Hand the older bridge nothing more."""
        forwarding, self._forwarding = [one for readers in self._forwarding.values() for one in readers], {}
        loop = asyncio.get_running_loop()
        tasks = {task for one in forwarding if (task := one.stop()) is not None and one.loop is loop}
        if tasks:
            await asyncio.wait(tasks)

    def get_stats(self) -> dict[str, Any]:
        """Return counts, and nobody's id: ``forwarded`` and ``forward_failed`` of the older bridge among them."""
        return {
            **super().get_stats(),
            "forwarded": self._forwarded,
            "forward_failed": self._failed,
            "forwarding_users": len(self._forwarding),
        }

    async def _hand_over(self, user_id: str, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._send_seconds):
                answer = self.legacy.send_to_user(user_id, message)
                if inspect.isawaitable(answer):
                    await answer
        except Exception as error:  # noqa: BLE001 - whatever a bridge of the service raises
            self._failed += 1
            if self._failed == 1:
                logger.warning("the older bridge has not taken an event: %s", type(error).__name__)
        else:
            self._forwarded += 1


class _Forwarding:
    """Reads the runs of one user for the older bridge."""

    def __init__(self, bridge: HybridBridge, user_id: str) -> None:
        self._bridge = bridge
        self.user_id = user_id
        self._runs: set[str] = set()
        self._positions: dict[str, int] = {}
        self._handed: dict[str, int] = {}
        self.loop = asyncio.get_running_loop()
        self._progress = asyncio.Event()
        self._cursor = self._new_cursor()
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run(), name="isolane hybrid bridge")

    def _new_cursor(self) -> EventCursor:
        return EventCursor(self.user_id, framed=False, max_connections=NO_DISPLACING)

    @property
    def is_working(self) -> bool:
        """Whether it reads. It does so no more when its loop has ended."""
        return self._task is not None and not self._task.done() and not self.loop.is_closed()

    def is_idle(self, streams: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return whether all of its runs, by the streams of its user, have ended and were handed over, or are gone."""
        return all(
            run_id not in streams
            or (streams[run_id]["outcome"] is not None and self.handed(run_id) >= streams[run_id]["head"])
            for run_id in self._runs
        )

    def take_over(self, ended: _Forwarding) -> None:
        """Read the runs of another one, which has stopped, from where it was."""
        epochs = {stream["run_id"]: stream["epoch"] for stream in user_streams(self.user_id)}
        for run_id in ended._runs - self._runs:
            position = ended._positions[run_id]
            self._runs.add(run_id)
            self._positions[run_id] = position
            self._handed[run_id] = ended.handed(run_id)
            self._cursor.subscribe(run_id, epochs.get(run_id), position)

    def has(self, run_id: str | None) -> bool:
        """Return whether a run is read."""
        return run_id in self._runs

    def add(self, run_id: str) -> bool:
        """Read a run from its beginning. Returns whether it was not read before."""
        if run_id in self._runs:
            return False
        if len(self._runs) >= MAX_RUNS:
            living = {stream["run_id"] for stream in user_streams(self.user_id)}
            for gone in self._runs - living:
                self._runs.discard(gone)
                self._positions.pop(gone, None)
                self._handed.pop(gone, None)
        self._runs.add(run_id)
        self._positions[run_id] = 0
        self._cursor.subscribe(run_id)
        return True

    def discard(self, run_id: str) -> bool:
        """Read a run no more. Returns whether it was the last one, whose task is stopped."""
        self._runs.discard(run_id)
        self._positions.pop(run_id, None)
        self._handed.pop(run_id, None)
        if self._runs:
            return False
        self.stop()
        return True

    def stop(self) -> asyncio.Task[None] | None:
        """Stop reading, at once. Returns the task that is being cancelled."""
        task, self._task = self._task, None
        self._cursor.detach()
        if asyncio.get_running_loop() is self.loop:
            if task is not None:
                task.cancel()
            self._progress.set()
        elif task is not None:
            # A loop that has ended has nothing left to stop.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(task.cancel)
        return task

    def handed(self, run_id: str) -> int:
        """Return up to which number a run was handed over."""
        return self._handed.get(run_id, 0)

    async def drain(self, run_id: str, head: int, seconds: float) -> None:
        """Wait until a run was handed over up to a number, or for so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.is_working and self.handed(run_id) < head:
                    if asyncio.get_running_loop() is not self.loop:
                        await asyncio.sleep(OTHER_LOOP_SECONDS)
                        continue
                    self._progress.clear()
                    await self._progress.wait()

    async def _run(self) -> None:
        while True:
            cursor = self._cursor
            if cursor.close_code is not None:
                cursor.detach()
                self._begin_again()
                continue
            texts = cursor.read(READ_EVENTS)
            if not texts:
                await cursor.wait()
                continue
            for text in texts:
                await self._take(json.loads(text))

    def _begin_again(self) -> None:
        """A newer socket of the user has taken this one's place: go on where it was."""
        self._cursor = self._new_cursor()
        epochs = {stream["run_id"]: stream["epoch"] for stream in user_streams(self.user_id)}
        for run_id in self._runs:
            self._cursor.subscribe(run_id, epochs.get(run_id), self._positions[run_id])

    async def _take(self, message: dict[str, Any]) -> None:
        run_id = message.get("run_id")
        if run_id not in self._positions:
            # The cursor follows the streams that begin while it is attached; this one was not given to the bridge.
            return
        number = message.get("seq", 0)
        if number <= self._positions[run_id]:
            return
        # Before it is handed over: a bridge that is interrupted may have sent it.
        self._positions[run_id] = number
        await self._bridge._hand_over(self.user_id, message)  # noqa: SLF001 - the bridge's other half
        if run_id in self._runs:
            self._handed[run_id] = number
        self._progress.set()


def _as_dictionary(message: LegacyMessage) -> dict[str, Any]:
    """Return a message as the browser's client reads it."""
    named = {
        "run_id": message.run_id,
        "agent_name": message.agent_name,
        "thread_id": message.thread_id,
        "message": message.message,
    }
    return {
        "type": message.kind,
        "timestamp": datetime.now(UTC).isoformat(),
        "event_id": message.event_id,
        "payload": message.payload,
        **{key: value for key, value in named.items() if value is not None},
    }
