"""Whom a legacy user id stands for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from isolane._core import BudgetExceeded, InvalidContextError

MAX_MAPPINGS = 10_000
"""Legacy ids that are remembered. None is forgotten by itself: a forgotten one would stand for another user."""


class UserMappings(Mapping[str, str]):
    """Legacy ids by the user that each stands for. An entry is written once; only its removal makes room."""

    def __init__(self, limit: int = MAX_MAPPINGS) -> None:
        self.limit = limit
        self._users: dict[str, str] = {}
        self._lock = threading.Lock()

    def resolve(self, legacy_id: object) -> str:
        """Return whom an id stands for: itself, unless it was mapped. One step, never two.

        Raises ``InvalidContextError`` for what is no id.
        """
        legacy_id = clean(legacy_id)
        return self._users.get(legacy_id, legacy_id)

    def add(self, legacy_id: object, user_id: object) -> bool:
        """Let a legacy id stand for a user. Returns ``False`` when it stands for another one already.

        Raises ``BudgetExceeded`` when there are too many.
        """
        legacy_id, user_id = clean(legacy_id), clean(user_id)
        with self._lock:
            held = self._users.get(legacy_id)
            if held is None and len(self._users) >= self.limit:
                raise BudgetExceeded(
                    f"{self.limit} legacy ids are mapped; remove those of users who have left", self.limit, "process"
                )
            if held is None:
                self._users[legacy_id] = user_id
            return held in {None, user_id}

    def remove(self, legacy_id: object) -> bool:
        """Let a legacy id stand for itself again. Returns whether it was mapped."""
        with self._lock:
            return self._users.pop(clean(legacy_id), None) is not None

    def __getitem__(self, legacy_id: str) -> str:
        return self._users[legacy_id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._users))

    def __len__(self) -> int:
        return len(self._users)


def clean(user_id: object) -> str:
    """Return an id as contexts have it, without the blanks around it. Raises ``InvalidContextError`` for none."""
    if not isinstance(user_id, str) or not user_id.strip():
        raise InvalidContextError(
            f"Required field 'user_id' must be a non-empty string, got {type(user_id).__name__}", "user_id", "required"
        )
    return user_id.strip()
