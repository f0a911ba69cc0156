"""Flags from a file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolane.migration.flags.source import FlagText
from isolane.migration.flags.sources.reading import Look, as_json, look_at, parse, read_bytes

POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.05
"""Between two looks that must be equal before a changed file is read: whoever writes it in place needs a moment."""
_SETTLE_TRIES = 10
_SAME_TICK_SECONDS = 2.0
"""A file that was changed so shortly before it was read may be changed again without a new time in its inode."""


class FileSource:
    """A file with a document of flags, as JSON, or as TOML if its name ends in ``.toml``.

    Reading opens the file; watching calls ``stat`` once in ``poll_seconds`` on the loop of the application, without a
    thread. A change that ``stat`` shows is in force at the latest ``poll_seconds`` and 50 ms later. A link is followed
    at each look, so what it names may be exchanged. On a network file system the change is seen when its cache of
    attributes says so, which takes seconds.

    Args:
        path: the file. At most 1 MiB.
        poll_seconds: seconds between two looks.

    Raises:
        ValueError: ``poll_seconds`` is not above 0.
    """

    def __init__(self, path: str | os.PathLike[str], poll_seconds: float = POLL_SECONDS) -> None:
        if not poll_seconds > 0:
            raise ValueError(f"poll_seconds must be above 0, got {poll_seconds}")
        self.path = Path(path)
        self.poll_seconds = poll_seconds
        self._seen: Look | None = None
        self._is_sure = False

    def document(self) -> dict[str, Any]:
        """Read the file as a document that is not checked yet, and remember how the file looked.

        Raises:
            FlagFileError: the file cannot be read, or is no document.
        """
        # Looked at before it is read: a change in between is found by the next look.
        self._is_sure = False
        self._seen = look_at(self.path)
        document = parse(self.path, read_bytes(self.path))
        self._is_sure = self._seen is not None and time.time() - self._seen.changed / 1e9 > _SAME_TICK_SECONDS
        return document

    def read(self) -> FlagText:
        """Read the file.

        Raises:
            FlagFileError: the file cannot be read, or is no document.
        """
        return FlagText(as_json(self.path, self.document()), origin=str(self.path))

    def has_changed(self) -> bool:
        """Whether the file may be another than the one that was read. True as long as reading it fails."""
        return not self._is_sure or look_at(self.path) != self._seen

    async def watch(self, on_change: Callable[[], object]) -> None:
        """Look at the file until cancelled, and call a function on the loop whenever it may have changed."""
        while True:
            await asyncio.sleep(self.poll_seconds)
            if self.has_changed():
                await self._settle()
                on_change()

    async def _settle(self) -> None:
        """Wait until two looks are equal. Half a document of TOML can be a document: a rollout without its rules."""
        seen = look_at(self.path)
        for _ in range(_SETTLE_TRIES):
            await asyncio.sleep(SETTLE_SECONDS)
            last, seen = seen, look_at(self.path)
            if last == seen:
                return
