"""When to come back, and how fast to ask."""

from __future__ import annotations

import random
import time

BACKOFF_MIN = 0.5
BACKOFF_MAX = 20.0
RETRY_MAX = 60.0
"""Longest wait that a server can ask for."""
COMMANDS = 48
COMMANDS_PER_SECOND = 24.0
"""The server takes 64 commands at once, then 32 a second: well below that, nothing is refused."""


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row: never none, and never the same for all clients."""
    ceiling = min(BACKOFF_MAX, BACKOFF_MIN * 2 ** min(failures + 1, 16))
    return random.uniform(BACKOFF_MIN, ceiling)  # noqa: S311 - it spreads clients, it guards nothing


def asked_wait(retry_seconds: float) -> float:
    """Return how long to wait when the server has asked for so many seconds."""
    return min(RETRY_MAX, max(BACKOFF_MIN, retry_seconds))


class Pace:
    """How many commands may go out now: a bucket that fills with time."""

    def __init__(self) -> None:
        self._left = float(COMMANDS)
        self._filled = time.monotonic()

    def take(self) -> float:
        """Take one, and return the seconds to wait before it may go."""
        now = time.monotonic()
        self._left = min(float(COMMANDS), self._left + (now - self._filled) * COMMANDS_PER_SECOND) - 1
        self._filled = now
        return max(0.0, -self._left / COMMANDS_PER_SECOND)
