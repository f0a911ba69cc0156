"""Users for whom nothing is started while a violation is looked into."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from isolane.security.errors import UserQuarantinedError
from isolane.security.events import AuditClass, AuditSink, SecurityEvent, Severity

logger = logging.getLogger("isolane.security")

MAX_USERS = 10_000


class Quarantinable(Protocol):
    """What starts runs, such as ``ExecutionEngineFactory``: it asks before each, and can end those of a user."""

    quarantine: Any

    async def cleanup_user_context(self, user_id: str) -> bool:
        """End all that runs for the user."""


class Quarantine:
    """Refuses new runs of the users in it, and ends those that run after ``drain_seconds``.

    Args:
        audit: records who was put in and who released; when it must record a release and cannot, there is none.
        drain_seconds: how long runs that are under way may go on.

    At 10 000 users something is wrong with the service rather than with users: from then on nobody starts a run until
    there are fewer.
    """

    def __init__(self, *, audit: AuditSink | None = None, drain_seconds: float = 25.0) -> None:
        if not drain_seconds >= 0:
            raise ValueError(f"drain_seconds must be 0 or more, got {drain_seconds!r}")
        self.audit = audit
        self.drain_seconds = drain_seconds
        self._reasons: dict[str, str] = {}
        self._is_full = False
        self._factories: weakref.WeakSet[Any] = weakref.WeakSet()
        self._timers: dict[str, list[asyncio.TimerHandle]] = {}
        self._ending: set[asyncio.Task[Any]] = set()
        self._listeners: list[Callable[[str, str, str], None]] = []

    def add_listener(self, listener: Callable[[str, str, str], None]) -> None:
        """Have a function told of each ``quarantined`` and ``released`` with the user and the reason, from any thread.

        It must not block. What others decided, and ``follow`` and ``follow_release`` do here, is not told.
        """
        self._listeners.append(listener)

    def _tell(self, kind: str, user_id: str, reason: str) -> None:
        for listener in self._listeners:
            try:
                listener(kind, user_id, reason)
            except Exception:
                logger.exception("what follows the quarantine failed")

    def follow(self, user_id: str, reason: str) -> bool:
        """Do what another worker has decided and recorded: start nothing more for the user. Returns whether it is new.

        Who is in it already is so for the reason that was there first.
        """
        is_new = self._put(user_id, reason)
        if is_new:
            logger.warning("another worker has put a user into quarantine: %s", reason)
        return is_new

    def follow_release(self, user_id: str) -> bool:
        """Do what another worker has decided and recorded: let the user start runs again."""
        if user_id not in self._reasons:
            return False
        self._let_go(user_id)
        return True

    def attach(self, factory: Quarantinable) -> None:
        """Have a factory ask before it starts anything. It is not kept alive."""
        factory.quarantine = self
        self._factories.add(factory)

    def check(self, user_id: str) -> None:
        """Raise ``UserQuarantinedError`` when nothing may be started for the user."""
        if user_id in self._reasons or self._is_full:
            raise UserQuarantinedError

    def is_quarantined(self, user_id: str) -> bool:
        """Return whether the user is in quarantine."""
        return user_id in self._reasons

    def users(self) -> dict[str, str]:
        """Return the users in quarantine, and why each is."""
        return dict(self._reasons)

    def quarantine(self, user_id: str, reason: str) -> bool:
        """Start nothing more for the user. Returns whether that is new.

        It takes effect whether or not it can be recorded; that it could not is logged.
        """
        if not self._put(user_id, reason):
            return False
        self._record("user_quarantined", user_id, {"reason": reason}, must=False)
        self._tell("quarantined", user_id, reason)
        return True

    def _put(self, user_id: str, reason: str) -> bool:
        if user_id in self._reasons:
            return False
        if len(self._reasons) >= MAX_USERS:
            self._is_full = True
        else:
            self._reasons[user_id] = reason
        self._drain(user_id)
        return True

    def release(self, user_id: str, *, by: str, reason: str) -> bool:
        """Let the user start runs again. Returns whether the user was in quarantine.

        Args:
            user_id: the user.
            by: who decided it.
            reason: why.

        Raises:
            AuditUnavailableError: it cannot be recorded; the user stays in quarantine.
        """
        if user_id not in self._reasons:
            return False
        self._record("user_released", user_id, {"by": by, "reason": reason}, must=True)
        self._let_go(user_id)
        self._tell("released", user_id, reason)
        return True

    def _let_go(self, user_id: str) -> None:
        self._reasons.pop(user_id, None)
        self._is_full = False
        for timer in self._timers.pop(user_id, ()):
            timer.cancel()

    def close(self) -> None:
        """Stop the timers. Users stay in quarantine; what runs for them is no longer ended."""
        for timers in self._timers.values():
            for timer in timers:
                timer.cancel()
        self._timers.clear()

    def _record(self, name: str, user_id: str, data: dict[str, Any], *, must: bool) -> None:
        if self.audit is None:
            return
        event = SecurityEvent(
            name=name, audit_class=AuditClass.ADMIN, user_id=user_id, severity=Severity.HIGH, data=data
        )
        try:
            self.audit.record(event)
        except Exception:
            if must:
                raise
            logger.exception("a user was put into quarantine, which could not be recorded")

    def _drain(self, user_id: str) -> None:
        # Without a loop nothing of the user's runs on one that could be asked.
        with contextlib.suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            for factory in list(self._factories):
                timer = loop.call_later(self.drain_seconds, self._end, weakref.ref(factory), user_id)
                self._timers.setdefault(user_id, []).append(timer)

    def _end(self, factory: weakref.ref[Any], user_id: str) -> None:
        held = factory()
        if held is None or user_id not in self._reasons:
            return
        task = asyncio.ensure_future(held.cleanup_user_context(user_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
