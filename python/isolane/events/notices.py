"""What is told to a user outside of any run: streams of their own, which end when nothing is told for a while."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from isolane._core import (
    UnifiedIDManager,
    UserWebSocketEmitter,
    emitter_for_user,
    lane_usage,
    monotonic,
    user_streams,
)
from isolane.events.event import WebSocketEvent

THREAD = "broadcast"
"""The thread of what is told without naming one."""
IDLE_SECONDS = 60.0
"""A stream into which nothing was told for so long ends."""
MAX_USERS = 10_000
"""Users with an open stream of notices. One more ends those of the user who was told nothing for longest."""
MAX_THREADS = 8
"""Open streams of notices of one user. One more ends the one used longest ago."""


@dataclass(slots=True)
class _Stream:
    emitter: UserWebSocketEmitter
    run_id: str
    used_at: float


class Notices:
    """The open streams of notices, by user and thread. Both levels are in order of use, the latest last."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, OrderedDict[str, _Stream]] = OrderedDict()

    def publish(self, event: WebSocketEvent, bounds: dict[str, Any]) -> bool:
        """Publish into the user's stream. Returns ``False``, and publishes nothing, when nobody would ever read it."""
        self.end_idle()
        if not self._has_reader(event.user_id):
            return False
        stream = self._stream(event.user_id, event.thread_id or THREAD, bounds)
        stream.emitter.publish(run_id=stream.run_id, **event.as_arguments())
        stream.used_at = monotonic()
        return True

    def _has_reader(self, user_id: str) -> bool:
        usage = lane_usage(user_id)
        if usage is None:
            return False
        if usage["connections"]:
            return True
        own = {stream.run_id for stream in self._users.get(user_id, {}).values()}
        return any(stream["outcome"] is None and stream["run_id"] not in own for stream in user_streams(user_id))

    def _stream(self, user_id: str, thread_id: str, bounds: dict[str, Any]) -> _Stream:
        threads = self._users.get(user_id, OrderedDict())
        stream = threads.get(thread_id)
        if stream is None:
            # Made before it is kept: a thread id that is not allowed is refused here.
            emitter = emitter_for_user(user_id, thread_id, **bounds)
            stream = _Stream(emitter, UnifiedIDManager.generate_run_id(thread_id), monotonic())
            threads[thread_id] = stream
            if len(threads) > MAX_THREADS:
                _end(threads.popitem(last=False)[1])
        self._users[user_id] = threads
        threads.move_to_end(thread_id)
        self._users.move_to_end(user_id)
        if len(self._users) > MAX_USERS:
            self._end_user(next(iter(self._users)))
        return stream

    def end_idle(self) -> None:
        """End the streams of users who were told nothing for a minute."""
        late = monotonic() - IDLE_SECONDS
        while self._users:
            user_id, threads = next(iter(self._users.items()))
            if max(stream.used_at for stream in threads.values()) > late:
                return
            self._end_user(user_id)

    def end(self, user_id: str | None = None) -> None:
        """End the streams of a user, or of all."""
        for user in [user_id] if user_id is not None else list(self._users):
            self._end_user(user)

    def _end_user(self, user_id: str) -> None:
        for stream in self._users.pop(user_id, {}).values():
            _end(stream)

    def __len__(self) -> int:
        return sum(map(len, self._users.values()))


def _end(stream: _Stream) -> None:
    # It has ended when the call returns; what the call returns is only for `await`.
    stream.emitter.cleanup()
