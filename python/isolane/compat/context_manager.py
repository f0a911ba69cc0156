"""``UserContextManager``: contexts that are found again by a key, with a bound and a lifetime."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from isolane._core import InvalidContextError, UserExecutionContext, _refusal, monotonic
from isolane.contexts.factory import validate_user_context

MAX_EVENTS = 1000


@dataclass(slots=True)
class _Entry:
    context: UserExecutionContext
    expires: float
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))

    def note(self, event: str) -> None:
        self.events.append({"event": event, "timestamp": datetime.now(UTC).isoformat()})


class UserContextManager:
    """Keeps contexts by a key of the caller. It holds the contexts themselves, with their sessions, and no copies.

    A key belongs to the user whose context was stored first, for as long as the entry lives: a context of another
    user is refused. At a bound the entry that was used longest ago goes, first of the same user, then of all. An
    entry ends ``DEFAULT_CONTEXT_TTL`` seconds after it was last stored or read.

    Ending an entry does not clean its context up: whoever made the context does that.
    """

    MAX_CONTEXTS_PER_USER = 100
    MAX_TOTAL_CONTEXTS = 10_000
    DEFAULT_CONTEXT_TTL = 3600
    CLEANUP_INTERVAL = 300

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._of_user: dict[str, OrderedDict[str, None]] = {}
        self._lock = threading.RLock()
        self._next_sweep = monotonic() + self.CLEANUP_INTERVAL

    def set_context(self, context_key: str, context: UserExecutionContext) -> None:
        """Store a context.

        Raises ``InvalidContextError`` for a blank key, ``ContextIsolationError`` for a key of another user, and what
        ``validate_user_context`` raises.
        """
        if not isinstance(context_key, str) or not context_key.strip():
            raise InvalidContextError(
                "context_key must be a non-empty string. Build it from user_id and thread_id", "context_key"
            )
        validate_user_context(context)
        with self._lock:
            self._sweep()
            entry = self._live(context_key)
            if entry is None:
                entry = self._entries[context_key] = _Entry(context, 0.0)
                self._of_user.setdefault(context.user_id, OrderedDict())
            elif entry.context.user_id != context.user_id:
                raise _refusal("the key holds a context of another user; put the user_id into the key", "bind")
            entry.context = context
            self._touch(context_key, entry)
            entry.note("context_set")
            while len(self._of_user[context.user_id]) > self.MAX_CONTEXTS_PER_USER:
                self._drop(next(iter(self._of_user[context.user_id])))
            while len(self._entries) > self.MAX_TOTAL_CONTEXTS:
                self._drop(next(iter(self._entries)))

    def get_context(self, context_key: str) -> UserExecutionContext | None:
        """Return the context of a key, or ``None`` when there is none or its time is over."""
        with self._lock:
            entry = self._live(context_key)
            if entry is None:
                return None
            self._touch(context_key, entry)
            return entry.context

    def clear_context(self, context_key: str) -> bool:
        """Forget the context of a key. Returns whether there was one."""
        with self._lock:
            known = context_key in self._entries
            if known:
                self._drop(context_key)
            return known

    def validate_isolation(self, context_key: str) -> bool:
        """Verify the context of a key: ``True``, ``False`` when there is none, or ``ContextIsolationError``."""
        with self._lock:
            entry = self._live(context_key)
        if entry is None:
            return False
        entry.note("isolation_checked")
        return entry.context.verify_isolation()

    def get_audit_trail(self, context_key: str) -> list[dict[str, Any]]:
        """Return the latest 1000 events of a key, oldest first, each with ``event`` and ``timestamp``."""
        with self._lock:
            entry = self._live(context_key)
            return [dict(event) for event in entry.events] if entry is not None else []

    def _touch(self, context_key: str, entry: _Entry) -> None:
        entry.expires = monotonic() + self.DEFAULT_CONTEXT_TTL
        self._entries.move_to_end(context_key)
        keys = self._of_user[entry.context.user_id]
        keys[context_key] = None
        keys.move_to_end(context_key)

    def _live(self, context_key: str) -> _Entry | None:
        entry = self._entries.get(context_key)
        if entry is not None and entry.expires <= monotonic():
            self._drop(context_key)
            return None
        return entry

    def _drop(self, context_key: str) -> None:
        user = self._entries.pop(context_key).context.user_id
        keys = self._of_user[user]
        del keys[context_key]
        if not keys:
            del self._of_user[user]

    def _sweep(self) -> None:
        now = monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + self.CLEANUP_INTERVAL
        # In the order of use, so those that are over come first.
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.expires > now:
                return
            self._drop(key)

    def __len__(self) -> int:
        return len(self._entries)
