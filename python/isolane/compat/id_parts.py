"""The digits at the end of structured ids."""

from __future__ import annotations

import re

from isolane._core import UnifiedIDManager

DIGITS = re.compile(r"_([0-9a-f]{32}|[0-9a-f]{8})\Z")
UUID_LENGTH = 32


def new_digits() -> str:
    """Return 32 hexadecimal digits that are ordered by time and do not collide."""
    return UnifiedIDManager.generate_request_id().rpartition("_")[2]


def split_digits(value: str) -> tuple[str, str]:
    """Return what is before the digits, and the digits: 32 in isolane's ids, 8 in the host's, else none."""
    found = DIGITS.search(value)
    return (value[: found.start()], found[1]) if found else (value, "")


def milliseconds(digits: str) -> int | None:
    """Return when digits of isolane were made, in milliseconds of the epoch, or ``None`` for others."""
    return int(digits[:12], 16) if len(digits) == UUID_LENGTH else None
