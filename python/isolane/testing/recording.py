"""What users would have been sent: the events of their runs, as the plain mode writes them."""

from __future__ import annotations

import json
from typing import Any

from isolane._core import EventCursor, user_streams
from isolane.testing.users import LabUser

MAX_EVENTS = 100_000
"""Events of a user that are kept; beyond that reading raises."""

User = LabUser | str


def user_id_of(user: Any) -> str:
    """The id of a `LabUser`, a context, a principal, or the id itself."""
    found = user if isinstance(user, str) else getattr(user, "user_id", None)
    if not isinstance(found, str):
        raise TypeError(f"{type(user).__name__} is no user: pass a LabUser, a context or an id")
    return found


class EventRecorder:
    """Reads the logs of users, as a socket would that never falls behind.

    It reads when it is asked. Whose events were folded or expired before that gets what a late client gets.
    """

    def __init__(self) -> None:
        self._cursors: dict[str, EventCursor] = {}
        self._subscribed: dict[str, set[tuple[str, str]]] = {}
        self._events: dict[str, list[dict[str, Any]]] = {}

    def follow(self, user: Any) -> None:
        """Read a user's runs from now on. Runs that are there already are read from their beginning."""
        user_id = user_id_of(user)
        if user_id not in self._cursors:
            # It counts among the user's sockets and takes nobody's place.
            self._cursors[user_id] = EventCursor(user_id, framed=False, max_connections=1 << 30, batching=False)
            self._subscribed[user_id] = set()
            self._events[user_id] = []
            for stream in user_streams(user_id):
                self._cursors[user_id].subscribe(stream["run_id"])

    def of(self, user: Any, run_id: str | None = None) -> list[dict[str, Any]]:
        """The events of a user so far, or of one run, in the order in which a socket gets them.

        Raises:
            OverflowError: There are more than 100 000.
        """
        user_id = user_id_of(user)
        self.follow(user_id)
        cursor, events = self._cursors[user_id], self._events[user_id]
        while texts := cursor.read(1_000):
            events += [json.loads(text) for text in texts]
            if len(events) > MAX_EVENTS:
                raise OverflowError(f"more than {MAX_EVENTS} events: ask for them more often and clear() between")
        return [event for event in events if run_id is None or event.get("run_id") == run_id]

    def types(self, user: Any, run_id: str | None = None) -> list[str]:
        """The types of those events."""
        return [event["type"] for event in self.of(user, run_id)]

    def clear(self) -> None:
        """Forget what was read so far."""
        for user_id, events in self._events.items():
            self.of(user_id)
            events.clear()

    def close(self) -> None:
        """Follow nobody any more."""
        for cursor in self._cursors.values():
            cursor.detach()
        self._cursors.clear()
        self._events.clear()
