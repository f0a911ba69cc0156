"""The ledger of a worker is written down, so that it outlives the worker."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from dataclasses import dataclass
from typing import Final

from isolane.migration.deprecation.folder import LedgerFolder, worker_name
from isolane.migration.deprecation.ledger import LEDGER

logger = logging.getLogger("isolane.migration")

WRITE_EVERY: Final = 1.0
"""Seconds between two writes of a ledger that changed: what a killed worker takes with it."""
ALIVE_EVERY: Final = 600.0
"""Seconds after which a ledger that did not change is written again, to say that it still counts."""
_LONGEST_PAUSE = 60.0
_EXIT_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class KeepingFigures:
    """What became of the writes.

    Attributes:
        directory: The folder; None while nothing is kept.
        writes: Files written.
        failures: Writes that the disk refused. Nothing is lost by one: the next has all counts.
        last_failure: Why the latest was refused.
    """

    directory: str | None
    writes: int
    failures: int
    last_failure: str | None


class LedgerKeeper:
    """Writes the ledger of this process into a folder, from a thread of its own that begins with the first need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin as in a new process: the thread and the file were the parent's."""
        self._lock = threading.Lock()
        self._folder: LedgerFolder | None = None
        self._name = ""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._was_asked = False
        self._written: int | None = None
        self._writes = self._failures = 0
        self._last_failure: str | None = None

    def begin_if_configured(self) -> None:
        """Keep the ledger when ``ISOLANE_LEDGER_DIR`` names a folder; looked at once."""
        if not self._was_asked:
            self._was_asked = True
            if directory := os.environ.get("ISOLANE_LEDGER_DIR"):
                self.begin(directory)

    def begin(self, directory: str | os.PathLike[str]) -> None:
        """Keep the ledger in `directory`. Asked again, nothing happens while it is the same folder."""
        with self._lock:
            self._was_asked = True
            if self._folder is not None and os.fspath(self._folder.path) == os.fspath(directory):
                return
            before = self._halt()
            self._folder = LedgerFolder(directory)
            self._name = worker_name()
            self._written = None
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._folder, self._name, self._stop), name="isolane-ledger", daemon=True
            )
            self._thread.start()
        if before is not None:
            before.join(_EXIT_WAIT)

    def _halt(self) -> threading.Thread | None:
        self._stop.set()
        thread, self._thread = self._thread, None
        return thread

    def end(self) -> None:
        """Write a last time and stop."""
        with self._lock:
            thread, folder, name = self._halt(), self._folder, self._name
            self._folder = None
        if thread is not None:
            thread.join(_EXIT_WAIT)
        if folder is not None:
            self._write(folder, name)

    def current(self) -> tuple[LedgerFolder, str] | None:
        """The folder, and the name of this worker's file in it."""
        with self._lock:
            return None if self._folder is None else (self._folder, self._name)

    def figures(self) -> KeepingFigures:
        """What became of the writes."""
        kept = self.current()
        directory = None if kept is None else os.fspath(kept[0].path)
        return KeepingFigures(directory, self._writes, self._failures, self._last_failure)

    def _run(self, folder: LedgerFolder, name: str, stop: threading.Event) -> None:
        self._write(folder, name)
        try:
            folder.compact()
        except (OSError, ValueError) as error:
            self._failed(error)
        pause, idle = WRITE_EVERY, 0.0
        while not stop.wait(pause):
            idle += pause
            if self._written == LEDGER.calls() and idle < ALIVE_EVERY:
                continue
            idle = 0.0
            pause = WRITE_EVERY if self._write(folder, name) else min(pause * 2, _LONGEST_PAUSE)

    def _write(self, folder: LedgerFolder, name: str) -> bool:
        calls = LEDGER.calls()
        try:
            folder.write(name, LEDGER.book())
        except OSError as error:
            self._failed(error)
            return False
        self._written = calls
        self._writes += 1
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        reason = getattr(error, "strerror", None) or type(error).__name__
        if reason != self._last_failure:
            logger.warning(
                "the ledger of legacy calls cannot be written to ISOLANE_LEDGER_DIR: %s. It is tried again; until then"
                " the counts of this worker are in its memory alone",
                reason,
            )
        self._last_failure = reason


KEEPER: Final = LedgerKeeper()


def keep_ledger(directory: str | os.PathLike[str] | None = None) -> bool:
    """Writes the ledger of this process into a folder from now on, also while it is empty.

    An empty ledger says that the worker counted and there was nothing: without it the removal gate cannot tell a
    service without legacy calls from one that nobody watched. A thread writes it a second after it changed, every ten
    minutes otherwise, and at exit.

    Args:
        directory: The folder, which all workers share; by default ``ISOLANE_LEDGER_DIR``.

    Returns:
        Whether it is kept: False when no folder is named.
    """
    directory = directory or os.environ.get("ISOLANE_LEDGER_DIR")
    if not directory:
        return False
    KEEPER.begin(directory)
    return True


atexit.register(KEEPER.end)
os.register_at_fork(after_in_child=KEEPER.forget)
