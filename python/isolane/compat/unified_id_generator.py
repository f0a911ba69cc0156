"""The host's ``unified_id_generator``: ids by what they name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from isolane._core import UnifiedIDManager, monotonic
from isolane.compat.id_parts import milliseconds, new_digits, split_digits

__all__ = ["UnifiedIdGenerator"]

MAX_SESSIONS = 10_000
SESSION_SECONDS = 3600.0
USER_CHARACTERS = 8

_sessions: OrderedDict[tuple[str, str], tuple[float, dict[str, str]]] = OrderedDict()
_lock = threading.Lock()


def _checked(value: str, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a non-empty string, got {type(value).__name__}; name what the id is for")
    return value


class UnifiedIdGenerator:
    """Makes ids. Each ends in 32 hexadecimal digits with 62 random bits: no two are equal, in any process."""

    @staticmethod
    def generate_base_id(prefix: str = "id", include_random: bool = True, random_length: int = 8) -> str:
        """Return ``{prefix}_{32 hex digits}``.

        ``include_random`` and ``random_length`` are accepted and change nothing: an id without random digits collides
        with one of another process. Raises ``ValueError`` for a blank prefix.
        """
        del include_random, random_length
        return f"{_checked(prefix, 'prefix')}_{new_digits()}"

    @staticmethod
    def generate_user_context_ids(user_id: str, operation: str = "context") -> tuple[str, str, str]:
        """Return new ids of a thread, a run and a request, in this order.

        The run id names the thread: ``UnifiedIDManager.extract_thread_id(run_id)`` reads it. Raises ``ValueError``
        for a blank user id or operation, ``InvalidContextError`` for a user id that no context would take.
        """
        UnifiedIDManager.check_user_id(_checked(user_id, "user_id"))
        operation = _checked(operation, "operation")
        thread_id = f"thread_{operation}_{new_digits()}"
        return thread_id, UnifiedIDManager.generate_run_id(thread_id), f"req_{operation}_{new_digits()}"

    @staticmethod
    def generate_websocket_client_id(user_id: str) -> str:
        """Return ``ws_client_{first 8 characters of the user id}_{32 hex digits}``."""
        return f"ws_client_{_checked(user_id, 'user_id')[:USER_CHARACTERS]}_{new_digits()}"

    @staticmethod
    def generate_websocket_connection_id(user_id: str) -> str:
        """Return ``ws_conn_{first 8 characters of the user id}_{32 hex digits}``."""
        return f"ws_conn_{_checked(user_id, 'user_id')[:USER_CHARACTERS]}_{new_digits()}"

    @staticmethod
    def parse_id(value: str) -> dict[str, Any] | None:
        """Return ``prefix``, ``timestamp`` (milliseconds of the epoch, or ``None``) and ``random``.

        ``None`` for a value that has no prefix or does not end in 32 or 8 hexadecimal digits.
        """
        prefix, digits = split_digits(value)
        if not prefix or not digits:
            return None
        return {"prefix": prefix, "timestamp": milliseconds(digits), "random": digits}

    @staticmethod
    def is_valid_id(value: str, prefix: str | None = None) -> bool:
        """Return whether a value is a structured id, of the prefix if one is given."""
        parsed = UnifiedIdGenerator.parse_id(value) if isinstance(value, str) else None
        return parsed is not None and (prefix is None or f"{parsed['prefix']}_".startswith(f"{prefix}_"))

    @staticmethod
    def get_or_create_user_session(
        user_id: str, thread_id: str | None = None, run_id: str | None = None, operation: str = "session"
    ) -> dict[str, str]:
        """Return the ids of a user's thread: the same run for the same user and thread, unless a run is given.

        Keys: ``user_id``, ``thread_id``, ``run_id``, ``request_id``; the request id is new in each call. Two users
        who name a thread alike get different runs. Without a thread id a new thread begins. An entry lives an hour
        after it was last asked for; beyond 10 000, those asked for longest ago go.

        Raises as ``generate_user_context_ids`` does.
        """
        new_thread, new_run, request_id = UnifiedIdGenerator.generate_user_context_ids(user_id, operation)
        key = (user_id, thread_id or new_thread)
        now = monotonic()
        with _lock:
            until, known = _sessions.pop(key, (0.0, {}))
            if until <= now:
                made = new_run if thread_id is None else UnifiedIDManager.generate_run_id(thread_id)
                known = {"user_id": user_id, "thread_id": key[1], "run_id": made}
            if run_id:
                known = {**known, "run_id": run_id}
            _sessions[key] = (now + SESSION_SECONDS, known)
            while len(_sessions) > MAX_SESSIONS:
                _sessions.popitem(last=False)
        return {**known, "request_id": request_id}
