"""What keeps flags up to date with their source while an application runs, and tells of it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolane.migration.flags.rollout import MigrationFeatureFlags

logger = logging.getLogger("isolane.flags")

RETRY_SECONDS = 1.0
"""Before a source is watched again whose ``watch`` has failed."""


class NewsKind(StrEnum):
    """What happened to the flags of a process."""

    CHANGED = "changed"
    """Another document is in force."""
    STALE = "stale"
    """The source has none to give, or one that is refused: the former stays in force."""
    FRESH = "fresh"
    """The source can be read again."""


@dataclass(frozen=True, slots=True)
class FlagNews:
    """What a listener is told.

    Attributes:
        kind: what happened.
        revision: the revision in force.
        flags: the names of the flags that are not what they were; all of them when the kill switch is turned.
        message: a sentence for a log.
        at: when, aware UTC.
    """

    kind: NewsKind
    revision: int
    flags: tuple[str, ...]
    message: str
    at: datetime


Listener = Callable[[FlagNews], object]


class FlagWatcher:
    """Reads the source of flags at once, and whenever the source says that it has changed.

    A document that is refused, and a source that cannot be read, leave the former document in force; decisions then
    have the reason ``STALE``, and the log says so once. One task while it runs, none for a source that has no
    ``watch``, and no thread.

    Args:
        flags: whose source it is.
    """

    def __init__(self, flags: MigrationFeatureFlags) -> None:
        self.flags = flags
        self.engine = flags.engine
        self._problem = ""
        self._known = self.engine.document()
        self._changed_at: datetime | None = None
        self._listeners: tuple[Listener, ...] = ()
        self._task: asyncio.Task[None] | None = None

    def load(self) -> bool:
        """Read the source and put what it has in force. Never raises; returns whether another document is in force."""
        try:
            self.flags.refresh()
            problem = self.flags.problem
        except Exception as error:
            logger.debug("reading the flags failed", exc_info=True)
            problem = f"reading the flags failed: {error!r}"
        if not problem and getattr(self.flags.source, "is_stale", False):
            problem = "the provider says that it has lost its own source"
        if problem:
            self.engine.set_stale(True)
        was, self._problem = self._problem, problem
        revision = self.engine.revision
        if problem and problem != was:
            logger.error("flags: %s. Revision %d stays in force", problem.rstrip("."), revision)
            self._tell(NewsKind.STALE, (), problem)
        if was and not problem:
            logger.info("flags: revision %d; they can be read again", revision)
            self._tell(NewsKind.FRESH, (), "the flags can be read again")
        # Somebody else may have put it in force, such as a guard that has just written it.
        before, self._known = self._known, self.engine.document()
        changed = self._known != before
        if changed:
            self._changed_at = datetime.now(UTC)
            names = changed_flags(before, self._known)
            logger.info("flags: revision %d is in force, changed: %s", revision, ", ".join(names) or "nothing")
            self._tell(NewsKind.CHANGED, names, f"revision {revision} is in force")
        return changed

    def start(self) -> None:
        """Read the source, and follow it on the running loop. One that runs goes on as it was."""
        self.load()
        if self.flags.source is None or (self._task is not None and not self._task.done()):
            return
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="isolane flags")

    async def stop(self) -> None:
        """Follow it no more. What is in force stays. May be started again."""
        task, self._task = self._task, None
        if task is not None and not task.get_loop().is_closed():
            task.cancel()
            await asyncio.wait({task})

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Have a function told what happens, on the loop, or in the thread that calls ``load``.

        It must not block. What it raises is logged. Returns a function that takes it away.
        """
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return remove

    @property
    def is_stale(self) -> bool:
        """Whether what is in force is not known to be what the source has."""
        return bool(self._problem)

    def figures(self) -> dict[str, Any]:
        """Return the revision, whether it is ``stale`` and why (``problem``), and since when it is in force."""
        return {
            "revision": self.engine.revision,
            "stale": self.is_stale,
            "problem": self._problem,
            "changed_at": self._changed_at,
        }

    async def _follow(self) -> None:
        watch = getattr(self.flags.source, "watch", None)
        while watch is not None:
            try:
                await watch(self.load)
            except Exception:
                logger.exception("watching the flags failed; it goes on in %g s", RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                # A source that has nothing to watch.
                return

    def _tell(self, kind: NewsKind, flags: tuple[str, ...], message: str) -> None:
        news = FlagNews(kind, self.engine.revision, flags, message, datetime.now(UTC))
        for listener in self._listeners:
            try:
                listener(news)
            except Exception:
                logger.exception("a listener of the flags failed")


def changed_flags(before: str, after: str) -> tuple[str, ...]:
    """Return the names of flags that differ between two documents, in order."""
    former, new = json.loads(before), json.loads(after)
    everything = former.get("kill_switch", False) != new.get("kill_switch", False)
    old_flags, new_flags = former["flags"], new["flags"]
    names = sorted({*old_flags, *new_flags})
    return tuple(name for name in names if everything or old_flags.get(name) != new_flags.get(name))
