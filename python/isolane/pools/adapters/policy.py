"""What happens to a connection before another user gets it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

BetweenUsers: TypeAlias = Literal["reconnect", "keep"] | Callable[[Any], Awaitable[object] | object]
"""``reconnect``, ``keep``, or a function that cleans the connection."""


def check_policy(policy: BetweenUsers) -> None:
    """Raise ``ValueError`` for what is none."""
    if policy not in ("reconnect", "keep") and not callable(policy):
        raise ValueError(f"between_users is {policy!r}: it must be 'reconnect', 'keep' or a function of the connection")
