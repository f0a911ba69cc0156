"""The runs that older code publishes into: opened by their first message, ended when nothing is told for a while."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice

from isolane._core import RunClosed, UnifiedIDManager, monotonic, user_streams
from isolane.compat.run_spans import RunSpans
from isolane.migration.legacy import lifecycle
from isolane.migration.legacy.messages import LegacyMessage
from isolane.migration.legacy.policy import AGENT_EVENTS

IDLE_SECONDS = 60.0
"""A run in which no agent executes ends when it was told nothing for so long."""
ABANDONED_SECONDS = 300.0
"""One in which an agent still executes, by what was told: its execution is given its last event."""
MAX_USERS = 10_000
"""Users with such runs. One more ends those of the user who was told nothing for longest."""
MAX_RUNS_OF_A_USER = 16
"""Such runs of one user. One more ends the one that was used longest ago."""

THREAD = "legacy"
"""The conversation of messages that name none."""


@dataclass(slots=True)
class _Run:
    spans: RunSpans
    used_at: float


class LegacyRuns:
    """The open runs, by user and run; both levels in order of use. Not for several threads: the hub has the lock."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, OrderedDict[str | None, _Run]] = OrderedDict()

    def publish(self, user_id: str, message: LegacyMessage, run_id: str | None, thread_id: str | None) -> bool:
        """Publish a message into a run of a user. Returns ``False`` for a beginning that was told already.

        Messages that name no run share one. Raises what publishing raises, ``RunClosed`` for a run that somebody else
        has ended, and ``ContextIsolationError`` for a run of another user.
        """
        lifecycle.check_payload(message.payload)
        try:
            return self._publish(user_id, message, run_id, thread_id)
        except RunClosed:
            self._end(user_id, run_id)
            if run_id is not None:
                raise
            # What names no run goes on in a new one.
            return self._publish(user_id, message, run_id, thread_id)

    def _publish(self, user_id: str, message: LegacyMessage, run_id: str | None, thread_id: str | None) -> bool:
        spans = self._spans(user_id, run_id, thread_id)
        if message.kind in AGENT_EVENTS:
            return lifecycle.publish(spans, message)
        spans.emitter.publish(
            message.kind,
            message.payload,
            agent_name=message.agent_name,
            message=message.message,
            event_id=message.event_id,
        )
        return True

    def _spans(self, user_id: str, run_id: str | None, thread_id: str | None) -> RunSpans:
        run = self._users[user_id].get(run_id) if user_id in self._users else None
        if run is None:
            # Made before it is kept: ids that are not allowed are refused here.
            thread = _thread_of(user_id, run_id) or thread_id or THREAD
            named = run_id if run_id is not None else UnifiedIDManager.generate_run_id(thread)
            run = _Run(RunSpans(user_id, thread, named), monotonic())
            self._users.setdefault(user_id, OrderedDict())[run_id] = run
            self._make_room(user_id)
        run.used_at = monotonic()
        self._users.move_to_end(user_id)
        self._users[user_id].move_to_end(run_id)
        return run.spans

    def has(self, user_id: str, run_id: str) -> bool:
        """Return whether a run is open here."""
        return run_id in self._users.get(user_id, ())

    def run_id_of(self, user_id: str, run_id: str | None = None) -> str:
        """Return the id of a run into which something was told; without one, of the run of messages that name none."""
        return self._users[user_id][run_id].spans.run_id

    def _make_room(self, user_id: str) -> None:
        if len(self._users[user_id]) > MAX_RUNS_OF_A_USER:
            self._end(user_id, next(iter(self._users[user_id])))
        if len(self._users) > MAX_USERS:
            self.end(next(user for user in self._users if user != user_id))

    def end_idle(self, user_id: str | None = None) -> None:
        """End the runs of a user that were told nothing for a while, and those of the users told longest ago."""
        now = monotonic()
        if user_id is not None:
            self._end_idle_of(user_id, now)
        for user in list(islice(self._users, LOOKED_AT)):
            self._end_idle_of(user, now)

    def _end_idle_of(self, user_id: str, now: float) -> None:
        for run_id, run in list(self._users.get(user_id, {}).items()):
            idle = now - run.used_at
            if idle >= ABANDONED_SECONDS or (idle >= IDLE_SECONDS and run.spans.is_idle):
                self._end(user_id, run_id)

    def end(self, user_id: str | None = None) -> int:
        """End the runs of a user, or of all. Returns how many there were."""
        ended = [
            (user, run_id)
            for user in ([user_id] if user_id is not None else list(self._users))
            for run_id in self._users.get(user, ())
        ]
        for user, run_id in ended:
            self._end(user, run_id)
        return len(ended)

    def _end(self, user_id: str, run_id: str | None) -> None:
        runs = self._users.get(user_id, OrderedDict())
        run = runs.pop(run_id, None)
        if not runs:
            self._users.pop(user_id, None)
        if run is not None:
            lifecycle.at_once(run.spans.close())

    def __len__(self) -> int:
        return sum(map(len, self._users.values()))


LOOKED_AT = 4
"""Users who are looked at with each message, those told longest ago first."""


def _thread_of(user_id: str, run_id: str | None) -> str | None:
    """Return the conversation of a run that is known: a run has one."""
    return next((stream["thread_id"] for stream in user_streams(user_id) if stream["run_id"] == run_id), None)
