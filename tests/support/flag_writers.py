"""Processes that write a file of flags: many at once, and one that is killed in between."""

from __future__ import annotations

import sys
from pathlib import Path

from isolane.migration.flags.sources import FlagWriter


def many(path: str, name: str, times: int) -> None:
    """Raise one flag so many times."""
    writer = FlagWriter(path, lock_seconds=60)
    for at in range(times):
        writer.set_rollout(name, at % 100, actor=name, create=True)


def for_ever(path: str, ready: str) -> None:
    """Write large documents until killed."""
    writer = FlagWriter(path)
    at = 0
    while True:
        at += 1
        writer.set_rollout("modern_execution", at % 100, actor="killed", reason="x" * 400)
        if at == 3:
            Path(ready).touch()


if __name__ == "__main__":
    if sys.argv[1] == "many":
        many(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        for_ever(sys.argv[2], sys.argv[3])
