"""The semaphores of a manager's users, a bounded number of them."""

from __future__ import annotations

import threading
from collections import OrderedDict

from isolane._core import FairLimiter
from isolane.limits.adaptive import AdaptiveSemaphore

_LOOKS = 8
"""How many of the oldest are looked at to make room for one."""


class SemaphoreBook:
    """One ``AdaptiveSemaphore`` for each user that was asked for lately.

    The limits are in the limiter: a semaphore that is dropped here and made again has lost nothing.
    """

    def __init__(self, limiter: FairLimiter, max_users: int, *, adapts: bool = False) -> None:
        self._limiter = limiter
        self._max_users = max_users
        self._adapts = adapts
        self._semaphores: OrderedDict[str, AdaptiveSemaphore] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, user_id: str) -> AdaptiveSemaphore:
        """Return the semaphore of a user."""
        with self._lock:
            semaphore = self._semaphores.get(user_id)
            if semaphore is not None:
                self._semaphores.move_to_end(user_id)
                return semaphore
            semaphore = AdaptiveSemaphore.of_user(self._limiter, user_id, adaptation_enabled=self._adapts)
            self._semaphores[user_id] = semaphore
            for oldest in list(self._semaphores)[:_LOOKS] if len(self._semaphores) > self._max_users else ():
                if oldest != user_id and not self._semaphores[oldest].in_use:
                    self._semaphores.pop(oldest).forget_adaptation()
                    break
            return semaphore

    def all(self) -> dict[str, AdaptiveSemaphore]:
        """Return a copy."""
        with self._lock:
            return dict(self._semaphores)

    def drop_unused(self) -> int:
        """Drop those that nobody holds or waits for. Returns how many."""
        with self._lock:
            unused = [user for user, semaphore in self._semaphores.items() if not semaphore.in_use]
            for user in unused:
                self._semaphores.pop(user).forget_adaptation()
            return len(unused)
