"""Names: of the tests, and of users that nobody is."""

from __future__ import annotations

import hashlib

_NAMES = (
    "ada",
    "ben",
    "cleo",
    "dan",
    "eva",
    "finn",
    "gil",
    "hana",
    "ivo",
    "jo",
    "kim",
    "leo",
    "mia",
    "nils",
    "ola",
    "pia",
)


TEST_NAMES = (
    "user_isolation",
    "performance",
    "concurrency",
    "websocket_isolation",
    "resource_management",
    "error_handling",
    "security",
    "legacy_compatibility",
)
"""The tests, in their order."""


def made_up(count: int, part: str, seed: int, once: str = "") -> list[str]:
    """Return so many names for a part of the suite: the same for the same seed, others for other parts.

    What a service still holds of users of an earlier run would be taken for somebody else's: where it may hold any,
    ``once`` tells the runs apart.
    """
    tag = hashlib.sha256(f"{seed} {part}".encode()).hexdigest()[:4]
    return [f"{_NAMES[number % len(_NAMES)]}{number // len(_NAMES) or ''}-{part}-{tag}{once}" for number in range(count)]
